"""What tests start must not outlive them: processes are known by a variable that they inherit."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "TESTS_OF_DPGEN2_SM"
PATIENCE = 10.0  # seconds, for what is ending


@contextmanager
def nothing_is_left(patience: float = PATIENCE) -> Iterator[None]:
    """Mark what is started inside by this process; what runs on afterwards is ended, and an error that names it."""
    uid = uuid.uuid4().hex
    before = os.environ.get(MARK)
    os.environ[MARK] = uid
    try:
        yield
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
    found = ended(uid, patience)
    assert not found, "still running after the tests that started it:\n" + "\n".join(found)


def ended(uid: str, patience: float) -> list[str]:
    """Wait for the marked processes, end those that run on, and tell which these were."""
    deadline = time.monotonic() + patience
    found = []
    for pid in marked(uid):
        with contextlib.suppress(OSError):  # it has ended
            handle = os.pidfd_open(pid)
            try:
                waiting = select.poll()
                waiting.register(handle, select.POLLIN)
                if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    found.append(f"{pid} in {Path(f'/proc/{pid}/cwd').readlink()}: {command[:300]}")
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
    return found


def marked(uid: str) -> Iterator[int]:
    line = f"{MARK}={uid}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if line in (path / "environ").read_bytes().split(b"\0"):
                yield int(path.name)
