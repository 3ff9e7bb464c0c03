"""train/deepmd with real DeePMD-kit: numbers, restart, reuse, compression."""

from __future__ import annotations

import copy
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.train.dp_judge import last_rows
from tests.e2e.engines import need
from tests.stage_harness import run_stage
from tests.train_run import INPUT, SYSTEMS, TrainRun, hot_frames

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", autouse=True)
def dp_is_installed() -> None:
    need("dp")


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> TrainRun:
    """Two models trained by two iterations; the second goes on from the first."""
    train = {"numb_models": 2, "training_reuse_iter": 1, "training_reuse_start_lr": 1e-3}
    run = TrainRun(tmp_path_factory.mktemp("committee"), {**train, "skip_neighbor_stat": True})
    run.write_data()
    for iteration in range(2):
        report = run.stage(iteration)
        assert report.complete, report.messages
    return run


def curve(path: Path) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in path.read_text().splitlines() if line[0] != "#"]


def test_the_figures_are_those_of_an_independent_evaluation(committee: TrainRun) -> None:
    from deepmd.infer import DeepPot

    report = committee.reduce(2)
    energies, forces = [], []
    for number in range(2):
        model = DeepPot(str(committee.product() / f"graph.{number:03d}.pb"))
        energy, force = [], []
        for atoms in (atoms for frames in hot_frames().values() for atoms in frames):
            found = model.eval(atoms.positions.reshape(1, -1), atoms.cell.array.reshape(1, -1), [0] * len(atoms))
            energy.append((found[0].item() - atoms.get_potential_energy()) / len(atoms))
            force.append(found[1][0] - atoms.get_forces())
        energies.append(np.sqrt(np.mean(np.square(energy))))
        forces.append(np.sqrt(np.mean(np.square(force))))
    assert report.summary["rmse_e"] == pytest.approx(np.mean(energies), rel=1e-5)
    assert report.summary["rmse_f"] == pytest.approx(np.mean(forces), rel=1e-5)
    assert energies[0] != energies[1]


def test_equal_seeds_give_equal_curves(committee: TrainRun, tmp_path: Path) -> None:
    """Also through a plain command instead of the imported dp."""
    run = TrainRun(tmp_path, {"numb_models": 1, "skip_neighbor_stat": True, "command": "env dp"}, tested=False)
    run.write_data()
    report = run.stage()
    assert report.complete, report.messages
    assert (run.product() / "lcurve.000.out").read_bytes() == (committee.product() / "lcurve.000.out").read_bytes()
    rows = last_rows((run.product() / "lcurve.000.out").read_text())
    assert 0 < report.summary.pop("new_rmse_f") < 1
    for key in ("rmse_e", "rmse_f"):
        found = np.sqrt(np.mean(np.square([row[f"{key}_trn"] for row in rows])))
        assert report.summary.pop(f"train_{key}") == pytest.approx(found, rel=1e-9)
    assert report.summary == {}


def test_reuse_goes_on_where_the_last_committee_stopped(committee: TrainRun) -> None:
    for number in range(2):
        first, second = (curve(committee.product(i) / f"lcurve.{number:03d}.out") for i in (0, 1))
        assert second[0][0] == 0
        assert second[0][1] < 0.5 * first[0][1]
        assert second[0][-1] == 1e-3
        log = (committee.job(number, 1) / "log/task.000000.log").read_text()
        assert "from the frozen model" in log


def test_the_curve_has_the_errors_on_validation_data(tmp_path: Path) -> None:
    train = {"numb_models": 1, "numb_steps": 10, "validation_data": ["hot"], "skip_neighbor_stat": True}
    run = TrainRun(tmp_path, train)
    run.write_data()
    report = run.stage()
    assert report.complete, report.messages
    row = last_rows((run.product() / "lcurve.000.out").read_text())[-1]
    assert row["rmse_f_val"] > 0 and row["rmse_f_val"] != row["rmse_f_trn"]


def test_systems_are_joined(tmp_path: Path) -> None:
    found = copy.deepcopy(INPUT)
    found["model"]["descriptor"] = {
        "type": "se_atten", "sel": 60, "rcut_smth": 0.5, "rcut": 5.0, "neuron": [4, 8], "axis_neuron": 4,
        "attn_layer": 0,
    }  # fmt: skip
    run = TrainRun(
        tmp_path, {"numb_models": 1, "numb_steps": 10, "mixed_type": True, "skip_neighbor_stat": True}, found
    )
    run.write_data()
    report = run.stage()
    assert report.complete, report.messages
    log = (run.job() / "log/task.000000.log").read_text()
    assert "mixed/000" in log and "iter/000000" not in log.partition("Summary of DataSystem: Training")[2][:2000]


def test_old_and_new_data_are_weighed(tmp_path: Path) -> None:
    train = {"numb_models": 1, "numb_steps": 10, "training_reuse_iter": 1, "training_reuse_old_ratio": 0.7}
    run = TrainRun(tmp_path, {**train, "skip_neighbor_stat": True}, tested=False)
    run.write_data()
    data = tmp_path / "dataset/deepmd/iter"
    shutil.copytree(data / "000000", data / "000001")
    assert run.stage(0).complete
    facts = {**run.facts(1), "systems": [*SYSTEMS, "iter/000001/Cu32"]}
    report = run_stage(run.app, run.place(1), tmp_path, facts)
    assert report.complete, report.messages
    log = (run.job(0, 1) / "log/task.000000.log").read_text()
    rows = re.findall(r"data/(\S+)(?:\s+\d+){3}\s+(\S+)", log)
    assert [(name, float(share)) for name, share in rows] == [
        ("init/bulk/Cu32", pytest.approx(0.35)),
        ("iter/000000/Cu32", pytest.approx(0.35)),
        ("iter/000001/Cu32", pytest.approx(0.3)),
    ]


# Kills its whole process group when dp has saved its second checkpoint, once.
KILLER = """\
[ "$1" = train ] && [ ! -e "$KILLED" ] || exec dp "$@"
dp "$@" 2>&1 | while read -r line; do
  echo "$line"
  case $line in *"saved checkpoint"*) n=$((${n:-0} + 1)); [ $n -lt 2 ] || { : >"$KILLED"; kill -9 0; } ;; esac
done
"""
RUN_JOB = """
import sys
from pathlib import Path
from operators.train.deepmd import APP
from tests.stage_harness import run_job
from conventions.space import DataSpace
place = DataSpace({"train": "deepmd"}).stage("train", 0)
sys.exit(run_job(APP, place, Path(sys.argv[1]), "000000"))
"""


def killed_run(path: Path, monkeypatch: pytest.MonkeyPatch, **train: Any) -> TrainRun:
    (path / "killer.sh").write_text(KILLER)
    monkeypatch.setenv("KILLED", str(path / "killed"))
    command = f"sh {path}/killer.sh"
    run = TrainRun(path, {"numb_models": 1, "numb_steps": 400, "command": command, **train}, tested=False)
    run.write_data()
    run.plan()
    job = subprocess.run([sys.executable, "-c", RUN_JOB, str(path)], start_new_session=True)
    assert job.returncode == -signal.SIGKILL
    assert (run.job() / "work/task.000000/ckpt/checkpoint").exists()
    assert not (run.root / run.place().job("000000").job_done).exists()
    return run


@pytest.mark.parametrize("new_node", [False, True])
def test_killed_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_node: bool) -> None:
    run = killed_run(tmp_path, monkeypatch, dp_compress=new_node, skip_neighbor_stat=not new_node)
    if new_node:  # it has only what was saved
        (run.job() / "out/task.000000").mkdir()
        for name in ("ckpt", "lcurve.out"):
            shutil.move(run.job() / "work/task.000000" / name, run.job() / "out/task.000000")
        shutil.rmtree(run.job() / "work")
    report = run.stage()
    assert report.complete, report.messages
    log = (run.job() / "log/task.000000.log").read_text()
    began = int(log.partition("continuing from the checkpoint of step ")[2].split()[0])
    assert began >= 40
    assert f"Batch {began + 10:7d}" in log
    assert f"Batch {began - 10:7d}" not in log
    assert [row[0] for row in curve(run.product() / "lcurve.000.out")] == list(range(0, 401, 10))
    if not new_node:
        return
    sizes = {path.name: path.stat().st_size for path in run.product().iterdir()}
    assert sorted(sizes) == ["SHA256SUMS", "figures.json", "graph.000.pb", "lcurve.000.out", "original.000.pb"]
    assert sizes["graph.000.pb"] > sizes["original.000.pb"]  # it holds the table
