"""train/deepmd with PyTorch: a training killed and gone on with, fine-tuning, compression, and LAMMPS with the models.

DPGEN2_TORCH_VENV names a virtual environment with deepmd-kit[torch,lmp] and nvidia-cuda-runtime-cu12.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.engines import need_venv
from tests.e2e.test_train_deepmd import RUN_JOB, curve
from tests.explore_run import ExploreRun
from tests.train_run import INPUT, TrainRun, copper, hot_frames

pytestmark = pytest.mark.engines

# Kills its whole process group when dp has saved its second checkpoint, once.
KILLER = """\
case "$*" in "--pt train"*) ;; *) exec "$DP" "$@" ;; esac
[ ! -e "$KILLED" ] || exec "$DP" "$@"
"$DP" "$@" 2>&1 | while read -r line; do
  echo "$line"
  case $line in *"Saved model to"*) n=$((${n:-0} + 1)); [ $n -lt 2 ] || { : >"$KILLED"; kill -9 0; } ;; esac
done
"""


@pytest.fixture(scope="module")
def programs() -> Path:
    return need_venv("DPGEN2_TORCH_VENV", "dp")


@pytest.fixture(scope="module")
def committee(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainRun:
    """Two models; the training of the first is killed once."""
    path = tmp_path_factory.mktemp("committee")
    (path / "killer.sh").write_text(KILLER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILLED", str(path / "killed"))
        patch.setenv("DP", str(programs / "dp"))
        train = {"backend": "pytorch", "numb_models": 2, "numb_steps": 400, "command": f"sh {path}/killer.sh"}
        run = TrainRun(path, {**train, "skip_neighbor_stat": True})
        run.write_data()
        run.plan()
        job = subprocess.run([sys.executable, "-c", RUN_JOB, str(path)], start_new_session=True)
        assert job.returncode == -9
        assert not (run.root / run.place().job("000000").job_done).exists()
        report = run.stage()
        assert report.complete, report.messages
    return run


def test_killed_training_goes_on(committee: TrainRun) -> None:
    log = (committee.job() / "log/task.000000.log").read_text()
    began = int(log.partition("continuing from the checkpoint of step ")[2].split()[0])
    assert began >= 40
    assert f"Batch {began + 10:7d}" in log
    assert f"Batch {began - 10:7d}" not in log
    steps = [row[0] for row in curve(committee.product() / "lcurve.000.out")]
    assert steps == [1, *range(10, 401, 10)]
    names = ["SHA256SUMS", "figures.json", "graph.000.pth", "graph.001.pth", "lcurve.000.out", "lcurve.001.out"]
    assert sorted(path.name for path in committee.product().iterdir()) == names


# Prints the errors of each model by operators/train/dp_infer.py, which runs beside DeePMD-kit without this package.
ERRORS = """\
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
import dp_infer
data = np.load(sys.argv[3])
for name, model in sorted(dp_infer.models(Path(sys.argv[2])).items()):
    energy, force = [], []
    for key in sorted({name.split(".")[0] for name in data.files}):
        coords, cells, energies, forces = (data[f"{key}.{what}"] for what in ("coords", "cells", "energies", "forces"))
        e, f, v = model(["Cu"] * coords.shape[1], coords, cells)
        assert v.shape == (len(coords), 3, 3)
        energy.extend((e - energies) / coords.shape[1])
        force.append((f - forces).ravel())
    print(name, np.sqrt(np.mean(np.square(energy))), np.sqrt(np.mean(np.square(np.concatenate(force)))))
"""


def write_frames(path: Path) -> None:
    """The test data, for a process that has no ASE."""
    arrays = {}
    for name, frames in hot_frames().items():
        arrays[f"{name}.coords"] = np.array([atoms.positions for atoms in frames])
        arrays[f"{name}.cells"] = np.array([atoms.cell.array for atoms in frames])
        arrays[f"{name}.energies"] = np.array([atoms.get_potential_energy() for atoms in frames])
        arrays[f"{name}.forces"] = np.array([atoms.get_forces() for atoms in frames])
    np.savez(path, **arrays)


def test_the_figures_are_those_of_an_independent_evaluation(
    programs: Path, committee: TrainRun, tmp_path: Path
) -> None:
    write_frames(tmp_path / "frames.npz")
    infer = Path(__file__).parents[2] / "operators" / "train" / "dp_infer.py"
    shutil.copy(infer, tmp_path)
    command = [programs / "python3", "-c", ERRORS, tmp_path, committee.product(), tmp_path / "frames.npz"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode().split()
    assert said[::3] == ["graph.000.pth", "graph.001.pth"]
    report = committee.reduce(2)
    assert report.summary["rmse_e"] == pytest.approx(np.mean([float(word) for word in said[1::3]]), rel=1e-4)
    assert report.summary["rmse_f"] == pytest.approx(np.mean([float(word) for word in said[2::3]]), rel=1e-4)
    assert said[1] != said[4]


def test_from_a_frozen_model_and_compressed(programs: Path, committee: TrainRun, tmp_path: Path) -> None:
    model = (committee.product() / "graph.000.pth").read_bytes()
    given = TrainRun(tmp_path / "files", {}).add_file("pretrained.pth", model)
    train = {"backend": "pytorch", "numb_models": 1, "numb_steps": 10, "command": str(programs / "dp")}
    run = TrainRun(tmp_path, {**train, "training_init_frozen_model": [given], "dp_compress": True}, tested=False)
    (tmp_path / "files/config/file").rename(tmp_path / "more")
    for folder in (tmp_path / "more").iterdir():
        if not (tmp_path / "config/file" / folder.name).exists():
            folder.rename(tmp_path / "config/file" / folder.name)
    run.write_data()
    report = run.stage()
    assert report.complete, report.messages
    first = curve(committee.product() / "lcurve.000.out")[0]
    began = curve(run.product() / "lcurve.000.out")[0]
    assert began[2] < 0.05 * first[2]  # rmse_e: where the other had ended
    sizes = {path.name: path.stat().st_size for path in run.product().iterdir()}
    assert sorted(sizes) == ["SHA256SUMS", "figures.json", "graph.000.pth", "lcurve.000.out", "original.000.pth"]
    assert sizes["graph.000.pth"] > sizes["original.000.pth"]  # it holds the table


# Unlike se_e2_a, it can forget the elements that a fine-tuned model does not need.
SE_ATTEN = {
    "type": "se_atten", "sel": 40, "rcut_smth": 0.5, "rcut": 4.0, "neuron": [4, 8], "axis_neuron": 4, "attn_layer": 0,
    "precision": "float32",
}  # fmt: skip


def heads(other: Path) -> dict[str, Any]:
    """An input of two heads that share a descriptor; the data of the second one are not the run's."""
    found = copy.deepcopy(INPUT)
    model, training = found["model"], found["training"]
    head = {"type_map": "elements", "descriptor": "shared", "fitting_net": model["fitting_net"]}
    found["model"] = {
        "shared_dict": {"elements": ["Al", "Cu"], "shared": SE_ATTEN},
        "model_dict": {"mine": head, "other": copy.deepcopy(head)},
    }
    found["loss_dict"] = dict.fromkeys(("mine", "other"), found["loss"])
    del found["loss"], training["training_data"], training["validation_data"]
    training["data_dict"] = {"mine": {"training_data": {"batch_size": 1}}}
    training["data_dict"]["other"] = {"training_data": {"systems": [str(other)], "batch_size": 1}}
    return found


def test_several_heads_and_a_fine_tuned_one(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of the run is frozen; then the other one is fine-tuned, which is killed and gone on with."""
    dp = str(programs / "dp")
    train = {"backend": "pytorch", "numb_models": 1, "command": dp, "skip_neighbor_stat": True}
    first = tmp_path / "first"
    run = TrainRun(first, {**train, "head": "mine", "numb_steps": 20}, heads(first / "dataset/deepmd/init/bulk/Cu32"))
    run.write_data()
    report = run.stage()
    assert report.complete, report.messages
    assert set(report.summary) == {"rmse_e", "rmse_f", "new_rmse_f", "train_rmse_e", "train_rmse_f"}

    again = first / "again"
    again.mkdir()
    (again / "data").symlink_to(first / "dataset/deepmd")
    (again / "ckpt").mkdir()
    found = run.task_input()
    found["training"]["save_freq"] = 10
    (again / "input.json").write_text(json.dumps(found))
    subprocess.run([dp, "--pt", "train", "input.json", "--skip-neighbor-stat"], cwd=again, check=True)
    content = (again / "ckpt/model.ckpt-20.pt").read_bytes()
    shift_energies(tmp_path / "third", dp, [again / f"ckpt/model.ckpt-{step}.pt" for step in (10, 20)])

    second = tmp_path / "second"
    stub = copy.deepcopy(INPUT)
    stub["model"] = {"descriptor": {}, "fitting_net": {}}  # these are the pretrained model's
    given = TrainRun(tmp_path / "files", {}).add_file("pretrained.pt", content)
    (second / "killer.sh").parent.mkdir()
    (second / "killer.sh").write_text(KILLER)
    monkeypatch.setenv("KILLED", str(second / "killed"))
    monkeypatch.setenv("DP", dp)
    tune = {"training_finetune_model": [given], "model_branch": "other", "use_pretrain_script": True}
    run = TrainRun(
        second, {**train, **tune, "numb_steps": 100, "command": f"sh {second}/killer.sh"}, stub, tested=False
    )
    stored = second / "config/file" / given
    stored.parent.mkdir(parents=True)
    stored.write_bytes(content)
    run.write_data()
    run.plan()
    job = subprocess.run([sys.executable, "-c", RUN_JOB, str(second)], start_new_session=True)
    assert job.returncode == -9
    report = run.stage()
    assert report.complete, report.messages
    assert "continuing from the checkpoint" in (run.job() / "log/task.000000.log").read_text()
    assert [row[0] for row in curve(run.product() / "lcurve.000.out")] == [1, *range(10, 101, 10)]


def shift_energies(root: Path, dp: str, checkpoints: list[Path]) -> None:
    """The other head of the models has seen copper with other energies of the atoms: by 100 eV each, 3,200 a frame."""
    files = TrainRun(root / "files", {})
    models = [files.add_file(path.name, path.read_bytes()) for path in checkpoints]
    (root / "config").mkdir()
    (root / "config/file").symlink_to(root / "files/config/file")
    train = {"backend": "pytorch", "change_bias": True, "input": None, "numb_models": 2, "command": dp}
    run = TrainRun(root, {**train, "training_finetune_model": models, "model_branch": "other"})
    run.write_data()
    for path in (root / "dataset/deepmd").rglob("energy.npy"):
        np.save(path, np.load(path) + 3200.0)
    run.list_data()
    report = run.stage()
    assert report.complete, report.messages
    assert report.summary["rmse_e"] < 1  # eV/atom; 100 without the shift
    assert sorted(path.name for path in run.product().glob("*.pth")) == ["graph.000.pth", "graph.001.pth"]


def test_divergence_is_a_result(programs: Path, tmp_path: Path) -> None:
    hot = copy.deepcopy(INPUT)
    hot["learning_rate"].update(start_lr=1e30, stop_lr=1e29)
    train: dict[str, Any] = {"backend": "pytorch", "numb_models": 1, "command": str(programs / "dp")}
    run = TrainRun(tmp_path, {**train, "skip_neighbor_stat": True}, hot, tested=False)
    run.write_data()
    report = run.stage()
    assert (report.complete, report.classes) == (False, {"diverged": 1})


def test_lammps_with_the_committee(programs: Path, committee: TrainRun, tmp_path: Path) -> None:
    group = {"structures": ["copper"], "ensemble": "nvt", "temps": [300.0], "nsteps": 20, "dt": 0.001}
    command = {"command": str(programs / "lmp")}
    run = ExploreRun(tmp_path, {"copper": copper(1, 5, 0.02)}, [[group]], ["Cu"], explore=command)
    run.config["train"].update(backend="pytorch", numb_models=2)
    made = run.place.newest_product("train")
    assert made is not None
    (tmp_path / made).parent.mkdir(parents=True)
    (tmp_path / made).symlink_to(committee.product())
    report = run.run()
    assert (report.complete, report.next, report.classes) == (True, True, {"ok": 1}), report.messages
    table = np.loadtxt(run.out(0) / "model_devi.out")
    assert table[:, 0].tolist() == [0, 10, 20]
    assert (table[:, 4] > 0).all()
