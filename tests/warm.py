"""Workflows in a tenth of the time, for tests that are not about how one is started.

The engine starts a fresh Python for each workflow, and that one starts another for each operator of the stub apps: most
of what a small campaign costs is imports. Here each workflow is a process of its own as ever, with its session, locks,
files and environment, but forked from one that has imported what it needs, the stub apps too.

    python -m tests.warm SOCKET

takes what `subprocess.Popen` is given by the engine, and answers with the process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from statemachine.engine import local

ROOT = Path(__file__).parents[1]
PATH = [str(ROOT), str(ROOT / "tests" / "stubapps"), *filter(None, sys.path)]
ROOM = 1 << 16  # bytes for the environment of a workflow; one variable can have twice that
NEEDED = ("statemachine.store.s3", "boto3", "operators.workflow.shipping", "tests.argo_double.pods", "stubapps")


class Warm:
    """One such process; it begins when the first workflow is submitted."""

    def __init__(self) -> None:
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._lock = threading.Lock()

    def start(
        self, command: Sequence[str], *, stdout: Any, pass_fds: Sequence[int], env: dict[str, str], **_: Any
    ) -> None:
        """In place of `subprocess.Popen` of the engine."""
        module, *arguments = command[command.index(str(ROOT)) + 1 :]
        umask = os.umask(0)
        os.umask(umask)
        request = {
            "module": module, "arguments": arguments, "env": env, "cwd": str(Path.cwd()), "umask": umask,
            "fds": list(pass_fds),
        }  # fmt: skip
        with self._lock:
            connection = self._connection()
            socket.send_fds(connection, [json.dumps(request).encode()], [stdout.fileno(), *pass_fds])
            assert connection.recv(100).isdigit()

    def close(self) -> None:
        if self._server is not None:
            process, connection = self._server
            connection.close()
            process.wait()

    def _connection(self) -> socket.socket:
        if self._server is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
                env = {**os.environ, "ROOM": "x" * ROOM}
                process = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()])
            self._server = process, ours
        return self._server[1]


@contextmanager
def warm_workflows(warm: Warm) -> Iterator[None]:
    """While it is open the local engine starts its workflows there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "subprocess", SimpleNamespace(Popen=warm.start, DEVNULL=subprocess.DEVNULL))
        yield


def serve(connection: socket.socket) -> None:
    sys.path = PATH
    for module in NEEDED:
        importlib.import_module(module)
    from operators.workflow import shipping

    # Each operator asks whether its code is what is installed: nobody installs another one meanwhile.
    shipping.read_package = functools.cache(shipping.read_package)
    for package in ("conventions", "operators", "stubapps"):
        shipping.read_package(package)
    signal.signal(signal.SIGCHLD, reap)
    while True:
        message, fds, _, _ = socket.recv_fds(connection, ROOM, 8)
        if not message:
            break
        child = os.fork()
        if child == 0:
            connection.close()
            become(json.loads(message), fds)
        for fd in fds:
            os.close(fd)
        connection.send(str(child).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def reap(number: int, frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def become(request: dict[str, Any], fds: list[int]) -> None:
    """This process becomes the workflow's."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code: object = 0
    try:
        os.setsid()
        os.umask(request["umask"])
        os.chdir(request["cwd"])
        null = os.open(os.devnull, os.O_RDONLY)
        places = [0, 1, 2, *request["fds"]]
        for source, target in zip([above(fd) for fd in (null, fds[0], fds[0], *fds[1:])], places, strict=True):
            os.dup2(source, target)
            os.close(source)
        for fd in set(range(256)) - set(places):  # a lock that is open twice would be held for too long
            with contextlib.suppress(OSError):
                os.close(fd)
        show(request["env"])
        sys.argv = ["-c", *request["arguments"]]
        importlib.import_module(request["module"]).main()
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(str(code or 0)))


def above(fd: int) -> int:
    """The same file at a number that none of its places has."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 256)


def show(env: dict[str, str]) -> None:
    """Change the environment, also where others see it: /proc shows the memory where it was at the start."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[47:49])
    os.environ.clear()
    os.environ.update(env)
    block = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
    assert len(block) < end - start
    ctypes.memmove(start, block.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
