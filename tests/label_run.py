"""Runs a label stage in a plain folder, with stand-ins for the other stages' software."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from conventions.documents import StageReport
from conventions.space import DataSpace, StageSpace
from operators import registry
from operators.core import Planned
from operators.sums import write_sums
from tests.stage_harness import call, newest, run_stage

STUBS = str(Path(__file__).parent / "stubapps")


class LabelRun:
    """A run's folder with a frozen configuration, in iteration 0 unless frames are given as selected ones."""

    def __init__(self, root: Path, label: dict[str, Any], frames: list[Atoms], type_map: list[str], iteration: int = 0):
        if STUBS not in sys.path:
            sys.path.append(STUBS)
            registry.known.cache_clear()
        self.app = registry.app("label", label["app"])
        self.root = root
        self.place: StageSpace = DataSpace(
            {"label": label["app"], "train": "stub", "explore": "stub", "select": "stub"}
        ).stage("label", iteration, newest("label", iteration))
        source = root / "source.extxyz"
        source.touch()
        if frames:
            ase.io.write(source, frames, format="extxyz")
        structures = add_file(root, source)
        if iteration:
            selected = self.place.of("select")
            assert selected is not None
            (root / selected.product).mkdir(parents=True)
            (root / selected.product / "frames.extxyz").write_bytes(source.read_bytes())
            write_sums(root / selected.product)
        config = {
            "run": "test",
            "prefix": "file:///nowhere",
            "type_map": type_map,
            "structures": {"start": {"files": [structures], "format": "extxyz"}},
            "init": {"label": ["start"]},
            "label": label,
            **{stage: {"app": "stub"} for stage in ("train", "explore", "select")},
        }
        path = root / self.place.config
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(config))

    def copy(self, root: Path, **label: Any) -> LabelRun:
        """The same run in another folder, with other settings of the stage."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        other = copy.copy(self)
        other.root = root
        path = root / self.place.config
        config = json.loads(path.read_text())
        config["label"].update(label)
        path.write_text(json.dumps(config))
        return other

    def plan(self) -> Planned:
        planned: Planned = call(self.app.plan, self.place, self.root, self.facts)
        return planned

    def reduce(self, n_jobs: int) -> StageReport:
        call(self.app.reduce, self.place, self.root, {**self.facts, "n_jobs": n_jobs})
        return StageReport.load((self.root / self.place.report).read_bytes())

    def stage(self) -> StageReport:
        return run_stage(self.app, self.place, self.root, self.facts)

    @property
    def facts(self) -> dict[str, Any]:
        return {"iteration": self.place.iteration, "attempt": 0, "has_selected": self.place.iteration > 0}

    @property
    def labels(self) -> Path:
        return self.root / self.place.labels

    @property
    def index(self) -> list[dict[str, Any]]:
        found = json.loads((self.root / self.place.product / "labels.json").read_text())
        return list(found["frames"])


def add_file(root: Path, path: Path) -> str:
    """Put a file of the user's where `init` does; return how the stored configuration names it."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    stored = root / DataSpace({}).file(sha256, path.name)
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(data)
    return f"{sha256}/{path.name}"
