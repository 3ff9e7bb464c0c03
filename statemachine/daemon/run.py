"""A run that the daemon advances."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

from conventions.errors import Dpgen2Error, NoRun, StateError
from conventions.names import full_name
from conventions.state import State
from statemachine import logs
from statemachine.notify import Notifier, Watch
from statemachine.run.opening import open_poller
from statemachine.run.place import works_elsewhere
from statemachine.run.poller import Poller
from statemachine.run.trail import totals

from .schedule import Schedule

log = logging.getLogger("dpgen2-sm")


class Run:
    """A run that the daemon advances, and what is known of it.

    Parameters
    ----------
    prefix
        Its URL.
    schedule
        When it is looked at.
    redactor
        Learns the secrets of its store.
    lane
        The threads that look at it.
    named
        Did a person name it, or was it found below a place?
    notifier
        Is shown each state.
    """

    def __init__(
        self,
        prefix: str,
        schedule: Schedule,
        redactor: logs.Redactor,
        lane: str,
        named: bool = True,
        notifier: Notifier | None = None,
    ) -> None:
        self.prefix, self.schedule, self.redactor, self.lane = prefix, schedule, redactor, lane
        self.named = named
        self.watch = Watch(notifier or Notifier(), prefix)
        self.poller: Poller | None = None
        self.state: State | None = None
        self.begun: float | None = None  # when the step that is under way began
        self.job: Any = None  # the timer's job of the next look
        self.hinted: tuple[float, ...] = ()  # the gaps of a hint that came during that step
        self.steps: int = 0
        self.failures: int = 0
        self.transitions: int = 0
        self.seconds: float | None = None
        self.last_good: float | None = None
        self.jobs: tuple[int, int] | None = None
        self.totals: dict[str, float] = {}  # over all iterations
        self._sums: dict[str, dict[str, float]] = {}
        self.error = ""
        self.over = False  # has it ended, and did the step that saw that end well?
        self.gone = False  # is there no run any more?
        self.needs_person = False  # does it not go on by itself?
        self.away = ""  # where it works, when that is elsewhere

    @property
    def unread(self) -> bool:
        """Is it unknown which run is there now?"""
        return self.state is None or bool(self.error)

    def called(self, name: str) -> bool:
        """Is this the run's name, with or without its uid, or that of one of its workflows?"""
        if self.state is None:
            return False
        return name == self.state.run or f"{name}-".startswith(f"{full_name(self.state.run, self.state.run_uid)}-")

    def open(self) -> Poller:
        """The poller, kept from step to step; opened anew after an error."""
        if self.poller is None:
            poller = open_poller(self.prefix, self._committed, self.named)
            self.redactor.hide(poller.store.secrets())
            self.poller = poller
        return self.poller

    def step(self) -> dict[str, bool]:
        """Advance the run; return the outcome for its schedule. Never raises: one bad run must not stop the others."""
        began, before = time.monotonic(), self.state
        self.steps += 1
        try:
            poller = self.open()
            self.state = state = poller.step()
            status = poller.status if state.at.endswith(".running") else None
            self.jobs = (status.finished, status.total) if status else None
            self.last_good, self.error, self.over = time.time(), "", state.ended
            self.watch.saw(state)
            self._tell_where(poller)
            with suppress(StateError):  # of lost rows the run needs none
                self.totals = totals(poller.store, state, self._sums)
            return {"changed": before is None or state.version != before.version, "ended": state.ended}
        except Exception as error:
            self.poller, self.over, self.gone = None, False, isinstance(error, NoRun)
            self.failures += 1
            self.error = self.redactor.redact(one_line(error))
            self.needs_person = self.watch.failed(error)
            return {"failed": True}
        finally:
            self.seconds = time.monotonic() - began

    def _tell_where(self, poller: Poller) -> None:
        """Say once that the run works elsewhere, so that the daemon can only wait."""
        what = works_elsewhere(poller.away, poller.engine.home) if poller.away else ""
        if poller.away != self.away and what:
            log.warning("%s: %s", self.prefix, what, extra=self.extra("elsewhere"))
        self.away = poller.away
        self.needs_person = bool(what and self.state and self.watch.waits(self.state, what))

    def extra(self, event: str) -> dict[str, Any]:
        """The fields of a line of the log."""
        known = {"event": event, "prefix": self.prefix}
        if (state := self.state) is None:
            return known
        fields = ("run", "iteration", "stage", "at", "attempt", "version")
        return known | {name: getattr(state, name) for name in fields}

    def _committed(self, state: State) -> None:
        self.state = state
        self.watch.saw(state)
        self.transitions += 1
        line = f"{state.run} iteration {state.iteration} {state.at} {state.reason}"
        log.info("%s", line.rstrip(), extra=self.extra("state"))


def one_line(error: BaseException) -> str:
    """An error as a line of the log."""
    text = str(error) if isinstance(error, Dpgen2Error | OSError) else f"{type(error).__name__}: {error}"
    return "; ".join(text.split("\n"))
