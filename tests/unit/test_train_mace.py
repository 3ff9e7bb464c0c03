"""train/mace: what a job is told, how data reach MACE, and what is made of the results. No MACE, no PyTorch."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from pydantic import ValidationError

from conventions.config import UserFile
from conventions.errors import ConfigError
from operators.committee import check_drives
from operators.live import TASK_LOG
from operators.registry import load_config
from operators.sums import write_sums
from operators.train import mace_infer, mace_model
from operators.train.mace import APP, MaceConfig, check_files, committee, executables, live, options
from tests.stage_harness import record
from tests.train_run import TrainRun

YAML = b"# mine\nmodel: MACE\nmax_num_epochs: 7\nlr: 0.01\n"

# A MACE that trains at once, and models that are EMT with all energies too high by what the model file says.
FAKE_TRAIN = """\
import json, os, sys, zipfile
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2])) if sys.argv[1] != "--help" else {}
said = sys.argv[1:]
Path("args").write_text(json.dumps(said))
fake = os.environ.get("FAKE", "") if "job/000001/" in os.getcwd() else ""
if fake == "train":
    sys.exit("RuntimeError: no luck")
Path("ckpt/mace_run-1_train.txt").write_text('{"mode": "eval", "epoch": 0}\\n')
if fake != "model":
    with zipfile.ZipFile("mace.model", "w") as file:
        file.writestr("mace/data.pkl", "x")
        file.writestr("shift", fake if fake == "nan" else "3.2")
"""
FAKE_CALCULATORS = """\
import zipfile
from ase.calculators.emt import EMT
class MACECalculator(EMT):
    def __init__(self, model_paths, device):
        super().__init__()
        assert device == "cpu"
        self.shift = float(zipfile.ZipFile(model_paths[0]).read("shift"))
    def calculate(self, *args, **more):
        super().calculate(*args, **more)
        self.results["energy"] += self.shift
        self.results["forces"] = self.results["forces"] + 0 * self.shift
"""
FAKE_TORCH = "class cuda:\n    is_available = staticmethod(lambda: False)\n__version__ = '2.15.0'\n"


def fake_mace(path: Path) -> str:
    """A folder with mace_run_train, the Python beside it, and the packages that it can import; returns the command."""
    packages, programs = path / "packages", path / "bin"
    (packages / "mace").mkdir(parents=True)
    programs.mkdir()
    (packages / "mace/__init__.py").write_text("__version__ = '0.3.16'\n")
    (packages / "mace/calculators.py").write_text(FAKE_CALCULATORS)
    (packages / "torch.py").write_text(FAKE_TORCH)
    (path / "train.py").write_text(FAKE_TRAIN)
    scripts = {
        "python3": f'PYTHONPATH={packages} exec {sys.executable} "$@"',
        "mace_run_train": f'exec {sys.executable} {path}/train.py "$@"',
    }
    for name, line in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    return str(programs / "mace_run_train")


def run_of(path: Path, yaml: bytes = YAML, tested: bool = True, **train: Any) -> TrainRun:
    path.mkdir(exist_ok=True)
    run = TrainRun(path, {"app": "mace", "numb_models": 2, **train}, yaml, tested)
    run.write_data()
    return run


def told(run: TrainRun, number: int = 0, iteration: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.job(number, iteration) / "in/task.000000/job.json").read_text())
    words = found.pop("options")
    assert [words.pop(0), words.pop(0)] == ["--restart_latest", "--keep_checkpoints"]
    return {**found, "options": dict(zip(words[::2], words[1::2], strict=True))}


# What a job is told -------------------------------------------------------------------------------------------------


def test_a_job(tmp_path: Path) -> None:
    run = run_of(tmp_path, max_num_epochs=[5, 3])
    run.plan()
    run.plan(1)
    first, second, later = told(run), told(run, 1), told(run, 0, 1)
    assert (run.job() / "in/task.000000/input.yaml").read_bytes() == YAML
    assert (first["systems"], first["tests"]) == (["init/bulk/Cu32", "iter/000000/Cu32"], ["test/hot"])
    seeds = [each["options"].pop("--seed") for each in (first, second, later)]
    assert len(set(seeds)) == 3
    assert first == second
    assert first["options"] == {
        "--name": "mace", "--train_file": "train.xyz", "--energy_key": "REF_energy", "--forces_key": "REF_forces",
        "--stress_key": "REF_stress", "--virials_key": "REF_virials", "--atomic_numbers": "[29]", "--model_dir": ".",
        "--checkpoints_dir": "ckpt", "--results_dir": "ckpt", "--log_dir": "ckpt/log", "--max_num_epochs": "5",
        "--plot": "False", "--E0s": "average",
    }  # fmt: skip
    assert later["options"]["--max_num_epochs"] == "3"
    assert sorted(path.name for path in (run.job() / "in").glob("*.py")) == [
        "dp_model.py", "mace_infer.py", "mace_model.py"
    ]  # fmt: skip


def test_what_the_user_says_stays(tmp_path: Path) -> None:
    run = run_of(tmp_path, YAML + b'E0s: "{29: -1.0}"\nplot: True\n')
    run.plan()
    found = told(run)["options"]
    assert not {"--max_num_epochs", "--E0s", "--plot"} & set(found)


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return stream.getvalue()


def test_fine_tuning(tmp_path: Path) -> None:
    given = TrainRun(tmp_path / "files", {}).add_file("mp.model", archive("mp/data.pkl"))
    run = run_of(tmp_path, YAML + b"E0s: foundation\n", foundation_model=given)
    source = tmp_path / "files/config/file" / given
    stored = tmp_path / "config/file" / given
    stored.parent.mkdir(parents=True)
    stored.write_bytes(source.read_bytes())
    check_files(run.config, tmp_path / "config/file")
    run.plan()
    found = told(run)["options"]
    assert (found["--foundation_model"], found["--multiheads_finetuning"]) == ("start.model", "False")
    assert (run.job() / "in/task.000000/start.model").read_bytes() == source.read_bytes()
    with pytest.raises(ConfigError, match=r"it has no E0s, .*with foundation_model say whether"):
        options(run.config.train, 0, ["Cu"], {"max_num_epochs"})
    assert told(run)["model"] == given  # the job is another one with another model
    bad = run.config.train.model_copy(update={"foundation_model": UserFile(run.add_file("bad.model", b"<html>"))})
    with pytest.raises(ConfigError, match=r"foundation_model: bad\.model is not a model that"):
        check_files(run.config.model_copy(update={"train": bad}), tmp_path / "config/file")


def test_reuse_of_the_last_committee(tmp_path: Path) -> None:
    reuse = {"training_reuse_iter": 2, "training_reuse_max_num_epochs": 3, "training_reuse_lr": 1e-4}
    run = run_of(tmp_path, YAML + b"E0s: average\n", max_num_epochs=9, **reuse)

    def second(iteration: int, **facts: Any) -> dict[str, Any]:
        run.plan(iteration, **facts)
        return told(run, 1, iteration)

    for first in (second(1), second(2, has_models=False)):
        assert "reuse" not in first and not {"--foundation_model", "--lr", "--E0s"} & set(first["options"])
        assert first["options"]["--max_num_epochs"] == "9"
    later = second(2)
    assert (later["reuse"], later["model"]) == (1, None)
    names = ("--foundation_model", "--multiheads_finetuning", "--max_num_epochs", "--lr")
    assert [later["options"][name] for name in names] == ["start.model", "False", "3", "0.0001"]


def test_the_last_committee_takes_the_place_of_the_foundation_model(tmp_path: Path) -> None:
    given = TrainRun(tmp_path / "files", {}).add_file("mp.model", archive("mp/data.pkl"))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/file").symlink_to(tmp_path / "files/config/file")
    run = run_of(tmp_path, YAML + b"E0s: average\n", foundation_model=given, training_reuse_iter=1)
    (begin, reuse) = ((run.plan(number), told(run, 0, number))[1] for number in (0, 1))
    assert begin["model"] == given and "reuse" not in begin and "--E0s" not in begin["options"]
    assert reuse["model"] is None and reuse["reuse"] == 0
    assert not (run.job(0, 1) / "in/task.000000/start.model").exists()


def test_a_model_of_the_last_committee_is_checked_and_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(mace_model.__file__).parent))  # a job has dp_model beside it
    monkeypatch.delenv("DPGEN2_SHARED", raising=False)
    committee = tmp_path / "models"
    committee.mkdir()
    (committee / "mace.001.model").write_text("last")
    write_sums(committee)
    mace_model.last_model(committee, 1)
    assert Path("start.model").read_text() == "last"
    with pytest.raises(SystemExit, match="has no model 0; keep numb_models"):
        mace_model.last_model(committee, 0)
    (committee / "mace.001.model").write_text("changed")
    with pytest.raises(SystemExit, match="is not what was recorded"):
        mace_model.last_model(committee, 1)


def test_the_energies_of_the_atoms_stay_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with one element, where MACE's own E0s: foundation fails."""

    def calculator(model_paths: list[str], device: str) -> Any:
        assert (model_paths, device) == (["start.model"], "cpu")
        energies = types.SimpleNamespace(atomic_energies=np.array([[-3.5]]))
        model = types.SimpleNamespace(atomic_numbers=np.array([29]), atomic_energies_fn=energies)
        return types.SimpleNamespace(models=[model])

    cuda = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "mace", types.ModuleType("mace"))
    monkeypatch.setitem(sys.modules, "mace.calculators", types.SimpleNamespace(MACECalculator=calculator))
    assert mace_infer.energies_of_atoms(Path("start.model")) == {29: -3.5}


def test_data_to_choose_the_best_epoch_by(tmp_path: Path) -> None:
    command = fake_mace(tmp_path / "fake")
    run = run_of(tmp_path / "run", numb_models=1, validation_data=["hot"], command=command)
    report = run.stage()
    assert report.complete, report.messages
    assert told(run)["options"]["--valid_file"] == "valid.xyz" and told(run)["tests"] == ["test/hot"]
    (valid,) = run.root.rglob("valid.xyz")
    assert len(ase.io.read(valid, ":")) == 5 + 2


@pytest.mark.parametrize("key", ["max_num_epochs", "lr"])
def test_keys_of_reuse_without_reuse(tmp_path: Path, key: str) -> None:
    (problem,) = APP.check(run_of(tmp_path, **{f"training_reuse_{key}": 1}).config)
    assert f"train.training_reuse_{key}: it has no effect without training_reuse_iter" in problem


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"- a\n", "no line 'key: value'"),
        (YAML + b"seed: 3\n", "seed is for the run to decide; take it out"),
        (YAML + b'"train_file": x.xyz\n', "train_file is for the run"),
        (YAML + b"heads :\n  a: 1\n", "heads is for the run"),
        (YAML + b"foundation_model: small\n", r"foundation_model is .*give it as train\.foundation_model"),
        (b"model: MACE\n", r"train\.max_num_epochs: neither"),
    ],
)
def test_bad_inputs(tmp_path: Path, yaml: bytes, message: str) -> None:
    run = run_of(tmp_path, yaml)
    for call in (run.plan, lambda: check_files(run.config, tmp_path / "config/file")):
        with pytest.raises(ConfigError, match=message):
            call()


def test_no_systems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no training systems"):
        run_of(tmp_path).plan(systems=[])


@pytest.mark.parametrize(
    "train",
    [
        {"numb_models": 0},
        {"max_num_epochs": 0},
        {"max_num_epochs": []},
        {"ratio_failed": 0.5},
        {"numb_steps": 5},
        {"command": "mace 'x"},
    ],
)
def test_refused_configuration(train: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MaceConfig(input="input.yaml", **train)  # type: ignore[arg-type]


def test_what_it_makes_and_who_can_drive_it(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    found = committee(run.config.train)
    assert (found.kind, found.files) == ("mace", ["mace.000.model", "mace.001.model"])
    assert executables(run.config.train) == ["mace_run_train"]
    group = {"structures": ["a"], "ensemble": "nvt", "temps": [300.0], "nsteps": 1, "dt": 0.001, "trj_freq": 1}
    explore = {"app": "lammps", "stages": [[group]]}
    config = load_config(json.dumps({**run.document, "explore": explore}).encode())
    assert "explore.app: lammps cannot drive the models of train.app mace (mace)" in check_drives(config)[0]
    select = config.select.model_copy(update={"app": "model_devi"})
    one = config.train.model_copy(update={"numb_models": 1})
    assert "needs at least 2" in APP.check(config.model_copy(update={"select": select, "train": one}))[0]


# How data reach MACE ------------------------------------------------------------------------------------------------


def test_labels_are_what_ase_would_say(tmp_path: Path) -> None:
    """Energy, forces and the sign and unit of the stress, against the calculator itself."""
    random = np.random.default_rng(1)
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + random.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    atoms.positions += random.uniform(-0.1, 0.1, atoms.positions.shape)
    atoms.calc = EMT()
    virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
    folder = tmp_path / "Cu32/set.000"
    folder.mkdir(parents=True)
    (tmp_path / "Cu32/type_map.raw").write_text("Al\nCu\n")
    np.savetxt(tmp_path / "Cu32/type.raw", np.ones(32), fmt="%d")
    for name, value in {
        "coord": atoms.positions, "box": atoms.cell.array, "energy": atoms.get_potential_energy(),
        "force": atoms.get_forces(), "virial": virial,
    }.items():  # fmt: skip
        np.save(folder / name, np.reshape(value, (1, -1)))
    ((symbols, frame),) = mace_model.frames(tmp_path / "Cu32")
    found = ase.io.read(io.StringIO(mace_model.extxyz(symbols, frame)), format="extxyz")
    assert isinstance(found, Atoms)
    assert found.get_chemical_symbols() == ["Cu"] * 32
    assert found.pbc.all()
    np.testing.assert_allclose(found.positions, atoms.positions)
    np.testing.assert_allclose(found.cell.array, atoms.cell.array)
    assert found.info["REF_energy"] == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(found.arrays["REF_forces"], atoms.get_forces())
    np.testing.assert_allclose(np.reshape(found.info["REF_stress"], (3, 3)), atoms.get_stress(voigt=False))
    np.testing.assert_allclose(np.reshape(found.info["REF_virials"], (3, 3)), virial)


def test_a_molecule_has_no_cell(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    folder = tmp_path / "H2O/set.000"
    folder.mkdir(parents=True)
    (tmp_path / "H2O/nopbc").touch()
    (tmp_path / "H2O/type_map.raw").write_text("O\nH\n")
    (tmp_path / "H2O/type.raw").write_text("0\n1\n1\n")
    labels = {"coord": atoms.positions, "box": np.eye(3), "energy": 1.5, "force": np.ones((3, 3)), "virial": np.eye(3)}
    for name, value in labels.items():
        np.save(folder / name, np.reshape(value, (1, -1)))
    ((symbols, frame),) = mace_model.frames(tmp_path / "H2O")
    found = ase.io.read(io.StringIO(mace_model.extxyz(symbols, frame)), format="extxyz")
    assert isinstance(found, Atoms)
    assert not found.pbc.any()
    assert set(found.info) == {"REF_energy"}
    assert found.get_chemical_symbols() == ["O", "H", "H"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("job.json").write_text("{}")
    Path("input.yaml").write_bytes(YAML)
    (tmp_path / "trainer").write_text(
        "#!/bin/sh\nls ckpt/*.pt 2>/dev/null | tr '\\n' ' ' >>seen; echo >>seen\n"
        '[ "$CODE" = 0 ] || exit "$CODE"\ntouch mace.model ckpt/mace_run-1_train.txt\n'
    )
    (tmp_path / "trainer").chmod(0o755)
    monkeypatch.setenv("MACE_COMMAND", str(tmp_path / "trainer"))
    return tmp_path


def test_a_killed_training_goes_on_from_whole_checkpoints_of_its_own(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE", "0")
    Path("ckpt").mkdir()
    Path("ckpt/mace_run-1_epoch-9.pt").write_bytes(archive("x"))  # of another training
    mace_model.train(["--seed", "1"])
    Path("ckpt/mace_run-1_epoch-1.pt").write_bytes(archive("x"))
    Path("ckpt/mace_run-1_epoch-2.pt").write_bytes(archive("x")[:-5])
    mace_model.train(["--seed", "1"])
    assert Path("seen").read_text().split("\n") == ["", "ckpt/mace_run-1_epoch-1.pt ", ""]
    Path("input.yaml").write_bytes(YAML + b"r_max: 4.0\n")
    mace_model.train(["--seed", "1"])
    assert Path("seen").read_text().split("\n")[2] == ""


def test_the_last_two_checkpoints_of_each_stage_are_kept(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While MACE runs, the one that it writes now is let alone."""
    monkeypatch.setattr(mace_model, "PATIENCE", 0.01)
    Path("ckpt").mkdir()
    for number, name in enumerate(["epoch-1", "epoch-2", "epoch-9", "epoch-10_swa", "epoch-11_swa", "epoch-12_swa"]):
        path = Path(f"ckpt/mace_run-1_{name}.pt")
        path.write_bytes(archive("x"))
        os.utime(path, (number, number))
    Path("ckpt/mace_run-1_epoch-13_swa.pt").write_bytes(b"PK")
    mace_model.prune()
    assert sorted(path.name.partition("epoch-")[2] for path in Path("ckpt").iterdir()) == [
        "11_swa.pt", "12_swa.pt", "13_swa.pt", "2.pt", "9.pt"
    ]  # fmt: skip
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as mace:
        assert mace_model.ended(mace) is None
        mace.kill()
        assert mace.wait() == -9


def test_a_checkpoint_that_leads_nowhere_is_dropped(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE", "0")
    mace_model.train([])
    Path("ckpt/mace_run-1_epoch-1.pt").write_bytes(archive("x"))
    monkeypatch.setenv("CODE", "3")
    with pytest.raises(SystemExit, match="exit code 3"):
        mace_model.train([])
    assert not Path("ckpt").exists()


def test_the_model_of_the_second_stage_is_taken(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODE", "0")
    Path("mace_stagetwo.model").write_text("better")
    mace_model.train([])
    assert Path("mace.model").read_text() == "better"


# What is made of the results ----------------------------------------------------------------------------------------


def faked(path: Path, monkeypatch: pytest.MonkeyPatch, fake: str = "", **more: Any) -> TrainRun:
    monkeypatch.setenv("FAKE", fake)
    return run_of(path, command=fake_mace(path / "fake"), **more)


def test_a_committee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = faked(tmp_path, monkeypatch)
    report = run.stage()
    assert (report.complete, report.classes, report.messages) == (True, {"ok": 2}, [])
    # 3.2 eV for 32 atoms
    assert report.summary == {"rmse_e": pytest.approx(0.1), "rmse_f": pytest.approx(0), "new_rmse_f": 0.0}
    names = ["SHA256SUMS", "figures.json", "lcurve.000.jsonl", "lcurve.001.jsonl", "mace.000.model", "mace.001.model"]
    assert sorted(path.name for path in run.product().iterdir()) == names
    work = run.job() / "work/task.000000"
    assert json.loads((work / "args").read_text())[:3] == ["--config", "input.yaml", "--restart_latest"]
    assert len(ase.io.read(work / "train.xyz", index=":")) == 6
    assert not (run.job() / "out/task.000000/ckpt").exists()


def test_without_test_data_the_figures_are_those_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = faked(tmp_path, monkeypatch, tested=False).stage()
    assert report.complete
    assert report.summary == {"train_rmse_e": pytest.approx(0.1), "train_rmse_f": pytest.approx(0), "new_rmse_f": 0.0}


@pytest.mark.parametrize(
    ("fake", "kind", "message"),
    [
        ("train", "failed", "RuntimeError: no luck"),
        ("model", "failed", "ended well but left no mace.model"),
        ("nan", "diverged", "model 1 (job 000001 task.000000): the training diverged; lower lr"),
    ],
)
def test_one_bad_model_spoils_the_committee(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: str, kind: str, message: str
) -> None:
    run = faked(tmp_path, monkeypatch, fake)
    report = run.stage()
    assert (report.complete, report.classes) == (False, {"ok": 1, kind: 1})
    assert message in report.messages[0]
    assert not run.product().exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mace.model", b""),
        ("mace.model", b"<html>"),
        ("mace.model", archive("mace/data.pkl")[:-5]),
        ("mace.model", archive("other")),
        ("test.json", b""),
        ("test.json", b"[]"),
        ("test.json", b"{}"),
        ("test.json", b'{"rmse_e": NaN, "rmse_f": 1.0}'),
        ("test.json", b'{"rmse_e": {}, "rmse_f": 1.0}'),
    ],
)
def test_poison_is_counted_and_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    run = faked(tmp_path, monkeypatch, numb_models=1)
    run.stage()
    (run.job() / "out/task.000000" / name).write_bytes(content)
    record(run.place(), run.root, "000000")
    report = run.reduce(1)
    assert (report.complete, report.classes) == (False, {"broken": 1})
    assert str(tmp_path) not in report.messages[0]


# The models, for use ------------------------------------------------------------------------------------------------


@pytest.fixture
def infer(monkeypatch: pytest.MonkeyPatch) -> None:
    """MACE's packages, such that a model is EMT."""
    calculators, torch = types.ModuleType("mace.calculators"), types.ModuleType("torch")
    exec(FAKE_CALCULATORS, calculators.__dict__)
    exec(FAKE_TORCH, torch.__dict__)
    for name, module in (("mace", types.ModuleType("mace")), ("mace.calculators", calculators), ("torch", torch)):
        monkeypatch.setitem(sys.modules, name, module)


def test_models(tmp_path: Path, infer: None) -> None:
    for name in ("mace.001.model", "mace.000.model"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("shift", "0.0")
    (tmp_path / "lcurve.000.jsonl").touch()
    found = mace_infer.models(tmp_path)
    assert list(found) == ["mace.000.model", "mace.001.model"]
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    energies, forces, virials = found["mace.000.model"](
        ["Cu"] * 4, np.array([atoms.positions] * 2), np.array([atoms.cell.array] * 2)
    )
    np.testing.assert_allclose(energies, [atoms.get_potential_energy()] * 2)
    np.testing.assert_allclose(forces, [atoms.get_forces()] * 2)
    np.testing.assert_allclose(virials, [-atoms.get_stress(voigt=False) * atoms.get_volume()] * 2)


def test_the_virial_of_a_molecule_is_that_of_its_forces(tmp_path: Path, infer: None) -> None:
    with zipfile.ZipFile(tmp_path / "mace.000.model", "w") as file:
        file.writestr("shift", "0.0")
    cluster = bulk("Cu", cubic=True).repeat(2)
    cluster.rattle(0.1, seed=1)
    virials = mace_infer.models(tmp_path)["mace.000.model"](["Cu"] * 32, cluster.positions[None], None)[2]
    cluster.center(vacuum=8.0)
    cluster.calc = EMT()
    np.testing.assert_allclose(virials[0], -cluster.get_stress(voigt=False) * cluster.get_volume(), atol=1e-8)


def test_models_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mace.000.model").write_text("x")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match=r'not installed here .*pip install "dpgen2-sm\[mace\]"'):
        mace_infer.models(tmp_path)


def test_a_model_that_cannot_be_loaded(tmp_path: Path, infer: None) -> None:
    (tmp_path / "mace.000.model").write_text("x")
    with pytest.raises(RuntimeError, match=r"MACE cannot load mace\.000\.model: File is not a zip"):
        mace_infer.models(tmp_path)


def test_live() -> None:
    log = "Epoch 2: head: Default, loss=1, RMSE_E_per_atom=   10.00 meV, RMSE_F=  100.0 meV / A\n"
    assert live({TASK_LOG: log}.get) == "epoch 2, rmse_e 0.01000 eV/atom, rmse_f 0.10000 eV/Angstrom"
    assert live({}.get) == ""
