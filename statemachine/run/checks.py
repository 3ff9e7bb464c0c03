"""What a check of `doctor` has found."""

from __future__ import annotations

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
