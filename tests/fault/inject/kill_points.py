"""Makes a process kill itself (SIGKILL) at its n-th effect on the outside. Standard library only.

An effect is whatever somebody else could see: a file or folder that is opened for writing, renamed, linked or
removed, a process that is started, and, on S3, each HTTP request, before it is sent and after it was answered. Reading
a file changes nothing, so a death around it is one before the next effect.

The environment tells which process is meant:

    KILL_ROLE   cli, interpreter, guard, plan or reduce; another process is left alone. The interpreter runs
                the jobs, too
    KILL_AT     number of the effect; 0 only counts
    KILL_ON     files, or requests (and the two acts that reserve a workflow's name and start it)
    KILL_TRACE  a file for the names of the effects. One process has it to itself: the first of that role
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

# How the audit hooks of Python call them; each comes just before it happens.
CHANGES = {
    "open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "subprocess.Popen",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class KillPoints:
    """Counts the effects of this process; at the one that is meant it dies."""

    def __init__(self, at: int, trace: int) -> None:
        self.at, self.trace, self.count, self.owner = at, trace, 0, os.getpid()

    def reach(self, name: str) -> None:
        self.count += 1
        if self.at in (0, self.count):
            os.write(self.trace, f"{name}\n".encode())
        if self.count == self.at:
            os.kill(self.owner, signal.SIGKILL)

    def watch_files(self, events: Collection[str]) -> None:
        """Before each of these events."""
        scratch = os.environ.get("TMPDIR", "") or "/dev/null"

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in events and os.getpid() == self.owner:
                changed = _changed(event, arguments)
                if changed and not changed.startswith(("/dev/", "/proc/", scratch)):
                    self.reach(f"{event.rpartition('.')[2]} {_short(changed)}")

        sys.addaudithook(hook)

    def watch_requests(self) -> None:
        """What boto3 sends; it is imported here, so only where it is used anyway."""
        from botocore.httpsession import URLLib3Session

        send = URLLib3Session.send

        def watched(session: Any, request: Any) -> Any:
            name = f"{request.method} {_short(request.url.partition('?')[0])}"
            self.reach(f"before {name}")
            answer = send(session, request)
            self.reach(f"after {name}")
            return answer

        URLLib3Session.send = watched  # type: ignore[method-assign]


def from_environment(role: str) -> None:
    """Set this process up, if it is the one that is meant."""
    if os.environ.get("KILL_ROLE") != role:
        return
    try:
        trace = os.open(os.environ["KILL_TRACE"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    except FileExistsError:
        return
    points = KillPoints(int(os.environ["KILL_AT"]), trace)
    if os.environ.get("KILL_ON") == "requests":
        points.watch_requests()
        points.watch_files({"os.rename", "subprocess.Popen"})
    else:
        # What the interpreter removes is scratch whose outputs are published.
        points.watch_files(CHANGES - {"os.remove", "os.rmdir"} if role == "interpreter" else CHANGES)


def role() -> str:
    """What this Python process is in a workflow of the embedded engine; "" when it is none of its own."""
    if "statemachine.engine.interpreter" in sys.orig_argv:
        os.register_at_fork(after_in_child=_forked)
        return "interpreter"
    return Path.cwd().name.rpartition("-")[2] if "FN_SHA256" in os.environ else ""


def _forked() -> None:
    """A child of the interpreter is an operator's, and says so by the folder that it goes to."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.chdir":
            from_environment(Path(str(arguments[0])).name.rpartition("-")[2])

    sys.addaudithook(hook)


def _changed(event: str, arguments: tuple[Any, ...]) -> str:
    """The path that an event is about to change; "" when it changes nothing."""
    first = str(arguments[0])
    if event == "open":
        flags = arguments[2]
        if not isinstance(arguments[0], str) or not flags & _WRITING:
            return ""
        return "" if flags & os.O_APPEND and os.path.lexists(first) else first
    if event in ("os.rename", "os.link"):
        return str(arguments[1])
    if event == "subprocess.Popen" or arguments[-1] != -1:  # a program; relative to an open folder
        return first
    if event == "os.mkdir":
        return first if Path(first).parent.is_dir() and not os.path.lexists(first) else ""
    return first if os.path.lexists(first) else ""


def _short(path: object) -> str:
    return "/".join(str(path).split("/")[-2:])
