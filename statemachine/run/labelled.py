"""The labelled data of a run that count, read back and checked: what `dpgen2-sm export` writes in other formats."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.errors import DataError, NotFound
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import State
from operators.sums import SUMS, parse, verify
from statemachine.store import Store

from .systems import training_systems


@dataclass(frozen=True)
class Source:
    """A folder of the dataset, with the systems in it that count.

    Parameters
    ----------
    part
        `init`, `iter` or `test`.
    name
        Name of initial or test data; six digits of an iteration.
    systems
        Names of its systems, in order.
    """

    part: str
    name: str
    systems: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Relative to the dataset."""
        return f"{self.part}/{self.name}"

    @property
    def iteration(self) -> int | None:
        """Where it was labelled; None for imported data."""
        return int(self.name) if self.part == "iter" else None


@dataclass(frozen=True)
class System:
    """A system as dpdata reads it (eV, Angstrom), and the SHA-256 of each of its files."""

    source: Source
    name: str
    data: Any
    sums: dict[str, str]


def training_data(store: Store, state: State) -> list[Source]:
    """What a train stage would be given now: initial data, and labels that no rewind has dropped.

    Labels of an iteration whose label stage has not ended are not among them.
    """
    systems = training_systems(store, state)
    if state.newest.get("label") != state.iteration:
        space = DataSpace(state.policy.apps)
        unfinished = f"{space.dataset_iter(state.iteration)}/"
        systems = [system for system in systems if not f"{space.dataset}/{system}".startswith(unfinished)]
    return grouped(systems)


def test_data(store: Store, state: State, names: Iterable[str]) -> list[Source]:
    """The independent test data of these names."""
    space, found = DataSpace(state.policy.apps), []
    for name in sorted(names):
        folder = space.dataset_test(name)
        heads = (entry.key.rpartition("/") for entry in store.list(f"{folder}/"))
        found += [head[len(space.dataset) + 1 :] for head, _, file in heads if file == "type.raw"]
    return grouped(sorted(found))


def grouped(systems: Iterable[str]) -> list[Source]:
    """Systems by the folder that they are in.

    >>> grouped(["init/bulk/Cu4", "iter/000001/Cu32", "iter/000001/Cu4"])[1]
    Source(part='iter', name='000001', systems=('Cu32', 'Cu4'))
    """
    folders: dict[str, list[str]] = {}
    for system in systems:
        folder, _, name = system.rpartition("/")
        folders.setdefault(folder, []).append(name)
    places = [(folder.partition("/"), names) for folder, names in folders.items()]
    return [Source(part, name, tuple(names)) for (part, _, name), names in places]


def read(store: Store, source: Source) -> Iterator[System]:
    """The systems of a folder, each checked against the folder's list of sums before it is read.

    Raises
    ------
    DataError
        When a file is missing, was changed, or was put there by somebody else.
    """
    import dpdata

    key = f"{DataSpace.dataset}/{source.folder}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = store.fetch(key, Path(scratch))
        if folder is None:
            raise DataError(f"{store.at(key)} is missing; put it back")
        verify(folder, what=store.at(key))  # there is a list
        recorded = parse((folder / SUMS).read_bytes())
        for name in source.systems:
            there = [str(path.relative_to(folder)) for path in (folder / name).rglob("*") if path.is_file()]
            listed = [file for file in recorded if file.startswith(f"{name}/")]
            verify(folder, *sorted({*there, *listed}), what=store.at(key))
            try:
                data = dpdata.LabeledSystem(str(folder / name), fmt="deepmd/npy")
            except Exception as error:  # dpdata's readers raise whatever they meet
                raise DataError(
                    f"{store.at(key)}/{name}: dpdata cannot read it: {error or type(error).__name__}"
                ) from None
            yield System(source, name, data, {file[len(name) + 1 :]: recorded[file] for file in sorted(listed)})


def configuration_of(store: Store, state: State, iteration: int) -> bytes | None:
    """The configuration that an iteration was begun with; None where it is lost."""
    try:
        return store.get(DataSpace(state.policy.apps).config(iteration)).data
    except NotFound:
        return None


def labelled_with(store: Store, state: State, source: Source) -> str | None:
    """SHA-256 of the configuration with which a folder's frames were labelled; None for imported data."""
    document = None if source.iteration is None else configuration_of(store, state, source.iteration)
    return sha256(document) if document is not None else None
