"""What the commands print: tables for people, plain data for scripts."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conventions.names import STAGES
from conventions.space import DataSpace, JobFile
from statemachine.record import Record
from statemachine.runs import engine_of
from statemachine.store import open_store

COLOURS = {"converged": "green", "exhausted": "yellow", "failed": "red", "cancelled": "red"}


def status_of(prefix: str) -> dict[str, Any]:
    """Where a run stands, as plain data."""
    store = open_store(prefix)
    state = Record(store).load().state
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
        "reason": state.reason,
        "iterations": [
            {"iteration": row.iteration, "explore_stage": row.explore_stage, **row.figures} for row in state.trail
        ],
    }
    if state.at.endswith(".running"):
        status = engine_of(store, state).status(state.workflow)
        found["workflow"] = {
            "name": state.workflow,
            "phase": status.phase.value,
            "step": status.step,
            "message": status.message,
        }
        found["jobs"] = {"finished": status.finished, "total": status.total}
    return found


def status_table(found: dict[str, Any], console: Console | None = None) -> None:
    console = console or Console()
    console.print(headline(found), highlight=False)
    if found["iterations"]:
        console.print(iteration_table(found["iterations"]))


def headline(found: dict[str, Any]) -> Text:
    """Two or three lines: what the run is doing, and why."""
    colour = COLOURS.get(found["at"], "cyan")
    text = Text.assemble((found["run"], "bold"), "  iteration ", str(found["iteration"]), "  ", (found["at"], colour))
    if found["paused"]:
        text.append("  paused", "yellow")
    if found["attempt"]:
        text.append(f"  attempt {found['attempt']}")
    if "jobs" in found:
        step, jobs = found["workflow"]["step"], found["jobs"]
        text.append(f"  {step} {jobs['finished']}/{jobs['total']}" if step == "jobs" else f"  {step}")
    text.append(f"\n{found['prefix']}  (version {found['version']}, {found['updated_at']})", "dim")
    if found["reason"] and found["reason"] != "submitted":
        text.append(f"\n{found['reason']}")
    return text


def iteration_table(rows: list[dict[str, Any]]) -> Table:
    """One line an iteration: what was labelled, how good the models are, what exploration found."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("iter", "stage", "labelled", "force RMSE", "frames", "accurate", "candidate", "failed", "selected"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*iteration_cells(row))
    return table


def iteration_cells(row: dict[str, Any]) -> list[str]:
    frames = sum(row.get(name, 0) for name in ("accurate", "candidate", "failed"))
    shares = [
        f"{row[name] / frames:.1%}" if frames and name in row else "-" for name in ("accurate", "candidate", "failed")
    ]
    rmse = (
        f"{row['rmse_f']:.3f}" if "rmse_f" in row else f"{row['train_rmse_f']:.3f}*" if "train_rmse_f" in row else "-"
    )
    count = {name: f"{row[name]:.0f}" if name in row else "-" for name in ("labelled", "selected")}
    return [
        str(row["iteration"]),
        str(row["explore_stage"]),
        count["labelled"],
        rmse,
        f"{frames:.0f}" if frames else "-",
        *shares,
        count["selected"],
    ]


def print_logs(prefix: str, stage: str | None, iteration: int | None, job: int | None) -> None:
    """Logs of the workflow's steps, or of a job; with neither, also which jobs have logs."""
    from conventions.errors import ConfigError
    from conventions.names import format_id

    store = open_store(prefix)
    state = Record(store).load().state
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"--stage {stage}: choose one of {', '.join(STAGES)}")
    place = DataSpace(state.policy.apps).stage(
        stage or state.stage, state.iteration if iteration is None else iteration
    )
    if job is not None:
        at = place.job(format_id(job))
        keys = [entry.key for entry in store.list(at.job_log + "/")]
        if not keys:
            raise ConfigError(f"there is no log at {store.url}/{at.job_log}")
        for key in keys:
            sys.stdout.write(store.get(key).data.decode("utf-8", "replace"))
        return
    if (place.stage, place.iteration) == (state.stage, state.iteration):
        for line in engine_of(store, state).logs(state.workflow):
            print(line)
    for entry in store.list(place.jobs + "/"):
        found = place.space.parse(entry.key)
        if isinstance(found, JobFile) and found.part == "log":
            print(f"job {int(found.job_id)}: {entry.key} ({entry.size} bytes)")


def print_plan(prefix: str, as_json: bool) -> None:
    from statemachine.preview import preview

    found = preview(prefix)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print(f"next: {found['next']}")
    if "jobs" in found:
        print(
            f"{found['jobs']} jobs, {found['todo']} still to run: {found['tasks']} tasks, {found['bytes']:,} bytes of input"
        )
        for name in found["files"]:
            print(f"  {name}")


def print_checks(checks: list[Any], as_json: bool) -> bool:
    """Print what the doctor found; True when nothing is broken."""
    good = all(check.good for check in checks)
    if as_json:
        print(json.dumps([{"what": c.what, "good": c.good, "detail": c.detail} for c in checks], indent=1))
        return good
    console = Console()
    for check in checks:
        mark = ("ok", "green") if check.good else ("NO", "bold red")
        console.print(Text.assemble(mark, "  ", (check.what, "bold"), "  ", check.detail), soft_wrap=True)
    return good
