"""`dpgen2-sm top`: many runs at a glance, again and again. `app` registers it as a command."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

PIPED = 200  # columns where the output is no terminal
AT_ONCE = 16  # stores that are asked at the same time


def top(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Configuration files, folders or URLs of runs.")
    ] = None,
    discover: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX", help="Look for runs below this prefix; may be given again.")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds between two looks.")] = 5.0,
) -> None:
    """Watch many runs: where each stands, its newest figures, and how long ago it changed.

    Only the states are read: nothing is changed, and no engine is asked. Ctrl-C ends it. Where the output is no
    terminal, the table is printed once.
    """
    from rich.console import Console
    from rich.live import Live

    from statemachine.run.opening import find_prefix
    from statemachine.store import prefix_url

    if not targets and not discover:
        raise typer.BadParameter("name a run, or --discover PREFIX", param_hint="RUN")
    prefixes = [find_prefix(target) for target in targets or ()]
    places = [prefix_url(place, Path.cwd()) for place in discover or ()]
    console = Console()
    if not console.is_terminal:
        console.width = PIPED
        console.print(table_of(look(prefixes, places)))
        return
    try:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(table_of(look(prefixes, places)), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        console.print(table_of(look(prefixes, places)))


def look(prefixes: Sequence[str], places: Sequence[str]) -> list[dict[str, Any]]:
    """What each run shows; those that need a person first, those that have ended last."""
    from conventions.errors import Dpgen2Error
    from statemachine.run.discover import runs_below
    from statemachine.store import open_store

    missed: dict[str, str] = {}
    found = list(prefixes)
    for place in places:
        try:
            found += runs_below(open_store(place), missed)
        except Dpgen2Error as error:
            missed[place] = str(error)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows = list(pool.map(row_of, dict.fromkeys(found)))
    rows += [{"prefix": url, "error": why} for url, why in missed.items()]
    return sorted(rows, key=lambda row: (_rank(row), row["prefix"]))


def row_of(prefix: str, clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> dict[str, Any]:
    """The state of a run as a row; its error where there is none."""
    from conventions.errors import Dpgen2Error
    from statemachine.machine.outlook import force_rmse, shares
    from statemachine.run.record import Record
    from statemachine.store import open_store

    try:
        state = Record(open_store(prefix)).load(verify=False).state
    except Dpgen2Error as error:
        return {"prefix": prefix, "error": str(error)}
    explored = [found for row in state.trail if not row.left and (found := shares(row.figures))]
    errors = [rmse for row in state.trail if not row.left and (rmse := force_rmse(row.figures)) is not None]
    try:
        age = (clock() - datetime.fromisoformat(state.updated_at)).total_seconds()
    except ValueError:
        age = None
    return {
        "prefix": prefix,
        "run": state.run,
        "at": state.at,
        "ended": state.ended,
        "paused": state.hold,
        "iteration": state.iteration,
        "attempt": state.attempt,
        "accurate": explored[-1]["accurate"] if explored else None,
        "rmse_f": errors[-1] if errors else None,
        "age": age,
        "reason": "" if state.reason == "submitted" else state.reason,
        "error": "",
    }


def _rank(row: dict[str, Any]) -> int:
    if row["error"] or row["at"] == "failed":
        return 0
    return 3 if row["ended"] else 1 + row["paused"]


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as a table; texts of the store are shown as they are, without what would command a terminal."""
    from rich.table import Table
    from rich.text import Text

    from conventions.forms import printable
    from statemachine.cli.show import COLOURS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "iter", "state", "accurate", "rmse_f", "changed", "why"):
        table.add_column(name, justify="right" if name in ("iter", "accurate", "rmse_f", "changed") else "left")
    for row in rows:
        if row["error"]:
            why = Text(printable(f"{row['prefix']}: {row['error']}"), no_wrap=True, overflow="ellipsis")
            table.add_row("?", "", Text("unreadable", "red"), "", "", "", why)
            continue
        paused, attempt = " (paused)" * row["paused"], f" attempt {row['attempt']}" if row["attempt"] else ""
        state = Text(f"{row['at']}{paused}{attempt}", COLOURS.get(row["at"], "yellow" if row["paused"] else "cyan"))
        accurate = "" if row["accurate"] is None else f"{row['accurate']:.1%}"
        error = "" if row["rmse_f"] is None else f"{row['rmse_f']:.3g}"
        why = Text(printable(row["reason"]), no_wrap=True, overflow="ellipsis")
        table.add_row(Text(printable(row["run"])), str(row["iteration"]), state, accurate, error, ago(row["age"]), why)
    return table


def ago(seconds: float | None) -> str:
    """
    >>> ago(5), ago(200), ago(7200), ago(200000), ago(None)
    ('5 s', '3 min', '2 h', '2 d', '')
    """
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
