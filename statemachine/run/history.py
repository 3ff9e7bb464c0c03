"""What the history tells of a run: every version of the state is under `event/`."""

from __future__ import annotations

from collections.abc import Iterator

from conventions.errors import NotFound, StateError
from conventions.space import DataSpace
from conventions.state import State
from statemachine.store import Store

_SPACE = DataSpace({})


def versions(store: Store, newest: State) -> Iterator[State]:
    """The versions of the state before one, the newest first; they end at one that is missing or damaged."""
    for number in range(newest.version - 1, 0, -1):
        try:
            yield State.unseal(store.get(_SPACE.event(number)).data)
        except (NotFound, StateError):
            return


def why_repeated(store: Store, state: State) -> str:
    """Why the attempt before the present one of a stage was given up; "" for a first attempt."""
    if not state.attempt:
        return ""
    found = ""
    for version in versions(store, state):
        here = (version.iteration, version.stage) == (state.iteration, state.stage)
        if not here or version.attempt < state.attempt:
            # A user resumed: the end before tells why there was something to resume.
            return version.reason if here and version.at in ("failed", "cancelled") else found
        found = version.reason
    return found
