"""One run as its pages show it: read again only where something has changed, and by one thread at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import Any

from conventions.errors import Dpgen2Error
from conventions.names import sha256
from conventions.state import State
from operators.registry import app
from statemachine.engine import Engine
from statemachine.logs import known
from statemachine.report.figures import Figures, Reader
from statemachine.report.page import configuration_text, values
from statemachine.run.opening import engine_of
from statemachine.run.place import elsewhere, works_elsewhere
from statemachine.run.progress import Pace, Progress, Watch
from statemachine.run.record import Record
from statemachine.store import Store, open_store

from .board import told
from .lanes import Lane, Lanes

FRESH = 2.0  # seconds for which a run is not looked at again
FIRST, AGAIN = 6.0, 1.0  # seconds that a page waits for the store: where nothing is known yet, and where it is
KEPT = 20  # runs whose figures are kept


@dataclass(frozen=True)
class Shown:
    """What is known of a run: figures and plots of a state, and where the present stage is."""

    figures: Figures
    values: Mapping[str, Any]
    progress: Progress = field(default_factory=Progress)
    pace: tuple[float, float] | None = None
    note: str = ""  # why no progress is seen
    error: str = ""  # why what is shown may be old

    @property
    def tag(self) -> str:
        """Changes when the page does."""
        state = self.figures.state
        left = self.pace and round(self.pace[1] / 60)
        told = (state.version, state.nonce, self.figures.damage, self.progress, left, self.note, self.error)
        return sha256(repr(told).encode())[:32]


class View:
    """A run, looked at when somebody asks."""

    def __init__(self, prefix: str, lane: Lane, clock: Callable[[], float] = time.monotonic) -> None:
        self.prefix, self.lane, self.clock = prefix, lane, clock
        self.shown: Shown | None = None
        self._error = ""
        self._lock = threading.Lock()
        self._pending: Future[None] | None = None
        self._when: float | None = None
        self._store: Store | None = None
        self._data = b""
        self._watched = ""

    def now(self) -> Shown:
        """What is known now; the store has little time to say more.

        Raises
        ------
        Dpgen2Error
            When nothing is known yet, with the reason.
        """
        with self._lock:
            idle = self._pending is None or self._pending.done()
            if idle and (self._when is None or self.clock() - self._when >= FRESH):
                self._when, self._pending = self.clock(), self.lane.submit(self._look)
            pending = self._pending
        assert pending is not None
        with contextlib.suppress(FutureTimeout):
            pending.result(AGAIN if self.shown else FIRST)
        if self.shown is None:
            raise Dpgen2Error(self._error or "the store has not answered yet; load this page again")
        if not pending.done():
            return replace(self.shown, error="the store has not answered; this is what was known before")
        return self.shown

    def _look(self) -> None:
        try:
            self.shown = self._read()
        except Exception as error:
            self._error = told(error)
            if self.shown is not None:
                self.shown = replace(self.shown, error=self._error)

    def _read(self) -> Shown:
        if self._store is None:
            self._store = open_store(self.prefix)
            known.hide(self._store.secrets())
            self._record, self._reader = Record(self._store), Reader(self._store)
        loaded = self._record.load()
        shown = self.shown
        if shown is None or loaded.data != self._data:
            figures = self._reader.read()
            found = values(figures, self._store, configuration_text(self._store, figures.state))
            shown, self._data = Shown(figures, found), loaded.data
        progress, pace, note = self._progress(self._store, shown.figures.state)
        return replace(shown, progress=progress, pace=pace, note=note, error="")

    def _progress(self, store: Store, state: State) -> tuple[Progress, tuple[float, float] | None, str]:
        if not state.at.endswith(".running"):
            return Progress(), None, ""
        try:
            if self._watched != state.workflow:
                engine = engine_of(store, state)
                self._watch = Watch(store, engine, state, app(state.stage, state.place.app).live)
                self._pace, self._watched = Pace(self.clock), state.workflow
            if away := elsewhere(state, self._watch.engine.home, self._watch.engine):
                return Progress(), None, works_elsewhere(away, self._watch.engine.home)
            progress = self._watch.look()
        except (Dpgen2Error, OSError) as error:
            return Progress(), None, told(error)
        return progress, self._pace(progress), ""

    def ask(self, question: Callable[[Store, State], Any], seconds: float = FIRST) -> Any:
        """An answer from the run's store, and the newest state.

        Raises
        ------
        Dpgen2Error
            When the store says so, or has not answered in time.
        """

        def work() -> Any:
            store = open_store(self.prefix)
            known.hide(store.secrets())
            return question(store, Record(store).load().state)

        return self.lane.ask(work, seconds)


def engine_here(store: Store, state: State) -> Engine | None:
    """The engine of a run whose stage runs where this process sees it."""
    try:
        engine = engine_of(store, state)
        return None if state.ended or elsewhere(state, engine.home, engine) else engine
    except (Dpgen2Error, OSError):
        return None


class Views:
    """The runs that somebody has looked at lately."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self._kept: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, prefix: str) -> View:
        with self._lock:
            view = self._kept.pop(prefix, None) or View(prefix, self.lanes.of(prefix))
            self._kept[prefix] = view
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return view
