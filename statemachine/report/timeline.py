"""When a run did what: its stages and attempts, from the history of its state."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from conventions.errors import NotFound
from conventions.space import DataSpace
from conventions.state import ENDED, State
from statemachine.store import Store

_SPACE = DataSpace({})
_AT_ONCE = 8  # requests, to a store that is far away


@dataclass(frozen=True)
class Span:
    """An attempt of a stage, from its first version to the one that left it. Seconds since 1970.

    `why` is the reason that the state gave when it was left, where another attempt followed or the run failed.
    """

    iteration: int
    stage: str
    attempt: int
    begin: float
    end: float
    why: str = ""


def read_timeline(store: Store, state: State, known: dict[int, dict[str, Any]] | None = None) -> list[Span]:
    """All attempts so far, the oldest first; versions that are missing or damaged are left out.

    Parameters
    ----------
    known
        Versions that are not read again; those that are read are added.
    """
    seen = {} if known is None else known

    def version(number: int) -> dict[str, Any] | None:
        try:
            found = json.loads(store.get(_SPACE.event(number)).data)
            return {name: found.get(name) for name in _KEYS} if isinstance(found, dict) else None
        except (NotFound, ValueError):
            return None

    missing = [number for number in range(1, state.version) if number not in seen]
    if missing:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            read = zip(missing, pool.map(version, missing), strict=True)
            seen.update({number: found for number, found in read if found})
    before = [seen[number] for number in range(1, state.version) if number in seen]
    return list(spans([*before, state.model_dump(mode="json", include=_KEYS)]))


_KEYS = {"at", "iteration", "stage", "attempt", "updated_at", "reason"}


def spans(versions: Iterable[dict[str, Any]]) -> Iterator[Span]:
    """The attempts that a history tells of; the present one ends at its newest version."""
    now: tuple[int, str, int] | None = None
    begin = last = 0.0
    for each in versions:
        try:
            when = datetime.fromisoformat(str(each["updated_at"])).timestamp()
            at = str(each["at"])
            next_one = None if at in ENDED else (int(each["iteration"]), str(each["stage"]), int(each["attempt"]))
            why = str(each["reason"])
        except (KeyError, TypeError, ValueError):
            continue
        if next_one != now:
            if now is not None:
                repeated = next_one is not None and next_one[:2] == now[:2]
                yield Span(*now, begin, when, why if repeated or at in ("failed", "cancelled") else "")
            now, begin = next_one, when
        last = when
    if now is not None:
        yield Span(*now, begin, last)
