"""What a check of `doctor` has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes
    ----------
    what
        Its name.
    good
        Whether it is as it must be; None where it was not tried.
    detail
        What was found, or why it was not tried.
    """

    what: str
    good: bool | None
    detail: str


@dataclass(frozen=True)
class Damage:
    """Something of a run that is not as it was written.

    Attributes
    ----------
    key
        Where.
    what
        What is wrong, what follows, and what to do.
    repair
        Mends it, and says how; None where only a person can.
    """

    key: str
    what: str
    repair: Callable[[], str] | None = None
