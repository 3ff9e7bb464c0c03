"""train.mixed_type: a run's systems are joined for dp train, as dpdata reads deepmd/npy/mixed. No dp."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest

from conventions.errors import ConfigError
from operators.train.dp_mixed import join, mix
from tests.train_run import INPUT, TrainRun

ATTENTION = copy.deepcopy(INPUT)
ATTENTION["model"]["descriptor"] = {"type": "se_atten", "sel": 40, "rcut_smth": 0.5, "rcut": 4.0}


def system(folder: Path, types: str, frames: int, start: float, *labels: str) -> Path:
    """Made-up numbers that say where they come from."""
    atoms = len(types)
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("".join(f"{kind}\n" for kind in types))
    (folder / "type_map.raw").write_text("Cu\nAu\n")
    sizes = {"coord": 3 * atoms, "force": 3 * atoms, "box": 9, "energy": 1, "virial": 9}
    for part in range(0, frames, 2):  # two frames a set
        (folder / f"set.{part:03d}").mkdir()
        for name in ("coord", "box", "energy", "force", *labels):
            values = start + part + np.arange(min(2, frames - part) * sizes[name], dtype=float)
            shape = (-1,) if name == "energy" else (-1, sizes[name])
            np.save(folder / f"set.{part:03d}" / f"{name}.npy", values.reshape(shape))
    return folder


def test_frames_and_labels_are_those_of_the_systems(tmp_path: Path) -> None:
    parts = [system(tmp_path / "a", "0011", 3, 10.0), system(tmp_path / "b", "0001", 2, 500.0)]
    (made,) = mix([str(part) for part in parts], tmp_path / "mixed")
    found = dpdata.MultiSystems()
    found.load_systems_from_file(made, fmt="deepmd/npy/mixed")
    assert sorted(found.systems) == ["Cu2Au2", "Cu3Au1"]
    for part, name in zip(parts, ("Cu2Au2", "Cu3Au1"), strict=True):
        given = dpdata.LabeledSystem(str(part), fmt="deepmd/npy")
        for key in ("coords", "energies", "forces", "cells", "atom_types"):
            assert np.array_equal(found.systems[name][key], given[key]), key
    types = np.load(Path(made) / "set.000/real_atom_types.npy")
    assert types.tolist() == [[0, 0, 1, 1]] * 3 + [[0, 0, 0, 1]] * 2


def test_other_labels_sizes_and_molecules_stay_apart(tmp_path: Path) -> None:
    names = {"a": "01", "b": "01", "c": "011", "d": "00"}
    parts = {name: system(tmp_path / name, types, 1, 1.0) for name, types in names.items()}
    parts["v"] = system(tmp_path / "v", "01", 1, 1.0, "virial")
    (parts["d"] / "nopbc").touch()
    made = [Path(path) for path in mix([str(part) for part in parts.values()], tmp_path / "mixed")]
    counts = [len(np.load(path / "set.000/energy.npy")) for path in made]
    assert sorted(counts) == [1, 1, 1, 2]
    assert [(path / "nopbc").exists() for path in made].count(True) == 1
    assert [(path / "set.000/virial.npy").exists() for path in made].count(True) == 1
    assert all((path / "type.raw").read_text().split() == ["0"] * n for path, n in zip(made, (2, 2, 2, 3), strict=True))


def test_a_second_attempt_writes_it_again(tmp_path: Path) -> None:
    part = system(tmp_path / "a", "01", 1, 1.0)
    (tmp_path / "mixed/007").mkdir(parents=True)
    assert mix([str(part)], tmp_path / "mixed") == [str(tmp_path / "mixed/000")]
    assert [path.name for path in (tmp_path / "mixed").iterdir()] == ["000"]


@pytest.mark.parametrize("head", [None, "mine"])
def test_the_input_names_them(tmp_path: Path, head: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    part = system(tmp_path / "a", "01", 1, 1.0)
    data: dict[str, Any] = {"training_data": {"systems": [str(part)], "batch_size": 4}}
    training = {"data_dict": {"mine": data, "other": {"systems": "x"}}} if head else data
    Path("input.json").write_text(json.dumps({"training": training}))
    join([str(part)], head)
    found = json.loads(Path("input.json").read_text())["training"]
    section = (found["data_dict"]["mine"] if head else found)["training_data"]
    assert section == {"systems": ["mixed/000"], "batch_size": 4}


def test_a_job_is_told(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1, "mixed_type": True}, ATTENTION)
    run.plan()
    assert json.loads((run.job() / "in/task.000000/job.json").read_text())["mixed"] is True
    assert (run.job() / "in/dp_mixed.py").exists()


def test_not_for_models_with_networks_for_each_element(tmp_path: Path) -> None:
    run = TrainRun(tmp_path, {"numb_models": 1, "mixed_type": True})
    with pytest.raises(ConfigError, match="the descriptor se_e2_a has networks for each element"):
        run.plan()
    hybrid = copy.deepcopy(ATTENTION)
    hybrid["model"]["descriptor"] = {"type": "hybrid", "list": [{"type": "dpa2"}, {"type": "se_e3"}]}
    with pytest.raises(ConfigError, match="the descriptor se_e3 has"):
        TrainRun(tmp_path / "hybrid", {"numb_models": 1, "mixed_type": True}, hybrid).plan()


def test_weights_of_iterations_are_lost_where_they_are_joined(tmp_path: Path) -> None:
    more = {"training_reuse_iter": 1, "training_reuse_old_ratio": 0.5}
    run = TrainRun(tmp_path, {"numb_models": 1, "mixed_type": True, **more}, ATTENTION)
    assert any("joined systems are of all iterations" in problem for problem in run.app.check(run.config))
