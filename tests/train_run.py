"""Runs a train stage in a plain folder, with stand-ins for the other stages' software."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from conventions.config import RunConfig
from conventions.documents import StageReport
from conventions.space import DataSpace, StageSpace
from operators import registry
from operators.core import Planned
from operators.sums import write_sums
from tests.stage_harness import call, newest, run_stage

STUBS = str(Path(__file__).parent / "stubapps")
SYSTEMS = ["iter/000000/Cu32", "init/bulk/Cu32"]

# A small but learning model of copper: TensorFlow's start-up costs more than 100 steps.
INPUT: dict[str, Any] = {
    "model": {
        "descriptor": {
            "type": "se_e2_a",
            "sel": [60],
            "rcut_smth": 0.5,
            "rcut": 5.0,
            "neuron": [8, 16],
            "axis_neuron": 4,
            "precision": "float32",
        },
        "fitting_net": {"neuron": [20, 20], "precision": "float32"},
    },
    "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 0.0002, "decay_steps": 20},
    "loss": {
        "type": "ener",
        "start_pref_e": 0.2,
        "limit_pref_e": 20,
        "start_pref_f": 1000,
        "limit_pref_f": 100,
        "start_pref_v": 0,
        "limit_pref_v": 0,
    },
    "training": {
        "training_data": {"systems": ["mine"], "batch_size": 1},
        "validation_data": {"systems": ["mine too"]},
        "numb_steps": 60,
        "disp_freq": 10,
        "save_freq": 20,
    },
}


class TrainRun:
    """A run's folder with a frozen configuration for iterations 0 to 2."""

    def __init__(self, root: Path, train: dict[str, Any], input: Any = INPUT, tested: bool = True):
        if STUBS not in sys.path:
            sys.path.append(STUBS)
            registry.known.cache_clear()
        self.root = root
        self.app = registry.app("train", train.get("app", "deepmd"))
        content = input if isinstance(input, bytes) else json.dumps(input).encode()
        self.document = {
            "run": "test",
            "prefix": "file:///nowhere",
            "type_map": ["Cu"],
            "init": {"data": {"bulk": {"path": "b"}}, "test": {"hot": {"path": "t"}} if tested else {}},
            "train": {"app": "deepmd", "input": self.add_file("input.json", content), **train},
            **{stage: {"app": "stub"} for stage in ("label", "explore", "select")},
        }
        for iteration in range(3):
            path = root / self.place(iteration).config
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(self.document))
        self.list_data()

    @property
    def config(self) -> RunConfig:
        found: RunConfig = registry.load_config(json.dumps(self.document).encode())
        return found

    def add_file(self, name: str, content: bytes) -> str:
        """A file of the user's as `init` stores it."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.root / DataSpace({}).file(digest, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"{digest}/{name}"

    def place(self, iteration: int = 0) -> StageSpace:
        apps = {"label": "stub", "train": self.app.name, "explore": "stub", "select": "stub"}
        return DataSpace(apps).stage("train", iteration, newest("train", iteration))

    def facts(self, iteration: int = 0) -> dict[str, Any]:
        return {"iteration": iteration, "attempt": 0, "has_models": iteration > 0, "systems": SYSTEMS}

    def plan(self, iteration: int = 0, **facts: Any) -> Planned:
        planned: Planned = call(self.app.plan, self.place(iteration), self.root, {**self.facts(iteration), **facts})
        return planned

    def stage(self, iteration: int = 0) -> StageReport:
        return run_stage(self.app, self.place(iteration), self.root, self.facts(iteration))

    def reduce(self, n_jobs: int) -> StageReport:
        call(self.app.reduce, self.place(), self.root, {**self.facts(), "n_jobs": n_jobs})
        return StageReport.load((self.root / self.place().report).read_bytes())

    def job(self, number: int = 0, iteration: int = 0) -> Path:
        return self.root / self.place(iteration).jobs / f"{number:06d}"

    def task_input(self, number: int = 0, iteration: int = 0) -> Any:
        return json.loads((self.job(number, iteration) / "in/task.000000/input.json").read_text())

    def product(self, iteration: int = 0) -> Path:
        return self.root / self.place(iteration).product

    def write_data(self) -> None:
        """EMT-labelled copper: two training systems of three frames, two test systems of five and two frames."""
        dataset = self.root / DataSpace({}).dataset
        write_system(dataset / SYSTEMS[1], copper(3, 0, 0.02))
        write_system(dataset / SYSTEMS[0], copper(3, 1, 0.1))
        for name, frames in hot_frames().items():
            write_system(dataset / "test/hot" / name, frames)
        self.list_data()

    def list_data(self) -> None:
        """Record the training data that are there."""
        for system in SYSTEMS:
            folder = (self.root / DataSpace({}).dataset / system).parent
            folder.mkdir(parents=True, exist_ok=True)
            write_sums(folder)


def hot_frames() -> dict[str, list[Atoms]]:
    return {"Cu32": copper(5, 2, 0.1), "Cu32b": copper(2, 3, 0.2)}


def copper(count: int, seed: int, amplitude: float) -> list[Atoms]:
    """Strained and shaken fcc copper with EMT as calculator."""
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", a=3.59, cubic=True).repeat(2)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + random.uniform(-0.02, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += random.uniform(-amplitude, amplitude, atoms.positions.shape)
        atoms.calc = EMT()
        frames.append(atoms)
    return frames


def write_system(folder: Path, frames: list[Atoms]) -> None:
    data = {
        "atom_names": ["Cu"],
        "atom_numbs": [len(frames[0])],
        "atom_types": np.zeros(len(frames[0]), int),
        "orig": np.zeros(3),
        "cells": np.array([frame.cell.array for frame in frames]),
        "coords": np.array([frame.positions for frame in frames]),
        "energies": np.array([frame.get_potential_energy() for frame in frames]),
        "forces": np.array([frame.get_forces() for frame in frames]),
    }
    dpdata.LabeledSystem(data=data).to("deepmd/npy", str(folder))
