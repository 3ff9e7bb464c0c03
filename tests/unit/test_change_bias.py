"""train.change_bias: the energies of pretrained models are shifted, nothing is trained. No dp, no PyTorch."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from operators.train.deepmd import DeepmdConfig, check_files
from tests.train_run import SYSTEMS, TrainRun

# A dp that does as it is told, and says so; $FAKE says what goes wrong.
FAKE_DP = """\
#!/bin/sh
echo "$@" >>"$SAID"
[ "$1" = --pt ] || exit 9
[ "$2" != "$FAKE" ] || exit 3
case $2 in
  change-bias) cp "$3" "$7" ;;
  freeze) cp "$FROZEN" "$6" ;;
  test)
    echo '# data/a: data_e pred_e' >detail.e_peratom.out
    : >detail.f.out
    while read -r system; do
      echo "1.0 1.5" >>detail.e_peratom.out
      echo "0 0 0 2 2 2" >>detail.f.out
    done <tests.txt ;;
esac
"""


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, path.name)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainRun:
    """A committee of two pretrained models."""
    return run_of(tmp_path, monkeypatch)


def run_of(path: Path, patch: pytest.MonkeyPatch, tested: bool = True, **more: Any) -> TrainRun:
    path.mkdir(exist_ok=True)
    program = path / "fakedp"
    program.write_text(FAKE_DP)
    program.chmod(0o755)
    patch.setenv("SAID", str(path / "said"))
    patch.setenv("FAKE", "")
    patch.setenv("FROZEN", str(archive(path / "frozen.pth", "model/code/model.py", "model/data.pkl")))
    files = TrainRun(path / "files", {})
    (path / "config").mkdir()
    (path / "config/file").symlink_to(path / "files/config/file")
    given = [files.add_file(name, archive(path / name, "model/data.pkl").read_bytes()) for name in ("a.pt", "b.pt")]
    train = {"backend": "pytorch", "change_bias": True, "input": None, "numb_models": 2, "command": str(program)}
    run = TrainRun(path, {**train, "training_finetune_model": given, **more}, tested=tested)
    for system in ("test/hot/Cu1", *SYSTEMS):  # of one frame of one atom
        folder = path / "dataset/deepmd" / system
        (folder / "set.000").mkdir(parents=True)
        (folder / "type.raw").write_text("0\n")
        np.save(folder / "set.000/energy.npy", np.zeros(1))
    run.list_data()
    return run


def test_a_committee(run: TrainRun) -> None:
    check_files(run.config, run.root / "config/file")
    report = run.stage()
    assert (report.complete, report.classes, report.messages) == (True, {"ok": 2}, [])
    assert report.summary == {"rmse_e": 0.5, "rmse_f": 2.0, "new_rmse_f": 2.0}
    names = ["SHA256SUMS", "figures.json", "graph.000.pth", "graph.001.pth"]
    assert sorted(path.name for path in run.product().iterdir()) == names
    said = (run.root / "said").read_text().splitlines()
    assert said[:2] == [
        "--pt change-bias start.pt -f systems.txt -o shifted.pt", "--pt freeze -c shifted.pt -o graph.pth"
    ]  # fmt: skip
    (systems, _) = run.root.rglob("systems.txt")
    assert systems.read_text().splitlines() == [f"data/{system}" for system in sorted(SYSTEMS)]


def test_each_model_is_a_job_of_its_own(run: TrainRun) -> None:
    run.plan()
    started = {(run.job(number) / "in/task.000000/start.pt").read_bytes() for number in (0, 1)}
    assert started == {(run.root / name).read_bytes() for name in ("a.pt", "b.pt")}


def test_without_test_data_the_training_data_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run_of(tmp_path, monkeypatch, tested=False).stage()
    assert report.summary == {"train_rmse_e": 0.5, "train_rmse_f": 2.0, "new_rmse_f": 2.0}


def test_a_head_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, monkeypatch, model_branch="Omat")
    assert run.stage().complete
    assert (run.root / "said").read_text().splitlines()[:2] == [
        "--pt change-bias start.pt -f systems.txt -o shifted.pt --model-branch Omat",
        "--pt freeze -c shifted.pt -o graph.pth --head Omat",
    ]


@pytest.mark.parametrize("step", ["change-bias", "freeze", "test"])
def test_a_step_that_fails_is_a_failed_task(run: TrainRun, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", step)
    report = run.stage()
    assert (report.complete, report.classes) == (False, {"failed": 2})
    assert "exit code 3" in report.messages[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"numb_models": 3}, "has 2 different models, and numb_models is 3: give one for each"),
        ({"backend": "tensorflow"}, "change_bias: only PyTorch has it"),
        ({"numb_steps": 5}, "train.numb_steps: it has no effect with change_bias"),
        ({"training_reuse_iter": 1}, "train.training_reuse_iter: it has no effect with change_bias"),
    ],
)
def test_what_makes_no_sense(run: TrainRun, change: dict[str, Any], said: str) -> None:
    run.document["train"] |= change
    assert any(said in problem for problem in run.app.check(run.config))


def test_equal_models_have_no_deviation(run: TrainRun) -> None:
    train = run.document["train"]
    train["training_finetune_model"] = train["training_finetune_model"][:1] * 2
    assert any("has 1 different models" in problem for problem in run.app.check(run.config))


def test_an_input_is_not_for_it() -> None:
    with pytest.raises(ValidationError, match="the models are not trained; remove input"):
        DeepmdConfig.model_validate({"change_bias": True, "input": "input.json"})


def test_a_job_says_what_it_does(run: TrainRun) -> None:
    run.plan()
    job = json.loads((run.job() / "in/task.000000/job.json").read_text())
    assert job["model"] == run.document["train"]["training_finetune_model"][0]
    assert not (run.job() / "in/task.000000/input.json").exists()
