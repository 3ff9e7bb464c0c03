"""A job in a folder, as an engine puts one there for a runner; and what it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

DIGEST = "0" * 64
USED = re.compile(rb'"used":{"began":[0-9]{10},"wall":[0-9]+,"cpu":[0-9]+\.[0-9]{3}(?:,"queued":[0-9]+)?}')
RUN = """\
echo "$JOB_ID $(cat name) $LC_ALL"
echo "$(cat name)" >>"$LEDGER"
cat name >result
"""


class Job:
    """A job in a folder: `run` is its run.sh, `outputs` its list; it has tasks whose `name` is their number."""

    def __init__(
        self, root: Path, run: str = RUN, outputs: str = "need result\n", tasks: int = 2, once: str = ""
    ) -> None:
        self.root, self.inputs, self.previous = root, root / "in", root / "store"
        self.place = root / "place"
        self.out, self.log, self.done = self.place / "out", self.place / "log", self.place / "done/000007.json"
        for number in range(tasks):
            self.task(number).mkdir(parents=True)
            (self.task(number) / "name").write_text(f"{number}\n")
        (self.inputs / "run.sh").write_text(run)
        (self.inputs / "outputs").write_text(outputs)
        (self.inputs / "digest").write_text(f"{DIGEST}\n")
        if once:
            (self.inputs / "once.sh").write_text(once)

    def task(self, number: int) -> Path:
        return self.inputs / f"task.{number:06d}"

    @property
    def env(self) -> dict[str, str]:
        places = {"JOB": self.inputs, "PREVIOUS": self.previous, "OUT": self.out, "LOG": self.log, "DONE": self.done}
        own = {"JOB_ID": "000007", "LEDGER": str(self.root / "ledger"), "FLAG": str(self.root / "flag")}
        return {"PATH": os.environ["PATH"], **own, **{f"JOB_{name}": str(path) for name, path in places.items()}}

    def publish(self) -> None:
        """What an engine does with the outputs of a job that is not finished."""
        self.out.rename(self.previous)
        shutil.rmtree(self.place / "done")

    def marker(self) -> dict[str, Any]:
        return dict(json.loads(self.done.read_bytes()))

    def codes(self) -> list[int]:
        return [task["code"] for task in self.marker()["tasks"]]

    def recorded(self) -> list[str]:
        return [file["name"] for file in self.marker()["files"]]

    def executions(self) -> list[str]:
        path = self.root / "ledger"
        return path.read_text().split() if path.exists() else []

    def used(self) -> dict[str, float]:
        return dict(self.marker()["used"])

    def left(self) -> dict[str, bytes | str]:
        """All that the job left: bytes of files, but for the times in its marker, and what else there is."""
        marker = USED.sub(b"USED", self.done.read_bytes()) if self.done.exists() else "none"
        found: dict[str, bytes | str] = {"done": marker}
        for folder in (self.out, self.log):
            for path in folder.rglob("*"):
                mode, name = path.lstat().st_mode, os.fsencode(path.relative_to(self.place)).decode("latin-1")
                if stat.S_ISLNK(mode):
                    found[name] = f"link to {path.readlink()}"
                else:
                    found[name] = path.read_bytes() if stat.S_ISREG(mode) else stat.filemode(mode)[0]
        return found


def damage(path: Path) -> None:
    """Other bytes, as many."""
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    """The same bytes, elsewhere."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


SPOIL = [damage, Path.unlink, link]


def three_tasks(root: Path) -> Job:
    """Files and a folder; a task that fails and leaves a checkpoint; one that goes on from an earlier attempt's."""
    run = RUN + (
        "case $(cat name) in\n"
        "0) mkdir -p save/deep; echo a >save/deep/x; echo b >save/y; echo gone >scratch ;;\n"
        "1) mkdir -p save; echo c >save/x; rm result; exit 3 ;;\n"
        "2) cat save/step more >result ;;\n"
        "esac\n"
    )
    job = Job(root, run, "need result\nkeep save\nkeep more\n", tasks=3, once="pwd >&2; : >shared\n")
    saved = job.previous / "task.000002"
    (saved / "save").mkdir(parents=True)
    (saved / "save/step").write_text("12\n")
    (saved / "more").write_text("old\n")
    (job.task(2) / "more").write_text("new\n")
    return job
