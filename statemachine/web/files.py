"""Which files of a run may be downloaded: the newest models and the dataset, and nothing else below its prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from conventions.errors import DataError, NotFound, StoreError
from conventions.state import State
from statemachine.store import Entry, Store, check_key, local_folder

LARGEST = 256 << 20  # bytes of a file: it passes through this process's memory
LISTED = 2000  # entries of a listing
KINDS = ("models", "data")


@dataclass(frozen=True)
class Folder:
    """What lies in a folder: names of folders, files with sizes; `cut` when there are more."""

    folders: Sequence[str] = ()
    files: Sequence[tuple[str, int]] = ()
    cut: bool = False


def root(state: State, kind: str) -> str:
    """The key below which files of a kind lie.

    Raises
    ------
    NotFound
        When there are none.
    """
    found = state.place.newest_product("train") if kind == "models" else state.place.space.dataset
    if kind not in KINDS or found is None:
        raise NotFound("the run has no models yet" if kind == "models" else "there is no such page")
    return found


def folder(store: Store, state: State, kind: str, path: str) -> Folder:
    """A folder below that place; `path` is empty or ends with `/`."""
    below = f"{root(state, kind)}/{path}"
    _check(store, below.removesuffix("/"))
    entries = list(islice(store.list(below), LISTED + 1))
    files = [(entry.key[len(below) :], entry.size) for entry in entries[:LISTED]]
    names = store.folders(below)
    return Folder(
        names[:LISTED], [one for one in files if "/" not in one[0]], len(entries) > LISTED or len(names) > LISTED
    )


def file(store: Store, state: State, kind: str, path: str) -> bytes:
    """A file below that place.

    Raises
    ------
    NotFound
        When there is no such file.
    DataError
        When it is too large for a page.
    """
    key = f"{root(state, kind)}/{path}"
    _check(store, key)
    entry: Entry | None = store.head(key)
    if entry is None:
        raise NotFound("there is no such file")
    if entry.size > LARGEST:
        raise DataError(f"{entry.size:,} bytes are too many for a download here: take {store.at(key)} from the store")
    return store.get(key).data


def _check(store: Store, key: str) -> None:
    """Refuse a key that leaves its place; on this machine also a link that leads out of the prefix."""
    try:
        check_key(key)
    except StoreError:
        raise NotFound("there is no such file") from None
    place = local_folder(store.url)
    if place is not None and not (place / key).resolve().is_relative_to(place.resolve()):
        raise NotFound("there is no such file")
