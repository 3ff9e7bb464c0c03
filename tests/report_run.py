"""A campaign as stages leave it in a store, made up: for what reads runs and shows them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from conventions.documents import JobCounts, StageReport, StageUsed
from conventions.figures import Errors, Explored, SelectFigures, TrainFigures
from conventions.names import GPU_STAGES, STAGES, canonical_json, sha256
from conventions.space import DataSpace
from conventions.state import IterationSummary, State
from operators.select.dump import Frame
from operators.select.extxyz import write_frames
from operators.select.figures import EDGES
from operators.sums import SUMS, sha256_of
from statemachine.run.trail import shortened, write
from statemachine.store import Store
from tests.doubles import APPS, first_state

SPACE = DataSpace(APPS)
SETS = ("bulk", "surface")
LABELS = 6  # of an iteration
MINUTE = 60


def when(minutes: int) -> str:
    return f"2026-01-{1 + minutes // 1440:02d}T{minutes // 60 % 24:02d}:{minutes % 60:02d}:00+00:00"


def campaign(store: Store, iterations: int, scratch: Path, sets: tuple[str, ...] = SETS, **ending: Any) -> State:
    """A run of so many iterations, each stage a minute long, the second train stage in two attempts.

    Parameters
    ----------
    ending
        Changes to the last state, which is the label stage of the next iteration.
    """
    config = canonical_json(
        {"run": "cu", "prefix": store.url, "seed": 7, "engine": {"type": "local"}, "sets": list(sets)}
    )
    store.put(SPACE.configuration(sha256(config)), config)
    state = first_state(config_sha256=sha256(config), updated_at=when(0))
    keep(store, state)
    for iteration in range(iterations):
        row = IterationSummary(iteration=iteration)
        for stage in STAGES:
            figures = finish(store, state, sets, scratch)
            row = row.model_copy(update={"figures": {**row.figures, **figures}, "stages": [*row.stages, stage]})
            if (iteration, stage) == (1, "train"):
                state = moved(store, state, attempt=1, reason="attempt 0 did not complete the stage: model 1 diverged")
            after = STAGES[(STAGES.index(stage) + 1) % 4]
            trail = [one for one in state.trail if one.iteration != iteration]
            changes = {"stage": after, "at": f"{after}.running", "attempt": 0, "reason": "submitted"}
            state = moved(store, state, trail=[*trail, row], iteration=iteration + (after == "label"), **changes)
    if ending:
        state = moved(store, state, **ending)
    store.put(SPACE.state, state.seal())
    return state


def moved(store: Store, state: State, **changes: Any) -> State:
    """The next version of a state, a minute later, in the history."""
    version = state.version + 1
    after = state.model_copy(update={"version": version, "updated_at": when(version - 1), **changes})
    after, past = shortened(after, state)
    for each in past:
        write(store, each)
    keep(store, after)
    return after


def keep(store: Store, state: State) -> None:
    store.put(SPACE.event(state.version), state.seal())


def finish(store: Store, state: State, sets: tuple[str, ...], scratch: Path) -> dict[str, float]:
    """What the stage leaves that a state is in, whose jobs waited for 15 s; its figures for the table."""
    stage, iteration = state.stage, state.iteration
    began = int(datetime.fromisoformat(state.updated_at).timestamp()) + 15
    used = StageUsed(began=began, wall=160, cpu=640.0, gpu=160 if stage in GPU_STAGES else 0)
    place = SPACE.stage(stage, iteration)
    classes, summary, files = MADE[stage](iteration, sets, scratch)
    for name, data in files.items():
        store.put(f"{place.product}/{name}", data)
    report = StageReport(
        stage=stage,
        app=place.app,
        iteration=iteration,
        attempt=0,
        complete=True,
        next=True,
        jobs=JobCounts(planned=4, finished=4, used=used),
        classes=classes,
        summary=summary,
        messages=["job 000002 task.000000: unconverged: SCF run NOT converged"] if stage == "label" else [],
    )
    store.put(place.report, report.dump())
    before = state.figures
    return summary | {name: before.get(name, 0.0) + hours for name, hours in used.hours.items()}


def label(iteration: int, sets: tuple[str, ...], scratch: Path) -> Any:
    frames = []
    for number in range(LABELS):
        bad = number == LABELS - 1
        frame: dict[str, Any] = {
            "structure": sets[number % len(sets)],
            "job_id": f"{number:06d}",
            "task_id": "task.000000",
            "class": "unconverged" if bad else "ok",
            "message": "SCF run NOT converged" if bad else "",
            "system": None if bad else "Cu4",
            "index": None if bad else number,
        }
        if iteration:
            frame["max_devi_f"] = deviation(iteration - 1, number)
            if not bad:
                frame |= {"max_force": 2.0, "max_error_f": 3 * frame["max_devi_f"], "rmse_f": frame["max_devi_f"]}
        frames.append(frame)
    summary = {"labelled": LABELS - 1.0, "discarded": 1.0}
    if iteration:
        summary |= {"blind_rmse_f": 0.3 / iteration, "blind_ratio": 3.0}
    text = json.dumps({"schema_version": 1, "frames": frames}, indent=1).encode()
    return {"ok": LABELS - 1, "unconverged": 1}, summary, {"labels.json": text}


def deviation(iteration: int, number: int) -> float:
    """Of a chosen frame, eV/Angstrom."""
    return float(f"{(0.11 + 0.03 * number) * 0.99**iteration:.6g}")


def train(iteration: int, sets: tuple[str, ...], scratch: Path) -> Any:
    errors = [0.05] * (LABELS - 1)
    models = [{"rmse_e": 0.01, "rmse_f": 0.1}, {"rmse_e": 0.03, "rmse_f": 0.3}]
    figures = TrainFigures(models=models, systems={"Cu4": Errors(atoms=4, max_error_f=errors, rmse_f=errors)})
    curve = "# step rmse_trn rmse_e_trn rmse_f_trn lr\n" + "".join(
        f"{step} 1 {1 / (step + 1):.3e} {2 / (step + 1):.3e} 1e-3\n" for step in range(0, 1000, 10)
    )
    files = {"figures.json": figures.dump(), "lcurve.000.out": curve.encode(), "lcurve.001.out": curve.encode()}
    return {"ok": 2}, {"rmse_e": 0.01 / (iteration + 1), "rmse_f": 0.2 / (iteration + 1), "new_rmse_f": 0.05}, files


def explore(iteration: int, sets: tuple[str, ...], scratch: Path) -> Any:
    trajectories = [
        {"job_id": f"{n:06d}", "task_id": "task.000000", "structure": sets[n % len(sets)], "index": n, "group": 0,
         "class": "ok", "rows": 100, "last_step": 990, "files": {}, "temp": 300.0 + 100 * n, "press": None}
        for n in range(LABELS)
    ]  # fmt: skip
    files = {"trajectories.json": canonical_json({"schema_version": 1, "trajectories": trajectories})}
    return {"ok": LABELS}, {"trajectories": float(LABELS), "broken": 0.0}, files


def select(iteration: int, sets: tuple[str, ...], scratch: Path) -> Any:
    histogram = [0] * (len(EDGES) + 1)
    histogram[16:20] = [400, 300, 200, 100]
    groups = [
        Explored(
            structure=name,
            conditions={"temp": 300.0, "press": None},
            trajectories=3,
            broken=0,
            classes={"accurate": 8000, "candidate": 1900, "failed": 100, "invalid": 0, "skipped": 0},
            histogram=histogram,
        )
        for name in sets
    ]
    levels = {name: {"f_trust_lo": 0.1, "f_trust_hi": 0.4} for name in sets}
    chosen = [
        {"job_id": f"{n:06d}", "task_id": "task.000000", "structure": sets[n % len(sets)], "step": 10 * n,
         "max_devi_f": deviation(iteration, n)}
        for n in range(LABELS)
    ]  # fmt: skip
    files = {
        "figures.json": SelectFigures(edges=EDGES, groups=groups, levels=levels).dump(),
        "manifest.json": canonical_json({"schema_version": 1, "frames": chosen}),
        **frames(chosen, scratch),
    }
    accurate = {"accurate": 16000.0, "candidate": 3800.0, "failed": 200.0, "selected": float(LABELS), "level": 0.2}
    return {"candidate": 3800, "too_close": 2, "selected": LABELS}, accurate, files


def frames(chosen: list[dict[str, Any]], scratch: Path) -> dict[str, bytes]:
    path = scratch / "frames.extxyz"
    sites = np.array([[0.0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]])
    made = [(one["structure"], one["max_devi_f"], Frame(np.eye(3) * 4, np.zeros(4, int), sites)) for one in chosen]
    write_frames(path, made, ["Cu"])
    return {"frames.extxyz": path.read_bytes(), SUMS: f"{sha256_of(path)}  frames.extxyz\n".encode()}


MADE: dict[str, Any] = {"label": label, "train": train, "explore": explore, "select": select}
