"""label/ase with EMT, and with calculators that misbehave."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from pydantic import ValidationError

from conventions.names import canonical_json
from operators.label.ase import AseConfig
from operators.label.frames import ABSURD_FORCE
from tests.label_run import LabelRun

CALCULATORS = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Odd(Calculator):
    implemented_properties = ["energy", "forces"]

    def __init__(self, fail_at=(), nan_at=(), huge_at=(), **kwargs):
        super().__init__(**kwargs)
        self.ways = {"fail": fail_at, "nan": nan_at, "huge": huge_at}

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        mark = round(atoms.positions[0, 0])
        if mark in self.ways["fail"]:
            raise RuntimeError("SCF not converged\\nsecond line")
        forces = np.full((len(atoms), 3), 0.5)
        if mark in self.ways["nan"]:
            forces[0, 0] = np.nan
        if mark in self.ways["huge"]:
            forces[0, 0] = 1e7
        self.results = {"energy": -1.0, "free_energy": -2.0, "forces": forces}
"""


def label(calculator: str = "ase.calculators.emt:EMT", **more: Any) -> dict[str, Any]:
    return {"app": "ase", "calculator": calculator, "command": sys.executable, **more}


def rattled(atoms: Atoms, count: int, stdev: float = 0.05) -> list[Atoms]:
    frames = []
    for seed in range(count):
        frame = atoms.copy()
        frame.rattle(stdev, seed=seed)
        frames.append(frame)
    return frames


def marked(count: int) -> list[Atoms]:
    """Frames that a misbehaving calculator can tell apart by the x of their first atom."""
    return [Atoms("Cu", [[number, 0, 0]], cell=[50, 50, 50], pbc=True) for number in range(count)]


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "odd.py").write_text(CALCULATORS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    return "odd.Odd"


def test_emt_labels_are_those_of_a_direct_call(tmp_path: Path) -> None:
    cu = bulk("Cu", a=3.6).repeat((2, 2, 2))
    mixed = bulk("Cu", a=3.7, cubic=True)
    mixed.symbols[[0, 2]] = "Al"  # Al Cu Al Cu: not in the order of type_map
    frames = [*rattled(cu, 2), *rattled(mixed, 1), *rattled(cu, 1, 0.1)]
    run = LabelRun(tmp_path, label(group_size=3), frames, ["Cu", "Al"])
    report = run.stage()

    assert (report.complete, report.next, report.classes) == (True, True, {"ok": 4})
    assert report.summary == {"labelled": 4.0, "discarded": 0.0}
    assert report.jobs.planned == 2
    assert [(each["system"], each["index"], each["job_id"]) for each in run.index] == [
        ("Cu8", 0, "000000"),
        ("Cu8", 1, "000000"),
        ("Cu2Al2", 0, "000000"),
        ("Cu8", 2, "000001"),
    ]
    for frame, place in zip(frames, run.index, strict=True):
        folder = run.labels / place["system"]
        data = dpdata.LabeledSystem(str(folder), fmt="deepmd/npy").data
        order = sorted(range(len(frame)), key=lambda at: frame.symbols[at] == "Al")
        assert list(data["atom_names"]) == ["Cu", "Al"]
        assert [data["atom_names"][number] for number in data["atom_types"]] == [frame.symbols[at] for at in order]
        frame.calc = EMT()
        expected = {
            "coords": frame.positions[order],
            "cells": frame.cell.array,
            "energies": frame.get_potential_energy(),
            "forces": frame.get_forces()[order],
            "virials": -frame.get_stress(voigt=False) * frame.get_volume(),
        }
        for key, value in expected.items():
            # The source file that the harness wrote has 8 decimals.
            assert np.allclose(data[key][place["index"]], value, rtol=0, atol=1e-6), key
    assert np.load(run.labels / "Cu8" / "set.000" / "force.npy").dtype == np.float64


def test_virial_is_minus_the_derivative_of_energy_by_strain(tmp_path: Path) -> None:
    frame = rattled(bulk("Cu", a=3.5).repeat((2, 2, 2)), 1)[0]
    run = LabelRun(tmp_path, label(), [frame], ["Cu"])
    run.stage()
    virial = np.load(run.labels / "Cu8" / "set.000" / "virial.npy").reshape(3, 3)
    assert virial.trace() > 1  # compressed: it pushes outwards

    def energy(strain: np.ndarray) -> float:
        strained = frame.copy()
        strained.set_cell(frame.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        strained.calc = EMT()
        return float(strained.get_potential_energy())

    for i, j in ((0, 0), (1, 1), (0, 1), (1, 2)):
        strain = np.zeros((3, 3))
        strain[i, j] = strain[j, i] = 1e-5 if i == j else 0.5e-5
        assert virial[i, j] == pytest.approx(-(energy(strain) - energy(-strain)) / 2e-5, abs=1e-4)


def test_frames_that_fail_are_counted_and_left_out(tmp_path: Path, odd: str) -> None:
    kwargs = {"fail_at": [1], "nan_at": [2], "huge_at": [4]}
    run = LabelRun(tmp_path, label(odd, kwargs=kwargs), marked(7), ["Cu"])
    report = run.stage()
    assert report.complete and report.next
    assert report.classes == {"ok": 4, "exception": 1, "nan": 1, "absurd": 1}
    assert report.summary == {"labelled": 4.0, "discarded": 3.0}
    assert report.messages[0] == "job 000000 task.000000: exception: RuntimeError: SCF not converged"
    assert [each["index"] for each in run.index] == [0, None, None, 1, None, 2, 3]
    assert run.index[4]["class"] == "absurd" and f"{ABSURD_FORCE:g}" in run.index[4]["message"]
    data = dpdata.LabeledSystem(str(run.labels / "Cu1"), fmt="deepmd/npy").data
    assert data["coords"][:, 0, 0].tolist() == [0, 3, 5, 6]
    assert data["energies"].tolist() == [-2.0] * 4  # the free energy, which forces derive from
    assert "virials" not in data


def test_more_than_half_bad_is_an_error_that_says_so(tmp_path: Path, odd: str) -> None:
    run = LabelRun(tmp_path, label(odd, kwargs={"fail_at": [0, 1, 2]}), marked(5), ["Cu"])
    report = run.stage()
    assert (report.complete, report.next) == (False, False)
    assert "3 of 5 frames have no usable label (exception 3)" in report.messages[0]
    assert "RuntimeError: SCF not converged (and 2 more)" in report.messages[1]
    assert not run.labels.exists()
    assert not (tmp_path / run.place.product).exists()


def test_ratio_failed_may_not_leave_nothing(tmp_path: Path, odd: str) -> None:
    run = LabelRun(tmp_path, label(odd, ratio_failed=1.0, kwargs={"fail_at": [0]}), marked(1), ["Cu"])
    report = run.stage()
    assert (report.complete, report.next) == (False, False)


@pytest.mark.parametrize(
    ("calculator", "kwargs", "message"),
    [
        ("no_such_module:X", {}, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("ase.calculators.emt:XMT", {}, "AttributeError: module 'ase.calculators.emt' has no attribute 'XMT'"),
        ("ase.io:read", {"x": 1}, "label.calculator ase.io:read: TypeError: "),
    ],
)
def test_a_calculator_that_cannot_be_made(
    tmp_path: Path, calculator: str, kwargs: dict[str, Any], message: str
) -> None:
    run = LabelRun(tmp_path, label(calculator, kwargs=kwargs, group_size=1), marked(2), ["Cu"])
    report = run.stage()
    assert not report.complete
    assert report.classes == {"failed": 2}
    assert (report.jobs.finished, report.jobs.failed) == (0, 2)
    assert message in report.messages[1] and "(and 1 more)" in report.messages[1]


def test_a_later_iteration_labels_what_was_selected(tmp_path: Path) -> None:
    frames = rattled(bulk("Cu", a=3.6).repeat((2, 1, 1)), 3)
    for frame in frames:
        frame.info["structure"] = "fcc"
    run = LabelRun(tmp_path, label(), frames, ["Cu"], iteration=2)
    assert run.stage().summary == {"labelled": 3.0, "discarded": 0.0}
    assert {each["structure"] for each in run.index} == {"fcc"}
    assert (tmp_path / "dataset/deepmd/iter/000002/Cu2/type.raw").is_file()


def test_nothing_selected_is_complete_and_has_no_next(tmp_path: Path) -> None:
    run = LabelRun(tmp_path, label(), [], ["Cu"], iteration=1)
    assert run.plan().n_jobs == 0
    report = run.reduce(0)
    assert (report.complete, report.next) == (True, False)
    assert report.summary == {"labelled": 0.0, "discarded": 0.0}
    assert not run.labels.exists()


def test_planning_twice_gives_the_same_bytes_and_leaves_finished_jobs_alone(tmp_path: Path) -> None:
    frames = rattled(bulk("Cu", a=3.6), 3)
    run = LabelRun(tmp_path, label(group_size=2), frames, ["Cu"])
    assert run.plan().job_ids == ["000000", "000001"]
    first = {path: path.read_bytes() for path in (tmp_path / run.place.jobs).rglob("*") if path.is_file()}
    run.plan()
    assert {path: path.read_bytes() for path in (tmp_path / run.place.jobs).rglob("*") if path.is_file()} == first
    run.stage()
    report = (tmp_path / run.place.report).read_bytes()
    planned = run.plan()
    assert (planned.n_jobs, planned.n_todo) == (2, 0)
    run.reduce(2)
    assert (tmp_path / run.place.report).read_bytes() == report


def test_outputs_that_are_no_labels(tmp_path: Path) -> None:
    """A results file that somebody broke is counted by class; the marker's sizes still fit."""
    run = LabelRun(tmp_path, label(ratio_failed=0.9), rattled(bulk("Cu", a=3.6), 5), ["Cu"])
    run.stage()
    results = tmp_path / run.place.jobs / "000000/out/task.000000/labels.jsonl"
    lines = results.read_text().splitlines()
    good = json.loads(lines[0])
    broken = [
        lines[0],
        canonical_json({**good, "forces": [[0.0, 0.0, 0.0]] * 2}).decode(),
        lines[2].replace('"energy": ', '"energy": NaN, "x": '),
        '{"energy": 1',
    ]
    text = "\n".join(broken) + "\n"
    results.write_text(text + " " * (results.stat().st_size - len(text)))
    report = run.reduce(1)
    assert report.classes == {"ok": 1, "wrong_atoms": 1, "unreadable": 3}


def test_a_job_without_a_marker_counts_all_its_frames(tmp_path: Path) -> None:
    run = LabelRun(tmp_path, label(group_size=2), rattled(bulk("Cu", a=3.6), 5), ["Cu"])
    run.stage()
    (tmp_path / run.place.done / "000001.json").unlink()
    report = run.reduce(3)
    assert report.classes == {"ok": 3, "failed": 2}
    assert report.jobs.failed == 1
    assert report.messages == ["job 000001 task.000000: failed: it left no completion marker (and 1 more)"]


@pytest.mark.parametrize("calculator", ["EMT", "os;rm:X", "a.b:", "a..b:C", "a:b:c", "1a.b"])
def test_calculator_is_an_import_path(calculator: str) -> None:
    with pytest.raises(ValidationError):
        AseConfig(calculator=calculator)
