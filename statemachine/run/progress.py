"""How far the jobs of a stage are: from their markers in the store, and from what the engine sees of those that run.

Nothing is written for that. A look costs a listing of the markers, and each marker is read once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from conventions.documents import DoneMarker
from conventions.errors import DataError, Dpgen2Error, NotFound
from conventions.names import format_id
from conventions.space import DoneKey, StageSpace
from conventions.state import State
from operators.live import TASK_LOG, Read
from statemachine.engine import Engine, LiveJob
from statemachine.engine.base import UNKNOWN
from statemachine.store import Store

Live = Callable[[Read], str]
_LOOK = 0.5  # seconds for reading new markers; the rest is read in the next look


@dataclass(frozen=True)
class Progress:
    """Tasks of a stage. `running` is None where the engine cannot see which run; `notes` says how far some are."""

    ended: int = 0
    failed: int = 0
    running: int | None = None
    total: int = 0
    notes: tuple[str, ...] = ()


class Watch:
    """Looks at the jobs of one attempt of a stage.

    Parameters
    ----------
    live
        How the stage's app reads a task that runs.
    most
        Running tasks to tell of.
    """

    def __init__(self, store: Store, engine: Engine, state: State, live: Live, most: int = 3) -> None:
        self.store, self.engine, self.live, self.most = store, engine, live, most
        self.workflow, self.place, self.attempt = state.workflow, state.place, state.attempt
        self._codes: dict[str, list[int]] = {}  # of jobs whose markers were read
        self._old: set[str] = set()  # jobs that failed in an earlier attempt
        self._sizes = (0, 0, 0)  # jobs, tasks of each, tasks of the last one
        self._known = False

    def look(self) -> Progress:
        """Where the jobs are now; what store or engine cannot tell now is left out."""
        try:
            jobs = self.engine.running(self.workflow)
            running = {job.job_id: job for job in jobs or ()}
            markers = self._markers(running)
            n_jobs, size, last = self._count(bool(markers or running))
        except (Dpgen2Error, OSError):
            return Progress()

        def tasks(job_id: str) -> int:
            return last if job_id == format_id(n_jobs - 1) else size

        ended = sum(len(codes) or tasks(job_id) for job_id, codes in markers.items())
        failed = sum(code != 0 for codes in markers.values() for code in codes)
        ended += sum(len(job.codes) for job in running.values())
        failed += sum(code != 0 for job in running.values() for code in job.codes.values())
        return Progress(
            ended,
            failed,
            None if jobs is None else sum(bool(job.task) for job in jobs),
            max(0, n_jobs - 1) * size + last,
            tuple(filter(None, map(self._note, (jobs or [])[: self.most]))),
        )

    def _markers(self, running: Mapping[str, LiveJob]) -> dict[str, list[int]]:
        """Codes of the tasks of jobs that have ended; empty for a job whose marker was not read yet.

        A job that failed in an earlier attempt has not ended in this one.
        """
        keys = {}
        for entry in self.store.list(self.place.done + "/"):
            found = self.place.space.parse(entry.key)
            if isinstance(found, DoneKey) and found.job_id not in running:
                keys[found.job_id] = entry.key
        until = time.monotonic() + _LOOK
        for job_id in [*(keys.keys() - self._codes.keys() - self._old), *(keys.keys() & self._old)]:
            if time.monotonic() < until:
                self._read(job_id, keys[job_id])
        return {job_id: self._codes.get(job_id, []) for job_id in keys if job_id not in self._old}

    def _read(self, job_id: str, key: str) -> None:
        try:
            codes = [task.code for task in DoneMarker.load(self.store.get(key).data, key).tasks]
        except (NotFound, DataError):
            codes = [1]
        if any(codes) and self.attempt and not is_of_attempt(self.store, self.place, self.attempt, key):
            self._old.add(job_id)
        else:
            self._old.discard(job_id)
            self._codes[job_id] = codes

    def _count(self, begun: bool) -> tuple[int, int, int]:
        """Jobs, tasks of each, and tasks of the last job: final once a job has begun, since plan has ended then."""
        if not self._known:
            jobs = [name for name in self.store.folders(self.place.jobs + "/") if name.isdigit()]
            sizes = [self._tasks(self.place.job(job_id)) for job_id in (jobs[0], jobs[-1])] if jobs else [0, 0]
            self._sizes = (len(jobs), sizes[0], sizes[1])
            self._known = begun
        return self._sizes

    def _tasks(self, place: StageSpace) -> int:
        return sum(name.startswith("task.") for name in self.store.folders(place.job_in + "/"))

    def _input(self, job_id: str, name: str) -> str:
        """A file of the only task of a job."""
        if self._sizes[1] != 1:
            return ""
        try:
            return self.store.get(f"{self.place.job(job_id).job_in}/task.000000/{name}").data.decode("utf-8", "replace")
        except NotFound:
            return ""

    def _note(self, job: LiveJob) -> str:
        def read(name: str) -> str | None:
            found = job.read(name)
            # Where only a log is seen, the store still has what the task was given.
            return found or (self._input(job.job_id, name) if job.task == UNKNOWN and name != TASK_LOG else "")

        try:
            told = self.live(read) if job.task else job.note
        except (Dpgen2Error, OSError, ValueError):  # a file that is just being written, a server that is busy
            return ""
        task = f" {job.task}" if job.task not in ("", UNKNOWN) and self._sizes[1] > 1 else ""
        return f"job {int(job.job_id)}{task}: {told}" if told else ""


def is_of_attempt(store: Store, place: StageSpace, attempt: int, key: str) -> bool:
    """Was an object written after the claim of that attempt? By the store's clock."""
    claim, found = store.head(place.claim(attempt)), store.head(key)
    return claim is not None and found is not None and found.modified >= claim.modified


class Pace:
    """Tasks a second, and the seconds that are left, from what has ended since the first look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def __call__(self, progress: Progress) -> tuple[float, float] | None:
        """None until a task has ended, and when all have."""
        now = self._clock()
        since, before = self._first = self._first or (now, progress.ended)
        if progress.ended in (before, progress.total) or progress.ended < before or now <= since:
            return None
        rate = (progress.ended - before) / (now - since)
        return rate, max(0, progress.total - progress.ended) / rate
