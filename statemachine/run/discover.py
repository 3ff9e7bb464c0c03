"""Finding runs: what `dpgen2-sm list` shows, and what a daemon that discovers runs takes up."""

from __future__ import annotations

from collections.abc import Container, Iterator, MutableMapping

from conventions.errors import Dpgen2Error
from conventions.space import DataSpace
from statemachine.store import Store

DEPTH = 4  # folders below a prefix that are looked into
_STATE = DataSpace.state


def runs_below(
    store: Store,
    missed: MutableMapping[str, str],
    known: Container[str] = (),
    below: str = "",
    depth: int = DEPTH,
) -> Iterator[str]:
    """URLs of the runs at a prefix and in the folders below it; a run's own folders are not looked into.

    Parameters
    ----------
    missed
        Gets the URLs of folders that cannot be looked into, and why; the other folders are.
    known
        URLs of runs that the store is not asked about again.

    Raises
    ------
    Dpgen2Error
        When the prefix itself cannot be looked into.
    """
    url = _url(store, below.removesuffix("/"))
    try:
        found = url in known or store.head(f"{below}{_STATE}") is not None
        names = store.folders(below) if depth and not found else ()
    except Dpgen2Error as error:
        if not below:
            raise
        missed[url] = str(error)
        return
    if found:
        yield url
    for name in names:
        yield from runs_below(store, missed, known, f"{below}{name}/", depth - 1)


def _url(store: Store, below: str) -> str:
    place, mark, settings = store.url.partition("?")
    return f"{place}/{below}{mark}{settings}" if below else store.url
