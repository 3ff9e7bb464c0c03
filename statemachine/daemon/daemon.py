"""The daemon: advances several runs, each on its own schedule; a hint wakes them. APScheduler is the timer.

Threads are few and shared. A store that hangs holds up the runs of its lane only.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from apscheduler.executors.pool import ThreadPoolExecutor as Workers
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from conventions.errors import Dpgen2Error, NoRun, NotTrusted, StoreError
from statemachine import logs
from statemachine.notify import Notifier
from statemachine.run.discover import runs_below
from statemachine.store import open_store

from .run import Run, one_line
from .schedule import NAMED, PATIENCE, UNNAMED, Schedule

LANES = 4
DISCOVERY = 60.0  # seconds between two looks below a place, at least
THREADS = 16  # looks at once in a lane
RATE = 40.0  # looks a second where all runs are woken
OPENING = 10.0  # seconds without an answer of any store, at the start
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
    discover
        URLs below which runs are looked for, now and again; then the daemon stays, too.
    notifier
        Tells people; by default nobody.
    """

    def __init__(
        self,
        prefixes: list[str],
        interval: float,
        redactor: logs.Redactor,
        stay: bool = False,
        clock: Callable[[], float] = time.monotonic,
        discover: Sequence[str] = (),
        notifier: Notifier | None = None,
    ) -> None:
        self.notifier = notifier or Notifier()
        self.clock, self.stay, self.discover = clock, stay or bool(discover), list(discover)
        self.interval, self.redactor = interval, redactor
        self.patience = max(10 * interval, PATIENCE)
        unique = list(dict.fromkeys(prefixes))
        self._lanes = lanes = lanes_of([*unique, *self.discover])
        self.runs = [
            Run(prefix, Schedule(interval, clock()), redactor, lanes[prefix], notifier=self.notifier)
            for prefix in unique
        ]
        self._discovered: set[str] = set()
        self._missed: dict[str, dict[str, str]] = {}  # of each place: folders that could not be looked into, and why
        self.all_ended = threading.Event()
        self._changed = threading.Condition()  # guards the runs' schedule, `begun` and `hinted`
        self._stopping = False
        self._free = 0.0  # when the next run may be looked at where all are woken
        workers = {lane: Workers(THREADS) for lane in lanes.values()}
        self._scheduler = BackgroundScheduler(timezone="UTC", executors=workers)

    def open(self) -> None:
        """Open every run; raise errors of a target itself. Errors that may pass are retried later."""
        pools = {run.lane: ThreadPoolExecutor(THREADS) for run in self.runs}
        opening = {pools[run.lane].submit(run.open): run for run in self.runs}
        pending = set(opening)
        while pending and not self.all_ended.is_set():  # as long as stores answer, however many runs they have
            done, pending = wait(pending, OPENING, FIRST_COMPLETED)
            if not done:
                break
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        for future, run in opening.items():
            if future.cancelled():  # its turn did not come: its first step opens it
                continue
            error = future.exception() if future.done() else StoreError(f"no answer in {OPENING:.0f} s")
            # It may be begun later; and trusted.
            awaited = (self.stay and isinstance(error, NoRun)) or isinstance(error, NotTrusted)
            if isinstance(error, Dpgen2Error) and error.exit_code == 2 and not awaited:
                raise error
            if error is not None:
                run.error = run.redactor.redact(one_line(error))
                log.error("%s: %s; will be retried", run.prefix, run.error, extra=run.extra("error"))

    def start(self) -> None:
        """Look at every run soon, and from then on by its schedule. Spread out they stay spread out."""
        # A second of importing: now, not when a stage waits for it.
        threading.Thread(target=importlib.import_module, args=("dflow",), daemon=True).start()
        self._scheduler.start()
        for place in self.discover:
            self._look_below_later(place, 0.0)
        with self._changed:
            for run in self.runs:
                run.schedule = replace(run.schedule, due=self._turn())
                self._schedule(run)

    def hint(self, name: str = "") -> None:
        """A hint came: look now at the run that it names; without a name at all of them, spread out.

        A name that no run has may be that of a run which could not be read yet; otherwise it wakes none.
        """
        with self._changed:
            if self._stopping or not self._scheduler.running:
                return
            named = [run for run in self.runs if name and run.called(name)]
            others = [run for run in self.runs if not named and (run.unread or not name)]
            woken = [run for run in named or others if self.stay or not run.over]
            if woken and not any(run.hinted or run.schedule.gaps for run in woken):
                log.info("woken by a hint", extra={"event": "hint"})
            for run in woken:
                self._wake(run, bool(named))

    def _wake(self, run: Run, named: bool) -> None:
        now, due = self.clock(), run.schedule.due
        gaps = NAMED if named else run.hinted or run.schedule.gaps or UNNAMED
        if run.begun is not None:
            run.hinted = gaps
            return
        run.schedule = run.schedule.hinted(now if named else max(now, self._free), gaps)
        if run.schedule.due < due:
            self._schedule(run)
            if not named:
                self._turn()

    def _turn(self) -> float:
        """The next time at which a run may be looked at where all are woken."""
        turn = max(self.clock(), self._free)
        self._free = turn + 1 / RATE
        return turn

    def stop(self, seconds: float = LAST_STEPS) -> list[str]:
        """Start no further step; return the runs whose step has not ended after that time."""
        with self._changed:
            self._stopping = True
        if self._scheduler.running:
            self._scheduler.remove_all_jobs()  # a timer that fires just now ends first: else it would miss its job
            self._scheduler.shutdown(wait=False)
        with self._changed:
            self._changed.wait_for(lambda: all(run.begun is None for run in self.runs), seconds)
            return [run.prefix for run in self.runs if run.begun is not None]

    def catch_up(self) -> None:
        """Look at runs that the timer has missed: it waits too long when the wall clock is set back."""
        with self._changed:
            for run in self.runs:
                late = run.begun is None and self.clock() - run.schedule.due > LATE
                if late and not self._stopping and (self.stay or not run.over) and self._awaits_timer(run):
                    self._schedule(run)

    def stuck(self) -> str:
        """Why the daemon should be restarted; "" when it is healthy. Errors of a run do not count."""
        with self._changed:
            now = self.clock()
            for run in self.runs:
                if run.begun is not None and now - run.begun > self.patience:
                    return f"{run.prefix}: a step has been running for {now - run.begun:.0f} s"
                late = run.begun is None and now - run.schedule.due > self.patience
                if late and not run.over and self._awaits_timer(run):
                    return f"{run.prefix}: not checked for {now - run.schedule.due:.0f} s; the timer has stopped"
        return ""

    def not_ready(self) -> str:
        """Which named runs have not had a good step yet, and why; "" when all have.

        Whoever may write below a place of `discover` can put a damaged run there: it keeps no hints from the others.
        """
        waiting = [run for run in self.runs if run.last_good is None and run.prefix not in self._discovered]
        return "\n".join(f"{run.prefix}: {run.error or 'not checked yet'}" for run in waiting)

    def _awaits_timer(self, run: Run) -> bool:
        """Not so where the timer has fired, and only a thread of the lane is awaited."""
        return run.job is None or self._scheduler.get_job(run.job.id) is not None

    def _schedule(self, run: Run) -> None:
        """Set the timer of a run again. Each look is a new job: APScheduler drops a job's id after it fired."""
        if run.job is not None:
            with contextlib.suppress(JobLookupError):
                self._scheduler.remove_job(run.job.id)
        when = datetime.now(timezone.utc) + timedelta(seconds=max(0.0, run.schedule.due - self.clock()))
        run.job = self._scheduler.add_job(
            self._look, "date", [run], run_date=when, misfire_grace_time=None, executor=run.lane
        )

    def _look_below_later(self, place: str, seconds: float) -> None:
        when = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        self._scheduler.add_job(
            self._look_below, "date", [place], run_date=when, misfire_grace_time=None, executor=self._lanes[place]
        )

    def _look_below(self, place: str) -> None:
        """Take up the runs below a place that are not known yet."""
        missed: dict[str, str] = {}
        try:
            store = open_store(place)
            self.redactor.hide(store.secrets())
            empty = True
            for url in runs_below(store, missed, known={run.prefix for run in self.runs}):
                self._take_up(url, self._lanes[place])
                empty = False
            if empty and place not in self._missed:  # a name that was mistyped looks the same
                log.warning("%s: no run is below it yet", place, extra={"event": "discovering", "prefix": place})
        except Exception as error:  # a store that is down: the next look may find it up
            missed[place] = one_line(error)
        for url, why in missed.items() - self._missed.get(place, {}).items():  # each trouble is told once
            log.error(
                "%s: %s; will be looked into again",
                url,
                self.redactor.redact(why),
                extra={"event": "error", "prefix": url},
            )
        self._missed[place] = missed
        with self._changed:
            if not self._stopping:
                self._look_below_later(place, max(self.interval, DISCOVERY))

    def _take_up(self, prefix: str, lane: str) -> None:
        with self._changed:
            if self._stopping or any(run.prefix == prefix for run in self.runs):  # two places may overlap
                return
            run = Run(prefix, Schedule(self.interval, self._turn()), self.redactor, lane, False, self.notifier)
            self._discovered.add(prefix)
            self.runs = [*self.runs, run]  # a new list: others are walking through this one
            log.info("%s: a new run", prefix, extra=run.extra("discovered"))
            self._schedule(run)

    def _drop(self, run: Run) -> None:
        log.info("%s: the run is gone", run.prefix, extra=run.extra("dropped"))
        self._discovered.discard(run.prefix)
        self.runs = [other for other in self.runs if other is not run]

    def _look(self, run: Run) -> None:
        with self._changed:
            if self._stopping or run.begun is not None:
                return
            run.begun = self.clock()
        outcome = run.step()
        with self._changed:
            now, run.begun = self.clock(), None
            self._changed.notify_all()
            if run.gone and run.prefix in self._discovered:
                self._drop(run)
                return
            run.schedule = run.schedule.looked(now, **outcome)
            if run.hinted:
                run.hinted, run.schedule = (), run.schedule.hinted(now, run.hinted)
            if outcome.get("failed"):
                pause = run.schedule.due - now
                log.error("%s: %s; next try in %.1f s", run.prefix, run.error, pause, extra=run.extra("error"))
            if not self._stopping and (self.stay or not run.over):
                self._schedule(run)
            if not self.stay and all(other.over for other in self.runs):
                self.all_ended.set()


def lanes_of(prefixes: list[str]) -> dict[str, str]:
    """Which threads look at each run: the same for all runs of one store, so that a store that hangs delays no other.

    >>> lanes_of(["file:///a", "s3://b/c", "file:///d"])
    {'file:///a': '0', 's3://b/c': '1', 'file:///d': '0'}
    """
    stores = {prefix: (prefix.partition("://")[0], prefix.partition("?")[2]) for prefix in prefixes}
    order = list(dict.fromkeys(stores.values()))
    return {prefix: str(order.index(store) % LANES) for prefix, store in stores.items()}
