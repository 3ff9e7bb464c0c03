"""Are conditional writes atomic? Writers race each other; this finds stores that check and write in two steps.

The test at `init` shows that conditions are understood. Whether they hold for concurrent writers, only a race shows,
and only with some probability: a pass is evidence, a violation is proof.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from conventions.errors import Conflict, NotFound, StoreError
from conventions.space import DataSpace

from . import Store

WRITERS, ROUNDS, SWAPS = 16, 60, 10
_SIZES = (100, 256_000)  # large bodies widen the gap between check and write

Progress = Callable[[int, int], None]


@dataclass
class Verdict:
    """The result. `unclear` writes ended in neither success nor refusal, which is not a violation."""

    writers: int
    rounds: int = 0
    won_twice: int = 0
    swaps: int = 0
    lost: int = 0
    torn: int = 0
    unclear: int = 0

    @property
    def atomic(self) -> bool:
        return not (self.won_twice or self.lost or self.torn)

    def __str__(self) -> str:
        torn = f", {self.torn} partial reads" if self.torn else ""
        unclear = f", {self.unclear} writes with an unknown outcome" if self.unclear else ""
        return (
            f"{self.writers} writers: {self.rounds} races to create, {self.won_twice} with more than one winner; "
            f"{self.swaps} swaps acknowledged, {self.lost} lost{torn}{unclear}"
        )


def race(
    store: Store,
    progress: Progress = lambda done, total: None,
    *,
    writers: int = WRITERS,
    rounds: int = ROUNDS,
    swaps: int = SWAPS,
) -> Verdict:
    """Let `writers` race to create an object `rounds` times, and then count to `writers * swaps` together."""
    verdict = Verdict(writers)
    place = f"{DataSpace.probe}/{secrets.token_hex(8)}"
    total = rounds + writers * swaps
    with ThreadPoolExecutor(writers) as pool:
        for number in range(rounds):
            _create(store, f"{place}/{number}", _SIZES[number % len(_SIZES)], pool, verdict)
            progress(number + 1, total)
        _count(store, f"{place}/count", swaps, pool, verdict, lambda done: progress(rounds + done, total))
    return verdict


def _create(store: Store, key: str, size: int, pool: ThreadPoolExecutor, verdict: Verdict) -> None:
    """One object, many creators: at most one may succeed, and then the object must be its."""
    gate = threading.Barrier(verdict.writers)

    def create(writer: int) -> bytes | None:
        body = b"%d " % writer + bytes(size)
        gate.wait()
        try:
            store.put(key, body, if_absent=True)
        except Conflict:
            return None
        except StoreError:
            return b""
        return body

    answers = list(pool.map(create, range(verdict.writers)))
    winners = [answer for answer in answers if answer]
    verdict.unclear += answers.count(b"")
    verdict.rounds += 1
    if len(winners) > 1 or (winners and store.get(key).data != winners[0]):
        verdict.won_twice += 1
    _forget(store, key)


def _count(
    store: Store, key: str, swaps: int, pool: ThreadPoolExecutor, verdict: Verdict, progress: Callable[[int], None]
) -> None:
    """All writers add to one list by swaps: every acknowledged entry must be in it at the end."""
    store.put(key, _pack([]))
    lock = threading.Lock()

    def add(writer: int) -> set[str]:
        added: set[str] = set()
        unclear = 0
        while len(added) < swaps:
            name = f"{writer}-{len(added)}-{unclear}"
            blob = store.get(key)
            names = _unpack(blob.data)
            if names is None:
                with lock:
                    verdict.torn += 1
                break
            try:
                store.put(key, _pack([*names, name]), if_match=blob.etag)
            except Conflict:
                continue
            except StoreError:
                unclear += 1
                if unclear > 10 * swaps:
                    raise
                continue
            added.add(name)
            with lock:
                verdict.swaps += 1
                progress(verdict.swaps)
        with lock:
            verdict.unclear += unclear
        return added

    added = set().union(*pool.map(add, range(verdict.writers)))
    verdict.lost += len(added - set(_unpack(store.get(key).data) or []))
    _forget(store, key)


def _pack(names: list[str]) -> bytes:
    return json.dumps({"names": names, "padding": " " * _SIZES[len(names) % len(_SIZES)]}).encode()


def _unpack(data: bytes) -> list[str] | None:
    try:
        return list(json.loads(data)["names"])
    except ValueError:
        return None


def _forget(store: Store, key: str) -> None:
    with contextlib.suppress(StoreError, NotFound):  # deleting may be forbidden
        store.delete(key)
