"""The real command line in processes of its own, a tenth of a second each: forked from one that has imported it all.

    python -m tests.fault.forkserver

reads a request a line: `{arguments, cwd, env, output}` starts a process and is answered with its id, `{ended: id}`
waits for it and is answered with its exit code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path

from tests.fault.inject import kill_points

ROOT = Path(__file__).parents[2]


class ForkServer:
    """One such server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.forkserver"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "tests" / "stubapps"), str(ROOT)))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, cwd: Path, env: dict[str, str]) -> tuple[int, str]:
        """Exit code and output of a command line."""
        output = cwd / "output"
        output.unlink(missing_ok=True)
        return self.end(self.start(*arguments, cwd=cwd, env=env, output=output)), output.read_text("utf-8", "replace")

    def start(self, *arguments: str, cwd: Path, env: dict[str, str], output: Path) -> int:
        """Process id of a command line that runs from now on; its output is added to a file."""
        return self._ask({"arguments": arguments, "cwd": str(cwd), "env": env, "output": str(output)})

    def end(self, pid: int) -> int:
        """Wait for such a process; its exit code, negative after a signal. To be asked once."""
        return self._ask({"ended": pid})

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, request: dict[str, object]) -> int:
        assert self._process.stdin and self._process.stdout
        with self._lock:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            return int(self._process.stdout.readline())


def serve() -> None:
    import boto3  # noqa: F401
    import dflow  # noqa: F401

    import statemachine.run.begin
    import statemachine.run.submission  # noqa: F401
    from statemachine.run import trail

    trail.ROWS = 1  # these runs are short, and their rows shall move all the same
    for line in sys.stdin:
        request = json.loads(line)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if child == 0:
            command(request)
        print(child, flush=True)


def command(request: dict[str, object]) -> None:
    """This process becomes the command."""
    from statemachine.cli import main

    assert threading.active_count() == 1
    null, out = (
        os.open(os.devnull, os.O_RDONLY),
        os.open(str(request["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    )
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(str(request["cwd"]))
    sys.argv = ["dpgen2-sm", *request["arguments"]]  # type: ignore[misc]
    kill_points.from_environment("cli")
    if ledger := os.environ.get("SUBMISSIONS"):
        count_submissions(ledger)
    code: object = 0
    try:
        main()
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(str(code or 0)))


def count_submissions(ledger: str) -> None:
    """A line for each submission: did it create the workflow, or meet it?"""
    from statemachine.engine.local import LocalEngine

    submit = LocalEngine.submit

    def counted(engine: LocalEngine, manifest: dict[str, object]) -> bool:
        created = submit(engine, manifest)
        with open(ledger, "a") as stream:
            stream.write("created\n" if created else "existed\n")
        return created

    LocalEngine.submit = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    serve()
