"""Runs an exploration in a plain folder, with stand-ins for the software of label and select."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from conventions.documents import StageReport
from conventions.space import DataSpace
from operators import registry
from operators.core import Planned
from operators.registry import load_config
from tests.stage_harness import call, newest, run_stage

STUBS = str(Path(__file__).parent / "stubapps")


class ExploreRun:
    """A run's folder: a frozen configuration, the structure sets it names, and the user's files.

    A value `@name` in `groups` is the content of the user's file `name` in `texts`.
    """

    def __init__(
        self,
        root: Path,
        sets: dict[str, list[Atoms]],
        stages: list[list[dict[str, Any]]],
        type_map: list[str],
        texts: dict[str, str] | None = None,
        explore: dict[str, Any] | None = None,
        **more: Any,
    ):
        if STUBS not in sys.path:
            sys.path.append(STUBS)
            registry.known.cache_clear()
        software = (explore or {}).get("app", "lammps")
        self.app = registry.app("explore", software)
        self.space = DataSpace({"label": "stub", "train": "deepmd", "explore": software, "select": "stub"})
        self.root = root
        self.place = self.space.stage("explore", 0, newest("explore", 0))
        self.facts = {"iteration": 0, "attempt": 0, "explore_stage": 0}
        stored = {f"@{name}": self._store(name, text.encode()) for name, text in (texts or {}).items()}
        structures = {}
        for name, frames in sets.items():
            ase.io.write(root / f"{name}.extxyz", frames, format="extxyz")
            structures[name] = {"files": [self._store(f"{name}.extxyz", (root / f"{name}.extxyz").read_bytes())]}
        filled = [
            [{key: _filled(value, stored) for key, value in group.items()} for group in stage] for stage in stages
        ]
        self.config = {
            "run": "test",
            "prefix": "file:///nowhere",
            "type_map": type_map,
            "structures": structures,
            "init": {"label": list(structures)},
            "label": {"app": "stub"},
            "train": {"app": "deepmd", "input": "input.json"},
            "explore": {"app": "lammps", "stages": filled, **(explore or {})},
            "select": {"app": "stub"},
            **more,
        }

    def _store(self, name: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.root / self.space.file(digest, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"{digest}/{name}"

    def freeze(self, iteration: int = 0) -> Any:
        """Write the configuration of an iteration, as the store would hold it."""
        data = json.dumps(self.config).encode()
        config = load_config(data)
        path = self.root / self.space.config(iteration)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(config.dump())
        return config

    def plan(self, iteration: int = 0, explore_stage: int = 0) -> Planned:
        self.freeze(iteration)
        self.place = self.space.stage("explore", iteration, newest("explore", iteration))
        self.facts = {"iteration": iteration, "attempt": 0, "explore_stage": explore_stage}
        planned: Planned = call(self.app.plan, self.place, self.root, self.facts)
        return planned

    def run(self) -> StageReport:
        self.freeze()
        return run_stage(self.app, self.place, self.root, self.facts)

    def reduce(self, n_jobs: int) -> StageReport:
        call(self.app.reduce, self.place, self.root, {**self.facts, "n_jobs": n_jobs})
        return StageReport.load((self.root / self.place.report).read_bytes())

    def task(self, job: int, task: int = 0) -> Path:
        """The inputs of a task."""
        return self.root / self.place.jobs / f"{job:06d}" / "in" / f"task.{task:06d}"

    def out(self, job: int, task: int = 0) -> Path:
        """The outputs of a task."""
        return self.root / self.place.jobs / f"{job:06d}" / "out" / f"task.{task:06d}"

    def trajectories(self) -> list[dict[str, Any]]:
        """What the product lists."""
        found: list[dict[str, Any]] = json.loads((self.root / self.place.product / "trajectories.json").read_bytes())[
            "trajectories"
        ]
        return found


def _filled(value: Any, stored: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_filled(item, stored) for item in value]
    return stored.get(value, value) if isinstance(value, str) else value
