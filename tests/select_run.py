"""Runs select/model_devi in a plain folder on trajectories made up here, with stand-ins for the other stages."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from conventions.config import RunConfig
from conventions.documents import StageReport
from conventions.space import DataSpace
from operators import registry
from operators.core import Planned
from operators.sums import sha256_of, write_sums
from tests.stage_harness import call, newest, run_job, run_stage

STUBS = str(Path(__file__).parent / "stubapps")
HEADER = "#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f         min_devi_f         avg_devi_f"  # noqa: E501
SITES = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])


def deviations(rows: Iterable[tuple[int, float]], header: str = HEADER) -> str:
    """A model_devi.out as LAMMPS writes it, from steps and max_devi_f."""
    lines = [f"{step:12d}" + f"{0.01:19.6e}" * 3 + f"{f:19.6e}" + f"{f / 10:19.6e}" * 2 for step, f in rows]
    return "".join(f"{line}\n" for line in ([header] if header else []) + lines)


def frame(step: int, seed: int = 0, box: str = "pp pp pp\n0 4\n0 4\n0 4") -> str:
    """A frame of four rattled copper atoms in a cube of 4 Angstrom; every step and seed gives another structure."""
    positions = (SITES + np.random.default_rng([seed, step]).normal(0, 0.02, SITES.shape)) * 4
    atoms = "".join(f"{i + 1} 1 {x:.10g} {y:.10g} {z:.10g}\n" for i, (x, y, z) in enumerate(positions.tolist()))
    return (
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n4\nITEM: BOX BOUNDS {box}\nITEM: ATOMS id type x y z\n{atoms}"
    )


def dump(steps: Iterable[int], seed: int = 0) -> str:
    return "".join(frame(step, seed) for step in steps)


def recorded(folder: Path) -> dict[str, str]:
    """The hashes of a trajectory's files, as explore writes them down."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


class SelectRun:
    """A run's folder with a frozen configuration and the product of explore."""

    def __init__(self, root: Path, iteration: int = 0, **select: Any):
        self.place = DataSpace({"label": "stub", "train": "stub", "explore": "stub", "select": "model_devi"}).stage(
            "select", iteration, newest("select", iteration)
        )
        self.root = root
        self.config = config(**select)
        self.app = registry.app("select", "model_devi")
        self.systems: list[str] = []
        self.calibration: dict[str, float] = {}
        self.trajectories: list[dict[str, Any]] = []
        explore = self.place.of("explore")
        assert explore is not None
        self.explore = explore
        path = root / self.place.config
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.config.dump())

    def add(self, devi: str | None, traj: str | None, structure: str = "bulk", kind: str = "ok", job: int = -1) -> Path:
        """Offer a trajectory; return its folder."""
        job_id = f"{len(self.trajectories) if job < 0 else job:06d}"
        folder = self.root / self.explore.jobs / job_id / "out" / "task.000000"
        folder.mkdir(parents=True)
        for name, text in (("model_devi.out", devi), ("traj.lammpstrj", traj)):
            if text is not None:
                (folder / name).write_text(text)
        one = {"job_id": job_id, "task_id": "task.000000", "structure": structure, "class": kind}
        self.trajectories.append({**one, "files": recorded(folder)})
        self.offer(self.trajectories)
        return folder

    def offer(self, trajectories: Sequence[dict[str, Any]]) -> None:
        path = self.root / self.explore.product / "trajectories.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema_version": 1, "trajectories": trajectories}))
        write_sums(path.parent)

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "iteration": self.place.iteration,
            "attempt": 0,
            "systems": self.systems,
            "calibration": self.calibration,
        }

    def stage(self) -> StageReport:
        return run_stage(self.app, self.place, self.root, self.facts)

    def plan(self) -> Planned:
        planned: Planned = call(self.app.plan, self.place, self.root, self.facts)
        return planned

    def job(self, job_id: str) -> int:
        return run_job(self.app, self.place, self.root, job_id)

    def reduce(self, n_jobs: int) -> StageReport:
        call(self.app.reduce, self.place, self.root, {**self.facts, "n_jobs": n_jobs})
        return StageReport.load((self.root / self.place.report).read_bytes())

    @property
    def product(self) -> Path:
        return self.root / self.place.product

    @property
    def manifest(self) -> list[dict[str, Any]]:
        return list(json.loads((self.product / "manifest.json").read_text())["frames"])

    @property
    def levels(self) -> dict[str, dict[str, float]]:
        """Adaptive levels by structure set."""
        return dict(json.loads((self.product / "manifest.json").read_text())["levels"])

    @property
    def frames(self) -> list[Atoms]:
        if not (self.product / "frames.extxyz").read_bytes():
            return []
        return list(ase.io.read(self.product / "frames.extxyz", ":"))


def config(**select: Any) -> RunConfig:
    """A configuration with structure sets bulk and surface, select/model_devi, and stubs for the rest."""
    if STUBS not in sys.path:
        sys.path.append(STUBS)
        registry.known.cache_clear()
    document = {
        "run": "test",
        "prefix": "file:///nowhere",
        "type_map": ["Cu", "O"],
        "structures": {name: {"files": [f"{name}.vasp"]} for name in ("bulk", "surface")},
        "init": {"label": ["bulk"]},
        **{stage: {"app": "stub"} for stage in ("label", "train", "explore")},
        "select": {
            "app": "model_devi",
            "command": sys.executable,
            "f_trust_lo": 0.1,
            "f_trust_hi": 0.3,
            "fp_task_max": 100,
            "model_devi_skip": 0,
            **select,
        },
    }
    found: RunConfig = registry.load_config(json.dumps(document).encode())
    return found
