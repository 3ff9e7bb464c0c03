"""`doctor --try`: a campaign of tiny jobs, one of each stage, through the engine and beside the data of a run.

It is a run of its own: the smallest structure is labelled, two models learn ten steps, one short trajectory is explored
and judged. Its prefix is the run's with an ending, and is deleted at the end, also after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conventions.errors import Dpgen2Error, EngineError, StoreError
from conventions.names import STAGES
from conventions.state import State
from operators.core import TRIAL
from operators.registry import app, config_model
from operators.structures import load_structures
from statemachine.engine.opening import engine_root
from statemachine.machine.orders import Order
from statemachine.store import Store, local_folder, open_store

from .begin import begin
from .checks import Check
from .opening import open_poller
from .poller import Poller
from .trust import trust_of

INTERVAL = 0.5  # seconds between two looks
_STRUCTURE = f"{TRIAL}.extxyz"


def attempt(config: Any, files: Path, said: Callable[[str], None] = lambda what: None) -> Iterator[Check]:
    """Run the campaign; a check for each stage.

    Parameters
    ----------
    config
        The run's configuration, as the store keeps it.
    files
        The folder of the user's files (`config/file`).
    said
        Called with what is being done.
    """
    prefix = beside(config.prefix)
    try:
        with tempfile.TemporaryDirectory() as folder:
            small = shrink(config, prefix, files, Path(folder))
            begin(small, Path(folder))
        poller = open_poller(prefix)
    except Dpgen2Error as error:
        with contextlib.suppress(Dpgen2Error):
            _delete(open_store(prefix))
        yield Check("try", False, f"it could not be begun at {prefix}: {error}")
        return
    try:
        yield from _stages(poller, said)
    finally:
        said("cleaning up")
        remove(poller)


def shrink(config: Any, prefix: str, files: Path, base: Path) -> Any:
    """The configuration with one structure, and with as little for each stage as its app can do.

    What it names is put into the folder `base`.
    """
    import ase.io

    for path in files.iterdir():
        (base / path.name).symlink_to(path.absolute())
    structures = load_structures(config, config.init.label or config.structures, files)
    ase.io.write(base / _STRUCTURE, min(structures, key=len), format="extxyz")
    document = config.model_dump(mode="json")
    document["run"], document["prefix"] = TRIAL, prefix
    document["structures"] = {TRIAL: {"files": [_STRUCTURE], "pert_numb": 1, "pert_atom": 0.01}}
    document["init"] = {"label": [TRIAL]}
    document["max_iterations"], document["convergence"] = 1, {}
    for stage, settings in config.stages.items():
        document[stage] |= {"retries": 0, "ratio_failed": 0.0, **app(stage, settings.app).tiny(settings)}
    return config_model(document).from_json(document, "the trial's configuration")


def beside(prefix: str) -> str:
    """A prefix that nothing has, next to another.

    >>> beside("s3://bucket/runs/cu?region=eu").startswith("s3://bucket/runs/cu-trial-")
    True
    """
    path, mark, options = prefix.partition("?")
    return f"{path.rstrip('/')}-trial-{secrets.token_hex(4)}{mark}{options}"


def _stages(poller: Poller, said: Callable[[str], None]) -> Iterator[Check]:
    left = list(STAGES)
    began, state = time.monotonic(), poller.step()
    while not state.ended:
        stage = state.stage
        said(f"trying: {stage}")
        while not state.ended and state.stage == stage:
            poller.engine.wait(state.workflow, INTERVAL)
            state = poller.step()
        if state.at == "failed":
            break
        if stage in left:  # labels of the last frames are not tried twice
            left.remove(stage)
            yield Check(f"try {stage}", True, f"{time.monotonic() - began:.0f} s")
            began = time.monotonic()
    if state.at != "failed":
        yield from (Check(f"try {stage}", True, "0 s") for stage in left)  # over before anybody looked
        return
    yield Check(f"try {state.stage}", False, "; ".join([state.reason, *_last_words(poller, state)]))
    for later in left:
        if later != state.stage:
            yield Check(f"try {later}", None, f"not tried: {state.stage} failed")


def _last_words(poller: Poller, state: State) -> list[str]:
    """The end of what the workflow's own steps printed: the trial's logs are deleted with it."""
    try:
        lines = [line.strip() for line in poller.engine.logs(state.workflow)]
    except Dpgen2Error:
        return []
    return [line for line in lines if line][-1:]


def remove(poller: Poller) -> None:
    """Stop the trial, and delete all that it has left. What cannot be deleted is small and named."""
    state: State = poller.record.load(verify=False).state
    if not state.ended:
        state = poller.tell(Order("cancel", "the trial was interrupted"))
    while not state.ended:
        state = poller.step()
        poller.engine.wait(state.workflow, INTERVAL)
    with contextlib.suppress(EngineError):
        poller.engine.delete(state.workflow)
    shutil.rmtree(engine_root(poller.store.url, poller.run_uid), ignore_errors=True)
    _delete(poller.store)


def _delete(store: Store) -> None:
    trust_of(store.url).path.unlink(missing_ok=True)
    if folder := local_folder(store.url):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(StoreError):  # a policy may forbid it
        store.delete_all([entry.key for entry in store.list("")])
