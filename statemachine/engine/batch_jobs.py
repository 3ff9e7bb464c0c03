"""Batch jobs of a workflow on this machine: one process (`operators/pod/batch_waiter.py`) waits for all of them.

Its memory and its connection to the batch system are what a waiting job costs, so the jobs share them. If it dies, the
jobs that it waited for have failed here; in the batch system they go on, and the next attempt finds them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

_PLACES = "JOB_"  # what the variables of a job's places begin with; the rest is common to all jobs


class BatchJobs:
    """Hands jobs to the process that waits for them, which is started with the first."""

    def __init__(self, shared: Sequence[int] = ()) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._waiter: _Waiter | None = None

    def run(self, script: Mapping[str, Any], env: Mapping[str, str], log: Path) -> int:
        """Run a job on the batch system; return its exit code."""
        with self._lock:
            if self._waiter is None or self._waiter.has_ended:
                self._waiter = _Waiter(script, env, log.parent, self._shared)
            ending = self._waiter.give(env, log)
        code = ending.result()
        if code is None:
            with open(log, "a", encoding="utf-8") as stream:
                stream.write("the process that waited for the batch jobs died; the next attempt finds them again\n")
            return 1
        return code

    def close(self) -> None:
        """There will be no more jobs."""
        if self._waiter is not None:
            self._waiter.close()


class _Waiter:
    def __init__(self, script: Mapping[str, Any], env: Mapping[str, str], folder: Path, shared: Sequence[int]) -> None:
        source = folder / "batch-jobs.py"
        source.write_text(script["source"])
        with open(folder / "batch-jobs.log", "ab") as log:
            self.process = subprocess.Popen(
                [*script["command"], str(source)],
                cwd=folder,
                env={name: value for name, value in env.items() if not name.startswith(_PLACES)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=shared,
            )
        self.has_ended = False
        self._lock = threading.Lock()
        self._jobs: dict[str, Future[int | None]] = {}
        threading.Thread(target=self._receive, daemon=True).start()

    def give(self, env: Mapping[str, str], log: Path) -> Future[int | None]:
        """Hand a job over: the result is its exit code, or None if the process dies before."""
        ending: Future[int | None] = Future()
        places = {name: value for name, value in env.items() if name.startswith(_PLACES)}
        with self._lock:
            if self.has_ended:
                ending.set_result(None)
                return ending
            self._jobs[env["JOB_ID"]] = ending
        with contextlib.suppress(BrokenPipeError):  # `_receive` sees that it has died
            assert self.process.stdin
            self.process.stdin.write(json.dumps({**places, "LOG": str(log)}).encode() + b"\n")
            self.process.stdin.flush()
        return ending

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin
            self.process.stdin.close()
        self.process.wait()

    def _receive(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            job, code = line.split()
            with self._lock:
                ending = self._jobs.pop(job.decode())
            ending.set_result(int(code))
        with self._lock:
            self.has_ended = True
            left, self._jobs = self._jobs, {}
        for ending in left.values():
            ending.set_result(None)
