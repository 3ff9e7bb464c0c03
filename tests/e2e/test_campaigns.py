"""Whole campaigns through the command line, with real engines: copper with EMT, also killed; a CP2K label stage."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from conventions.space import DataSpace
from operators.sums import sha256_of
from statemachine.engine.local import UID_VARIABLE
from tests.conftest import STUBS
from tests.e2e.engines import need
from tests.e2e.test_label import GOLDEN, waters

pytestmark = pytest.mark.engines
EXAMPLE = Path(__file__).parents[2] / "examples/copper"
COMMAND = str(Path(sys.executable).with_name("dpgen2-sm"))
STEPS = (100, 600)
EXHAUSTED = 3

# The example with two models, less training and hardly any exploration: one iteration, and a training after it.
CONFIG = f"""\
run: mini
prefix: out
engine: {{type: local, slots: 2}}
seed: 5
type_map: [Cu]
structures:
  start: {{files: cu.vasp, super_cell: [2, 2, 2], pert_numb: 2, pert_box: 0.02, pert_atom: 0.02}}
  grid: {{files: cu.vasp, super_cell: [2, 2, 2], scale: [1.0, 1.015]}}
init: {{label: [start]}}
label: {{app: ase, calculator: "ase.calculators.emt:EMT"}}
train: {{app: deepmd, numb_models: 2, input: input.json, numb_steps: {list(STEPS)}, skip_neighbor_stat: true}}
explore:
  app: lammps
  command: dpgen2-lmp
  stages:
    - - {{structures: [grid], ensemble: nvt, temps: [900], nsteps: 60, dt: 0.002, trj_freq: 10}}
select: {{app: model_devi, f_trust_lo: 0.01, f_trust_hi: 50, fp_task_max: 6, model_devi_skip: 1}}
max_iterations: 1
"""


class Campaign:
    """A run in a folder of its own, advanced by the command line."""

    def __init__(self, root: Path, apps: dict[str, str], path: str = "") -> None:
        self.root, self.space = root, DataSpace(apps)
        self.prefix = root / "out"
        self.env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, *arguments],
            cwd=self.root,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate()
        return process.returncode, output

    def at(self, key: str) -> Path:
        return self.prefix / key

    def product(self, stage: str, iteration: int) -> Path:
        return self.at(self.space.stage(stage, iteration).product)

    def report(self, stage: str, iteration: int) -> dict[str, Any]:
        return dict(json.loads(self.at(self.space.stage(stage, iteration).report).read_text()))

    def train_log(self, iteration: int, job_id: str) -> str:
        return (self.at(self.space.stage("train", iteration).job(job_id).job_log) / "task.000000.log").read_text()

    def trained_on(self, iteration: int) -> list[str]:
        folder = self.at(self.space.stage("train", iteration).job("000000").job_in)
        document = json.loads((folder / "task.000000/input.json").read_text())
        return list(document["training"]["training_data"]["systems"])

    def markers(self) -> dict[str, tuple[int, bytes]]:
        """Completion markers of all jobs: when they were written, and what they say."""
        found = sorted(self.prefix.glob("*/*/iter/*/done/*.json"))
        return {str(path.relative_to(self.prefix)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    def wait_for(self, process: subprocess.Popen[str], pattern: str) -> None:
        """Until a file is there; an error when the command ends before."""
        while not any(self.prefix.glob(pattern)):
            with suppress(subprocess.TimeoutExpired):
                output, _ = process.communicate(timeout=0.02)
                pytest.fail(f"it ended without {pattern}:\n{output}")

    def kill_workflows(self) -> int:
        """kill -9 of every process of a workflow of this run; how many there were."""
        settings = self.prefix.glob(".engine/workflow/*/settings.json")
        marks = {f"{UID_VARIABLE}={json.loads(path.read_text())['uid']}".encode() for path in settings}
        killed = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if marks & set(path.read_bytes().split(b"\0")):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    killed += 1
        return killed


def copper(root: Path) -> Campaign:
    need("dp", "dpgen2-lmp", COMMAND)
    for name in ("cu.vasp", "input.json"):
        shutil.copy(EXAMPLE / name, root)
    settings = json.loads((root / "input.json").read_text())
    settings["training"] |= {"disp_freq": 50, "save_freq": 50}
    (root / "input.json").write_text(json.dumps(settings))
    (root / "run.yaml").write_text(CONFIG)
    return Campaign(root, {"label": "ase", "train": "deepmd", "explore": "lammps", "select": "model_devi"})


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A run that nothing disturbed."""
    found = copper(tmp_path_factory.mktemp("undisturbed"))
    code, output = found.finish("run", "run.yaml")
    assert code == EXHAUSTED, output
    return found


def dataset(campaign: Campaign, iteration: int) -> Iterator[Atoms]:
    """Frames as the training reads them; labels in info and arrays."""
    folder = campaign.at(campaign.space.dataset_iter(iteration)) / "Cu32"
    parts = {name: np.load(folder / f"set.000/{name}.npy") for name in ("coord", "box", "energy", "force")}
    for coord, box, energy, force in zip(*parts.values(), strict=True):
        atoms = Atoms("Cu32", coord.reshape(-1, 3), cell=box.reshape(3, 3), pbc=True)
        atoms.info["energy"], atoms.arrays["label"] = energy.item(), force.reshape(-1, 3)
        yield atoms


def dumped(path: Path, step: int) -> Atoms:
    """A frame of a dump by its step, by ASE's reader."""
    steps = [int(word) for word in re.findall(r"ITEM: TIMESTEP\n(\d+)", path.read_text())]
    return ase.io.read(path, index=steps.index(step), format="lammps-dump-text")


def test_the_campaign_ends_with_models_of_all_its_data(campaign: Campaign) -> None:
    code, output = campaign.finish("status", "out", "--json")
    status = json.loads(output)
    assert (code, status["at"], status["iteration"]) == (0, "exhausted", 1)
    assert [row["labelled"] for row in status["iterations"]] == [2.0, 6.0]
    assert [len(list(dataset(campaign, iteration))) for iteration in (0, 1)] == [2, 6]
    forces = np.concatenate([atoms.arrays["label"] for atoms in dataset(campaign, 1)])
    assert 0 < status["iterations"][1]["train_rmse_f"] < 0.5 * np.sqrt(np.mean(forces**2))  # it has learned something
    assert sorted(path.name for path in campaign.product("train", 1).glob("graph.*")) == [
        "graph.000.pb",
        "graph.001.pb",
    ]
    assert campaign.trained_on(1) == ["data/iter/000000/Cu32", "data/iter/000001/Cu32"]


def test_every_selected_frame_is_the_one_that_the_manifest_names(campaign: Campaign) -> None:
    frames = ase.io.read(campaign.product("select", 0) / "frames.extxyz", index=":")
    manifest = json.loads((campaign.product("select", 0) / "manifest.json").read_text())["frames"]
    assert len(frames) == len(manifest) == 6
    assert len({(each["job_id"], each["task_id"], each["step"]) for each in manifest}) == 6
    for atoms, each in zip(frames, manifest, strict=True):
        job = campaign.space.stage("explore", 0).job(each["job_id"])
        folder = campaign.at(job.job_out) / each["task_id"]
        source = dumped(folder / "traj.lammpstrj", each["step"])
        assert np.allclose(atoms.cell.array, source.cell.array, rtol=0, atol=1e-8)
        assert np.allclose(atoms.positions, source.positions, rtol=0, atol=1e-8)
        rows = np.loadtxt(folder / "model_devi.out")
        assert rows[rows[:, 0] == each["step"], 4].tolist() == [each["max_devi_f"]]
        task = json.loads((campaign.at(job.job_in) / each["task_id"] / "task.json").read_text())
        assert atoms.info["structure"] == each["structure"] == task["structure"] == "grid"


def test_the_dataset_is_the_selected_frames_with_their_labels(campaign: Campaign) -> None:
    selected = ase.io.read(campaign.product("select", 0) / "frames.extxyz", index=":")
    for chosen, atoms in zip(selected, dataset(campaign, 1), strict=True):
        assert np.array_equal(chosen.positions, atoms.positions)
        assert np.array_equal(chosen.cell.array, atoms.cell.array)
    for atoms in (atoms for iteration in (0, 1) for atoms in dataset(campaign, iteration)):
        atoms.calc = EMT()
        assert atoms.info["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert np.allclose(atoms.arrays["label"], atoms.get_forces(), rtol=0, atol=1e-9)


@dataclass(frozen=True)
class Killed:
    """A run that was killed twice: completion markers at the second time, and how it ended after it."""

    campaign: Campaign
    processes: int
    before: dict[str, tuple[int, bytes]]
    code: int
    output: str


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """The same run elsewhere: its poller dies while the first committee is trained; all that runs, at the second."""
    found = copper(tmp_path_factory.mktemp("killed"))
    config = found.root / "run.yaml"
    config.write_text(config.read_text().replace("slots: 2", "slots: 1"))  # one model is finished before the other
    process = found.start("run", "run.yaml")
    found.wait_for(process, ".engine/work/mini-*-000000-train-jobs-000000/out/work/task.000000/lcurve.out")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    process = found.start("resume", "out")
    found.wait_for(process, ".engine/work/mini-*-000001-train-jobs-000001/out/work/task.000000/ckpt/*.meta")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    processes = found.kill_workflows()
    return Killed(found, processes, found.markers(), *found.finish("resume", "out"))


def test_equal_seeds_select_equal_frames(campaign: Campaign, killed: Killed) -> None:
    for name in ("frames.extxyz", "manifest.json"):
        ours, theirs = (each.product("select", 0) / name for each in (campaign, killed.campaign))
        assert ours.stat().st_size > 0
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_training_outlives_its_poller(killed: Killed) -> None:
    assert killed.campaign.report("train", 0)["attempt"] == 0
    for job_id in ("000000", "000001"):
        assert "continuing from" not in killed.campaign.train_log(0, job_id)


def test_a_killed_training_goes_on_from_its_checkpoint(killed: Killed) -> None:
    campaign = killed.campaign
    assert killed.code == EXHAUSTED, killed.output
    assert killed.processes >= 3  # the interpreter, the job's shell, dp
    report = campaign.report("train", 1)
    assert (report["attempt"], report["complete"]) == (1, True)
    log = campaign.train_log(1, "000001")
    began = int(log.partition("continuing from the checkpoint of step ")[2].split()[0])
    assert 0 < began < STEPS[1]
    rows = np.loadtxt(campaign.product("train", 1) / "lcurve.001.out")
    assert rows[:, 0].tolist() == list(range(0, STEPS[1] + 1, 50))


def test_no_finished_job_runs_again(campaign: Campaign, killed: Killed) -> None:
    after = killed.campaign.markers()
    assert {name: after[name] for name in killed.before} == killed.before
    jobs = killed.campaign.space.stage("train", 1)
    assert set(after) - set(killed.before) == {jobs.job("000001").job_done}
    assert set(after) == set(campaign.markers())


def test_a_rewound_run_goes_on_by_its_patch_from_what_counts(killed: Killed) -> None:
    campaign, config = killed.campaign, killed.campaign.root / "run.yaml"
    before, model = campaign.markers(), sha256_of(campaign.product("train", 1) / "graph.000.pb")
    config.write_text(config.read_text().replace(f"numb_steps: {list(STEPS)}", "numb_steps: 60"))
    for words in (("patch", "run.yaml"), ("rewind", "out", "--iter", "0", "--stage", "train")):
        code, output = campaign.finish(*words)
        assert code == 0, output
    code, output = campaign.finish("resume", "out")
    assert code == EXHAUSTED, output
    assert campaign.trained_on(2) == ["data/iter/000000/Cu32"]
    assert campaign.trained_on(3) == ["data/iter/000000/Cu32", "data/iter/000003/Cu32"]
    assert np.loadtxt(campaign.product("train", 2) / "lcurve.000.out")[-1, 0] == 50  # of 60, not of 600
    assert {name: campaign.markers()[name] for name in before} == before
    assert sha256_of(campaign.product("train", 1) / "graph.000.pb") == model


CP2K_CONFIG = """\
run: wet
prefix: out
type_map: [O, H]
structures:
  start: {files: waters.extxyz}
init: {label: [start]}
label: {app: cp2k, input: template.inp}
train: {app: stub}
explore: {app: stub}
select: {app: stub, accurate_after: 0}
"""


def test_a_frame_that_cp2k_cannot_converge_is_left_out(tmp_path: Path) -> None:
    """The other stages are stubs."""
    need("cp2k.psmp")
    good, near = waters(1), waters(2)
    near.positions[3] = near.positions[0] + [0.45, 0, 0]  # two oxygens on one another
    ase.io.write(tmp_path / "waters.extxyz", [near, good])
    (tmp_path / "template.inp").write_text((GOLDEN / "gfn1.inp").read_text().replace("MAX_SCF 200", "MAX_SCF 14"))
    (tmp_path / "run.yaml").write_text(CP2K_CONFIG)
    campaign = Campaign(tmp_path, {"label": "cp2k"} | dict.fromkeys(("train", "explore", "select"), "stub"), str(STUBS))
    code, output = campaign.finish("run", "run.yaml")
    assert code == 0, output
    report = campaign.report("label", 0)
    assert report["classes"] == {"ok": 1, "scf_not_converged": 1}
    assert (report["complete"], report["attempt"], report["jobs"]["failed"]) == (True, 0, 0)
    assert any("SCF run NOT converged" in message for message in report["messages"])
    folder = campaign.at(campaign.space.dataset_iter(0))
    assert sorted(path.name for path in folder.iterdir()) == ["O2H4", "SHA256SUMS"]
    positions = np.load(folder / "O2H4/set.000/coord.npy").reshape(-1, 6, 3)
    assert np.allclose(positions, [good.positions[[0, 3, 1, 2, 4, 5]]], rtol=0, atol=1e-7)
    assert np.load(folder / "O2H4/set.000/force.npy").shape == (1, 18)
