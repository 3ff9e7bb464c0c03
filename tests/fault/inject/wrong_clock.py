"""A wall clock that is set forward and back at random while a process runs. Standard library only.

CLOCK_SEED turns it on. The clock that counts seconds (`time.monotonic`) goes on, as it does where a real one is set.
"""

from __future__ import annotations

import datetime
import os
import random
import time
from typing import Any

HOUR, DAY = 3600, 86400
OFFSETS = (0, 0, 30, -30, HOUR, -HOUR, DAY, -DAY)
EVERY = 0.4  # seconds between two jumps


def from_environment() -> None:
    seed = os.environ.get("CLOCK_SEED")
    if seed is not None:
        install(f"{seed} {os.getpid()}")


def install(seed: str) -> None:
    true, monotonic, native = time.time, time.monotonic, datetime.datetime

    def wrong() -> float:
        return true() + random.Random(f"{seed} {int(monotonic() / EVERY)}").choice(OFFSETS)

    class Like(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, native)

    class Wrong(native, metaclass=Like):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(wrong(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.fromtimestamp(wrong(), datetime.timezone.utc).replace(tzinfo=None)

    time.time = wrong
    time.time_ns = lambda: int(wrong() * 1e9)
    datetime.datetime = Wrong  # type: ignore[misc]
