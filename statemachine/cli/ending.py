"""How a command ends: exit codes, and what is said when it is interrupted."""

from __future__ import annotations

EXIT_CODES = {"converged": 0, "exhausted": 3, "failed": 1, "cancelled": 4}  # of `run` and `resume`
INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141  # 128 + the signal, as shells have it


class Terminated(BaseException):
    """SIGTERM came: from a batch system, a container's end, a person."""


def exit_code(ending: BaseException) -> int:
    """The exit code after Ctrl-C or SIGTERM."""
    return TERMINATED if isinstance(ending, Terminated) else INTERRUPTED
