"""Which systems are trained on: training data merge with history by listing, never by copying."""

from __future__ import annotations

from conventions.documents import StageReport, parse_json
from conventions.errors import DataError, NotFound
from conventions.names import canonical_json, parse_id, sha256
from conventions.state import State
from operators.sums import parse
from statemachine.store import Store

from .trail import rows


def training_systems(store: Store, state: State) -> list[str]:
    """The systems for the train or select stage that a run is in, relative to the dataset.

    What the newest train stage was given is taken as it is, and only the folders of later iterations are listed: the
    cost does not grow with the run. A system that its folder's SHA256SUMS does not list comes from an unfinished
    attempt and is not used. Labels that a rewind dropped are not used either.
    """
    space = state.place.space
    known = _given_before(store, state)
    if known is not None and state.systems is not None:
        for later in range(state.systems.iteration + 1, state.iteration + 1):
            known += _complete(store, state, space.dataset_iter(later))
        return sorted(known)
    dropped = [row.iteration for row in rows(store, state) if row.left and "label" not in row.stages]
    left = tuple(f"{space.dataset_iter(iteration)[len(space.dataset) + 1 :]}/" for iteration in dropped)
    return _complete(store, state, space.dataset, left)


def argument_of(systems: list[str]) -> bytes:
    """The object that a list travels in."""
    return canonical_json(systems)


def _given_before(store: Store, state: State) -> list[str] | None:
    """What the newest train stage was given; None when a rewind came after it, or when it cannot be read."""
    if state.systems is None:
        return None
    key = state.place.space.argument(state.systems.sha256)
    try:
        data = store.get(key).data
        return parse_json(data, key) if sha256(data) == state.systems.sha256 else None
    except (NotFound, DataError):
        return None


def _complete(store: Store, state: State, folder: str, left: tuple[str, ...] = ()) -> list[str]:
    """The recorded systems below a folder of the dataset, in order, without those that begin as `left` says."""
    space = state.place.space
    keys = {entry.key for entry in store.list(folder + "/")}
    found = (system for key in keys if (system := space.training_system(key)))
    systems = sorted(system for system in found if not system.startswith(left))
    sums = {folder: space.sums(folder) for folder in {system.rpartition("/")[0] for system in systems}}
    for folder, key in sums.items():
        if key not in keys and was_complete(store, state, folder):
            raise DataError(f"{store.at(key)} is missing, but these labels were complete; put it back")
    listed = {folder: parse(store.get(key).data) for folder, key in sums.items() if key in keys}

    def recorded(system: str) -> bool:
        folder, _, name = system.rpartition("/")
        return f"{name}/type.raw" in listed.get(folder, {})

    return [system for system in systems if recorded(system)]


def was_complete(store: Store, state: State, folder: str) -> bool:
    """Were all systems of a folder of the dataset written? Imported ones were; a report lists the files of labels."""
    part, _, iteration = folder.partition("/")
    if part != "iter":
        return True
    key = state.place.space.stage("label", parse_id(iteration)).report
    try:
        return bool(StageReport.load(store.get(key).data, key).files.get("labels"))
    except (NotFound, DataError):
        return False
