"""The exception tree.

Every error that a user can see derives from `Dpgen2Error` and carries the exit code of the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Dpgen2Error(Exception):
    """Base of all errors of this project; the message says what to do next."""

    exit_code = 1


class ConfigError(Dpgen2Error):
    """What a person wrote (configuration, file, command line) cannot be used."""

    exit_code = 2


class DataError(Dpgen2Error):
    """A document or key in the store does not follow the conventions."""

    exit_code = 2


class StateError(DataError):
    """`state.json` is damaged, of another run, or newer than this program."""


class TooNew(StateError):
    """A document is intact, but written by a newer program: there is nothing to repair."""


class CommandRefused(Dpgen2Error):
    """A user's command does not fit the current state of the run."""

    exit_code = 2


class NotTrusted(CommandRefused):
    """A run would have this process do what only the prefix says, and no person."""


class StoreError(Dpgen2Error):
    """The store did not do what it was asked."""


class StoreAway(StoreError):
    """The store does not answer now: what was asked can be asked again."""


class NotFound(StoreError):
    """There is no object under that key."""


class NoRun(NotFound):
    """There is no run at a prefix."""

    exit_code = 2


class Conflict(StoreError):
    """A conditional write found another object than the one it expected."""


class EngineError(Dpgen2Error):
    """The workflow engine did not do what it was asked."""


class EngineAway(EngineError):
    """The server does not answer now: what was asked can be asked again."""


class NameTaken(EngineError):
    """A workflow of that name exists with another specification."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word.

    >>> did_you_mean("temp", ["temps", "press"])
    "did you mean 'temps'?"
    >>> did_you_mean("x", ["temps", "press"])
    'known: press, temps'
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
