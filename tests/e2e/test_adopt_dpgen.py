"""A campaign of the real DP-GEN, killed before each change of its second iteration, is adopted and finished.

DPGEN2_PEERS_VENV names a virtual environment with DP-GEN 0.14: `make test-adopt`. Its programs are stand-ins
(`tests/dpgen_programs.py`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
import pytest
from ase import Atoms

from statemachine.importer.dpgen.tree import TASKS
from tests import dpgen_programs, dpgen_watched
from tests.conftest import Cli
from tests.dpgen_programs import EDGE, SITES
from tests.e2e.engines import need_venv
from tests.figures import Figures

pytestmark = pytest.mark.slow

EXHAUSTED = 3  # exit code: all stages have explored
TYPE_MAP, MODELS, CONFS, TEMPS = ["Cu", "Ni"], 2, 2, [300, 600]
TRAINING = {
    "model": {
        "descriptor": {"type": "se_e2_a", "sel": [30, 30], "rcut_smth": 0.5, "rcut": 4.0, "neuron": [4, 8]},
        "fitting_net": {"neuron": [8]},
    },
    "learning_rate": {"type": "exp", "start_lr": 0.001, "decay_steps": 100},
    "loss": {"start_pref_e": 0.02, "limit_pref_e": 2, "start_pref_f": 1000, "limit_pref_f": 1},
    "training": {"training_data": {"batch_size": 1}, "numb_steps": 100, "disp_freq": 100},
}


def shaken(random: np.random.Generator) -> Atoms:
    at = SITES * np.array(EDGE) + random.normal(0, 0.05, (4, 3))
    return Atoms("Cu2Ni2", at, cell=[EDGE] * 3, pbc=True)


def write_campaign(root: Path, programs: Path, remote: Path) -> None:
    """param.json, machine.json, and what they name."""
    random = np.random.default_rng(1)
    for number in range(CONFS):
        path = root / f"confs/{number}/POSCAR"
        path.parent.mkdir(parents=True)
        ase.io.write(path, shaken(random), "vasp")
    first = [shaken(random) for _ in range(3)]
    data: dict[str, Any] = {
        "atom_names": TYPE_MAP, "atom_numbs": [2, 2], "atom_types": np.array([0, 0, 1, 1]), "orig": np.zeros(3),
        "cells": np.array([each.cell.array for each in first]), "coords": np.array([each.positions for each in first]),
        "energies": np.array([-1.0, -2.0, -3.0]), "forces": np.zeros((3, 4, 3)),
    }  # fmt: skip
    dpdata.LabeledSystem(data=data).to("deepmd/npy", str(root / "init/first"))
    for element in TYPE_MAP:
        (root / f"POTCAR.{element}").write_text(f" PAW {element}\n   VRHFIN ={element}: \nEnd of Dataset\n")
    (root / "INCAR").write_text("ENCUT = 400\nKSPACING = 0.3\nKGAMMA = .TRUE.\nNSW = 0\n")
    job = {"sys_idx": [0], "ensemble": "nvt", "temps": TEMPS, "nsteps": 40, "trj_freq": 10}
    param = {
        "type_map": TYPE_MAP, "mass_map": [63.546, 58.693], "init_data_prefix": "init", "init_data_sys": ["first"],
        "sys_configs": [["confs/*/POSCAR"]], "numb_models": MODELS, "default_training_param": TRAINING,
        "dp_train_skip_neighbor_stat": True, "model_devi_dt": 0.001, "model_devi_skip": 0,
        "model_devi_f_trust_lo": 0.1, "model_devi_f_trust_hi": 0.5, "model_devi_clean_traj": False,
        "model_devi_jobs": [job, job], "fp_style": "vasp", "shuffle_poscar": False, "fp_task_max": 100,
        "fp_task_min": 1, "ratio_failed": 0.5, "fp_pp_path": ".", "fp_pp_files": ["POTCAR.Cu", "POTCAR.Ni"],
        "fp_incar": "INCAR",
    }  # fmt: skip
    here = {"batch_type": "Shell", "context_type": "LocalContext", "local_root": "./", "remote_root": str(remote)}
    resources = {"number_node": 1, "cpu_per_node": 1, "gpu_per_node": 0, "queue_name": "", "group_size": 4}
    stages = {"train": "dp", "model_devi": "lmp", "fp": "vasp"}
    machine: dict[str, Any] = {"api_version": "1.0", "deepmd_version": "3.0.0"} | {
        stage: {"command": str(programs / name), "machine": here, "resources": resources}
        for stage, name in stages.items()
    }
    (root / "param.json").write_text(json.dumps(param))
    (root / "machine.json").write_text(json.dumps(machine))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Path]]]:
    """What kills leave of a campaign, by DP-GEN's task."""
    python = need_venv("DPGEN2_PEERS_VENV", "dpgen") / "python"
    base = tmp_path_factory.mktemp("dpgen")
    for name in ("campaign", "remote", "bin"):
        (base / name).mkdir()
    for name in ("dp", "lmp", "vasp"):
        program = base / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S {dpgen_programs.__file__} {name} "$@"\n')
        program.chmod(0o755)
    write_campaign(base / "campaign", base / "bin", base / "remote")
    run = [python, dpgen_watched.__file__, base / "copies", "1"]
    environment = {**os.environ, "VASP_LOG": str(base / "log")}
    subprocess.run(run, cwd=base / "campaign", env=environment, check=True, capture_output=True, text=True)
    found: dict[str, list[Path]] = {}
    for copy in sorted((base / "copies").iterdir()):
        found.setdefault(TASKS[int(copy.name.split(".")[1])], []).append(copy)
    yield found
    shutil.rmtree(base)  # half a gigabyte


class Left:
    """What a kill has left, read here without the importer.

    Attributes
    ----------
    labels
        Energies that are paid for, eV.
    todo
        How many labelling tasks are left.
    """

    def __init__(self, root: Path) -> None:
        last = (root / "record.dpgen").read_text().splitlines()[-1]
        iteration, task = map(int, last.split())
        done = iteration + (TASKS[task] == "post_fp")
        collected = [f"iter.{number:06d}/02.fp/data.*/*/set.*/energy.npy" for number in range(done)]
        files = [path for pattern in collected for path in root.glob(pattern)]
        self.labels = [each for path in files for each in np.load(path).ravel().tolist()]
        tasks = []
        if TASKS[task] in ("make_fp", "run_fp"):
            tasks = list(root.glob(f"iter.{iteration:06d}/02.fp/task.*"))
        texts = [path.read_text() for folder in tasks if (path := folder / "OUTCAR").exists()]
        whole = [text for text in texts if "EDIFF is reached" in text and "Elapsed time" in text]
        self.labels += [float(re.findall(r"TOTEN  = +(\S+) eV", text)[-1]) for text in whole]
        self.todo = len(tasks) - len(whole)


def energies(dataset: Path) -> list[float]:
    """All labels but those that the campaign began with."""
    files = [path for path in dataset.rglob("energy.npy") if "init000" not in path.parts]
    return sorted(round(each, 5) for path in files for each in np.load(path).ravel().tolist())


def begin(cli: Cli, copy: Path, folder: Path) -> Left:
    """Adopt what a kill has left; it is not changed, no label is lost, none is there twice, the right ones are left."""
    left = Left(copy)
    before = {path: path.lstat().st_mtime_ns for path in copy.rglob("*")}
    code, output, errors = cli("import", copy / "param.json", copy / "machine.json", "-o", folder, "--adopt", copy)
    assert code == 0, errors
    assert {path: path.lstat().st_mtime_ns for path in copy.rglob("*")} == before
    found = energies(folder / "out/dataset/deepmd")
    assert found == sorted(round(each, 5) for each in left.labels) and len(set(found)) == len(found)
    code, output, errors = cli("plan", folder / "run.yaml", "--json")
    planned = json.loads(output)
    assert code == 0, errors
    assert (planned["tasks"] if planned["next"].startswith("label/") else 0) == left.todo, planned
    return left


def test_it_is_killed_in_every_task(copies: dict[str, list[Path]], figure: Figures) -> None:
    assert list(copies) == list(TASKS)
    # Another version of DP-GEN makes other changes.
    figure(
        "real processes: kill points of DP-GEN, whose campaign is adopted", sum(map(len, copies.values())), exact=False
    )


@pytest.mark.parametrize("task", TASKS)
def test_wherever_it_is_killed_no_label_is_lost(
    cli: Cli, copies: dict[str, list[Path]], tmp_path: Path, task: str
) -> None:
    for copy in copies[task]:
        begin(cli, copy, tmp_path / copy.name)
        shutil.rmtree(tmp_path / copy.name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", [0, 0.5, 1])
def test_it_is_finished_and_no_label_is_paid_twice(
    cli: Cli, copies: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, part: float
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("VASP_LOG", str(log))
    copy = copies[task][round(part * (len(copies[task]) - 1))]
    left = begin(cli, copy, tmp_path / "run")
    code, output, errors = cli("resume", tmp_path / "run/run.yaml")
    assert code == EXHAUSTED, output + errors
    run = [round(float(line), 5) for line in log.read_text().splitlines()] if log.exists() else []
    paid = [round(each, 5) for each in left.labels]
    assert len({*run, *paid}) == len(run) + len(paid), "a geometry is labelled once"
    assert energies(tmp_path / "run/out/dataset/deepmd") == sorted(run + paid)
