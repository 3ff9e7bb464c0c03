"""Following a run in the foreground: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from conventions.errors import Dpgen2Error, EngineAway, StoreAway
from conventions.forms import printable
from conventions.state import IterationSummary, State
from statemachine.machine.outlook import compared
from statemachine.notify import Watch
from statemachine.run.opening import engine_of, open_poller
from statemachine.run.place import works_elsewhere
from statemachine.run.poller import Poller
from statemachine.run.record import Record
from statemachine.run.trail import readable
from statemachine.store import Store, open_store

from .ending import EXIT_CODES, Terminated, exit_code
from .progress import Sight, counts, pace_words, pause_of, plain
from .show import (
    COLUMNS,
    LAST,
    described,
    headline,
    iteration_line,
    iteration_rows,
    iteration_table,
    status_of,
    table_line,
)
from .telling import watching

_LINES = 60.0  # seconds between two lines of progress where there is no terminal
_FIRST, _LONGEST = 2.0, 300.0  # seconds before a store or a server that is away is asked again


def follow(prefix: str, interval: float) -> State:
    """Advance the run until it ends; return its last state."""
    with watching(prefix) as watch:
        state = _follow(prefix, interval, watch)
    typer.echo(headline(status_of(prefix, last=1)))
    return state


def _follow(prefix: str, interval: float, watch: Watch) -> State:
    console = Console()
    display = _Terminal(console) if console.is_terminal else _Lines()

    def committed(state: State) -> None:
        watch.saw(state)
        display.committed(state)

    poller, told = open_poller(prefix, committed), ""
    with display.open():
        state = poller.record.load().state
        watch.saw(state)
        display.committed(state.model_copy(update={"trail": readable(poller.store, state, LAST)[0]}))
        pause = 0.0
        while True:
            try:
                state = poller.step()
                watch.saw(state)
                if state.ended:
                    return state
                display.progress(poller, state)
                if poller.away != told:
                    told = poller.away
                    typer.echo(works_elsewhere(told, poller.engine.home) if told else "it works here again", err=True)
                if told:
                    watch.waits(state, works_elsewhere(told, poller.engine.home))
                if state.hold or poller.away:
                    time.sleep(interval)
                else:
                    poller.engine.wait(state.workflow, interval)
                pause = 0.0
            except (StoreAway, EngineAway) as error:
                pause = min(2 * pause or _FIRST, _LONGEST)
                typer.echo(f"{error}; asked again in {pause:.0f} s (Ctrl-C leaves the run as it is)", err=True)
                time.sleep(pause)


def follow_to_end(prefix: str, interval: float) -> None:
    """Follow a run, and end this process with the exit code of its end."""
    try:
        state = follow(prefix, interval)
    except (KeyboardInterrupt, Terminated) as ending:
        typer.echo(
            "\ninterrupted, nothing is lost: the submitted workflow keeps running. Follow it again with "
            f"`dpgen2-sm resume {prefix}`, or stop it with `dpgen2-sm cancel {prefix}`",
            err=True,
        )
        raise typer.Exit(exit_code(ending)) from None
    raise typer.Exit(EXIT_CODES[state.at])


@contextmanager
def beginning() -> Iterator[Callable[[str, int, int], None]]:
    """Shows the progress of `init`: bars on a terminal, one line per step elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def progress(what: str, total: int, more: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, visible=total > 0)
                if not (total and console.is_terminal):
                    typer.echo(what, err=True)
            bars.update(tasks[what], advance=more, total=total or None)

        yield progress


def watch_status(prefix: str) -> None:
    """Show the status again and again until the run ends, with the progress of the stage that runs."""
    sight, store = Sight(), open_store(prefix)
    record = Record(store)
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            state = record.load().state
            found = described(store, state, LAST)
            parts = [headline(found), *_progress(sight, store, state), iteration_table(found["iterations"])]
            live.update(Text.from_ansi("\n".join(parts)), refresh=True)
            if state.ended:
                return
            time.sleep(2)


def _progress(sight: Sight, store: Store, state: State) -> list[str]:
    """A line on the tasks of the stage, and some on those that run; nothing where the engine cannot be asked."""
    if not state.at.endswith(".running"):
        return []
    try:
        sight.look(store, engine_of(store, state), state, pause_of(store))
    except Dpgen2Error:
        return []
    if not sight.progress.total:
        return []
    return [plain(sight.progress, sight.pace).replace("; ", "\n  ")]


def is_repeated(state: State) -> bool:
    """Has an attempt just been given up? The reason says why."""
    return state.at.endswith(".submitting") and state.attempt > 0 and not state.hold


class _Lines:
    """For pipes and logs: one line per stage, and the iteration table row by row."""

    def __init__(self) -> None:
        self.told = ""
        self.shown = -1  # the last iteration whose row was printed
        self.last = ""
        self.sight = Sight(first=_LINES)

    @contextmanager
    def open(self) -> Iterator[None]:
        yield

    def committed(self, state: State) -> None:
        complete = [row for row in iteration_rows(state.trail) if "selected" in row or "left" in row or state.ended]
        if self.shown < 0 and complete:
            print(table_line(list(COLUMNS)))
        for before, row in zip(compared(complete), complete, strict=True):
            if row["iteration"] > self.shown:
                print(iteration_line(row, before))
                self.shown = row["iteration"]
        line = f"iteration {state.iteration}  {state.at}" + (f"  attempt {state.attempt}" if state.attempt else "")
        if is_repeated(state):
            print(printable(state.reason), flush=True)
        if state.at.endswith(".running") and line != self.last:
            print(line, flush=True)
        self.last = line

    def progress(self, poller: Poller, state: State) -> None:
        if not self.sight.look(poller.store, poller.engine, state, _LINES) or not self.sight.progress.total:
            return
        line = plain(self.sight.progress, self.sight.pace)
        if line != self.told:
            print(f"  {line}", flush=True)
            self.told = line


class _Terminal:
    """For people: the table as it grows, and a bar for the current stage."""

    def __init__(self, console: Console) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
        )
        self.sight = Sight()
        self.live = Live(console=console, refresh_per_second=4)
        self.task: Any = None
        self.name = ""
        self.rows: dict[int, IterationSummary] = {}
        self.table: list[str] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        with self.live:
            yield

    def committed(self, state: State) -> None:
        if self.name != state.workflow:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task("", total=None, words="")
            self.name = state.workflow
        if is_repeated(state):
            self.live.console.print(printable(state.reason), style="yellow", markup=False, highlight=False)
        paused = " (paused)" if state.hold else ""
        attempt = f", attempt {state.attempt}" if state.attempt else ""
        self.bar.update(self.task, description=f"iteration {state.iteration} {state.stage}{attempt}{paused}")
        self.rows.update({row.iteration: row for row in state.trail})
        self.table = [iteration_table(iteration_rows(list(self.rows.values())[-LAST:]))] if self.rows else []
        self.live.update(Group(*self.table, self.bar))

    def progress(self, poller: Poller, state: State) -> None:
        if self.task is None or not self.sight.look(poller.store, poller.engine, state, pause_of(poller.store)):
            return
        found = self.sight.progress
        step = poller.status.step if poller.status else ""
        words = ", ".join(filter(None, [counts(found), pace_words(self.sight.pace)])) or step
        self.bar.update(self.task, total=found.total or None, completed=found.ended, words=words)
        notes = [Text(f"  {note}", style="dim", no_wrap=True, overflow="ellipsis") for note in found.notes]
        self.live.update(Group(*self.table, self.bar, *notes))
