"""`dpgen2-sm import --adopt`: a campaign of DP-GEN goes on here, wherever it stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
import pytest
from ase import Atoms
from pydantic import ValidationError

from conventions.state import State
from operators.sums import verify
from statemachine.importer.dpgen.tree import TASKS, read_tree
from statemachine.run.begin import begin
from statemachine.run.config_file import read_config
from statemachine.run.earlier import Earlier
from statemachine.run.systems import training_systems
from statemachine.store import open_store
from tests.conftest import Cli
from tests.label_samples import SAMPLES, text_of
from tests.unit.test_import_dpgen import PARAM

OUTCAR = "vasp-5.4.4-water.OUTCAR"
FRAME = SAMPLES["vasp"].good[OUTCAR]
POTCAR = " PAW {0}\n   VRHFIN ={0}: \nEnd of Dataset\n"
ITERATION, MODELS = 1, 2


def systems(folder: Path, frames: int, seed: int) -> None:
    """Labels of water as dpdata writes them for DP-GEN."""
    random = np.random.default_rng(seed)
    data: dict[str, Any] = {
        "atom_names": ["H", "O"], "atom_numbs": [2, 1], "atom_types": np.array([0, 0, 1]), "orig": np.zeros(3),
        "cells": np.array([np.eye(3) * 9] * frames), "coords": random.normal(size=(frames, 3, 3)),
        "energies": random.normal(size=frames), "forces": random.normal(size=(frames, 3, 3)),
    }  # fmt: skip
    dpdata.LabeledSystem(data=data).to("deepmd/npy", str(folder))


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """A folder of DP-GEN with two jobs: iteration 0 is done, of iteration 1 there is what its tasks leave."""
    root = tmp_path / "water"
    for number, name in enumerate(("a", "b")):
        systems(root / "data" / name, 3, number)
    (root / "pp").mkdir()
    for element in ("H", "O"):
        (root / "pp" / f"POTCAR_{element}").write_text(POTCAR.format(element))
    (root / "INCAR").write_text("ENCUT = 400\nKSPACING = 0.2\nKGAMMA = T\n")
    structure = root / "systems" / "x" / "POSCAR"
    structure.parent.mkdir(parents=True)
    ase.io.write(structure, Atoms("H2O", [[0, 0, 0], [1.5, 0, 0], [0.8, 0.6, 0]], cell=[9, 9, 9], pbc=True), "vasp")
    jobs = [{**PARAM["model_devi_jobs"][1], "sys_idx": [0]}] * 2
    changes = {"type_map": ["H", "O"], "mass_map": [1, 16], "sys_configs": [["x/POSCAR"]], "numb_models": MODELS}
    files = {"fp_pp_files": ["POTCAR_H", "POTCAR_O"], "model_devi_jobs": jobs}
    (root / "param.json").write_text(json.dumps({**PARAM, **changes, **files}))
    for iteration in range(ITERATION + 1):
        folder = root / f"iter.{iteration:06d}"
        for model in range(MODELS):
            task = folder / f"00.train/{model:03d}"
            task.mkdir(parents=True)
            (task / "frozen_model.pb").write_text(f"model {model} of {iteration}")
            (task / "lcurve.out").write_text("# step rmse\n")
            (folder / f"00.train/graph.{model:03d}.pb").symlink_to(f"{model:03d}/frozen_model.pb")
        fp = folder / "02.fp"
        for number in range(3):
            task = fp / f"task.000.{number:06d}"
            task.mkdir(parents=True)
            ase.io.write(task / "POSCAR", FRAME[[0, 2, 1, 3, 4, 5]], "vasp")
        for name, count in (("rest_accurate", 7), ("candidate", 3), ("rest_failed", 1)):
            (fp / f"{name}.shuffled.000.out").write_text("task.000.000000 10\n" * count)
    systems(root / "iter.000000/02.fp/data.000/H2O1", 4, 7)
    return root


def stop(root: Path, iteration: int, task: int) -> None:
    """As DP-GEN leaves its record when it stops after a task."""
    done = [(number, each) for number in range(iteration + 1) for each in range(len(TASKS))]
    lines = [f"{number} {each}\n" for number, each in done if (number, each) <= (iteration, task)]
    (root / "record.dpgen").write_text("".join(lines))


def adopted(cli: Cli, root: Path, *more: str) -> tuple[int, str, str]:
    return cli("import", root / "param.json", "--adopt", root, *more)


def state_of(root: Path) -> State:
    return State.unseal((root / "dpgen2-sm/out/state.json").read_bytes())


@pytest.mark.parametrize(
    ("task", "at", "iteration", "models", "labelled"),
    [
        (0, "train.submitting", 1, 0, []),
        (1, "train.submitting", 1, 0, []),
        (2, "explore.submitting", 1, 1, []),
        (3, "explore.submitting", 1, 1, []),
        (4, "explore.submitting", 1, 1, []),
        (5, "explore.submitting", 1, 1, []),
        (6, "label.submitting", 2, 1, [1]),
        (7, "label.submitting", 2, 1, [1]),
        (8, "train.submitting", 2, 1, []),
    ],
)
def test_it_goes_on_where_dpgen_stopped(
    cli: Cli, campaign: Path, task: int, at: str, iteration: int, models: int, labelled: list[int]
) -> None:
    stop(campaign, ITERATION, task)
    (campaign / f"iter.000001/02.fp/task.000.{1:06d}/OUTCAR").write_text(text_of(OUTCAR))
    if task == 8:
        systems(campaign / "iter.000001/02.fp/data.000", 2, 8)
    before = {path: path.stat().st_mtime_ns for path in campaign.rglob("*")}
    code, output, errors = adopted(cli, campaign)
    assert code == 0, errors
    out = campaign / "dpgen2-sm/out"
    state = state_of(campaign)
    assert (state.at, state.iteration, state.newest["train"]) == (at, iteration, models)
    assert output.splitlines()[-1].startswith(f"run water: {at} of iteration {iteration}; go on with")
    assert "taken over from DP-GEN: iteration 1" in state.reason and TASKS[task] in state.reason

    frames = {
        name: dpdata.LabeledSystem(str(out / "dataset/deepmd" / name), fmt="deepmd/npy").get_nframes()
        for name in training_systems(open_store(f"file://{out}"), state)
    }
    expected = {"init/init000/H2O1": 3, "init/init001/H2O1": 3, "iter/000001/H2O1": 4}
    expected |= {"init/fp.000001/H4O2": 1} if labelled else {}
    assert frames == {**expected, **({"iter/000002/H2O1": 2} if task == 8 else {})}
    product = out / f"train/deepmd/iter/{models:06d}/product"
    verify(product, "graph.000.pb", "graph.001.pb", "lcurve.001.out", what="the product")
    assert (product / "graph.001.pb").read_text() == f"model 1 of {models}"
    if labelled:
        left = ase.io.read(out / "select/model_devi/iter/000001/product/frames.extxyz", ":")
        assert len(left) == 2 and {frame.info["structure"] for frame in left} == {"sys000"}
        assert "1 finished labelling tasks of iteration 1 are taken, 2 are left" in output
        assert state.final == "exhausted", "both jobs have explored"
    assert {path: path.stat().st_mtime_ns for path in before} == before, "the source is only read"


def test_the_table_shows_the_iterations_before(cli: Cli, campaign: Path) -> None:
    stop(campaign, ITERATION, 2)
    assert adopted(cli, campaign)[0] == 0
    first, second = state_of(campaign).trail
    assert first.figures == {"accurate": 7.0, "candidate": 3.0, "failed": 1.0, "selected": 3.0}
    assert (second.figures["labelled"], second.stages) == (4.0, ["label", "train"])
    code, output, _ = cli("status", campaign / "dpgen2-sm/run.yaml")
    assert code == 0 and "63.6" in output, output


def test_nothing_is_left_of_a_labelling_that_had_ended(cli: Cli, campaign: Path) -> None:
    """All tasks had run when DP-GEN was killed: nothing is labelled again."""
    stop(campaign, ITERATION, 7)
    for task in (campaign / "iter.000001/02.fp").glob("task.*"):
        (task / "OUTCAR").write_text(text_of(OUTCAR))
    assert adopted(cli, campaign)[0] == 0
    state = state_of(campaign)
    assert (state.at, state.iteration, state.newest["train"]) == ("train.submitting", 2, 1)
    found = dpdata.LabeledSystem(str(campaign / "dpgen2-sm/out/dataset/deepmd/init/fp.000001/H4O2"), fmt="deepmd/npy")
    assert found.get_nframes() == 3


def test_an_output_that_did_not_converge_is_labelled_again(cli: Cli, campaign: Path) -> None:
    stop(campaign, ITERATION, 7)
    text = text_of(OUTCAR)
    (campaign / "iter.000001/02.fp/task.000.000000/OUTCAR").write_text(text[: len(text) // 2])
    code, output, _ = adopted(cli, campaign)
    assert code == 0 and "0 finished labelling tasks of iteration 1 are taken, 3 are left" in output


def test_the_first_training_was_under_way(cli: Cli, campaign: Path) -> None:
    stop(campaign, 0, 0)
    assert adopted(cli, campaign)[0] == 0
    state = state_of(campaign)
    assert (state.at, state.iteration, state.trail) == ("train.submitting", 0, [])


def test_a_second_adoption_is_the_same(cli: Cli, campaign: Path) -> None:
    stop(campaign, ITERATION, 7)
    assert adopted(cli, campaign)[0] == 0
    before = (campaign / "dpgen2-sm/out/state.json").read_bytes()
    assert adopted(cli, campaign)[0] == 0
    assert (campaign / "dpgen2-sm/out/state.json").read_bytes() == before


def test_an_interrupted_adoption_is_repeated(cli: Cli, campaign: Path) -> None:
    stop(campaign, ITERATION, 7)
    assert adopted(cli, campaign)[0] == 0
    out = campaign / "dpgen2-sm/out"
    listed = sorted(path.relative_to(out) for path in (out / "dataset").rglob("*"))
    shutil.rmtree(out / "event")
    (out / "state.json").unlink()
    assert adopted(cli, campaign)[0] == 0
    assert sorted(path.relative_to(out) for path in (out / "dataset").rglob("*")) == listed


def test_a_configuration_that_was_edited_is_adopted(cli: Cli, campaign: Path) -> None:
    assert cli("import", campaign / "param.json")[0] == 0
    stop(campaign, ITERATION, 2)
    run = campaign / "dpgen2-sm/run.yaml"
    run.write_text(run.read_text().replace("run: water", "run: mine"))
    code, output, _ = cli("import", run, "--adopt", campaign)
    assert code == 0 and output.startswith("run mine: explore.submitting of iteration 1")


@pytest.mark.parametrize("wrong", [{"iteration": -1}, {"at": "nowhere"}, {"stagee": "train"}])
def test_a_first_state_that_is_none_is_never_written(cli: Cli, campaign: Path, wrong: dict[str, Any]) -> None:
    assert cli("import", campaign / "param.json")[0] == 0
    run = campaign / "dpgen2-sm/run.yaml"
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        begin(read_config(run), run.parent, find_earlier=lambda config, scratch: Earlier(state=wrong))
    assert not (run.parent / "out/state.json").exists()


def test_a_rewind_goes_back_to_what_was_taken_over(cli: Cli, campaign: Path) -> None:
    stop(campaign, ITERATION, 2)
    assert adopted(cli, campaign)[0] == 0
    run = campaign / "dpgen2-sm/run.yaml"
    code, _, errors = cli("rewind", run, "--iter", 0, "--stage", "explore", "--yes")
    assert code == 2 and "explore of iteration 0 was not done" in errors


BAD: dict[str, tuple[Any, str]] = {
    "no record": (lambda root: (root / "record.dpgen").unlink(), "give the folder in which DP-GEN ran"),
    "an empty record": (lambda root: (root / "record.dpgen").write_text(""), "it is empty"),
    "a truncated record": (lambda root: (root / "record.dpgen").write_text("0 0\n0"), "line 2: '0' is not an iter"),
    "a blank line": (lambda root: (root / "record.dpgen").write_text("0 0\n\n"), "line 2: '' is not an iteration"),
    "an unknown task": (lambda root: (root / "record.dpgen").write_text("0 9\n"), "there is no task 9"),
    "a missing iteration": (lambda root: shutil.rmtree(root / "iter.000000"), "iter.000000: this folder is missing"),
    "missing models": (
        lambda root: (root / "iter.000001/00.train/000/frozen_model.pb").unlink(), "2 models graph.*.pb are expected"
    ),
    "a link that became a text": (
        lambda root: [
            (path.unlink(), path.write_text("001/frozen_model.pb"))
            for path in (root / "iter.000001/00.train").glob("graph.001.pb")
        ],
        "graph.001.pb: it holds only the name '001/frozen_model.pb': a symbolic link",
    ),
    "a task without its frame": (
        lambda root: (root / "iter.000001/02.fp/task.000.000002/POSCAR").unlink(), "task.000.000002/POSCAR: ASE cannot"
    ),
    "labels that are not finite": (
        lambda root: np.save(root / "iter.000000/02.fp/data.000/H2O1/set.000/energy.npy", np.full(4, np.nan)),
        "energies that are not finite",
    ),
    "labels of another element": (
        lambda root: (root / "iter.000000/02.fp/data.000/H2O1/type_map.raw").write_text("H\nS\n"), "element S"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_folder_is_refused(cli: Cli, campaign: Path, case: str) -> None:
    stop(campaign, ITERATION, 7)
    damage, expected = BAD[case]
    damage(campaign)
    code, _, errors = adopted(cli, campaign)
    assert code == 2 and expected in errors, errors
    assert not (campaign / "dpgen2-sm/out/state.json").exists()


def test_a_finished_campaign_has_nothing_to_go_on_with(cli: Cli, campaign: Path) -> None:
    shutil.copytree(campaign / "iter.000001", campaign / "iter.000002", symlinks=True)
    stop(campaign, 2, 2)
    code, _, errors = adopted(cli, campaign)
    assert code == 2 and "all 2 jobs of this campaign are done" in errors


def test_the_stages_of_a_record(tmp_path: Path) -> None:
    (tmp_path / "iter.000000").mkdir()
    (tmp_path / "record.dpgen").write_text("0 0\n0 1\n")
    tree = read_tree(tmp_path)
    assert (tree.stage, tree.labelled) == ((0, "train"), 0)


def killed(root: Path, task: int) -> None:
    """DP-GEN is killed in a task of iteration 1: its record ends before it, and what it had begun is there in part."""
    stop(root, *((ITERATION, task - 1) if task else (ITERATION - 1, len(TASKS) - 1)))
    train, explore, fp = (root / "iter.000001" / part for part in ("00.train", "01.model_devi", "02.fp"))
    if task <= 2:  # the links to the models are post_train's
        for link in sorted(train.glob("graph.*"))[task == 2 :]:
            link.unlink()
    if task <= 1:
        (train / "001/frozen_model.pb").unlink()
    if task == 0:
        shutil.rmtree(train / "001")
    if 3 <= task <= 6:
        (explore / "task.000.000000").mkdir(parents=True)
    if task <= 5:
        shutil.rmtree(fp)
    if task == 6:  # one task is made
        for folder in sorted(fp.glob("task.*"))[1:]:
            shutil.rmtree(folder)
    if task >= 7:
        text = text_of(OUTCAR)
        for number, folder in enumerate(sorted(fp.glob("task.*"))):
            if number < 2 or task == 8:
                (folder / "OUTCAR").write_text(text if number else text[: len(text) // 2])
    if task == 8:  # collecting has begun: what it wrote is of tasks that are there
        systems(fp / "data.000/H2O1", 1, 9)


@pytest.mark.parametrize(
    ("task", "at", "taken", "left"),
    [
        (0, "train.submitting", 0, None),
        (1, "train.submitting", 0, None),
        (2, "train.submitting", 0, None),
        (3, "explore.submitting", 0, None),
        (4, "explore.submitting", 0, None),
        (5, "explore.submitting", 0, None),
        (6, "explore.submitting", 0, None),
        (7, "label.submitting", 1, 2),
        (8, "label.submitting", 2, 1),
    ],
)
def test_no_label_is_lost_or_taken_twice_and_none_is_made_again(
    cli: Cli, campaign: Path, task: int, at: str, taken: int, left: int | None
) -> None:
    killed(campaign, task)
    code, _, errors = adopted(cli, campaign)
    assert code == 0, errors
    state, out = state_of(campaign), campaign / "dpgen2-sm/out/dataset/deepmd"
    assert (state.at, state.iteration) == (at, 2 if left is not None else 1)

    def energies(*folders: Path) -> list[float]:
        found = [np.load(path).ravel() for folder in folders for path in sorted(folder.rglob("energy.npy"))]
        return sorted(np.concatenate(found).round(6).tolist())

    names = training_systems(open_store(f"file://{campaign}/dpgen2-sm/out"), state)
    before = energies(campaign / "data", campaign / "iter.000000/02.fp")
    new = [name for name in names if name.startswith("init/fp.")]
    assert energies(*(out / name for name in names if name not in new)) == before and len(set(before)) == len(before)
    assert sum(len(np.load(path)) for name in new for path in (out / name).rglob("energy.npy")) == taken
    if left is not None:
        code, output, _ = cli("plan", campaign / "dpgen2-sm/run.yaml", "--json")
        planned = json.loads(output)
        assert code == 0 and planned["next"].startswith("label/vasp of iteration 2")
        assert (planned["tasks"], planned["todo"]) == (left, left)
