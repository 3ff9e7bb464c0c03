"""The progress of a stage: looked at now and then, and put into words."""

from __future__ import annotations

import time
from collections.abc import Callable

from conventions.state import State
from operators.registry import app
from statemachine.engine import Engine
from statemachine.run.progress import Pace, Progress, Watch
from statemachine.store import Store


def pause_of(store: Store) -> float:
    """Seconds between two looks: on this machine they cost little."""
    return 1.0 if store.url.startswith("file:") else 10.0


class Sight:
    """Looks at the stage that runs, at most once in a time.

    Parameters
    ----------
    first
        Seconds before the first look at a stage.
    """

    def __init__(self, first: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.first, self.clock = first, clock
        self.progress = Progress()
        self.pace: tuple[float, float] | None = None
        self._workflow = ""
        self._next = 0.0

    def look(self, store: Store, engine: Engine, state: State, pause: float) -> bool:
        """Look if it is time to; True when it was."""
        if not state.at.endswith(".running"):
            return False
        now = self.clock()
        if self._workflow != state.workflow:
            self._workflow, self._next = state.workflow, now + self.first
            live = app(state.stage, state.place.app).live
            self._watch, self._pace = Watch(store, engine, state, live), Pace(self.clock)
        if now < self._next:
            return False
        self.progress = self._watch.look()
        self.pace = self._pace(self.progress)
        self._next = self.clock() + pause
        return True


def counts(progress: Progress) -> str:
    """Tasks that run and that have failed.

    >>> counts(Progress(ended=3, failed=1, running=2, total=8))
    '2 running, 1 failed'
    """
    parts = [f"{progress.running} running"] if progress.running else []
    return ", ".join([*parts, *([f"{progress.failed} failed"] if progress.failed else [])])


def pace_words(pace: tuple[float, float] | None) -> str:
    """Rate and time left.

    >>> pace_words((0.05, 400.0))
    '3 tasks/min, 7 min left'
    >>> pace_words((2.0, 30.0)), pace_words((0.0005, 9000.0))
    ('2 tasks/s, 30 s left', '1.8 tasks/h, 2 h 30 min left')
    """
    if pace is None:
        return ""
    rate, left = pace
    per, unit = next(((rate * n, unit) for n, unit in ((1, "s"), (60, "min")) if rate * n >= 1), (rate * 3600, "h"))
    return f"{per:.3g} tasks/{unit}, {_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def plain(progress: Progress, pace: tuple[float, float] | None) -> str:
    """One line: where there is no terminal.

    >>> plain(Progress(3, 1, 2, 8, ("job 4: step 5 of 9",)), None)
    '3 of 8 tasks ended, 2 running, 1 failed; job 4: step 5 of 9'
    """
    parts = [f"{progress.ended} of {progress.total} tasks ended", counts(progress), pace_words(pace)]
    return "; ".join([", ".join(filter(None, parts)), *progress.notes])
