"""The iteration table beyond the state: rows that are old are in objects of their own, so that the state stays small.

`event/trail/{sha256}.json` holds some rows and names the object with the rows before. Only the state names the last of
them, so what a rival that lost has written is never read.
"""

from __future__ import annotations

from collections.abc import Iterator

from conventions.documents import COSTS
from conventions.errors import Conflict, DataError, NotFound, StateError
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import Earlier, IterationSummary, Past, State
from statemachine.store import Store

ROWS = 8  # of an object; a state has fewer than twice as many
RESTORE_HINT = "`dpgen2-sm doctor RUN --restore` restores the last good version"
_SPACE = DataSpace({})


def shortened(state: State, before: State) -> tuple[State, list[Past]]:
    """Take old rows out of a state that is about to be committed.

    Only rows that the version before it holds as well: so the history has each row, and `restored` finds it there.

    Returns
    -------
    state
        The state to commit.
    moved
        What must be in the store before.
    """
    moved: list[Past] = []
    for past in pieces(state):
        end = ROWS * (len(moved) + 1)
        known = state.earlier == before.earlier and state.trail[:end] == before.trail[:end]
        if not known or len(state.trail) - end < ROWS:
            break
        moved.append(past)
    if not moved:
        return state, []
    return state.model_copy(update={"earlier": moved[-1].name, "trail": state.trail[ROWS * len(moved) :]}), moved


def pieces(state: State) -> Iterator[Past]:
    """The objects that a state's rows make, each naming the one before."""
    earlier = state.earlier
    for start in range(0, len(state.trail) - ROWS + 1, ROWS):
        past = Past(rows=state.trail[start : start + ROWS], earlier=earlier)
        yield past
        earlier = past.name


def write(store: Store, past: Past) -> None:
    """Put rows into the store, by content: what is there is right, unless it was damaged."""
    key, data = _SPACE.past(past.name.sha256), past.dump()
    try:
        store.put(key, data, if_absent=True)
    except Conflict:
        if store.get(key).data != data:
            store.put(key, data)


def lengthened(store: Store, state: State, first: int = 0) -> State:
    """The state with its rows back to an iteration; by default with all.

    Raises
    ------
    StateError
        When some are missing or damaged.
    """
    trail, earlier = state.trail, state.earlier
    while earlier is not None and not (trail and trail[0].iteration <= first):
        past = read(store, earlier)
        trail, earlier = [*past.rows, *trail], past.earlier
    return state.model_copy(update={"trail": trail, "earlier": earlier})


def rows(store: Store, state: State, last: int | None = None) -> list[IterationSummary]:
    """The last rows of the iteration table; by default all."""
    earlier = state.earlier.iterations if state.earlier else 0
    first = 0 if last is None else max(0, earlier + len(state.trail) - last)
    return lengthened(store, state, first).trail


def readable(store: Store, state: State, last: int | None = None) -> tuple[list[IterationSummary], str]:
    """The last rows; where older ones are lost those of the state, and what to do. The run goes on all the same."""
    try:
        return rows(store, state, last), ""
    except StateError as error:
        return state.trail, str(error)


def totals(store: Store, state: State, known: dict[str, dict[str, float]]) -> dict[str, float]:
    """Sums over all iterations: labels, without those that a rewind dropped, and hours, which were spent all the same.

    Parameters
    ----------
    known
        Sums up to an object of old rows, by its hash: it is not read again. Those that are read are added.

    Raises
    ------
    StateError
        When old rows are missing or damaged.
    """
    earlier, unread = state.earlier, []
    while earlier is not None and earlier.sha256 not in known:
        past = read(store, earlier)
        unread.append((earlier.sha256, past.rows))
        earlier = past.earlier
    found = known[earlier.sha256] if earlier else {"labelled": 0.0}
    for name, rows in reversed(unread):
        found = known[name] = _added(found, rows)
    return _added(found, state.trail)


def _added(sums: dict[str, float], rows: list[IterationSummary]) -> dict[str, float]:
    found = dict(sums)
    for row in rows:
        for name in {"labelled", *COSTS} & set(row.figures):
            if name in COSTS or not row.left:
                found[name] = found.get(name, 0.0) + row.figures[name]
    return found


def read(store: Store, named: Earlier) -> Past:
    """The rows that a state, or a later object, names."""
    key = _SPACE.past(named.sha256)
    try:
        data = store.get(key).data
        if sha256(data) != named.sha256:
            raise DataError(f"{store.at(key)} is damaged")
        return Past.load(data, key)
    except NotFound:
        raise StateError(f"{store.at(key)} is missing: {RESTORE_HINT}") from None
    except DataError as error:
        raise StateError(f"{error}: {RESTORE_HINT}") from None


def restored(store: Store, state: State, history: Iterator[State]) -> Iterator[str]:
    """Write missing and damaged rows again, from the versions of the state that held them; tell what was done.

    Parameters
    ----------
    history
        Every intact version of the state, the newest first.
    """
    found: dict[str, Past] = {}
    named = state.earlier
    while named is not None:
        try:
            past = read(store, named)
        except StateError:
            key = _SPACE.past(named.sha256)
            while named.sha256 not in found:
                version = next(history, None)
                if version is None:
                    yield (
                        f"{key} is missing or damaged, and no version in the history has its rows: restore it from a "
                        "backup. Without it the run goes on; rewinds and the table of iterations reach back to "
                        f"iteration {named.iterations} only"
                    )
                    return
                found.update({past.name.sha256: past for past in pieces(version)})
            past = found[named.sha256]
            store.put(key, past.dump())
            yield f"{key} was missing or damaged: restored from the history"
        named = past.earlier
