"""How a pod's script is run on this machine.

A job is run by threads of the interpreter, in Python (`job_runner.py`), and starts one program a task. Jobs for a
batch system are handed to one process that waits for all of them (`batch_jobs.py`).

An operator of ours runs in a child forked from the interpreter, which has imported our code already: a fresh Python
and its imports cost more than most plans. That is done only where the installed code is, file by file, the code that
was shipped: the hash of the package, packed as for shipping, is the one that the workflow pins. Any other script, and
an operator whose code differs, is a process of its own, as in a pod.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from conventions.errors import ConfigError
from conventions.names import sha256
from operators.pod import runner, scripts

from .batch_jobs import BatchJobs
from .job_runner import run_job

FAILED = 1
# A template's script, its environment, its folder and the file for its log: to the exit code.
Execute = Callable[[Mapping[str, Any], Mapping[str, str], Path, Path], int]


class Runner:
    """Runs scripts for one workflow.

    Parameters
    ----------
    lock
        File descriptor that shows that the workflow lives. No child may keep it open.
    shared
        File descriptors that every child keeps open: they show that something of the workflow lives.
    """

    def __init__(self, lock: int, shared: Sequence[int] = ()) -> None:
        self.lock, self.shared = lock, shared
        self.batch_jobs = BatchJobs(shared)

    def run(self, script: Mapping[str, Any], env: Mapping[str, str], place: Path, log: Path) -> int:
        """Run a template's script in the folder `place`; return its exit code. A job has a log where it has to say."""
        if script["source"] == scripts.JOB:
            errors = io.StringIO()
            code = run_job(env, errors, self.shared)
            if errors.getvalue():
                log.write_text(errors.getvalue(), "utf-8", "backslashreplace")
            return code
        if scripts.is_batch(script["source"]):
            return self.batch_jobs.run(script, env, log)
        with open(log, "wb") as stream:
            if script["source"] == scripts.OPERATOR and (shipped := self._shipped(env)):
                return self._fork(shipped, env, place, stream)
            return run_process(script, env, place, stream, self.shared)

    def close(self) -> None:
        """End what waits for jobs; none will come any more."""
        self.batch_jobs.close()

    def _shipped(self, env: Mapping[str, str]) -> dict[str, Any] | None:
        """What the shipped entry point pins, if all of its code is the code that is installed."""
        from operators.workflow.shipping import read_entry

        try:
            found = read_entry(Path(env["FN"]).read_bytes(), env["FN_SHA256"])
        except OSError:
            return None
        return found if found and all(_is_installed(*each) for each in found["PACKAGES"].items()) else None

    def _fork(self, shipped: dict[str, Any], env: Mapping[str, str], place: Path, log: IO[bytes]) -> int:
        module, _, name = shipped["OPERATOR"].partition(":")
        if module.partition(".")[0] == "operators":  # what others wrote may do anything when it is imported
            with contextlib.suppress(Exception):  # the child meets it again, and tells it in the step's log
                importlib.import_module(module)
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        code = FAILED
        try:
            os.close(self.lock)
            _redirect(log.fileno())
            code = _call(shipped, module, name, env, place)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def run_process(
    script: Mapping[str, Any], env: Mapping[str, str], place: Path, log: IO[bytes], shared: Sequence[int] = ()
) -> int:
    """Run a script as a pod does: in a process of its own."""
    source = place / "script"
    source.write_text(script["source"])
    command = [*script["command"], str(source)]
    return subprocess.run(
        command, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=shared
    ).returncode


def _redirect(log: int) -> None:
    """Read nothing, write to the log: programs by their file descriptors, Python by new streams on them."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, log, log)):
        os.dup2(source, target)
    os.close(nothing)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False, errors="backslashreplace") for number in (1, 2))


def _is_installed(package: str, pin: str) -> bool:
    """Is the package on the disk the shipped one? Asked for each operator: an upgrade may come at any time."""
    from operators.workflow.shipping import read_package

    try:
        return sha256(read_package(package)) == pin
    except (ConfigError, OSError):
        return False


def _call(shipped: dict[str, Any], module: str, name: str, env: Mapping[str, str], place: Path) -> int:
    """Call the operator as the shipped runner does; what it raises goes to the log."""
    try:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(env)
        runner.verify(shipped["PACKAGES"], runner.given("PACKAGE_"))
        os.environ["DPGEN2_APPS"] = json.dumps(shipped["APPS"])
        runner.run(getattr(importlib.import_module(module), name))
    except SystemExit as ending:
        print(ending.code, file=sys.stderr)
        return FAILED
    except BaseException:
        traceback.print_exc()
        return FAILED
    return 0
