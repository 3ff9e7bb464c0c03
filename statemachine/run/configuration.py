"""The configurations that a run had, by their hash: what the state names, read back and checked."""

from __future__ import annotations

from conventions.errors import NotFound, StateError
from conventions.names import sha256
from conventions.state import State
from statemachine.store import Store

PATCH_HINT = "`dpgen2-sm patch CONFIG` with the original configuration restores it; nothing was changed"


def configuration(store: Store, state: State, newest: bool = False) -> bytes:
    """The configuration of the current attempt, or the newest one, which may be for the next iteration.

    Raises
    ------
    StateError
        When it is missing, or not the one that the state names.
    """
    wanted = (newest and state.next_config_sha256) or state.config_sha256
    space = state.place.space
    named = space.configuration(wanted)
    # The other two: for runs made by an earlier version, or where the first was deleted.
    for key in (named, space.config(state.iteration), space.config(0)):
        try:
            data = store.get(key).data
        except NotFound:
            continue
        if sha256(data) == wanted:
            return data
        if key == named:
            raise StateError(f"{store.at(key)} is not the configuration that the state names; {PATCH_HINT}")
    raise StateError(f"{store.at(named)} is missing; {PATCH_HINT}")
