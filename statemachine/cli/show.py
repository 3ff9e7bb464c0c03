"""What the commands print: tables for people, plain data for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from conventions.errors import CommandRefused, ConfigError, Dpgen2Error, EngineError, NoRun
from conventions.forms import printable
from conventions.state import IterationSummary, State
from statemachine.engine import Phase, Status
from statemachine.machine.outlook import CLASSES, compared, warnings
from statemachine.run.discover import runs_below
from statemachine.run.history import why_repeated
from statemachine.run.opening import config_file, engine_of, find_prefix
from statemachine.run.place import elsewhere, works_elsewhere
from statemachine.run.record import Record
from statemachine.run.trail import readable
from statemachine.store import Store, open_store

if TYPE_CHECKING:
    from statemachine.run.checks import Check

COLOURS = {"converged": "green", "exhausted": "yellow", "failed": "red", "cancelled": "red"}
LISTED = ("run", "at", "iteration", "stage", "attempt", "updated_at")
LAST = 40  # iterations of a table
COLUMNS = {  # with widths: 80 characters in all
    "iter": 4,
    "stage": 5,
    "labels": 6,
    "disc.": 5,
    "rmse_e": 8,
    "rmse_f": 7,
    "frames": 6,
    "accurate": 8,
    "candidate": 9,
    "failed": 6,
    "select": 6,
}


def status_of(prefix: str, last: int | None = None) -> dict[str, Any]:
    """Where a run stands, as plain data, with the last iterations; by default with all."""
    store = open_store(prefix)
    return described(store, Record(store).load().state, last)


def described(store: Store, state: State, last: int | None = None) -> dict[str, Any]:
    """The same of a state that was read."""
    trail, damage = readable(store, state, last)
    found: dict[str, Any] = {
        "run": state.run,
        "prefix": store.url,
        "at": state.at,
        "paused": state.hold,
        "iteration": state.iteration,
        "stage": state.stage,
        "attempt": state.attempt,
        "explore_stage": state.explore_stage,
        "version": state.version,
        "updated_at": state.updated_at,
        "reason": printable(state.reason),
        "home": state.home,
        "why_repeated": printable(why_repeated(store, state)),
        "patched": waiting(state),
        "iterations": iteration_rows(trail),
        "damage": damage,
    }
    if not state.ended:
        found |= _workflow_of(store, state)
    return found


def _workflow_of(store: Store, state: State) -> dict[str, Any]:
    """What the engine reports; the state is shown even when the engine cannot be reached."""
    try:
        engine = engine_of(store, state)
        home = engine.home
        if away := elsewhere(state, home, engine):
            raise EngineError(works_elsewhere(away, home))
        if not state.at.endswith(".running"):
            return {}
        status = engine.status(state.workflow)
        phase, message = status.phase.value, printable(status.message or engine.explain(state.workflow))
    except (EngineError, ConfigError, CommandRefused) as error:
        status, phase, message = Status(Phase.running), "unknown", str(error)
    workflow = {"name": state.workflow, "phase": phase, "step": status.step, "message": message}
    return {"workflow": workflow, "jobs": {"finished": status.finished, "total": status.total}}


def print_list(prefixes: Sequence[str], as_json: bool) -> None:
    """A line for each run below the prefixes: where it stands."""
    missed: dict[str, str] = {}
    found = [_line_of(url) for prefix in prefixes for url in runs_below(open_store(prefix), missed)]
    found += [_unreadable(url, why) for url, why in missed.items()]
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for run in found:
        where = typer.style(run["at"] or "unreadable", fg=COLOURS.get(run["at"], "cyan" if run["at"] else "red"))
        paused = " (paused)" if run["paused"] else ""
        told = f"iteration {run['iteration']:3d}  {where}{paused}  {run['updated_at']}" if run["at"] else where
        typer.echo(f"{typer.style(run['run'] or '?', bold=True)}  {told}  {run['prefix']}  {run['error']}".rstrip())
    if not found:
        typer.echo(f"there is no run below {' '.join(prefixes)}")


def _line_of(url: str) -> dict[str, Any]:
    try:
        state = Record(open_store(url)).load(verify=False).state
    except Dpgen2Error as error:
        return _unreadable(url, str(error))
    return {"prefix": url, **{name: getattr(state, name) for name in LISTED}, "paused": state.hold, "error": ""}


def _unreadable(url: str, why: str) -> dict[str, Any]:
    return {"prefix": url, **dict.fromkeys(LISTED, ""), "paused": False, "error": why}


def print_status(found: dict[str, Any]) -> None:
    typer.echo(headline(found))
    if found["iterations"]:
        typer.echo(iteration_table(found["iterations"]))
        if earlier := found["iterations"][0]["iteration"]:
            typer.echo(found["damage"] or f"iterations 0 to {earlier - 1} are not shown: use --all")


def headline(found: dict[str, Any]) -> str:
    """Two or three lines: what the run is doing, and why (with ANSI colours, which `echo` drops for a pipe)."""
    parts = [
        typer.style(found["run"], bold=True),
        f"iteration {found['iteration']}",
        typer.style(found["at"], fg=COLOURS.get(found["at"], "cyan")),
    ]
    if found["paused"]:
        parts.append(typer.style("paused", fg="yellow"))
    if found["attempt"]:
        parts.append(f"attempt {found['attempt']}")
    if "jobs" in found:
        step, jobs = found["workflow"]["step"], found["jobs"]
        parts.append(f"{step} {jobs['finished']}/{jobs['total']}" if jobs["total"] and step in ("jobs", "") else step)
    text = "  ".join(parts)
    text += "\n" + typer.style(f"{found['prefix']}  (version {found['version']}, {found['updated_at']})", dim=True)
    if found["patched"]:
        text += f"\n{found['patched']}"
    if found["why_repeated"] not in ("", found["reason"]):
        text += f"\n{found['why_repeated']}"
    if found["reason"] and found["reason"] != "submitted":
        text += f"\n{found['reason']}"
    if message := found.get("workflow", {}).get("message"):
        text += f"\n{message}"
    return text


def waiting(state: State) -> str:
    """When a patched configuration takes effect; "" when there is none."""
    if not state.next_config_sha256:
        return ""
    places = ["`dpgen2-sm rewind`"]
    if state.at not in ("converged", "exhausted"):
        places.insert(0, "the next iteration")
        if state.next_keeps_sha256 == state.config_sha256:
            places.append("`resume` after a failure or a cancel")
    return f"a patched configuration takes effect with {', or '.join(places)}"


def iteration_rows(trail: Iterable[IterationSummary]) -> list[dict[str, Any]]:
    """The iterations as plain data; `left` marks one that a rewind dropped."""
    return [
        {
            "iteration": row.iteration,
            "explore_stage": row.explore_stage,
            **row.figures,
            **({"left": True} if row.left else {}),
        }
        for row in trail
    ]


def iteration_table(rows: list[dict[str, Any]]) -> str:
    """One line per iteration: what was labelled, how good the models are, what exploration found."""
    return "\n".join([table_line(list(COLUMNS)), *map(iteration_line, rows, compared(rows))])


def iteration_line(row: dict[str, Any], before: dict[str, Any]) -> str:
    """A row, with the levels that its iteration found, and what is a bad sign in it, given what it is compared with."""
    notes = [f"{name} {row[name]:.4g}" for name in ("f_trust_lo", "v_trust_lo") if name in row]
    notes += [f"training {row['train_rmse_f']:.3f}"] if {"rmse_f", "train_rmse_f"} <= set(row) else []
    notes += [f"errors {row['blind_ratio']:.1f} x deviation"] if "blind_ratio" in row else []
    notes += [check_note(row)] if "check_rmse_f" in row else []
    notes += ["dropped by a rewind"] if "left" in row else warnings(row, before)
    return table_line(iteration_cells(row)) + f"  {', '.join(notes)}".rstrip()


def check_note(row: dict[str, Any]) -> str:
    """What the labels of check frames say of the accurate ones.

    >>> check_note({"check_labels": 5.0, "check_rmse_f": 0.0213, "check_rmse_f_high": 0.0279})
    'accurate frames: rmse_f 0.021 (below 0.028; 5 labels)'
    """
    high = f"below {row['check_rmse_f_high']:.3f}; " if "check_rmse_f_high" in row else ""
    labels = f"{row['check_labels']:.0f} label{'s' * (row['check_labels'] != 1)}"
    return f"accurate frames: rmse_f {row['check_rmse_f']:.3f} ({high}{labels})"


def table_line(cells: Sequence[str]) -> str:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, COLUMNS.values(), strict=True))


def iteration_cells(row: dict[str, Any]) -> list[str]:
    frames = sum(row.get(name, 0) for name in CLASSES)
    parts = [f"{row[name] / frames:.1%}" if frames and name in row else "-" for name in CLASSES]
    count = {name: f"{row[name]:.0f}" if name in row else "-" for name in ("labelled", "discarded", "selected")}
    numbers = [str(row["iteration"]), str(row["explore_stage"]), count["labelled"], count["discarded"]]
    return [
        *numbers,
        rmse_cell(row, "rmse_e", 4),
        rmse_cell(row, "rmse_f", 3),
        f"{frames:.0f}" if frames else "-",
        *parts,
        count["selected"],
    ]


def rmse_cell(row: dict[str, Any], name: str, digits: int) -> str:
    """An error on the test set; in brackets, on the training set."""
    if name in row:
        return f"{row[name]:.{digits}f}"
    return f"({row[f'train_{name}']:.{digits}f})" if f"train_{name}" in row else "-"


def print_plan(target: str, as_json: bool) -> None:
    from statemachine.run.preview import preview, preview_of

    config = config_file(target)
    try:
        found = preview(find_prefix(target))
    except NoRun:
        if config is None:
            raise
        found = preview_of(config)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    what = "running" if "running" in found else "next"
    print(f"{what}: {found[what]}")
    if "jobs" in found:
        jobs, todo, tasks = found["jobs"], found["todo"], found["tasks"]
        print(f"{jobs} jobs, {todo} still to run: {tasks} tasks, {found['bytes']:,} bytes of input")
        for name in found["files"]:
            print(f"  {name}")
    if found.get("filters"):
        print("which frames are labelled:")
        for name, each in found["filters"].items():
            value = "none" if each["value"] is None else json.dumps(each["value"])
            print(f"  {name} {value}{' (default)' if each['default'] else ''}")


def print_checks(checks: Iterable[Check], as_json: bool) -> bool:
    """Print the results of `doctor`, each when it is there; True unless one is bad."""
    if as_json:
        found = list(checks)
        print(json.dumps([{"what": c.what, "good": c.good, "detail": c.detail} for c in found], indent=1))
        return all(check.good is not False for check in found)
    good = True
    marks = {True: typer.style("ok", fg="green"), None: "--", False: typer.style("NO", fg="red", bold=True)}
    for check in checks:
        good = good and check.good is not False
        typer.echo(f"{marks[check.good]}  {typer.style(check.what, bold=True)}  {check.detail}")
    return good


def print_state(state: State, as_json: bool = False) -> None:
    if as_json:
        print(json.dumps({"run": state.run, "at": state.at, "iteration": state.iteration, "reason": state.reason}))
    else:
        reason = f" ({printable(state.reason)})" if state.reason else ""
        print(f"{state.run}: iteration {state.iteration}, {state.at}{reason}")
