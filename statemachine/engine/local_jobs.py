"""The jobs of a workflow of the local engine, while they run: read from their folders, nothing is written for that.

A job's folder holds `out/log` and `out/work`, as the job runner makes them. Where the job was handed to a batch system,
`live` is that folder's like there, or a copy of it (`operators/pod/batch_waiter.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from operators.live import TASK_LOG

from .base import LiveJob

PAUSE = 0.5  # seconds between two looks at a log that grows
_CHUNK = 1 << 20
_EXCERPT = 1 << 16


class LocalJobs:
    """The jobs of one workflow.

    Parameters
    ----------
    work
        The folder of all jobs.
    folder
        The workflow's own.
    """

    def __init__(self, work: Path, folder: Path) -> None:
        self.work, self.folder = work, folder
        self.stem = f"{folder.name.rpartition('-')[0]}-jobs-"

    def running(self) -> list[LiveJob]:
        try:
            begun = (self.folder / "settings.json").stat().st_mtime_ns
            names = sorted(name for name in os.listdir(self.work) if name.startswith(self.stem))  # noqa: PTH208
        except FileNotFoundError:
            return []
        found = (self._look(self.work / name, name.removeprefix(self.stem), begun) for name in names)
        return [job for job in found if job]

    def _look(self, place: Path, job_id: str, begun: int) -> LiveJob | None:
        """The job in a folder, unless it has ended, or only an earlier attempt ran it."""
        said = self.folder / f"jobs-{job_id}.log"
        handed_over = os.path.lexists(place / "live")
        if said.exists() and not handed_over:  # it could not go on
            return None
        out = _out(place)
        try:
            logs = sorted((out / "log").glob("task.*.log"))
            codes = {path.stem: _code(path) for path in (out / "work").glob("task.*.code")}
            fresh = [path for path in logs if handed_over or path.stat().st_ctime_ns >= begun]
        except FileNotFoundError:  # it has ended just now
            return None
        open_ends = [path for path in fresh if path.stem not in codes]
        if not open_ends:
            return LiveJob(job_id, codes, note=excerpt(said).strip().rpartition("\n")[2]) if handed_over else None
        log = open_ends[-1]

        def read(name: str) -> str:
            if name == TASK_LOG:
                return excerpt(log)
            # Over SSH only logs are copied; a task's inputs are in the waiter's folder.
            return excerpt(out / "work" / log.stem / name) or excerpt(place / "in.d" / "JOB_JOB" / log.stem / name)

        return LiveJob(job_id, codes, log.stem, read)

    def logs(self, job_id: str, goes_on: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        place = self.work / f"{self.stem}{job_id}"
        growing = Growing()
        while True:
            more = goes_on()  # asked before the look, so that the look at what has ended is a whole one
            for path in [self.folder / f"jobs-{job_id}.log", *sorted((_out(place) / "log").glob("*.log"))]:
                for data in growing.new(path):
                    yield path.name, data
            if not more:
                return
            time.sleep(PAUSE)


class Growing:
    """Reads files that grow: each time what is new, in pieces of at most a MB."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}  # inode and size, by name

    def new(self, path: Path) -> Iterator[bytes]:
        try:
            with open(path, "rb") as stream:
                status = os.fstat(stream.fileno())
                inode, at = self._seen.get(path.name, (status.st_ino, 0))
                if inode != status.st_ino or status.st_size < at:  # it begins anew
                    at = 0
                stream.seek(at)
                while data := stream.read(_CHUNK):
                    at += len(data)
                    self._seen[path.name] = (status.st_ino, at)
                    yield data
        except FileNotFoundError:
            return


def excerpt(path: Path, most: int = _EXCERPT) -> str:
    """A file's text; of a long one the lines at its beginning and at its end. Empty where there is none."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(2 * most)
            size = os.fstat(stream.fileno()).st_size
            if size > len(data):
                stream.seek(max(size - most, most))
                data = data[:most].rpartition(b"\n")[0] + b"\n" + stream.read(most).partition(b"\n")[2]
    except OSError:
        return ""
    return data.decode("utf-8", "replace")


def _out(place: Path) -> Path:
    return place / "live" if (place / "live").is_dir() else place / "out"


def _code(path: Path) -> int:
    text = path.read_text("utf-8", "replace").strip()
    return int(text) if text.isascii() and text.isdigit() else 1
