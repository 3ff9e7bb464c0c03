"""`dpgen2-sm test`: the figures, for models whose errors are known; the command, with the stub trainer."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest

from conventions.state import IterationSummary
from operators.core import Model
from operators.sums import write_sums
from operators.train import errors as module
from operators.train.dp_infer import models
from operators.train.errors import committee_errors
from statemachine.run.begin import begin
from statemachine.run.config_file import read_config
from statemachine.run.opening import find_prefix
from statemachine.run.record import Record
from statemachine.store import open_store
from tests.conftest import Cli

FRAMES = {"Cu2": 5, "Cu1": 3}


def system(name: str, virials: bool = True, cells: bool = True) -> Any:
    """Frames with labels at random, and equal ones at each call."""
    random = np.random.default_rng(1)
    atoms, frames = int(name[-1]), FRAMES[name]
    data = {
        "atom_names": ["Cu"],
        "atom_numbs": [atoms],
        "atom_types": np.zeros(atoms, int),
        "orig": np.zeros(3),
        "cells": np.tile(3.6 * np.eye(3), (frames, 1, 1)),
        "coords": random.random((frames, atoms, 3)),
        "energies": random.random(frames),
        "forces": random.random((frames, atoms, 3)),
    }
    if virials:
        data["virials"] = random.random((frames, 3, 3))
    return dpdata.LabeledSystem(data={**data, "nopbc": not cells})


def wrong_by(shift: float, systems: list[Any]) -> Model:
    """A model that knows the labels: wrong by `shift` in each energy, in each x of a force, in each virial."""

    def model(symbols: list[str], positions: Any, cells: Any) -> tuple[Any, Any, Any]:
        data = next(each.data for each in systems if len(each.data["atom_types"]) == len(symbols))
        assert symbols == ["Cu"] * len(symbols)
        assert len(positions) * len(symbols) <= max(module.ATOMS, len(symbols))
        (rows,) = np.nonzero((data["coords"][:, 0] == positions[:, None, 0]).all(axis=-1).any(axis=0))
        assert np.array_equal(data["coords"][rows], positions)
        assert (cells is None) == bool(data.get("nopbc"))
        virials = data["virials"][rows] if "virials" in data else np.zeros((len(rows), 3, 3))
        return data["energies"][rows] + shift, data["forces"][rows] + [shift, 0, 0], virials + shift

    return model


@pytest.mark.parametrize("at_once", [10_000, 4, 1])
def test_the_figures_are_those_of_known_errors(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "ATOMS", at_once)
    systems = [system("Cu2"), system("Cu1")]
    arrived: list[int] = []
    found = committee_errors([wrong_by(shift, systems) for shift in (0.3, -0.1)], systems, arrived.append)
    assert found["frames"] == sum(arrived) == 8
    by_atom = math.sqrt((5 / 4 + 3) / 8)  # five frames of two atoms, three of one
    for row, shift in zip([*found["models"], found["mean"]], (0.3, 0.1, 0.1), strict=True):
        expected = {"rmse_e": shift * by_atom, "rmse_f": shift / math.sqrt(3), "rmse_v": shift * by_atom}
        assert row == pytest.approx(expected)
    assert found["max_devi_f"] == pytest.approx({"mean": 0.2, "percentile_95": 0.2, "max": 0.2})


def test_the_deviation_is_that_of_the_worst_atom() -> None:
    def model(forces: list[float]) -> Model:
        force = np.zeros((5, 2, 3))
        force[:, :, 1] = forces
        return lambda symbols, positions, cells: (np.zeros(5), force, np.zeros((5, 3, 3)))

    found = committee_errors([model([0.0, 1.0]), model([0.2, 1.0]), model([0.1, 4.0])], [system("Cu2")])
    assert found["max_devi_f"]["max"] == pytest.approx(math.sqrt(2))  # of 1, 1, 4 with the mean 2


def test_a_model_without_peers_has_no_deviation() -> None:
    systems = [system("Cu2", virials=False, cells=False)]
    found = committee_errors([wrong_by(0.3, systems)], systems)
    assert found["max_devi_f"] is None
    assert found["models"] == [found["mean"]]
    assert set(found["mean"]) == {"rmse_e", "rmse_f"}


def test_figures_that_are_not_finite_are_null() -> None:
    systems = [system("Cu2")]
    found = committee_errors([wrong_by(shift, systems) for shift in (math.nan, 0.1)], systems)
    assert found["models"][0]["rmse_e"] is found["mean"]["rmse_f"] is found["max_devi_f"]["max"] is None
    assert found["models"][1]["rmse_f"] is not None


def test_deepmd_kit_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepmd.infer", None)
    with pytest.raises(RuntimeError, match=r'not installed here.*pip install "dpgen2-sm\[local\]"'):
        models(tmp_path)


@pytest.fixture
def trained(stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `run.yaml` and a run in `out` whose iteration 0 has trained, and data."""
    folder = stub_run.parent
    begin(read_config(stub_run), folder)
    product = folder / "out/train/stub/iter/000000/product"
    product.mkdir(parents=True)
    (product / "results.txt").write_text("a model")
    write_sums(product)
    record = Record(open_store(find_prefix(str(stub_run))))
    before = record.load()
    row = IterationSummary(iteration=0, stages=["label", "train"])
    assert record.commit(before, before.state.model_copy(update={"trail": [row]}))
    system("Cu2").to("deepmd/npy", str(folder / "data"))
    monkeypatch.chdir(folder)
    return folder


def test_a_table_for_each_data_set(cli: Cli, trained: Path) -> None:
    data = system("Cu2").data
    code, output, errors = cli("test", "run.yaml", "data", "--json")
    assert code == 0, errors
    found = json.loads(output)
    (one,) = found["data"]
    assert found["models"] == [f"file://{trained}/out/train/stub/iter/000000/product/results.txt"]
    assert (found["iteration"], one["path"], one["frames"], one["max_devi_f"]) == (0, "data", 5, None)
    assert one["mean"]["rmse_f"] == pytest.approx(np.sqrt(np.mean(data["forces"] ** 2)), rel=1e-6)

    code, output, errors = cli("test", "out", "data", "--iter", "0")
    assert (code, errors) == (0, "")
    assert f"results.txt  {one['mean']['rmse_e']:7.4f}  {one['mean']['rmse_f']:7.4f}" in output
    assert max(map(len, output.splitlines()[3:])) <= 80


BAD = {
    "no data": (("out",), "DATA"),
    "no such data": (("out", "nothing"), "nothing: 'nothing': there is no such file in"),
    "no such format": (("out", "data", "--format", "vasp"), "dpdata has no format 'vasp'"),
    "no labels": (("out", "cu.xyz", "--format", "vasp/poscar"), "cu.xyz"),
    "no forces": (("out", "blind"), "blind"),
    "another element": (("out", "iron"), "element Fe of iron is not in type_map"),
    "no such models": (("out", "data", "--iter", "7"), "--iter 7: it trained no models; these did: 0"),
    "no run": (("nowhere", "data"), "there is no run"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_tested(cli: Cli, trained: Path, case: str) -> None:
    for name in ("blind", "iron"):
        system("Cu2").to("deepmd/npy", name)
    (trained / "blind/set.000/force.npy").unlink()
    (trained / "iron/type_map.raw").write_text("Fe\n")
    arguments, expected = BAD[case]
    code, output, errors = cli("test", *arguments)
    assert (code, output) == (2, "")
    assert expected in errors


def test_there_are_no_models_yet(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(stub_run.parent)
    assert cli("init", "run.yaml")[0] == 0
    code, output, errors = cli("test", "run.yaml", "data")
    assert (code, output) == (2, "")
    assert "no models yet: its state is label.submitting of iteration 0" in errors


def test_a_damaged_model_is_refused(cli: Cli, trained: Path) -> None:
    path = trained / "out/train/stub/iter/000000/product/results.txt"
    path.write_text("another")
    code, _, errors = cli("test", "out", "data")
    assert code == 2
    assert "its content is not the one that was recorded" in errors
