"""The daemon: advances several runs, each on its own schedule; a hint wakes it. APScheduler is the timer."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from apscheduler.executors.pool import ThreadPoolExecutor as Workers
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from conventions.errors import Dpgen2Error, NoRun, StoreError
from statemachine import logs

from .run import Run, one_line
from .schedule import PATIENCE, Schedule

if TYPE_CHECKING:
    pass

OPENING = 10.0  # seconds that stores have to answer at the start
LATE = 1.0  # seconds that the timer may be late; it goes by the wall clock, which may be set back
LAST_STEPS = 20.0  # seconds that steps get to end after SIGTERM; Kubernetes kills after 30

log = logging.getLogger("dpgen2-sm")


class Daemon:
    """Advances runs until all have ended.

    Parameters
    ----------
    prefixes
        URLs of the runs.
    interval
        Seconds between two looks at a run.
    redactor
        Keeps secrets out of the log.
    stay
        Keep checking runs that have ended: a user may resume them.
    """

    def __init__(
        self,
        prefixes: list[str],
        interval: float,
        redactor: logs.Redactor,
        stay: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock, self.stay = clock, stay
        self.patience = max(10 * interval, PATIENCE)
        self.runs = [Run(prefix, Schedule(interval, clock()), redactor) for prefix in dict.fromkeys(prefixes)]
        self.all_ended = threading.Event()
        self._changed = threading.Condition()  # guards the runs' schedule, `begun` and `hinted`
        self._stopping = False
        # A thread for each run: one that waits for its store does not delay the others.
        self._scheduler = BackgroundScheduler(timezone="UTC", executors={"default": Workers(len(self.runs))})

    def open(self) -> None:
        """Open every run; raise errors of a target itself. Errors that may pass are retried later."""
        pool = ThreadPoolExecutor(len(self.runs))
        opening = {pool.submit(run.open): run for run in self.runs}
        wait(opening, OPENING)
        pool.shutdown(wait=False)
        for future, run in opening.items():
            error = future.exception() if future.done() else StoreError(f"no answer in {OPENING:.0f} s")
            awaited = self.stay and isinstance(error, NoRun)  # it may be begun later
            if isinstance(error, Dpgen2Error) and error.exit_code == 2 and not awaited:
                raise error
            if error is not None:
                run.error = run.redactor.redact(one_line(error))
                log.error("%s: %s; will be retried", run.prefix, run.error, extra=run.extra("error"))

    def start(self) -> None:
        """Look at every run now, and from then on by its schedule."""
        # A second of importing: now, not when a stage waits for it.
        threading.Thread(target=importlib.import_module, args=("dflow",), daemon=True).start()
        self._scheduler.start()
        with self._changed:
            for run in self.runs:
                self._schedule(run)

    def hint(self) -> None:
        """A hint came, whatever its content: look at every run now."""
        with self._changed:
            if self._stopping or not self._scheduler.running:
                return
            now = self.clock()
            if not any(run.hinted or run.schedule.gaps for run in self.runs):
                log.info("woken by a hint", extra={"event": "hint"})
            for run in self.runs:
                if run.begun is not None:
                    run.hinted = True
                elif self.stay or not run.over:
                    run.schedule = run.schedule.hinted(now)
                    self._schedule(run)

    def stop(self, seconds: float = LAST_STEPS) -> list[str]:
        """Start no further step; return the runs whose step has not ended after that time."""
        with self._changed:
            self._stopping = True
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        with self._changed:
            self._changed.wait_for(lambda: all(run.begun is None for run in self.runs), seconds)
            return [run.prefix for run in self.runs if run.begun is not None]

    def catch_up(self) -> None:
        """Look at runs that the timer has missed: it waits too long when the wall clock is set back."""
        with self._changed:
            for run in self.runs:
                waiting = run.begun is None and (self.stay or not run.over)
                if waiting and not self._stopping and self.clock() - run.schedule.due > LATE:
                    self._schedule(run)

    def stuck(self) -> str:
        """Why the daemon should be restarted; "" when it is healthy. Errors of a run do not count."""
        with self._changed:
            now = self.clock()
            for run in self.runs:
                if run.begun is not None and now - run.begun > self.patience:
                    return f"{run.prefix}: a step has been running for {now - run.begun:.0f} s"
                if run.begun is None and not run.over and now - run.schedule.due > self.patience:
                    return f"{run.prefix}: not checked for {now - run.schedule.due:.0f} s; the timer has stopped"
        return ""

    def not_ready(self) -> str:
        """Which runs have not had a good step yet, and why; "" when all have."""
        return "\n".join(
            f"{run.prefix}: {run.error or 'not checked yet'}" for run in self.runs if run.last_good is None
        )

    def _schedule(self, run: Run) -> None:
        """Set the timer of a run again. Each look is a new job: APScheduler drops a job's id after it fired."""
        if run.job is not None:
            with contextlib.suppress(JobLookupError):
                self._scheduler.remove_job(run.job.id)
        when = datetime.now(timezone.utc) + timedelta(seconds=max(0.0, run.schedule.due - self.clock()))
        run.job = self._scheduler.add_job(self._look, "date", [run], run_date=when, misfire_grace_time=None)

    def _look(self, run: Run) -> None:
        with self._changed:
            if self._stopping or run.begun is not None:
                return
            run.begun = self.clock()
        outcome = run.step()
        with self._changed:
            now, run.begun = self.clock(), None
            run.schedule = run.schedule.looked(now, **outcome)
            if run.hinted:
                run.hinted, run.schedule = False, run.schedule.hinted(now)
            if outcome.get("failed"):
                pause = run.schedule.due - now
                log.error("%s: %s; next try in %.1f s", run.prefix, run.error, pause, extra=run.extra("error"))
            if not self._stopping and (self.stay or not run.over):
                self._schedule(run)
            if not self.stay and all(other.over for other in self.runs):
                self.all_ended.set()
            self._changed.notify_all()
