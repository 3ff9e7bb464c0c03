"""CPU and wall seconds of a command with everything that it starts, also what it leaves behind.

`measure` runs this file as a small program of its own, which makes itself the subreaper of the command: processes that
outlive the ones that started them (the local engine's interpreters do) become its children, and are waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Usage:
    """What a command used.

    Attributes
    ----------
    wall
        Seconds until it ended.
    cpu
        User and system seconds of all its processes.
    started
        Processes and threads that the whole machine started meanwhile.
    memory
        Peak memory of the command's own process, MB.
    """

    wall: float
    cpu: float
    started: float
    memory: float


def measure(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
    until: tuple[Path, str] | None = None,
) -> Usage:
    """Run a command in a folder; its output goes to `output.log` there.

    Parameters
    ----------
    env
        Changes of the environment.
    codes
        Exit codes that are right.
    until
        A file and a line of it: when the line is there the command and all its processes are killed.
    """
    options = {"command": list(command), "until": [str(until[0]), until[1]] if until else None}
    log = folder / "output.log"
    with open(log, "wb") as stream:
        done = subprocess.run(
            [sys.executable, "-S", __file__, json.dumps(options)],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
        )
    if done.returncode:
        raise SystemExit(f"the measuring program ended with {done.returncode}; see {log}")
    found = json.loads(done.stdout)
    if found.pop("code") not in (None, *codes):
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text(errors='replace')[-2000:]}")
    return Usage(**found)


def main() -> None:
    options = json.loads(sys.argv[1])
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit(f"prctl: {os.strerror(ctypes.get_errno())}")
    before, begun = forks(), time.monotonic()
    command = subprocess.Popen(options["command"], stdout=sys.stderr)
    wall = wait_for_line(*options["until"]) - begun if options["until"] else None
    if wall is not None:
        kill_children()
    code = memory = None
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        if pid == command.pid:
            memory = usage.ru_maxrss / 1024
            if wall is None:
                wall, code = time.monotonic() - begun, os.waitstatus_to_exitcode(status)
    total = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = total.ru_utime + total.ru_stime
    print(json.dumps({"wall": wall, "cpu": cpu, "started": forks() - before, "memory": memory, "code": code}))


def forks() -> int:
    """Processes and threads that were started since the machine began."""
    with open("/proc/stat") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("processes"))


def wait_for_line(path: str, line: str) -> float:
    """When a file had a line."""
    while True:
        with contextlib.suppress(FileNotFoundError), open(path) as lines:
            if line in map(str.rstrip, lines):
                return time.monotonic()
        if not children():
            raise SystemExit(f"the command ended without {line!r} in {path}")
        time.sleep(0.02)


def kill_children() -> None:
    """Kill everything that was started; the killed ones' children come here, and are killed too."""
    while living := children():
        for pid in living:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def children() -> list[int]:
    """Children of this process that still run."""
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        found = [int(word) for word in stream.read().split()]
    return [pid for pid in found if state(pid) not in "ZX"]


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0]


if __name__ == "__main__":
    main()
