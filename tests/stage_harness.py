"""Runs one stage of an app in a plain folder: plan, every job through the real wrapper, reduce. No store, no engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from conventions.documents import DoneMarker, OutputFile, StageReport
from conventions.names import STAGES
from conventions.space import StageSpace
from operators.core import App, Operator, artifacts, signature
from operators.sums import sha256_of


def newest(stage: str, iteration: int) -> dict[str, int]:
    """Which products a stage finds in a run that goes straight on."""
    now = STAGES[: STAGES.index(stage)]
    return {each: iteration if each in now else iteration - 1 for each in STAGES if iteration or each in now}


def call(operator: Operator, place: StageSpace, root: Path, facts: Mapping[str, Any]) -> Any:
    """Call a Python operator with its artifacts below `root`; a reduce may judge, unless the facts say otherwise."""
    parts, facts = signature(operator), {"last": True, "finished": 10**6, **facts}
    params = parts.params(**{field.name: facts[field.name] for field in fields(parts.params)})
    paths = {name: root / (mark.at(place) or "nonexistent") for name, mark in parts.artifacts.items()}
    return operator(params, parts.context(**paths))


def run_job(app: App, place: StageSpace, root: Path, job_id: str) -> int:
    """Run one job through job.sh; return its exit code."""
    at = place.job(job_id)
    env = {
        f"JOB_{name.upper()}": str(root / (mark.at(at) or "nonexistent")) for name, mark in artifacts(app.job).items()
    }
    script = str(files("operators.pod").joinpath("job.sh"))
    path = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python3` has our packages, as in an image
    )
    return subprocess.run(
        ["sh", script], env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **env, "JOB_ID": job_id}
    ).returncode


def record(place: StageSpace, root: Path, job_id: str) -> None:
    """Let a job's marker tell of its files as they are now: as if the software had left them so."""
    at = place.job(job_id)
    marker = DoneMarker.load((root / at.job_done).read_bytes())
    out = root / at.job_out
    files = [
        OutputFile(name=file.name, size=(out / file.name).stat().st_size, sha256=sha256_of(out / file.name))
        for file in marker.files
    ]
    (root / at.job_done).write_bytes(marker.model_copy(update={"files": files}).dump())


def run_stage(app: App, place: StageSpace, root: Path, facts: Mapping[str, Any]) -> StageReport:
    """plan -> jobs -> reduce. `facts` as the poller gives them: iteration, attempt, systems, explore_stage..."""
    planned = call(app.plan, place, root, facts)
    for job_id in planned.job_ids:
        run_job(app, place, root, job_id)
    call(app.reduce, place, root, {**facts, "n_jobs": planned.n_jobs})
    return StageReport.load((root / place.report).read_bytes())
