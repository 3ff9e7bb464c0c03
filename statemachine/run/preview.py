"""What the next transition would submit: the plan, run for real into a scratch folder. Writes nothing to the store."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from conventions.state import State
from operators.core import Input, Planned, signature
from operators.registry import app, load_config
from statemachine.store import Store, open_store

from .begin import begin
from .config_file import read_config
from .configuration import configuration
from .record import Record
from .submission import Submission

# What decides which of the explored frames are labelled, and which labels are used.
FILTERS = {
    "select": ("model_devi_skip", "cut_at_failed", "min_distance", "min_distance_ratio", "max_length_ratio",
               "max_tilt_angle", "check_fraction"),
    "label": ("max_force",),
}  # fmt: skip


def preview_of(config: Path) -> dict[str, Any]:
    """The first stage of a run that has not begun: it is begun in a scratch folder."""
    checked = read_config(config)
    with tempfile.TemporaryDirectory() as folder:
        scratch = checked.model_copy(update={"prefix": f"file://{folder}/run"})
        begin(scratch, config.parent)
        return preview(scratch.prefix)


def preview(prefix: str) -> dict[str, Any]:
    """Jobs, tasks and input bytes of the current attempt; only the state when there is none."""
    store = open_store(prefix)
    state = Record(store).load().state
    if not state.at.endswith((".submitting", ".running")):
        return {"next": f"nothing to submit: the run's state is {state.at}"}
    running = state.at.endswith(".running")
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(configuration(store, state))
        planned, jobs = _plan(store, state, config, Path(folder))
        written = [path for path in sorted(jobs.rglob("*")) if path.is_file()]
        tasks = {path.parent for path in written if path.parent.name.startswith("task.")}
        first = [jobs / job_id for job_id in planned.job_ids[:1]]
        return {
            "running" if running else "next": (
                f"{state.stage}/{state.place.app} of iteration {state.iteration}, workflow {state.workflow}"
            ),
            "jobs": planned.n_jobs,
            "todo": planned.n_todo,
            "tasks": len(tasks),
            "bytes": sum(path.stat().st_size for path in written),
            "files": [str(path.relative_to(jobs)) for job in first for path in written if path.is_relative_to(job)],
            "filters": filters(config),
        }


def filters(config: Any) -> dict[str, dict[str, Any]]:
    """Of each filter that the stages have its value, and whether that is the default."""
    found = {}
    for stage, names in FILTERS.items():
        settings = config.stages[stage]
        fields = type(settings).model_fields
        for name in (name for name in names if name in fields):
            value = settings.model_dump(mode="json", include={name})[name]
            found[f"{stage}.{name}"] = {"value": value, "default": value == fields[name].get_default()}
    return found


def _plan(store: Store, state: State, config: Any, scratch: Path) -> tuple[Planned, Path]:
    submission = Submission(store)
    operator = app(state.stage, config.stages[state.stage].app).plan
    parts = signature(operator)
    paths: dict[str, Path] = {}
    for name, mark in parts.artifacts.items():
        key = mark.at(state.place)
        there = store.fetch(key, scratch / "in" / name) if isinstance(mark, Input) and key else None
        paths[name] = there or scratch / "out" / name
    if not paths["config"].is_file():
        paths["config"].parent.mkdir(parents=True, exist_ok=True)
        paths["config"].write_bytes(config.dump())
    facts = submission.facts(state)
    planned: Planned = operator(
        parts.params(**{f.name: facts[f.name] for f in fields(parts.params)}), parts.context(**paths)
    )
    return planned, paths["jobs"]
