"""Runs DP-GEN, and keeps of its folder what a kill before each change of it would leave.

    python dpgen_watched.py COPIES ITERATION

It runs with the Python of DP-GEN's own virtual environment, in the folder of param.json and machine.json. COPIES gets
`{iteration}.{task}.{number}` for every change in an iteration, where the task is what DP-GEN is in. A file that is
about to be written is first kept as it was, then (`.torn`) as it is when nothing has been written yet.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

TASKS = 9  # of an iteration
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "open"}
_WRITES = os.O_WRONLY | os.O_RDWR


class Keeper:
    """An audit hook: it sees each change before it is made.

    Parameters
    ----------
    copies
        A folder that is not in `root`.
    iteration
        Of which changes are kept.
    """

    def __init__(self, root: Path, copies: Path, iteration: int) -> None:
        self.root, self.copies, self.iteration = root, copies, iteration
        self.record = root / "record.dpgen"
        self.busy = False
        self.number = 0

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if self.busy or event not in _CHANGES:
            return
        self.busy = True
        try:
            self.see(event, given)
        finally:
            self.busy = False

    def see(self, event: str, given: tuple[Any, ...]) -> None:
        paths = [Path.cwd() / os.fsdecode(each) for each in given[:2] if isinstance(each, str | bytes | Path)]
        if event == "open":
            paths = paths[:1] if given[2] & _WRITES else []
        if not any(path == self.record or self.root in path.parents for path in paths):
            return
        iteration, task = self.at()
        if iteration == self.iteration:
            self.number += 1
            name = f"{iteration}.{task}.{self.number:04d}"
            shutil.copytree(self.root, self.copies / name, symlinks=True)
            if event == "open" and not given[2] & os.O_APPEND and paths[0].parent.is_dir():
                torn = self.copies / f"{name}.torn"
                shutil.copytree(self.root, torn, symlinks=True)
                (torn / paths[0].relative_to(self.root)).write_bytes(b"")

    def at(self) -> tuple[int, int]:
        """The iteration and the task that DP-GEN is in."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        done = [int(word) for word in lines[-1].split()] if lines else [0, -1]
        return divmod(done[0] * TASKS + done[1] + 1, TASKS)


def main() -> None:
    from dpgen.main import main as dpgen

    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.1))  # it asks for the state of its jobs every 30 s
    sys.addaudithook(Keeper(Path.cwd(), Path(sys.argv[1]), int(sys.argv[2])))
    sys.argv = ["dpgen", "run", "param.json", "machine.json"]
    dpgen()


if __name__ == "__main__":
    main()
