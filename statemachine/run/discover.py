"""Finding runs: what `dpgen2-sm list` shows, and what a daemon that discovers runs takes up."""

from __future__ import annotations

from collections.abc import Iterator

from conventions.space import DataSpace
from statemachine.store import Store

DEPTH = 4  # folders below a prefix that are looked into
_STATE = DataSpace.state


def runs_below(store: Store, below: str = "", depth: int = DEPTH) -> Iterator[str]:
    """URLs of the runs at a prefix and in the folders below it; a run's own folders are not looked into."""
    if store.head(f"{below}{_STATE}") is not None:
        yield _url(store, below.removesuffix("/"))
    elif depth:
        for name in store.folders(below):
            yield from runs_below(store, f"{below}{name}/", depth - 1)


def _url(store: Store, below: str) -> str:
    place, mark, settings = store.url.partition("?")
    return f"{place}/{below}{mark}{settings}" if below else store.url
