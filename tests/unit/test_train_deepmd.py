"""train/deepmd: what a job is told, how one model is trained, and what is made of the results. No TensorFlow."""

from __future__ import annotations

import copy
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from conventions.errors import ConfigError, DataError
from conventions.figures import Errors, TrainFigures
from operators.registry import load_config
from operators.train import dp_model
from operators.train.deepmd import DeepmdConfig, check, check_files, committee, executables, tiny
from operators.train.dp_judge import last_rows
from tests.stage_harness import record
from tests.train_run import INPUT, SYSTEMS, TrainRun

GOLDEN = Path(__file__).parent / "golden" / "train_deepmd"
HEADER = "# step       rmse_trn    rmse_e_trn    rmse_f_trn   lr\n# If there is no data, rmse_* will print nan\n"


def curve(*steps: int, loss: str = "3.2e-01") -> str:
    return HEADER + "".join(f"{step:7d}  {loss}  1.5e-02  2.5e-01  1.0e-03\n" for step in steps)


def changed(**changes: Any) -> dict[str, Any]:
    """The input with some of training's keys changed (None: taken out)."""
    found = copy.deepcopy(INPUT)
    for key, value in changes.items():
        found["training"].pop(key, None)
        if value is not None:
            found["training"][key] = value
    return found


# What a job is told -------------------------------------------------------------------------------------------------


def test_golden_job(tmp_path: Path) -> None:
    """A flat (version 1) input with a hybrid descriptor: every file of a job, byte for byte."""
    flat = changed(training_data=None, systems=["mine"], batch_size=2)
    part = flat["model"]["descriptor"]
    flat["model"]["descriptor"] = {"type": "hybrid", "list": [part, {"type": "loc_frame"}, {**part, "type": "se_e3"}]}
    setup = {"shell": "bash", "setup": ["module load dp"]}
    train = {"numb_models": 2, **setup, "command": "srun dp", "skip_neighbor_stat": True}
    run = TrainRun(tmp_path, train, flat)
    planned = run.plan()
    assert (planned.job_ids, planned.n_jobs, planned.n_todo) == (["000000", "000001"], 2, 2)
    found = run.job(1) / "in"
    for name in ("run.sh", "outputs", "task.000000/input.json", "task.000000/job.json"):
        assert (found / name).read_text() == (GOLDEN / Path(name).name).read_text(), name
    first = (found / "digest").read_bytes()
    shutil.rmtree(run.job(1))
    run.plan()
    assert (found / "digest").read_bytes() == first


def test_models_differ_by_their_seeds_only(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 3})
    run.plan()
    run.plan(iteration=1)

    def seeds(found: dict[str, Any]) -> list[int]:
        return [
            found["model"]["descriptor"].pop("seed"),
            found["model"]["fitting_net"].pop("seed"),
            found["training"].pop("seed"),
        ]

    inputs = [run.task_input(number, iteration) for iteration in (0, 1) for number in range(3)]
    numbers = [seed for found in inputs for seed in seeds(found)]
    assert len(set(numbers)) == 18
    assert all(0 < number < 2**31 for number in numbers)
    assert all(found == inputs[0] for found in inputs)
    assert inputs[0]["training"]["training_data"] == {
        "systems": ["data/init/bulk/Cu32", "data/iter/000000/Cu32"],
        "batch_size": 1,
    }
    assert "validation_data" not in inputs[0]["training"]
    assert inputs[0]["model"]["type_map"] == ["Cu"]


@pytest.mark.parametrize(
    ("given", "training", "expected"),
    [
        (None, {}, [60, 60, 60]),
        (100, {}, [100, 100, 100]),
        ([300, 200], {}, [300, 200, 200]),
        (100, {"numb_steps": None, "stop_batch": 7}, [100, 100, 100]),
        (100, {"numb_steps": None, "num_epoch": 3}, [100, 100, 100]),
    ],
)
def test_numb_steps(tmp_path: Path, given: Any, training: dict[str, Any], expected: list[int]) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1, "numb_steps": given}, changed(**training))
    for iteration, steps in enumerate(expected):
        run.plan(iteration)
        found = run.task_input(0, iteration)["training"]
        assert [found[key] for key in ("numb_steps", "stop_batch", "num_epoch") if key in found] == [steps]


def test_epochs_of_the_input_are_kept(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1}, changed(numb_steps=None, num_epoch=3))
    run.plan()
    assert run.task_input()["training"]["num_epoch"] == 3


def test_data_that_dp_watches_are_not_the_test(tmp_path: Path) -> None:
    options = changed(validation_data={"systems": ["mine"], "batch_size": 2, "numb_btch": 3})
    run = TrainRun(tmp_path, {"numb_models": 1, "validation_data": ["seen"]}, options)
    run.document["init"]["test"]["seen"] = {"path": "t"}
    (tmp_path / run.place().config).write_text(json.dumps(run.document))
    run.plan()
    assert run.task_input()["training"]["validation_data"] == {
        "systems": "data/test/seen", "batch_size": 2, "numb_btch": 3
    }  # fmt: skip
    job = json.loads((run.job() / "in/task.000000/job.json").read_text())
    assert job["tests"] == ["data/test/hot"]


def test_data_that_dp_watches_are_the_test_where_there_are_no_others(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1, "validation_data": ["hot"]})
    run.plan()
    assert run.task_input()["training"]["validation_data"] == {"systems": "data/test/hot"}
    assert json.loads((run.job() / "in/task.000000/job.json").read_text())["tests"] == ["data/test/hot"]


def test_data_to_watch_that_are_not_there(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1, "validation_data": ["hit"]})
    (problem,) = run.app.check(run.config)
    assert problem == "train.validation_data: there is no set 'hit' in init.test; did you mean 'hot'?"
    old = INPUT | {"training": {"systems": ["mine"], "numb_steps": 1}}
    with pytest.raises(ConfigError, match=r"no training\.training_data, as DeePMD-kit 2"):
        TrainRun(tmp_path / "old", {"numb_models": 1, "validation_data": ["hot"]}, old).plan()


def test_sel_has_a_number_for_each_element(tmp_path: Path) -> None:
    two = copy.deepcopy(INPUT)
    two["model"]["descriptor"]["sel"] = [60, 30]
    with pytest.raises(ConfigError, match=r"sel of the descriptor se_e2_a has 2 numbers, and type_map has 1 elements"):
        TrainRun(tmp_path, {"numb_models": 1}, two).plan()
    two["model"]["descriptor"] = {"type": "se_atten", "sel": [60, 30], "rcut": 5.0}
    TrainRun(tmp_path / "attention", {"numb_models": 1}, two).plan()


def test_a_short_training_has_more_than_its_first_row(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1, "numb_steps": 400}, changed(disp_freq=None, disp_training=False))
    run.plan()
    assert run.task_input()["training"]["disp_freq"] == 400
    assert run.task_input()["training"]["disp_training"] is True


def test_reuse_of_the_last_committee(tmp_path: Path) -> None:
    train = {
        "numb_models": 2,
        "numb_steps": 500,
        "training_reuse_iter": 2,
        "training_reuse_numb_steps": 200,
        "training_reuse_start_lr": 1e-4,
        "training_reuse_start_pref_e": 0.1,
        "training_reuse_start_pref_f": 100.0,
    }
    run = TrainRun(tmp_path, train)

    def told(iteration: int, **facts: Any) -> tuple[Any, ...]:
        run.plan(iteration, **facts)
        found = run.task_input(1, iteration)
        job = json.loads((run.job(1, iteration) / "in/task.000000/job.json").read_text())
        loss = found["loss"]
        return (
            job["reuse"],
            found["training"]["numb_steps"],
            found["learning_rate"]["start_lr"],
            loss["start_pref_e"],
            loss["start_pref_f"],
        )

    assert told(1) == (None, 500, 0.01, 0.2, 1000)
    assert told(2, has_models=False) == (None, 500, 0.01, 0.2, 1000)
    assert told(2) == (1, 200, 1e-4, 0.1, 100.0)


@pytest.mark.parametrize(("key", "option"), [("init_frozen", "--init-frz-model"), ("finetune", "--finetune")])
def test_models_of_the_users_to_begin_with(tmp_path: Path, key: str, option: str) -> None:
    run = TrainRun(tmp_path, {})
    names = [run.add_file(f"m{number}.pb", b"\n%d" % number) for number in range(2)]
    run = TrainRun(
        tmp_path / "run",
        {"numb_models": 2, "training_reuse_iter": 1, f"training_{key}_model": names},
    )
    shutil.copytree(tmp_path / "config/file", tmp_path / "run/config/file", dirs_exist_ok=True)
    run.plan(0)
    run.plan(1)
    for number in range(2):
        task = run.job(number) / "in/task.000000"
        assert (task / "start.pb").read_bytes() == b"\n%d" % number
        job = json.loads((task / "job.json").read_text())
        assert dp_model.start_arguments(job) == [option, "start.pb"]
        assert not (run.job(number, 1) / "in/task.000000/start.pb").exists()


def archive(path: Path, *names: str) -> Path:
    """A file like those of torch.save and torch.jit.save: a zip archive."""
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return path


def test_pytorch_is_told_to_the_job_and_nothing_is_to_tensorflow(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1, "backend": "pytorch"})
    run.plan()
    job = run.job() / "in"
    assert json.loads((job / "task.000000/job.json").read_text())["backend"] == "pytorch"
    assert "keep graph.pth\nkeep original.pth\n" in (job / "outputs").read_text()
    found = committee(run.config.train)
    assert (found.kind, found.files) == ("deepmd", ["graph.000.pth"])


@pytest.mark.parametrize(
    ("key", "name", "members", "start"),
    [
        ("init_frozen", "m.pth", ["m/code/model.py", "m/data.pkl"], ["--init-frz-model", "start.pth"]),
        ("finetune", "m.pth", ["m/code/model.py", "m/data.pkl"], None),
        ("finetune", "dpa.pt", ["dpa/data.pkl"], ["--finetune", "start.pt"]),
        ("init_frozen", "dpa.pt", ["dpa/data.pkl"], None),
        ("init_frozen", "m.pb", None, None),
        ("finetune", "m.pb", None, None),
    ],
)
def test_models_of_pytorch_to_begin_with(
    tmp_path: Path, key: str, name: str, members: list[str] | None, start: list[str] | None
) -> None:
    content = b"\nx" if members is None else archive(tmp_path / "given", *members).read_bytes()
    given = TrainRun(tmp_path / "files", {}).add_file(name, content)
    run = TrainRun(tmp_path, {"numb_models": 1, "backend": "pytorch", f"training_{key}_model": [given]})
    shutil.copytree(tmp_path / "files/config/file", tmp_path / "config/file", dirs_exist_ok=True)
    files = tmp_path / run.place().space.files
    if start is None:
        with pytest.raises(ConfigError, match=rf"training_{key}_model: {name} is not a .*; give"):
            check_files(run.config, files)
        return
    check_files(run.config, files)
    run.plan()
    task = run.job() / "in/task.000000"
    assert (task / start[1]).read_bytes() == content
    assert dp_model.start_arguments(json.loads((task / "job.json").read_text()), ".pth") == start


def test_a_committee_of_different_kinds(tmp_path: Path) -> None:
    small = changed()
    small["model"]["fitting_net"]["neuron"] = [4]
    files = TrainRun(tmp_path / "files", {})
    names = [files.add_file(f"{number}.json", json.dumps(each).encode()) for number, each in enumerate([INPUT, small])]
    run = TrainRun(tmp_path, {"input": None, "committee": [{"input": name} for name in names]})
    shutil.copytree(tmp_path / "files/config/file", tmp_path / "config/file", dirs_exist_ok=True)
    assert run.config.train.numb_models == 2
    assert committee(run.config.train).files == ["graph.000.pb", "graph.001.pb"]
    check_files(run.config, tmp_path / "config/file")
    assert run.plan().n_jobs == 2
    nets = [run.task_input(number)["model"]["fitting_net"] for number in range(2)]
    assert [net["neuron"] for net in nets] == [[20, 20], [4]]
    assert nets[0]["seed"] != nets[1]["seed"]
    again = load_config(run.config.dump())  # as an iteration reads it
    assert again.train == run.config.train
    few = tiny(run.config.train)
    assert DeepmdConfig(**{**run.config.train.model_dump(), **few}).inputs() == run.config.train.inputs()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({}, "give either input, for all models, or committee"),
        ({"input": "a", "committee": [{"input": "a"}]}, "give either input, for all models, or committee"),
        ({"committee": [{"input": "a"}] * 2, "numb_models": 4}, "numb_models is 4, but committee has 2: leave it out"),
        ({"committee": [{"inputs": "a"}]}, "inputs"),
        ({"committee": ["a"]}, "committee"),
    ],
)
def test_a_committee_that_is_none(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DeepmdConfig(**train)


def several_heads(**changes: Any) -> dict[str, Any]:
    """An input of the heads `mine` and `other`, which share a descriptor."""
    found = copy.deepcopy(INPUT)
    model, training = found["model"], found["training"]
    head = {"type_map": "elements", "descriptor": "shared", "fitting_net": model["fitting_net"]}
    found["model"] = {
        "shared_dict": {"elements": ["O", "Cu"], "shared": model["descriptor"]},
        "model_dict": {"mine": head, "other": copy.deepcopy(head)},
    }
    found["loss_dict"] = dict.fromkeys(("mine", "other"), found["loss"])
    del found["loss"], training["validation_data"], training["training_data"]
    training["data_dict"] = {
        "mine": {"training_data": {"batch_size": 1}, "validation_data": {"systems": ["x"]}},
        "other": {"training_data": {"systems": ["/data/other"], "batch_size": 1}},
    }
    training.update(changes)
    return found


HEAD: dict[str, Any] = {"backend": "pytorch", "head": "mine", "numb_models": 2}


def test_several_heads(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, HEAD, several_heads())
    check_files(run.config, tmp_path / "config/file")
    run.plan()
    first, second = run.task_input(0), run.task_input(1)
    data = first["training"]["data_dict"]
    systems = ["data/init/bulk/Cu32", "data/iter/000000/Cu32"]
    assert data["mine"] == {"training_data": {"batch_size": 1, "systems": systems}}
    assert data["other"]["training_data"]["systems"] == ["/data/other"]

    def seeds(found: dict[str, Any]) -> list[int]:
        heads = found["model"]["model_dict"]
        parts = [found["model"]["shared_dict"]["shared"], *(heads[name]["fitting_net"] for name in ("mine", "other"))]
        return [part.pop("seed") for part in (*parts, found["training"])]

    assert len({*seeds(first), *seeds(second)}) == 8
    assert first == second
    job = json.loads((run.job() / "in/task.000000/job.json").read_text())
    assert job["head"] == "mine"
    assert committee(run.config.train).files == ["graph.000.pth", "graph.001.pth"]


def test_the_curve_of_a_head() -> None:
    text = "# step rmse_trn_a rmse_e_trn_a rmse_trn_b rmse_e_trn_b lr\n 20 1 2 3 4 5\n"
    assert last_rows(text, "b")[-1]["rmse_e_trn"] == 4
    with pytest.raises(ValueError, match="no header"):
        last_rows(text, "c")


def without(*keys: str) -> dict[str, Any]:
    found = several_heads()
    part = found
    for key in keys[:-1]:
        part = part[key]
    del part[keys[-1]]
    return found


@pytest.mark.parametrize(
    ("train", "content", "message"),
    [
        ({}, INPUT, r"train\.head: .*has no model\.model_dict.*take head out"),
        ({"head": None}, several_heads(), r"train\.head: None, but .*has mine, other; name the head"),
        ({"head": "theirs"}, several_heads(), r"train\.head: 'theirs', but .*has mine, other"),
        ({}, several_heads(data_dict=[]), "training.data_dict must be JSON objects"),
        ({}, without("training", "data_dict", "other"), r"data_dict\.other has no training_data"),
        ({}, without("training", "data_dict", "mine", "training_data"), r"data_dict\.mine has no training_data"),
        ({"head": "other"}, several_heads(), r"data_dict\.mine: systems is None; .*absolute paths"),
        ({}, without("model", "shared_dict", "elements"), "type_map of mine has no Cu"),
        ({}, {**several_heads(), "model": {"model_dict": [1]}}, "model_dict is not a JSON object of models"),
    ],
)
def test_heads_that_cannot_be_filled_in(tmp_path: Path, train: dict[str, Any], content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainRun(tmp_path, {**HEAD, **train}, content).plan()


def test_old_and_new_data_are_weighed_where_the_last_committee_is_reused(tmp_path: Path) -> None:
    train = {"numb_models": 1, "training_reuse_iter": 1, "training_reuse_old_ratio": 0.7}
    run = TrainRun(tmp_path, train)
    systems = ["iter/000001/Cu32", "init/bulk/Cu32", "iter/000001/Cu16", "iter/000000/Cu32"]
    run.plan(0, systems=systems)
    assert "auto_prob" not in run.task_input()["training"]["training_data"]
    run.plan(1, systems=systems)
    data = run.task_input(0, 1)["training"]["training_data"]
    assert data["auto_prob"] == "prob_sys_size; 0:2:0.7; 2:4:0.3"
    assert data["systems"][2:] == ["data/iter/000001/Cu16", "data/iter/000001/Cu32"]
    run.plan(2, systems=systems)  # nothing new
    assert "auto_prob" not in run.task_input(0, 2)["training"]["training_data"]
    flat = TrainRun(tmp_path / "flat", train, changed(training_data=None, batch_size=2))
    flat.plan(1, systems=systems)
    assert flat.task_input(0, 1)["training"]["auto_prob_style"] == data["auto_prob"]


@pytest.mark.parametrize(("ratio", "old", "new"), [("auto", 5, 2), ("auto:2.5", 5, 2)])
@pytest.mark.parametrize("flat", [False, True])
def test_old_data_are_weighed_by_the_numbers_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: str, old: int, new: int, flat: bool
) -> None:
    """In the job, which has the data: 5 old frames in three sets of two systems, 2 new ones."""
    train = {"numb_models": 1, "training_reuse_iter": 1, "training_reuse_old_ratio": ratio}
    run = TrainRun(tmp_path, train, *([changed(training_data=None, batch_size=2)] if flat else []))
    systems = {"init/bulk/Cu32": [2, 1], "iter/000000/Cu32": [2], "iter/000001/Cu32": [2]}
    run.plan(0, systems=list(systems))
    assert "weights" not in json.loads((run.job(0, 0) / "in/task.000000/job.json").read_text())
    run.plan(1, systems=list(systems))
    task = run.job(0, 1) / "in/task.000000"
    job = json.loads((task / "job.json").read_text())
    for system, sets in systems.items():
        for number, count in enumerate(sets):
            folder = task / "data" / system / f"set.{number:03d}"
            folder.mkdir(parents=True)
            np.save(folder / "energy.npy", np.zeros((count, 1) if number else count))
    monkeypatch.chdir(task)
    dp_model.weigh(job["weights"], None)
    training = json.loads(Path("input.json").read_text())["training"]
    data = training if flat else training["training_data"]
    assert data["systems"] == ["data/init/bulk/Cu32", "data/iter/000000/Cu32", "data/iter/000001/Cu32"]
    p_old = old / (old + float(ratio.partition(":")[2] or 10) * new)
    halves = f"0:2:{p_old:g}; 2:3:{1 - p_old:g}"
    assert data["auto_prob_style" if flat else "auto_prob"] == f"prob_sys_size; {halves}"


def test_what_is_taken_over_from_a_pretrained_model(tmp_path: Path) -> None:
    given = TrainRun(tmp_path / "files", {}).add_file("dpa.pt", archive(tmp_path / "dpa", "dpa/data.pkl").read_bytes())
    train = {"backend": "pytorch", "numb_models": 1, "model_branch": "Metals", "use_pretrain_script": True}
    run = TrainRun(tmp_path, {**train, "training_finetune_model": [given], "training_reuse_iter": 1})
    shutil.copytree(tmp_path / "files/config/file", tmp_path / "config/file", dirs_exist_ok=True)
    for iteration, options in ((0, ["--model-branch", "Metals", "--use-pretrain-script"]), (1, None)):
        run.plan(iteration)
        job = json.loads((run.job(0, iteration) / "in/task.000000/job.json").read_text())
        assert job.get("start_args") == options
        if options:
            assert dp_model.start_arguments(job, ".pth") == ["--finetune", "start.pt", *options]


BAD_INPUTS: list[tuple[Any, str]] = [
    (b"{model: 1}", "not valid JSON"),
    (b'{"model": {}, "model": {}}', "'model' appears twice"),
    ([1], "no 'model' section"),
    ({"training": {}}, "no 'model' section"),
    ({"model": {}}, "no 'training' section"),
    ({"model": [], "training": {}}, "no 'model' section"),
    (
        {"model": {"type_map": ["O", "Cu"]}, "training": {}},
        r"model.type_map is \['O', 'Cu'\].*\['Cu'\].*make them equal",
    ),
    ({"model": {}, "training": {"training_data": [1]}}, r"training_data is \[1\]"),
    ({"model": {"descriptor": "se_e2_a"}, "training": {}}, "descriptor is 'se_e2_a'"),
    ({"model": {"descriptor": {"type": "hybrid", "list": {}}}, "training": {}}, "descriptor.list"),
    ({"model": {"descriptor": {"type": "hybrid", "list": [1]}}, "training": {}}, "descriptor.list"),
    ({"model": {}, "loss": 3, "training": {}}, "loss is 3"),
    (changed(numb_steps="many"), "training.numb_steps is 'many'"),
    (changed(disp_freq=True), "training.disp_freq is True"),
    (changed(training_data={"batch_size": [1, 2]}), "batch_size is a list"),
    (changed(numb_steps=None), "numb_steps"),
]


@pytest.mark.parametrize(("content", "message"), BAD_INPUTS)
def test_bad_inputs(tmp_path: Path, content: Any, message: str) -> None:
    run = TrainRun(tmp_path, {}, content)
    with pytest.raises(ConfigError, match=message):
        run.plan()
    assert not (tmp_path / run.place().jobs).exists()


def test_no_systems_and_a_lost_input(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {})
    with pytest.raises(ConfigError, match="no training systems"):
        run.plan(systems=[])
    shutil.rmtree(tmp_path / "config/file")
    with pytest.raises(DataError, match=r"input\.json: missing"):
        run.plan()


@pytest.mark.parametrize(
    ("train", "problems"),
    [
        ({}, []),
        ({"training_reuse_iter": 1, "training_reuse_start_lr": 1e-4, "dp_compress": True}, []),
        ({"dp_compress": True, "skip_neighbor_stat": True}, ["dp_compress"]),
        ({"training_reuse_start_lr": 1e-4}, ["training_reuse_start_lr"]),
        ({"training_reuse_old_ratio": 0.5}, ["training_reuse_old_ratio"]),
        ({"backend": "pytorch", "head": "a", "training_reuse_iter": 1}, ["a frozen head cannot"]),
        ({"head": "a"}, ["train.head: only PyTorch has it; set backend"]),
        ({"backend": "pytorch", "model_branch": "a"}, ["model_branch: it is of a model to fine-tune"]),
        ({"backend": "pytorch", "use_pretrain_script": True}, ["use_pretrain_script: there is no pretrained model"]),
        ({"training_init_frozen_model": ["a/b"], "use_pretrain_script": True}, ["use_pretrain_script: only PyTorch"]),
        ({"training_init_frozen_model": ["a/b"] * 3}, ["training_init_frozen_model: 3 models"]),
        ({"training_init_frozen_model": ["a/b"], "training_finetune_model": ["a/b"]}, ["training_finetune_model"]),
    ],
)
def test_check(tmp_path: Path, train: dict[str, Any], problems: list[str]) -> None:
    found = check(TrainRun(tmp_path, train).config)
    assert len(found) == len(problems)
    for message, words in zip(found, problems, strict=True):
        assert words in message


def test_one_model_is_too_few_for_a_deviation(tmp_path: Path) -> None:
    config = TrainRun(tmp_path, {"numb_models": 1}).config
    assert check(config) == []
    select = config.select.model_copy(update={"app": "model_devi"})
    assert "needs at least 2" in check(config.model_copy(update={"select": select}))[0]


@pytest.mark.parametrize(
    "train",
    [
        {"numb_models": 0},
        {"numb_models": True},
        {"numb_steps": 0},
        {"numb_steps": []},
        {"numb_steps": 1.5},
        {"numb_step": 5},
        {"ratio_failed": 0.25},
        {"training_reuse_iter": 0},
        {"backend": "jax"},
        {"head": ""},
        {"model_branch": ""},
        {"training_reuse_old_ratio": 1.0},
        {"training_reuse_old_ratio": 0.0},
        {"training_reuse_old_ratio": "often"},
        {"training_reuse_start_lr": 0.0},
        {"command": "dp {{workflow.name}}"},
    ],
)
def test_refused_configuration(train: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeepmdConfig(input="input.json", **train)  # type: ignore[arg-type]


def test_executables() -> None:
    assert executables(DeepmdConfig(input="i")) == ["dp"]  # type: ignore[arg-type]
    assert executables(DeepmdConfig(input="i", command="srun -n 1 dp")) == ["srun"]  # type: ignore[arg-type]


# How one model is trained -------------------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("input.json").write_text("{}")
    Path("job.json").write_text("{}")
    return tmp_path


def checkpoint(step: int, *suffixes: str) -> None:
    for suffix in suffixes or ("data-00000-of-00001", "index", "meta"):
        Path(f"ckpt/model.ckpt-{step}.{suffix}").write_text("")


def trainer(calls: list[list[str]], *steps: int, fail: str | None = None) -> Callable[..., None]:
    """A `dp train` that appends to the curve and leaves checkpoints."""

    def dp(*args: str) -> None:
        calls.append([arg for arg in args if arg not in ("train", "input.json", "--log-path", "train.log")])
        if "--restart" not in args:
            Path("lcurve.out").write_text("")
        with open("lcurve.out", "a") as stream:
            stream.write(curve(*steps))
        for step in steps[1:]:
            checkpoint(step)
        Path("train.log").write_text(fail or "")
        if fail is not None:
            raise SystemExit(f"dp train: {fail}")

    return dp


def steps_of_curve() -> list[int]:
    return [int(line.split()[0]) for line in Path("lcurve.out").read_text().splitlines() if not line.startswith("#")]


def test_training_goes_on_from_its_newest_complete_checkpoint(task: Path) -> None:
    calls: list[list[str]] = []
    with pytest.raises(SystemExit):
        dp_model.train(trainer(calls, 0, 20, 40, 60, fail="killed"), ["--init-frz-model", "start.pb"], ["--more"])
    Path("ckpt/model.ckpt-60.meta").unlink()  # it was killed while it wrote this one
    Path("lcurve.out").write_text(Path("lcurve.out").read_text() + "     6")
    dp_model.train(trainer(calls, 40, 60, 80), ["--init-frz-model", "start.pb"], ["--more"])
    assert calls == [["--init-frz-model", "start.pb", "--more"], ["--restart", "ckpt/model.ckpt-40", "--more"]]
    assert Path("lcurve.out").read_text() == curve(0, 20, 40, 60, 80)
    dp_model.train(trainer(calls, 0), [], [])
    assert len(calls) == 2  # nothing left to train


def test_checkpoints_of_another_training_are_not_used(task: Path) -> None:
    calls: list[list[str]] = []
    with pytest.raises(SystemExit):
        dp_model.train(trainer(calls, 0, 20, fail="killed"), [], [])
    Path("input.json").write_text('{"other": 1}')
    dp_model.train(trainer(calls, 0, 10), [], [])
    assert calls == [[], []]
    assert steps_of_curve() == [0, 10]


def test_a_checkpoint_that_leads_nowhere_is_dropped(task: Path) -> None:
    calls: list[list[str]] = []
    for _ in range(2):
        with pytest.raises(SystemExit):
            dp_model.train(trainer(calls, 0, 20, fail="damaged"), [], [])
    dp_model.train(trainer(calls, 0, 20), [], [])
    assert calls == [[], ["--restart", "ckpt/model.ckpt-20"], []]


def test_pytorch_goes_on_from_its_newest_whole_file(task: Path) -> None:
    backend = dp_model.BACKENDS["pytorch"]
    calls: list[list[str]] = []

    def dp(*args: str) -> None:
        calls.append([*args[4:]])
        for step in (20, 40, 60):
            archive(Path(f"ckpt/model.ckpt-{step}.pt"), "model.ckpt/data.pkl")
        if len(calls) == 1:
            raise SystemExit("killed")

    with pytest.raises(SystemExit):
        dp_model.train(dp, [], [], backend)
    whole = Path("ckpt/model.ckpt-60.pt").read_bytes()
    Path("ckpt/model.ckpt-60.pt").write_bytes(whole[:-10])  # it was killed while it wrote this one
    Path("ckpt/model.ckpt.pt").symlink_to("model.ckpt-60.pt")
    assert dp_model.trained(backend) == "ckpt/model.ckpt-40.pt"
    dp_model.train(dp, [], [], backend)
    assert calls == [[], ["--restart", "ckpt/model.ckpt-40"]]
    assert dp_model.trained(backend) == "ckpt/model.ckpt-60.pt"


def test_going_on_needs_the_settings_of_the_pretrained_model(task: Path) -> None:
    backend, start = dp_model.BACKENDS["pytorch"], ["--finetune", "start.pt", "--use-pretrain-script"]
    calls: list[list[str]] = []

    def dp(*args: str) -> None:
        calls.append([args[1], *args[4:]])
        Path("ckpt/out.json").write_text("{}")
        archive(Path("ckpt/model.ckpt-20.pt"), "model.ckpt/data.pkl")
        if len(calls) == 1:
            raise SystemExit("killed")

    with pytest.raises(SystemExit):
        dp_model.train(dp, start, [], backend)
    dp_model.train(dp, start, [], backend)
    assert calls == [
        ["input.json", *start, "--output", "ckpt/out.json"],
        ["ckpt/out.json", "--restart", "ckpt/model.ckpt-20"],
    ]


def test_freezing_needs_a_checkpoint(task: Path) -> None:
    with pytest.raises(SystemExit, match="left no checkpoint in ckpt"):
        dp_model.trained(dp_model.BACKENDS["pytorch"])
    assert dp_model.trained(dp_model.BACKENDS["tensorflow"]) == "ckpt"


def test_a_stop_at_nan_is_a_result(task: Path) -> None:
    dp_model.train(trainer([], 0, 20, fail="ERROR Batch 20: trn: rmse =      nan, rmse_e"), [], [])
    assert "nan" in Path("diverged.txt").read_text()
    assert not Path("ckpt").exists()


def test_reused_models(task: Path) -> None:
    job = {"reuse": 1, "start": ""}
    Path("models").mkdir()
    Path("models/SHA256SUMS").touch()
    with pytest.raises(SystemExit, match=r"has no model 1.*training_reuse_iter"):
        dp_model.start_arguments(job)
    Path("models/graph.001.pb").touch()
    assert dp_model.start_arguments(job) == ["--init-frz-model", "models/graph.001.pb"]
    Path("models/original.001.pb").touch()  # before compression
    assert dp_model.start_arguments(job) == ["--init-frz-model", "models/original.001.pb"]


def test_errors_of_the_detail_files(task: Path) -> None:
    Path("e").write_text("# data/a: data_e pred_e\n1.0 2.0\n# data/b: data_e pred_e\n-1.0 2.0\n")
    Path("f").write_text("# fx fy fz\n0 0 0 1 2 2\n1 1 1 1 1 1\n")
    found = dp_model.errors(dp_model._rows(Path("e")), dp_model._rows(Path("f")))
    assert found == {"frames": 2, "rmse_e": pytest.approx(math.sqrt(5)), "rmse_f": pytest.approx(math.sqrt(9 / 6))}
    Path("f").write_text("0 0 0 1 nan 2\n")
    assert dp_model.errors([], dp_model._rows(Path("f")))["rmse_f"] is None


# What is made of the results ----------------------------------------------------------------------------------------

FAKE_DP = """#!/bin/sh
# A dp that trains at once. $FAKE says what goes wrong with model 1.
pytorch=
[ "$1" != --pt ] || { pytorch=1; shift; }
model=
case $PWD in *job/000001/*) model=${FAKE-} ;; esac
[ "$model" != "$1" ] || { echo "RuntimeError: no luck"; exit 1; }
case $1 in
  train)
    loss=1e-1
    [ "$model" != nan ] || loss=nan
    printf '# step rmse_trn rmse_e_trn rmse_f_trn lr\\n 60 %s 2e-2 3e-1 1e-3\\n' $loss >lcurve.out
    [ -z "$pytorch" ] || cp "$WHOLE" ckpt/model.ckpt-60.pt
    [ "$model" != stop ] || { echo "rmse = nan" >train.log; exit 1; } ;;
  freeze) if [ -z "$pytorch" ]; then printf '\\nmodel' >"$5"; else cp "$3" "$5"; fi ;;
  test)
    echo '# data/a: data_e pred_e' >detail.e_peratom.out
    : >detail.f.out
    while read -r system; do
      echo "1.0 1.5" >>detail.e_peratom.out
      echo "0 0 0 2 ${model:-2} 2" >>detail.f.out
    done <tests.txt ;;
esac
"""


def faked(
    path: Path, monkeypatch: pytest.MonkeyPatch, fake: str = "", train: dict[str, Any] | None = None, **more: Any
) -> TrainRun:
    path.mkdir(exist_ok=True)
    program = path / "fakedp"
    program.write_text(FAKE_DP)
    program.chmod(0o755)
    monkeypatch.setenv("FAKE", fake)
    run = TrainRun(path, {"numb_models": 2, "command": str(program), **(train or {})}, **more)
    for system in ("test/hot/Cu1", *SYSTEMS):  # of one frame of one atom
        folder = path / "dataset/deepmd" / system
        (folder / "set.000").mkdir(parents=True)
        (folder / "type.raw").write_text("0\n")
        np.save(folder / "set.000/energy.npy", np.zeros(1))
    run.list_data()
    return run


def test_a_committee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = faked(tmp_path, monkeypatch)
    report = run.stage()
    assert (report.complete, report.next, report.classes, report.messages) == (True, True, {"ok": 2}, [])
    trained = {"train_rmse_e": 0.02, "train_rmse_f": 0.3}
    assert report.summary == {**trained, "rmse_e": 0.5, "rmse_f": 2.0, "new_rmse_f": 2.0}
    names = ["SHA256SUMS", "figures.json", "graph.000.pb", "graph.001.pb", "lcurve.000.out", "lcurve.001.out"]
    assert sorted(path.name for path in run.product().iterdir()) == names
    figures = TrainFigures.load((run.product() / "figures.json").read_bytes())
    assert figures.systems == {"Cu32": Errors(atoms=1, max_error_f=[3.4641], rmse_f=[2.0])}  # sqrt(12)
    assert not (run.job() / "out/task.000000/ckpt").exists()
    before = (tmp_path / run.place().report).read_bytes()
    run.reduce(2)
    assert (tmp_path / run.place().report).read_bytes() == before


def test_a_committee_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("run").mkdir()
    monkeypatch.setenv("WHOLE", str(archive(tmp_path / "model.pth", "model/code/model.py", "model/data.pkl")))
    run = faked(tmp_path / "run", monkeypatch, train={"backend": "pytorch", "dp_compress": True})
    report = run.stage()
    assert (report.complete, report.classes, report.messages) == (False, {"failed": 2}, report.messages)
    assert "dp ended well but left no graph.pth" in report.messages[0]  # this dp cannot compress
    run = faked(tmp_path / "more", monkeypatch, train={"backend": "pytorch"})
    report = run.stage()
    assert (report.complete, report.classes, report.messages) == (True, {"ok": 2}, [])
    names = ["SHA256SUMS", "figures.json", "graph.000.pth", "graph.001.pth", "lcurve.000.out", "lcurve.001.out"]
    assert sorted(path.name for path in run.product().iterdir()) == names
    assert sorted(committee(run.config.train).files) == names[2:4]


def test_a_frozen_model_of_pytorch_that_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archive(tmp_path / "model.pth", "model/code/model.py", "model/data.pkl").read_bytes()
    monkeypatch.setenv("WHOLE", str(tmp_path / "model.pth"))
    run = faked(tmp_path / "run", monkeypatch, train={"backend": "pytorch"})
    run.stage()
    for content in (b"\nmodel", whole[:-10], archive(tmp_path / "checkpoint", "model/data.pkl").read_bytes()):
        (run.job(1) / "out/task.000000/graph.pth").write_bytes(content)
        record(run.place(), run.root, "000001")
        report = run.reduce(2)
        assert report.classes == {"broken": 1, "ok": 1}
        assert report.messages == ["model 1 (job 000001 task.000000): graph.pth is not a frozen model"]


def test_without_test_data_the_figures_are_those_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = faked(tmp_path, monkeypatch, tested=False).stage()
    assert report.complete
    assert report.summary == {"train_rmse_e": 0.02, "train_rmse_f": 0.3, "new_rmse_f": 2.0}


@pytest.mark.parametrize(
    ("fake", "kind", "message"),
    [
        ("train", "failed", "RuntimeError: no luck"),
        ("freeze", "failed", "RuntimeError: no luck"),
        ("nan", "diverged", "model 1 (job 000001 task.000000): the training diverged"),
        ("stop", "diverged", "model 1 (job 000001 task.000000): the training diverged"),
        ("NaN", "diverged", "model 1 (job 000001 task.000000): the training diverged"),
        ("x", "failed", "could not convert string to float"),
    ],
)
def test_one_bad_model_spoils_the_committee(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: str, kind: str, message: str
) -> None:
    run = faked(tmp_path, monkeypatch, fake)
    report = run.stage()
    assert (report.complete, report.next) == (False, False)
    assert report.classes == {"ok": 1, kind: 1}
    assert len(report.messages) == 1
    assert message in report.messages[0]
    assert report.jobs.failed == (kind == "failed")
    assert not run.product().exists()
    monkeypatch.setenv("FAKE", "")
    assert run.plan().job_ids == (["000001"] if kind == "failed" else [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lcurve.out", b""),
        ("lcurve.out", HEADER.encode()),
        ("lcurve.out", curve(0, 20).encode()[:-9]),
        ("lcurve.out", curve(0, loss="oops").encode()),
        ("lcurve.out", b"\xff\xfe\x00"),
        ("graph.pb", b""),
        ("graph.pb", b"<html>"),
        ("test.json", b""),
        ("test.json", b"[]"),
        ("test.json", b'{"rmse_e": NaN, "rmse_f": 1.0}'),
        ("test.json", b'{"rmse_e": {}, "rmse_f": 1.0}'),
    ],
)
def test_poison_is_counted_and_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    """Files that are what the marker says but make no sense."""
    run = faked(tmp_path, monkeypatch)
    run.stage()
    shutil.rmtree(run.product())
    (run.job(1) / "out/task.000000" / name).write_bytes(content)
    record(run.place(), run.root, "000001")
    report = run.reduce(2)
    assert report.classes == {"broken": 1, "ok": 1}
    assert not report.complete
    assert not run.product().exists()
    assert str(tmp_path) not in report.messages[0]


def test_a_job_without_a_marker_stands_for_its_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = faked(tmp_path, monkeypatch)
    run.stage()
    (run.root / run.place().job("000001").job_done).unlink()
    report = run.reduce(2)
    assert report.classes == {"failed": 1, "ok": 1}
    assert not report.complete


def test_last_rows() -> None:
    (row,) = last_rows(curve(0, 40))
    assert row == {"step": 40, "rmse_trn": 0.32, "rmse_e_trn": 0.015, "rmse_f_trn": 0.25, "lr": 0.001}
    with pytest.raises(ValueError, match="no header"):
        last_rows("1 2 3\n")
    steps = [row["step"] for row in last_rows(curve(*range(0, 1001, 50)))]
    assert steps == [900, 950, 1000], "the last tenth"


def test_damaged_configuration(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {})
    (tmp_path / run.place().config).write_text("{")
    with pytest.raises(DataError):
        run.plan()
