"""What is known of all runs: the overview's rows, and which runs may be looked at at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Protocol

from conventions.errors import NoRun
from conventions.names import sha256
from conventions.state import State
from statemachine.logs import known
from statemachine.run.discover import runs_below
from statemachine.run.record import Record
from statemachine.store import open_store

from .lanes import Lanes

FRESH = 3.0  # seconds for which a state is not read again
PATIENCE = 0.6  # seconds that an overview waits for stores
DISCOVERY = 60.0  # seconds between two looks below a place
MOST = 5000  # runs below places


@dataclass(frozen=True)
class Seen:
    """What is known of a run. `error` is why its newest state could not be read."""

    prefix: str
    state: State | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """How addresses name the run: the same after a restart, and no path."""
        return sha256(self.prefix.encode())[:16]


class Board(Protocol):
    """All runs that are shown."""

    def seen(self) -> Sequence[Seen]:
        """What is known of each now; soon, whatever their stores do."""


def named(board: Iterable[Seen], name: str) -> Seen | None:
    """The run that an address names, by its name there or by its uid; None for a uid that two have."""
    runs = list(board)
    found = [run for run in runs if run.name == name] or [
        run for run in runs if run.state and run.state.run_uid == name
    ]
    return found[0] if len(found) == 1 else None


class Looking:
    """Looks at runs when somebody asks.

    Parameters
    ----------
    prefixes
        URLs of runs.
    places
        URLs below which runs are looked for.
    """

    def __init__(
        self,
        prefixes: Iterable[str],
        places: Iterable[str],
        lanes: Lanes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lanes, self.clock = lanes, clock
        self._runs = {prefix: _Look(prefix) for prefix in prefixes}
        self._places: dict[str, tuple[float, Future[None] | None]] = dict.fromkeys(places, (0.0, None))
        self._lock = threading.Lock()

    def seen(self) -> list[Seen]:
        """States that are not fresh are read again, as many as answer in time."""
        with self._lock:
            looking = self._discover()
        if looking:
            wait(looking, PATIENCE)
        with self._lock:
            now = self.clock()
            runs = list(self._runs.values())
            pending = [future for run in runs if (future := self._look(run, now)) is not None]
        wait(pending, PATIENCE)
        return [run.seen for run in runs]

    def _look(self, run: _Look, now: float) -> Future[None] | None:
        if run.pending is not None and not run.pending.done():
            return run.pending
        if run.when is not None and now - run.when < FRESH:
            return None
        run.when = now
        run.pending = self.lanes.of(run.seen.prefix).submit(run.look)
        return run.pending

    def _discover(self) -> list[Future[None]]:
        found = []
        for place, (due, pending) in self._places.items():
            if pending is not None and not pending.done():
                found.append(pending)
            elif self.clock() >= due:
                pending = self.lanes.of(place).submit(lambda place=place: self._look_below(place))  # type: ignore[misc]
                self._places[place] = (self.clock() + DISCOVERY, pending)
                found.append(pending)
        return found

    def _look_below(self, place: str) -> None:
        store = open_store(place)
        known.hide(store.secrets())
        for url in runs_below(store, {}, known=self._runs.keys()):
            with self._lock:
                if len(self._runs) < MOST:
                    self._runs.setdefault(url, _Look(url))


class _Look:
    """A run whose state is read now and again."""

    def __init__(self, prefix: str) -> None:
        self.seen = Seen(prefix)
        self.when: float | None = None
        self.pending: Future[None] | None = None
        self._record: Record | None = None

    def look(self) -> None:
        """Read the state; an error is kept beside what was known before."""
        try:
            if self._record is None:
                store = open_store(self.seen.prefix)
                known.hide(store.secrets())
                self._record = Record(store)
            self.seen = Seen(self.seen.prefix, self._record.load(verify=False).state)
        except NoRun as error:
            self.seen = Seen(self.seen.prefix, None, told(error))
        except Exception as error:
            self._record = None
            self.seen = replace(self.seen, error=told(error))


def told(error: BaseException) -> str:
    """An error as a visitor may see it."""
    text = str(error) if str(error) and isinstance(error, Exception) else type(error).__name__
    return known.redact("; ".join(text.split("\n")))[:500]
