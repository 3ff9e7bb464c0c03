"""`dpgen2-sm import --adopt`: what was downloaded of a campaign of DPGEN2 goes on here."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
import pytest
from ase import Atoms

from conventions.state import State
from operators.sums import verify
from statemachine.run.systems import training_systems
from statemachine.store import open_store
from tests.conftest import Cli
from tests.unit.test_adopt_dpgen import POTCAR
from tests.unit.test_import_dpgen import PARAM
from tests.unit.test_import_dpgen2 import changed

TYPE_MAP, MODELS = ["H", "O"], 2
WATER = np.array([[0.0, 0, 0], [1.5, 0, 0], [0.8, 0.6, 0]])
STAGE: list[dict[str, Any]] = [{"type": "lmp-md", "ens": "nvt", "nsteps": 50, "temps": [300], "conf_idx": [0]}]


def frames(number: int, seed: int, labelled: bool = True) -> Any:
    """Water, as dpdata holds it."""
    random = np.random.default_rng(seed)
    data: dict[str, Any] = {
        "atom_names": TYPE_MAP, "atom_numbs": [2, 1], "atom_types": np.array([0, 0, 1]), "orig": np.zeros(3),
        "cells": np.array([np.eye(3) * 9] * number), "coords": WATER + 0.1 * random.normal(size=(number, 3, 3)),
    }  # fmt: skip
    if not labelled:
        return dpdata.System(data=data)
    labels = {"energies": random.normal(size=number), "forces": random.normal(size=(number, 3, 3))}
    return dpdata.LabeledSystem(data={**data, **labels})


# Where dflow keeps in the bucket what tasks have made: the keys of the manifest that dflow makes of DPGEN2's steps.
STORED = {
    ("prep-run-train", "models"): "run-train-group/model",
    ("prep-run-train", "lcurves"): "run-train-group/lcurve",
    ("prep-run-explore", "model_devis"): "run-lmp-group/model_devi",
    ("prep-run-fp", "labeled_data"): "run-fp-group/labeled_data",
}


class Downloads:
    """What `dpgen2 download` (plain) or `dpgen2 watch -d` (merged) leaves, file by file as DPGEN2's steps write it.

    Of a bucket, what is not in STORED is under the name of a pod.
    """

    def __init__(self, root: Path, merged: bool, bucket: bool = False) -> None:
        self.root, self.merged, self.bucket = root, merged, bucket

    def place(self, iteration: int, step: str, kind: str, name: str) -> Path:
        if self.bucket:
            stored = STORED.get((step, name))
            pod = f"got-{step}-{1000 * iteration + len(name)}/{name}"
            folder = self.root / (f"iter-{iteration:06d}--{stored}" if stored else pod)
            (folder / ".dflow").mkdir(parents=True, exist_ok=True)
            (folder / ".dflow/catalog").write_text("{}")
            return folder
        parts = (f"{kind}s",) if self.merged else (kind, name)
        folder = self.root.joinpath(f"iter-{iteration:06d}", step, *parts)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "done").touch()
        return folder

    def train(self, iteration: int, suffix: str = ".pb") -> None:
        models, curves = (self.place(iteration, "prep-run-train", "output", name) for name in ("models", "lcurves"))
        for model in range(MODELS):
            for folder, file in ((models, f"frozen_model{suffix}"), (curves, "lcurve.out")):
                path = folder / f"task.{model:04d}" / file
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{file} {model} of {iteration}")

    def explore(self, iteration: int, deviations: list[float]) -> None:
        folder = self.place(iteration, "prep-run-explore", "output", "model_devis") / "task.000000"
        folder.mkdir(exist_ok=True)
        rows = [f"{step * 10} 0 0 0 {value} 0 {value}" for step, value in enumerate(deviations)]
        head = "# step max_devi_v min_devi_v avg_devi_v max_devi_f min_devi_f avg_devi_f"
        (folder / "model_devi.out").write_text("\n".join([head, *rows, ""]))

    def confs(self, iteration: int, number: int) -> None:
        systems = dpdata.MultiSystems(type_map=TYPE_MAP)
        systems.append(frames(number, 100 + iteration, labelled=False))
        systems.to_deepmd_npy(str(self.place(iteration, "prep-run-fp", "input", "confs") / "confs"))

    def label(self, iteration: int, number: int, of: int, turned: bool = False) -> None:
        """The first of the chosen frames, each with a label."""
        folder = self.place(iteration, "prep-run-fp", "output", "labeled_data")
        found = frames(of, 100 + iteration)
        if turned:  # as a reader of outputs may turn the cell
            found.data["coords"] = found.data["coords"] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
            found.data["cells"] = found.data["cells"] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
        for task in range(number):
            found.sub_system(task).to("deepmd/npy", str(folder / f"task.{task:06d}" / "data"))

    def collect(self, iteration: int, counts: list[int], mixed: bool = False) -> None:
        """The labels of all iterations so far; `mixed` is inputs.mixed_type."""
        folder = self.place(iteration, "collect-data", "output", "iter_data")
        for number, count in enumerate(counts):
            (folder / f"iter-{number:06d}").mkdir()
            if count:
                systems = dpdata.MultiSystems(type_map=TYPE_MAP)
                systems.append(frames(count, 100 + number))
                write = systems.to_deepmd_npy_mixed if mixed else systems.to_deepmd_npy
                write(str(folder / f"iter-{number:06d}"))


def write_input(root: Path) -> None:
    """An input of two stages, and what it names."""
    for name in ("a", "b"):
        frames(3, ord(name)).to("deepmd/npy", str(root / "init" / name))
    (root / "pp").mkdir()
    for element in TYPE_MAP:
        (root / "pp" / element).write_text(POTCAR.format(element))
    (root / "INCAR").write_text("ENCUT = 400\n")
    ase.io.write(root / "POSCAR", Atoms("H2O", WATER, cell=[9, 9, 9], pbc=True), "vasp")
    (root / "train.json").write_text(json.dumps(PARAM["default_training_param"]))
    document = changed(
        name="water", default_step_config={}, step_configs=None, inputs__type_map=TYPE_MAP, inputs__mass_map=[1, 16],
        train__numb_models=MODELS, train__template_script="train.json", train__config={"impl": "tensorflow"},
        explore__configurations=[{"type": "file", "files": ["POSCAR"], "fmt": "vasp/poscar"}],
        explore__stages=[STAGE, STAGE], fp__inputs_config__pp_files={"H": "pp/H", "O": "pp/O"},
    )  # fmt: skip
    (root / "input.json").write_text(json.dumps(document))


@pytest.fixture(params=["download", "watch"])
def campaign(tmp_path: Path, request: pytest.FixtureRequest) -> Downloads:
    """An input, and of iteration 0 all that is downloaded."""
    write_input(tmp_path / "water")
    made = Downloads(tmp_path / "water/got", request.param == "watch")
    first(made)
    return made


def first(made: Downloads) -> None:
    """What there is of iteration 0."""
    made.train(0)
    made.explore(0, [0.01, 0.1, 0.2, 0.9])
    made.confs(0, 4)
    made.label(0, 4, 4)
    made.collect(0, [4])


def adopted(cli: Cli, made: Downloads) -> tuple[int, str, str]:
    return cli("import", made.root.parent / "input.json", "--adopt", made.root)


def state_of(made: Downloads) -> State:
    return State.unseal((made.root.parent / "dpgen2-sm/out/state.json").read_bytes())


def labels_of(made: Downloads) -> dict[str, int]:
    """Frames that the next training is given."""
    out = made.root.parent / "dpgen2-sm/out"
    names = training_systems(open_store(f"file://{out}"), state_of(made))
    return {
        name: dpdata.LabeledSystem(str(out / "dataset/deepmd" / name), fmt="deepmd/npy").get_nframes() for name in names
    }


def trained(made: Downloads) -> None:
    made.train(1)


def explored(made: Downloads) -> None:
    made.train(1)
    made.explore(1, [0.01] * 9 + [0.1])


def chosen(made: Downloads) -> None:
    explored(made)
    made.confs(1, 3)


def partly_labelled(made: Downloads) -> None:
    chosen(made)
    made.label(1, 2, 3, turned=True)


def wholly_labelled(made: Downloads) -> None:
    chosen(made)
    made.label(1, 3, 3)


def collected(made: Downloads) -> None:
    wholly_labelled(made)
    made.collect(1, [4, 3])


@pytest.mark.parametrize(
    ("steps", "at", "iteration", "models", "left", "labels"),
    [
        (lambda made: None, "train.submitting", 1, 0, 0, {}),
        (trained, "explore.submitting", 1, 1, 0, {}),
        (explored, "explore.submitting", 1, 1, 0, {}),
        (chosen, "label.submitting", 2, 1, 3, {}),
        (partly_labelled, "label.submitting", 2, 1, 1, {"init/fp.000001/H2O1": 2}),
        (wholly_labelled, "train.submitting", 2, 1, 0, {"iter/000002/H2O1": 3}),
        (collected, "train.submitting", 2, 1, 0, {"iter/000002/H2O1": 3}),
    ],
)
def test_it_goes_on_where_the_downloads_end(
    cli: Cli,
    campaign: Downloads,
    steps: Callable[[Downloads], None],
    at: str,
    iteration: int,
    models: int,
    left: int,
    labels: dict[str, int],
) -> None:
    steps(campaign)
    before = {path: path.stat().st_mtime_ns for path in campaign.root.rglob("*")}
    code, output, errors = adopted(cli, campaign)
    assert code == 0, errors
    state = state_of(campaign)
    assert (state.at, state.iteration, state.newest["train"]) == (at, iteration, models), output
    assert "taken over from DPGEN2" in state.reason
    initial = {"init/init000/H2O1": 3, "init/init001/H2O1": 3}
    assert labels_of(campaign) == {**initial, "iter/000001/H2O1": 4, **labels}
    out = campaign.root.parent / "dpgen2-sm/out"
    product = out / f"train/deepmd/iter/{models:06d}/product"
    verify(product, "graph.000.pb", "graph.001.pb", "lcurve.001.out", what="the product")
    assert (product / "graph.001.pb").read_text() == f"frozen_model.pb 1 of {models}"
    if left:
        found = ase.io.read(out / "select/model_devi/iter/000001/product/frames.extxyz", ":")
        assert len(found) == left
        wanted = frames(3, 101, labelled=False).data["coords"][-1]
        assert np.allclose(found[-1].get_scaled_positions(wrap=False) * 9, wanted, atol=1e-6)
        code, output, _ = cli("plan", campaign.root.parent / "dpgen2-sm/run.yaml", "--json")
        planned = json.loads(output)
        assert code == 0 and (planned["tasks"], planned["todo"]) == (left, left), "no finished task is run again"
    assert {path: path.stat().st_mtime_ns for path in before} == before, "the source is only read"


def test_the_table_is_counted_from_model_deviations(cli: Cli, campaign: Downloads) -> None:
    collected(campaign)
    assert adopted(cli, campaign)[0] == 0
    state = state_of(campaign)
    first, second, third = state.trail
    assert first.figures == {"accurate": 1.0, "candidate": 2.0, "failed": 1.0}
    assert second.figures == {"labelled": 4.0, "accurate": 9.0, "candidate": 1.0, "failed": 0.0}
    assert (third.figures, third.stages) == ({"labelled": 3.0}, ["label"])
    assert [row.explore_stage for row in state.trail] == [0, 0, 0], "90% are not 92%"


def test_a_stage_that_has_converged_is_followed_by_the_next(cli: Cli, campaign: Downloads) -> None:
    collected(campaign)
    campaign.explore(1, [0.01] * 10)
    assert adopted(cli, campaign)[0] == 0
    state = state_of(campaign)
    assert (state.explore_stage, state.final) == (1, "")


def test_the_last_labels_of_a_campaign_that_has_converged_are_trained(cli: Cli, campaign: Downloads) -> None:
    collected(campaign)
    for iteration in (0, 1):
        campaign.explore(iteration, [0.01] * 10)
    assert adopted(cli, campaign)[0] == 0
    state = state_of(campaign)
    assert (state.at, state.iteration, state.final) == ("train.submitting", 2, "converged")


def test_a_campaign_that_is_done_has_nothing_to_go_on_with(cli: Cli, campaign: Downloads) -> None:
    explored(campaign)
    for iteration in (0, 1):
        campaign.explore(iteration, [0.01] * 10)
    campaign.collect(1, [4, 0])
    code, _, errors = adopted(cli, campaign)
    assert code == 2 and "this campaign has converged" in errors
    assert not (campaign.root.parent / "dpgen2-sm/out/state.json").exists()


def test_labels_of_an_iteration_are_in_the_data_of_a_later_one(cli: Cli, campaign: Downloads) -> None:
    """Each iter_data holds all before: none is taken twice, and one download is enough."""
    collected(campaign)
    shutil.rmtree(campaign.root / "iter-000000")
    code, output, _ = adopted(cli, campaign)
    assert code == 0
    assert sum(labels_of(campaign).values()) == 6 + 4 + 3
    assert "iteration 0: no model deviations" in output and "count as not converged" in output


def test_an_archive_of_one_folder_has_lost_its_name(cli: Cli, campaign: Downloads) -> None:
    folder = campaign.place(0, "collect-data", "output", "iter_data")
    for path in (folder / "iter-000000").iterdir():
        path.rename(folder / path.name)
    (folder / "iter-000000").rmdir()
    assert adopted(cli, campaign)[0] == 0
    assert labels_of(campaign)["iter/000001/H2O1"] == 4


def test_labels_of_mixed_type(cli: Cli, campaign: Downloads) -> None:
    wholly_labelled(campaign)
    campaign.collect(1, [4, 3], mixed=True)
    assert adopted(cli, campaign)[0] == 0
    initial = {"init/init000/H2O1": 3, "init/init001/H2O1": 3}
    assert labels_of(campaign) == {**initial, "iter/000001/H2O1": 4, "iter/000002/H2O1": 3}


def test_labels_that_fit_no_chosen_frame_are_taken_and_nothing_is_labelled_again(cli: Cli, campaign: Downloads) -> None:
    chosen(campaign)
    for task in range(2):
        folder = campaign.place(1, "prep-run-fp", "output", "labeled_data") / f"task.{task:06d}/data"
        frames(1, 7 + task).to("deepmd/npy", str(folder))
    code, output, _ = adopted(cli, campaign)
    assert code == 0 and "none of these is labelled again" in output
    assert state_of(campaign).at == "train.submitting" and labels_of(campaign)["iter/000002/H2O1"] == 2


def test_models_that_lack_are_trained_again(cli: Cli, campaign: Downloads) -> None:
    trained(campaign)
    next((campaign.root / "iter-000001").rglob("frozen_model.pb")).unlink()
    code, output, _ = adopted(cli, campaign)
    assert code == 0 and "there are 1: iteration 1 is trained again" in output
    state = state_of(campaign)
    assert (state.at, state.iteration, state.newest["train"]) == ("train.submitting", 1, 0)


def test_checkpoints_of_pytorch_are_no_models(cli: Cli, campaign: Downloads) -> None:
    path = campaign.root.parent / "input.json"
    document = json.loads(path.read_text())
    document["train"]["config"] = {"impl": "pytorch"}
    path.write_text(json.dumps(document))
    shutil.rmtree(campaign.root / "iter-000000/prep-run-train")
    campaign.train(0, ".pt")
    code, output, errors = adopted(cli, campaign)
    assert code == 0, errors
    assert "`dp --pt freeze` makes a .pth beside each" in output
    assert "train" not in state_of(campaign).newest


def test_levels_that_were_adaptive_leave_no_figures(cli: Cli, campaign: Downloads) -> None:
    path = campaign.root.parent / "input.json"
    document = copy.deepcopy(json.loads(path.read_text()))
    document["explore"]["convergence"] = {"type": "adaptive-lower", "level_f_hi": 0.5}
    path.write_text(json.dumps(document))
    code, output, errors = adopted(cli, campaign)
    assert code == 0, errors
    assert "the levels were adaptive" in output
    assert "accurate" not in state_of(campaign).trail[0].figures


def test_a_second_adoption_is_the_same(cli: Cli, campaign: Downloads) -> None:
    partly_labelled(campaign)
    assert adopted(cli, campaign)[0] == 0
    before = (campaign.root.parent / "dpgen2-sm/out/state.json").read_bytes()
    assert adopted(cli, campaign)[0] == 0
    assert (campaign.root.parent / "dpgen2-sm/out/state.json").read_bytes() == before


@pytest.fixture
def bucket(tmp_path: Path) -> Downloads:
    """The same, with a copy of the workflow's folder in the bucket."""
    write_input(tmp_path / "water")
    made = Downloads(tmp_path / "water/got", merged=False, bucket=True)
    first(made)
    return made


@pytest.mark.parametrize(
    ("steps", "at", "iteration", "models", "labels"),
    [
        (trained, "explore.submitting", 1, 1, {}),
        (explored, "explore.submitting", 1, 1, {}),
        (chosen, "explore.submitting", 1, 1, {}),  # which frames those were, the bucket does not tell
        (partly_labelled, "train.submitting", 2, 1, {"iter/000002/H2O1": 2}),
        (collected, "train.submitting", 2, 1, {"iter/000002/H2O1": 3}),
    ],
)
def test_a_copy_of_the_bucket_goes_on(
    cli: Cli,
    bucket: Downloads,
    steps: Callable[[Downloads], None],
    at: str,
    iteration: int,
    models: int,
    labels: dict[str, int],
) -> None:
    steps(bucket)
    code, output, errors = adopted(cli, bucket)
    assert code == 0, errors
    state = state_of(bucket)
    assert (state.at, state.iteration, state.newest["train"]) == (at, iteration, models), output
    initial = {"init/init000/H2O1": 3, "init/init001/H2O1": 3}
    assert labels_of(bucket) == {**initial, "iter/000001/H2O1": 4, **labels}
    assert state.trail[0].figures == {"accurate": 1.0, "candidate": 2.0, "failed": 1.0}
    assert ("chosen frames without a label are left out" in output) == bool(labels)


def test_an_iteration_that_chose_nothing_leaves_an_empty_folder_in_the_bucket(cli: Cli, bucket: Downloads) -> None:
    explored(bucket)
    bucket.place(1, "prep-run-fp", "output", "labeled_data")
    bucket.train(2)
    assert adopted(cli, bucket)[0] == 0
    assert (state_of(bucket).at, state_of(bucket).iteration) == ("explore.submitting", 2)


def test_of_a_bucket_one_workflow_is_given(cli: Cli, bucket: Downloads) -> None:
    code, _, errors = cli("import", bucket.root.parent / "input.json", "--adopt", bucket.root.parent)
    assert code == 2 and "it has the workflows of a bucket (got); give the folder of one" in errors
    assert not (bucket.root.parent / "dpgen2-sm").exists()


def spoil(made: Downloads, name: str, value: Any) -> None:
    for path in (made.root / "iter-000000").rglob(name):
        np.save(path, value)


BAD: dict[str, tuple[Callable[[Downloads], Any], str]] = {
    "no downloads": (lambda made: shutil.rmtree(made.root), "there is no such folder"),
    "an empty folder": (
        lambda made: shutil.rmtree(made.root / "iter-000000"), "that `dpgen2 download` has filled"
    ),
    "no labels of an iteration": (
        lambda made: (trained(made), [shutil.rmtree(made.root / "iter-000000" / step)
                                      for step in ("collect-data", "prep-run-fp")]),
        "iter-000000: the labels of this iteration are missing; download collect-data/output/iter_data",
    ),
    "labels that are not finite": (
        lambda made: spoil(made, "energy.npy", np.full(4, np.nan)), "energies that are not finite"
    ),
    "labels of another element": (
        lambda made: [path.write_text("H\nS\n") for path in made.root.rglob("type_map.raw")], "element S"
    ),
    "deviations that are none": (
        lambda made: [path.write_text("x\n") for path in made.root.rglob("model_devi.out")], "model_devi.out: "
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_folder_is_refused(cli: Cli, campaign: Downloads, case: str) -> None:
    damage, expected = BAD[case]
    damage(campaign)
    code, _, errors = adopted(cli, campaign)
    assert code == 2 and expected in errors, errors
    assert not (campaign.root.parent / "dpgen2-sm/out/state.json").exists()


def test_a_folder_of_the_other_program_is_refused(cli: Cli, campaign: Downloads) -> None:
    (campaign.root / "record.dpgen").write_text("0 0\n")
    (campaign.root / "iter.000000").mkdir()
    code, _, errors = adopted(cli, campaign)
    assert code == 2 and "is of DP-GEN, but" in errors
    assert not (campaign.root.parent / "dpgen2-sm").exists()
