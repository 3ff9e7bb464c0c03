"""The newest models of a run, as `dpgen2-sm export --models` and `--dpgen` copy them."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from conventions.names import canonical_json
from conventions.space import DataSpace
from conventions.state import State
from operators.registry import app, load_config
from operators.sums import SUMS, parse
from statemachine.store import Store

from .committee import fetched
from .configuration import configuration
from .labelled import configuration_of


@dataclass(frozen=True)
class Models:
    """The committee that a run explores with.

    Parameters
    ----------
    iteration
        Where it was trained.
    app, kind
        The trainer, and what it says that an explorer must be able to drive (`deepmd`, `mace`; "" if it does not say).
    type_map
        Elements in the order of the models' types.
    files
        Names of the models, that of model 0 first; of a trainer that does not say them, of all that it left.
    """

    iteration: int
    app: str
    kind: str
    type_map: list[str]
    files: list[str]


def newest_models(store: Store, state: State) -> Models | None:
    """The newest committee that no rewind has dropped; None where there is none yet."""
    iteration = state.newest.get("train")
    if iteration is None:
        return None
    config = load_config(configuration_of(store, state, iteration) or configuration(store, state))
    trainer = app("train", state.policy.apps["train"])
    committee = trainer.committee(config.train) if trainer.committee else None
    kind, files = (committee.kind, committee.files) if committee else ("", [])
    return Models(iteration, trainer.name, kind, config.type_map, files or _all_files(store, state, iteration))


def _all_files(store: Store, state: State, iteration: int) -> list[str]:
    product = DataSpace(state.policy.apps).stage("train", iteration).product
    return sorted(parse(store.get(f"{product}/{SUMS}").data))


def copy_models(store: Store, state: State, models: Models, names: dict[str, Path]) -> None:
    """Copy files of a committee, checked against the list of sums that was written with them.

    Parameters
    ----------
    names
        Where each file goes.
    """
    product = DataSpace(state.policy.apps).stage("train", models.iteration).product
    with tempfile.TemporaryDirectory() as scratch:
        folder = fetched(store, product, Path(scratch), *names)
        for name, target in names.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target)


def write_models(store: Store, state: State, models: Models, folder: Path) -> None:
    """The models, and `models.json`, which says what they are."""
    copy_models(store, state, models, {name: folder / name for name in models.files})
    about = {
        "schema_version": 1,
        "run": state.run,
        "run_uid": state.run_uid,
        "iteration": models.iteration,
        "app": models.app,
        "type_map": models.type_map,
        "files": models.files,
    }
    (folder / "models.json").write_bytes(canonical_json(about) + b"\n")
