"""The daemon: advances several runs, each at its own pace; a hint wakes it. APScheduler is the timer."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from apscheduler.executors.pool import ThreadPoolExecutor as Workers
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from conventions.errors import Dpgen2Error, NoRun, StoreError
from conventions.state import State
from operators.poke import KEY

from . import logs
from .hook import KEY_FILE, TOKEN, keys_from
from .pace import PATIENCE, Pace
from .runs import open_poller
from .web import Server, address

if TYPE_CHECKING:
    from .poller import Poller

OPENING = 10.0  # seconds that stores get to answer before the first looks
LATE = 1.0  # seconds that the timer may be late; it goes by the wall clock, which may be set back
LAST_STEPS = 20.0  # seconds that steps get to end after SIGTERM; Kubernetes kills after 30

log = logging.getLogger("dpgen2-sm")


class Run:
    """A run that the daemon advances, and what is known of it.

    Parameters
    ----------
    prefix
        Its URL.
    pace
        When it is looked at.
    redactor
        Is told the secrets of its store.
    """

    def __init__(self, prefix: str, pace: Pace, redactor: logs.Redactor) -> None:
        self.prefix, self.pace, self.redactor = prefix, pace, redactor
        self.poller: Poller | None = None
        self.state: State | None = None
        self.begun: float | None = None  # when the step that is under way began
        self.job: Any = None  # the timer's job of the next look
        self.hinted = False  # a hint came during that step
        self.steps: int = 0
        self.failures: int = 0
        self.transitions: int = 0
        self.seconds: float | None = None
        self.last_good: float | None = None
        self.jobs: tuple[int, int] | None = None
        self.error = ""

    @property
    def over(self) -> bool:
        return self.state is not None and self.state.ended

    def open(self) -> Poller:
        """The poller, kept from step to step; opened anew after an error."""
        if self.poller is None:
            poller = open_poller(self.prefix, self._committed)
            self.redactor.hide(poller.store.secrets())
            self.poller = poller
        return self.poller

    def step(self) -> dict[str, bool]:
        """Advance the run; return what its pace has to know. Never raises: one bad run must not stop the others."""
        began, before = time.monotonic(), self.state
        self.steps += 1
        try:
            poller = self.open()
            self.state = state = poller.step()
            status = poller.status if state.at.endswith(".running") else None
            self.jobs = (status.finished, status.total) if status else None
            self.last_good, self.error = time.time(), ""
            return {"changed": before is None or state.version != before.version, "ended": state.ended}
        except Exception as error:
            self.poller = None
            self.failures += 1
            self.error = self.redactor.redact(_one_line(error))
            return {"failed": True}
        finally:
            self.seconds = time.monotonic() - began

    def extra(self, event: str) -> dict[str, Any]:
        """The fields of a line of the log."""
        known = {"event": event, "prefix": self.prefix}
        if (state := self.state) is None:
            return known
        fields = ("run", "iteration", "stage", "at", "attempt", "version")
        return known | {name: getattr(state, name) for name in fields}

    def _committed(self, state: State) -> None:
        self.state = state
        self.transitions += 1
        line = f"{state.run} iteration {state.iteration} {state.at} {state.reason}"
        log.info("%s", line.rstrip(), extra=self.extra("state"))


class Daemon:
    """Advances runs until all have ended.

    Parameters
    ----------
    prefixes
        URLs of the runs.
    interval
        Seconds between two looks at a run.
    redactor
        Keeps secrets out of what is said.
    stay
        Look on at runs that have ended: a person may resume them.
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
        self.runs = [Run(prefix, Pace(interval, clock()), redactor) for prefix in dict.fromkeys(prefixes)]
        self.all_over = threading.Event()
        self._changed = threading.Condition()  # guards the runs' pace, `begun` and `hinted`
        self._stopping = False
        # A thread for each run: one that waits for its store holds up no other.
        self._scheduler = BackgroundScheduler(timezone="UTC", executors={"default": Workers(len(self.runs))})

    def open(self) -> None:
        """Open every run; raise what is wrong with a target itself. What may pass is tried again later."""
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
                run.error = run.redactor.redact(_one_line(error))
                log.error("%s: %s; it is tried again", run.prefix, run.error, extra=run.extra("error"))

    def start(self) -> None:
        """Look at every run now, and from then on at its pace."""
        # A second of importing: now, not when a stage waits for it.
        threading.Thread(target=importlib.import_module, args=("dflow",), daemon=True).start()
        self._scheduler.start()
        with self._changed:
            for run in self.runs:
                self._schedule(run)

    def hint(self) -> None:
        """Something has happened, whatever it was: look at every run now."""
        with self._changed:
            if self._stopping or not self._scheduler.running:
                return
            now = self.clock()
            if not any(run.hinted or run.pace.gaps for run in self.runs):
                log.info("woken by a hint", extra={"event": "hint"})
            for run in self.runs:
                if run.begun is not None:
                    run.hinted = True
                elif self.stay or not run.over:
                    run.pace = run.pace.hinted(now)
                    self._schedule(run)

    def stop(self, seconds: float = LAST_STEPS) -> list[str]:
        """Begin no further step; return the runs whose step has not ended after that time."""
        with self._changed:
            self._stopping = True
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        with self._changed:
            self._changed.wait_for(lambda: all(run.begun is None for run in self.runs), seconds)
            return [run.prefix for run in self.runs if run.begun is not None]

    def catch_up(self) -> None:
        """Look at what the timer has missed: it sleeps on where the wall clock was set back."""
        with self._changed:
            for run in self.runs:
                waiting = run.begun is None and (self.stay or not run.over)
                if waiting and not self._stopping and self.clock() - run.pace.due > LATE:
                    self._schedule(run)

    def stuck(self) -> str:
        """Why the daemon should be started anew; "" when it is well. Errors of a run are no reason."""
        with self._changed:
            now = self.clock()
            for run in self.runs:
                if run.begun is not None and now - run.begun > self.patience:
                    return f"{run.prefix}: a step has been going on for {now - run.begun:.0f} s"
                if run.begun is None and not run.over and now - run.pace.due > self.patience:
                    return f"{run.prefix}: not looked at for {now - run.pace.due:.0f} s; the timer has stopped"
        return ""

    def unready(self) -> str:
        """Which runs have not had a good step yet, and why; "" when all have."""
        return "\n".join(
            f"{run.prefix}: {run.error or 'not looked at yet'}" for run in self.runs if run.last_good is None
        )

    def _schedule(self, run: Run) -> None:
        """Set the timer of a run anew. Each look is a job of its own: APScheduler drops a job's id after it fired."""
        if run.job is not None:
            with contextlib.suppress(JobLookupError):
                self._scheduler.remove_job(run.job.id)
        when = datetime.now(timezone.utc) + timedelta(seconds=max(0.0, run.pace.due - self.clock()))
        run.job = self._scheduler.add_job(self._look, "date", [run], run_date=when, misfire_grace_time=None)

    def _look(self, run: Run) -> None:
        with self._changed:
            if self._stopping or run.begun is not None:
                return
            run.begun = self.clock()
        outcome = run.step()
        with self._changed:
            now, run.begun = self.clock(), None
            run.pace = run.pace.looked(now, **outcome)
            if run.hinted:
                run.hinted, run.pace = False, run.pace.hinted(now)
            if outcome.get("failed"):
                pause = run.pace.due - now
                log.error("%s: %s; next look in %.1f s", run.prefix, run.error, pause, extra=run.extra("error"))
            if not self._stopping and (self.stay or not run.over):
                self._schedule(run)
            if not self.stay and all(other.over for other in self.runs):
                self.all_over.set()
            self._changed.notify_all()


def serve(prefixes: list[str], interval: float, listen: str | None, json_lines: bool, stay: bool) -> None:
    """Advance runs until all have ended, or until SIGTERM or SIGINT; a step that was begun is finished.

    Parameters
    ----------
    listen
        Where to answer probes and take hints, `HOST:PORT` or a port; None: nowhere.
    json_lines
        Log JSON, not text.
    stay
        Do not end when all runs have ended.
    """
    keys = keys_from(os.environ)
    for name in (KEY, KEY_FILE, TOKEN):
        os.environ.pop(name, None)  # jobs of the local engine inherit the rest
    redactor = logs.set_up(json_lines, [keys.key, keys.token])
    daemon = Daemon(prefixes, interval, redactor, stay)
    received: list[str] = []

    def stop(number: int, frame: object) -> None:
        received.append(signal.Signals(number).name)
        daemon.all_over.set()

    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, stop)
    server = Server(address(listen), daemon, keys) if listen is not None else None
    try:
        daemon.open()
        if server is not None:
            hooks = "on" if keys.key or keys.token else "off: set DPGEN2_HOOK_KEY to turn them on"
            log.info("listening on %s; hooks are %s", server.url, hooks, extra={"event": "listening"})
        if not received:
            daemon.start()
        while not daemon.all_over.wait(LATE):
            daemon.catch_up()
    finally:
        unfinished = daemon.stop()
        if server is not None:
            server.stop()
    why = f"stopped by {received[0]}; workflows that were submitted go on" if received else "all runs have ended"
    log.info("%s", why, extra={"event": "stopped"})
    if unfinished:
        log.warning("left in the middle of a step, which is safe: %s", ", ".join(unfinished))
        logging.shutdown()
        os._exit(0)  # their threads would be waited for


def _one_line(error: BaseException) -> str:
    text = str(error) if isinstance(error, Dpgen2Error | OSError) else f"{type(error).__name__}: {error}"
    return "; ".join(text.split("\n"))
