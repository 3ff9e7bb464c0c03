"""train/mace with real MACE: a training killed and gone on with, fine-tuning, and what the models say.

DPGEN2_MACE_VENV names a virtual environment with mace-torch.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conventions.space import DataSpace
from tests.e2e.engines import need_venv
from tests.explore_run import ExploreRun
from tests.stage_harness import newest
from tests.train_run import TrainRun, copper

pytestmark = pytest.mark.engines

INPUT = b"""\
# A small but learning model
model: MACE
num_channels: 8
max_L: 0
num_interactions: 1
correlation: 2
max_ell: 2
r_max: 4.0
batch_size: 2
valid_batch_size: 2
valid_fraction: 0.2
lr: 0.01
device: cpu
default_dtype: float64
"""
# Kills its whole process group when MACE has finished its second epoch, once.
KILLER = """\
#!/bin/sh
[ ! -e "$KILLED" ] || exec "$MACE/mace_run_train" "$@"
"$MACE/mace_run_train" "$@" 2>&1 | while read -r line; do
  echo "$line"
  case $line in *"Epoch 1:"*) : >"$KILLED"; kill -9 0 ;; esac
done
"""
RUN_JOB = """
import sys
from pathlib import Path
from operators.train.mace import APP
from tests.stage_harness import run_job
from conventions.space import DataSpace
place = DataSpace({"train": "mace"}).stage("train", 0)
sys.exit(run_job(APP, place, Path(sys.argv[1]), "000000"))
"""


@pytest.fixture(scope="module")
def programs() -> Path:
    return need_venv("DPGEN2_MACE_VENV", "mace_run_train")


@pytest.fixture(scope="module")
def committee(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainRun:
    """Two models; the training of the first is killed once."""
    path = tmp_path_factory.mktemp("committee")
    beside = {"mace_run_train": KILLER, "python3": '#!/bin/sh\nexec "$MACE/python3" "$@"\n'}
    (path / "bin").mkdir()
    for name, text in beside.items():
        (path / "bin" / name).write_text(text)
        (path / "bin" / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILLED", str(path / "killed"))
        patch.setenv("MACE", str(programs))
        command = str(path / "bin/mace_run_train")
        run = TrainRun(path, {"app": "mace", "numb_models": 2, "max_num_epochs": 6, "command": command}, INPUT)
        run.write_data()
        run.plan()
        job = subprocess.run([sys.executable, "-c", RUN_JOB, str(path)], start_new_session=True)
        assert job.returncode == -9
        assert not (run.root / run.place().job("000000").job_done).exists()
        report = run.stage()
        assert report.complete, report.messages
    return run


def evaluations(path: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row for row in rows if row["mode"] == "eval"]


def test_killed_training_goes_on(committee: TrainRun) -> None:
    log = (committee.job() / "log/task.000000.log").read_text()
    assert "continuing from the checkpoint mace_run-" in log
    first, *_, last = re.findall(r"(?:Initial|Epoch \d+): .*?RMSE_F= *([\d.]+)", log)
    untrained = evaluations(committee.product() / "lcurve.001.jsonl")[0]["rmse_f"]
    assert float(last) < float(first) < 0.9 * 1000 * untrained
    assert evaluations(committee.product() / "lcurve.000.jsonl")[-1]["epoch"] == 5
    names = ["SHA256SUMS", "figures.json", "lcurve.000.jsonl", "lcurve.001.jsonl", "mace.000.model", "mace.001.model"]
    assert sorted(path.name for path in committee.product().iterdir()) == names


# The models' energies, forces and virials as operators/train/mace_infer.py gives them, without this package.
EVALUATE = """\
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
import mace_infer
data = np.load(sys.argv[3])
found = {}
for name, model in mace_infer.models(Path(sys.argv[2])).items():
    for what, value in zip("efv", model(["Cu"] * data["coords"].shape[1], data["coords"], data["cells"])):
        found[f"{name}.{what}"] = value
np.savez(sys.argv[4], **found)
"""


def test_models_say_derivatives_of_their_energies(programs: Path, committee: TrainRun, tmp_path: Path) -> None:
    """Forces and virials have the right sign and unit: by finite differences of the energy."""
    (atoms,) = copper(1, 7, 0.1)
    step, strain = 1e-3, 1e-4
    moved = [atoms.copy() for _ in range(5)]
    for frame, sign in zip(moved[1:3], (1, -1), strict=True):
        frame.positions[3, 0] += sign * step
    for frame, sign in zip(moved[3:], (1, -1), strict=True):
        frame.set_cell(frame.cell.array @ np.diag([1 + sign * strain, 1, 1]), scale_atoms=True)
    coords, cells = (np.array([getattr(frame, what) for frame in moved]) for what in ("positions", "cell"))
    np.savez(tmp_path / "frames.npz", coords=coords, cells=cells)
    shutil.copy(Path(__file__).parents[2] / "operators" / "train" / "mace_infer.py", tmp_path)
    places = [tmp_path, committee.product(), tmp_path / "frames.npz", tmp_path / "found.npz"]
    subprocess.run([programs / "python3", "-c", EVALUATE, *places], check=True)
    found = np.load(tmp_path / "found.npz")
    for name in ("mace.000.model", "mace.001.model"):
        energy, force, virial = (found[f"{name}.{what}"] for what in "efv")
        assert force[0, 3, 0] == pytest.approx(-(energy[1] - energy[2]) / (2 * step), rel=1e-3, abs=1e-4)
        assert virial[0, 0, 0] == pytest.approx(-(energy[3] - energy[4]) / (2 * strain), rel=1e-3, abs=1e-3)
    assert found["mace.000.model.e"][0] != found["mace.001.model.e"][0]


def test_fine_tuning_begins_where_the_other_ended(programs: Path, committee: TrainRun, tmp_path: Path) -> None:
    model = (committee.product() / "mace.000.model").read_bytes()
    given = TrainRun(tmp_path / "files", {}).add_file("mine.model", model)
    train = {"app": "mace", "numb_models": 1, "max_num_epochs": 1, "command": str(programs / "mace_run_train")}
    run = TrainRun(tmp_path, {**train, "foundation_model": given}, INPUT + b"E0s: average\n", tested=False)
    stored = tmp_path / "config/file" / given
    stored.parent.mkdir(parents=True)
    stored.write_bytes(model)
    run.write_data()
    report = run.stage()
    assert report.complete, report.messages
    began = evaluations(run.product() / "lcurve.000.jsonl")[0]["rmse_f"]
    assert began < 0.9 * evaluations(committee.product() / "lcurve.000.jsonl")[0]["rmse_f"]
    assert set(report.summary) == {"train_rmse_e", "train_rmse_f", "new_rmse_f"}


def test_reuse_goes_on_where_the_last_committee_stopped(programs: Path, committee: TrainRun, tmp_path: Path) -> None:
    train = {"numb_models": 2, "training_reuse_iter": 1, "training_reuse_max_num_epochs": 1, "training_reuse_lr": 1e-4}
    command = str(programs / "mace_run_train")
    run = TrainRun(tmp_path, {"app": "mace", "max_num_epochs": 6, "command": command, **train}, INPUT)
    run.write_data()
    made = run.place(1).newest_product("train")
    assert made is not None
    (tmp_path / made).parent.mkdir(parents=True)
    (tmp_path / made).symlink_to(committee.product())
    report = run.stage(1)
    assert report.complete, report.messages
    for number in (0, 1):
        first, last = (evaluations(each / f"lcurve.00{number}.jsonl") for each in (committee.product(), run.product(1)))
        began = last[0]["rmse_f"]  # other frames are held back for validation
        assert abs(began - first[-1]["rmse_f"]) < abs(began - first[0]["rmse_f"])
        assert len(last) == 2 and last[-1]["rmse_f"] < 1.2 * began


def test_ase_explores_with_the_committee(programs: Path, committee: TrainRun, tmp_path: Path) -> None:
    group = {"structures": ["copper"], "ensemble": "npt", "press": [1.0], "temps": [300.0], "nsteps": 10, "dt": 0.001}
    command = {"app": "ase", "command": str(programs / "python3")}
    run = ExploreRun(tmp_path, {"copper": copper(1, 5, 0.02)}, [[{**group, "trj_freq": 5}]], ["Cu"], explore=command)
    run.config["train"] = {"app": "mace", "input": run.config["train"]["input"], "numb_models": 2}
    run.space = DataSpace({"label": "stub", "train": "mace", "explore": "ase", "select": "stub"})
    run.place = run.space.stage("explore", 0, newest("explore", 0))
    made = run.place.newest_product("train")
    assert made is not None
    (tmp_path / made).parent.mkdir(parents=True)
    (tmp_path / made).symlink_to(committee.product())
    report = run.run()
    assert (report.complete, report.next, report.classes) == (True, True, {"ok": 1}), report.messages
    table = np.loadtxt(run.out(0) / "model_devi.out")
    assert table[:, 0].tolist() == [0, 5, 10] and (table[:, 4] > 0).all()
