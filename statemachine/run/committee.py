"""A run's models on labelled data: `dpgen2-sm test RUN DATA...`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conventions.config import LabelledData
from conventions.errors import CommandRefused, ConfigError
from conventions.space import DataSpace
from conventions.state import State
from operators.registry import app, load_config
from operators.sums import SUMS, verify
from operators.train.errors import committee_errors
from statemachine.store import Store, open_store

from .configuration import configuration
from .data import load_data
from .record import Record
from .trail import readable

Progress = Callable[[int, int], None]  # of frames: all, and more since the last call


def measure(prefix: str, data: Sequence[str], format: str, iteration: int | None, progress: Progress) -> dict[str, Any]:
    """Errors of a run's models on each data set.

    Parameters
    ----------
    data
        Files or folders, relative to the current folder, in a format of dpdata.
    iteration
        Iteration of the models; None for the newest that count.
    """
    store = open_store(prefix)
    state = Record(store).load().state
    trainer = app("train", state.policy.apps["train"])
    if trainer.models is None:
        raise ConfigError(f"train.app {trainer.name}: its models cannot be evaluated by this command")
    iteration = _trained(store, state, iteration)
    type_map = load_config(configuration(store, state)).type_map
    wanted = [LabelledData(path=name, format=format) for name in data]
    sets = {each.path: load_data(each, Path.cwd(), each.path, type_map).systems for each in wanted}
    total = sum(system.get_nframes() for systems in sets.values() for system in systems.values())
    product = DataSpace(state.policy.apps).stage("train", iteration).product
    with tempfile.TemporaryDirectory() as scratch:
        progress(total, 0)
        folder = fetched(store, product, Path(scratch))
        try:
            models = trainer.models(folder)
        except RuntimeError as error:
            raise ConfigError(str(error)) from None
        errors = {
            name: committee_errors(list(models.values()), systems.values(), lambda frames: progress(total, frames))
            for name, systems in sets.items()
        }
    return {
        "run": state.run,
        "iteration": iteration,
        "models": [store.at(f"{product}/{name}") for name in models],
        "data": [{"path": name, **found} for name, found in errors.items()],
    }


def fetched(store: Store, product: str, scratch: Path, *names: str) -> Path:
    """A local folder with the models of a product, of which the named files, or all, are those that were recorded.

    Raises
    ------
    CommandRefused
        When they are gone.
    DataError
        When a file is damaged.
    """
    folder = store.fetch(product, scratch)
    if folder is None:
        raise CommandRefused(f"{store.at(product)} is missing; choose another iteration with --iter")
    names = names or tuple(path.name for path in folder.iterdir() if path.name != SUMS)
    verify(folder, *names, what=store.at(product))
    return folder


def _trained(store: Store, state: State, iteration: int | None) -> int:
    """The iteration of the models; by default the newest that count."""
    if iteration is None:
        if "train" not in state.newest:
            raise CommandRefused(f"the run has no models yet: its state is {state.at} of iteration {state.iteration}")
        return state.newest["train"]
    rows, damage = readable(store, state)
    trained = [row.iteration for row in rows if "train" in row.stages]
    if iteration not in trained:
        known = ", ".join(map(str, trained)) or "none yet"
        raise CommandRefused(f"--iter {iteration}: it trained no models; these did: {known}. {damage}".rstrip())
    return iteration
