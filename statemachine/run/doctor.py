"""Checks whether the software, the store and the engine can be used on this machine."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conventions.errors import Dpgen2Error, NoRun, NotTrusted
from conventions.space import DataSpace
from conventions.state import State
from operators.registry import known, load_config
from statemachine.engine.opening import engine_root, open_engine
from statemachine.store import Store, local_folder, open_store
from statemachine.store.probe import prove
from statemachine.store.race import Progress, race

from .checks import Check
from .configuration import configuration
from .integrity import damages
from .opening import config_file, find_prefix
from .record import Record
from .restore import restore
from .stage_checks import check_program, check_stages
from .trail import rows
from .trust import authorise, reached

DEFAULT_PROGRAMS = {
    "dp": "train/deepmd",
    "mace_run_train": "train/mace",
    "lmp": "explore/lammps",
    "cp2k.psmp": "label/cp2k",
    "pw.x": "label/qe",
    "nwchem": "label/nwchem",
    "vasp_std": "label/vasp",
    "abacus": "label/abacus",
    "g16": "label/gaussian",
}

SCARCE = 2**30  # bytes of free space


def examine(
    target: str | None, trial: bool = False, repair: bool = False, said: Callable[[str], None] = lambda what: None
) -> Iterator[Check]:
    """Check this installation, and when a run is named what it needs and all that it has.

    Parameters
    ----------
    trial
        Also run one tiny job of each stage.
    repair
        Mend what can be mended safely.
    said
        Called with what is being done.
    """
    if target is None:
        yield from _installation()
        for program, what in DEFAULT_PROGRAMS.items():
            yield check_program(program, what, needed=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        config, store, files, state = _run(target, Path(folder))
        yield from _installation()
        distrust = ""
        if state is not None:
            try:
                config = _trusted(config, store, state)
            except NotTrusted as error:
                distrust = str(error)
        if not distrust:
            yield from check_stages(config, files)
        yield from _examine_run(store, repair, said)
        if distrust:
            yield Check("software and engine", None, f"not tried: {distrust}")
            return
        yield _tried("engine", lambda: open_engine(config.engine, store, "doctor").check())
        if config.engine.type == "local":
            yield _space(store.url)
        if trial and state is not None:
            yield Check(
                "try", None, "not tried: name the configuration file; what only the prefix has is not begun anew"
            )
        elif trial:
            from .trial import attempt

            yield from attempt(config, files, said)


def _installation() -> Iterator[Check]:
    yield Check("python", True, f"{sys.version.split()[0]} at {sys.executable}")
    yield Check("apps", True, ", ".join(sorted(known())))


def _trusted(config: Any, store: Store, state: State) -> Any:
    """A configuration that only the prefix has, with the engine as this process may reach it, or `NotTrusted`."""
    engine = reached(store.url, config.engine, state.run_uid)
    if engine.type == "local":
        authorise(store, state, first_use=False)
    return config.model_copy(update={"engine": engine})


def _examine_run(store: Store, repair: bool, said: Callable[[str], None]) -> Iterator[Check]:
    yield _tried("store", lambda: prove(store))
    with contextlib.suppress(NoRun):
        state = Record(store).load().state
        yield _tried("configuration", lambda: f"{len(configuration(store, state, newest=True)):,} bytes")
        yield _tried("iterations", lambda: f"{len(rows(store, state))} in the table")
        yield from _contents(store, state, repair, said)


def _contents(store: Store, state: State, repair: bool, said: Callable[[str], None]) -> Iterator[Check]:
    """What of the run is not as it was written."""
    amount, damaged = 0, 0

    def read(size: int) -> None:
        nonlocal amount
        amount += size
        said(f"reading the run: {amount / 1e6:,.0f} MB")

    for found in damages(store, state, read):
        damaged += 1
        if repair and found.repair:
            yield _tried(found.key, found.repair)
        else:
            yield Check(found.key, False, found.what)
    if not damaged:
        yield Check("contents", True, f"{amount / 1e6:,.1f} MB are as they were written")


def _run(target: str, scratch: Path) -> tuple[Any, Store, Path, State | None]:
    """Configuration and store of a run, which need not exist yet, and the folder of the user's files.

    With the state that has them where the run was named by its prefix.
    """
    store = open_store(find_prefix(target))
    path = config_file(target)
    if path is None:
        state = Record(store).load().state
        config = load_config(configuration(store, state))
        return config, store, store.fetch(DataSpace.files, scratch / "file") or scratch, state
    from .begin import prepare, unpack
    from .config_file import read_config

    config, objects = prepare(read_config(path), path.parent)
    unpack(objects, scratch)
    return config, store, scratch, None


def _space(url: str) -> Check:
    """Free space where jobs work: beside the data where those are in a folder here."""
    data = local_folder(url)
    what, folder = ("store", data) if data else ("engine", engine_root(url, ""))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    return Check(f"disk of the {what}", free > SCARCE, f"{free / 2**30:.1f} GiB free at {there}")


def _tried(what: str, call: Callable[[], str]) -> Check:
    try:
        return Check(what, True, call())
    except (Dpgen2Error, OSError) as error:
        return Check(what, False, str(error))


def race_check(target: str, progress: Progress) -> Check:
    """Test a run's store with concurrent writers."""
    store = open_store(find_prefix(target))
    proved = _tried("race", lambda: prove(store))
    if not proved.good:  # where every swap is refused, the race would never end
        return proved
    verdict = race(store, progress)
    advice = "" if verdict.atomic else "; it is not atomic: only one process may advance a run there; use another store"
    return Check("race", verdict.atomic, f"{verdict}{advice}")


def restore_state(target: str) -> list[Check]:
    """Restore the last good version of a run's state, and the rows of its table."""
    store = open_store(find_prefix(target))
    done = restore(store)
    Record(store).load()
    return [Check("state", True, line) for line in done]
