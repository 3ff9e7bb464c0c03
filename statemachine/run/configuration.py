"""The configurations that a run had, by their hash: what the state names, read back and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

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


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """A line for each value that differs between two JSON documents."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(each for each in after if each not in before)]:
            yield from differences(before.get(name), after.get(name), f"{where}.{name}" if where else name)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif before != after:
        yield f"{where}: {json.dumps(before)} -> {json.dumps(after)}"
