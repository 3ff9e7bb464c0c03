"""label/ase with EMT, and with calculators that misbehave."""

from __future__ import annotations

import json
import shutil
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

from operators.frame_keys import KEYS, dataset_keys, keys
from operators.label import ase_job
from operators.label.ase import AseConfig
from operators.label.frames import ABSURD_FORCE
from operators.sums import SUMS, parse
from tests.label_run import LabelRun
from tests.stage_harness import record

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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> LabelRun:
    """A finished stage of 5 selected frames in 2 jobs."""
    frames = rattled(bulk("Cu", a=3.6).repeat((2, 1, 1)), 5)
    for frame in frames:
        frame.info["structure"] = "fcc"
    run = LabelRun(tmp_path_factory.mktemp("finished"), label(group_size=3), frames, ["Cu"], iteration=2)
    run.stage()
    return run


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> LabelRun:
    """A finished stage of 7 frames in one job, 3 of them bad."""
    root = tmp_path_factory.mktemp("odd")
    (root / "odd.py").write_text(CALCULATORS)
    kwargs = {"fail_at": [1], "nan_at": [2], "huge_at": [4]}
    run = LabelRun(root, label("odd.Odd", kwargs=kwargs, setup=[f"export PYTHONPATH='{root}'"]), marked(7), ["Cu"])
    run.stage()
    return run


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


def test_frames_that_fail_are_counted_and_left_out(odd: LabelRun) -> None:
    report = odd.reduce(1)
    assert report.complete and report.next
    assert report.classes == {"ok": 4, "exception": 1, "nan": 1, "absurd": 1}
    assert report.summary == {"labelled": 4.0, "discarded": 3.0}
    assert report.messages[0] == "job 000000 task.000000: exception: RuntimeError: SCF not converged"
    assert [each["index"] for each in odd.index] == [0, None, None, 1, None, 2, 3]
    assert odd.index[4]["class"] == "absurd" and f"{ABSURD_FORCE:g}" in odd.index[4]["message"]
    data = dpdata.LabeledSystem(str(odd.labels / "Cu1"), fmt="deepmd/npy").data
    assert data["coords"][:, 0, 0].tolist() == [0, 3, 5, 6]
    assert data["energies"].tolist() == [-2.0] * 4  # the free energy, which forces derive from
    assert "virials" not in data


def test_too_many_bad_frames_are_an_error_that_says_so(tmp_path: Path, odd: LabelRun) -> None:
    run = odd.copy(tmp_path, ratio_failed=0.4)
    shutil.rmtree(run.labels)
    shutil.rmtree(tmp_path / run.place.product)
    report = run.reduce(1)
    assert (report.complete, report.next) == (False, False)
    assert "3 of 7 frames have no usable label (exception 1, nan 1, absurd 1)" in report.messages[0]
    assert "label.ratio_failed allows 0.4" in report.messages[0]
    assert "RuntimeError: SCF not converged" in report.messages[1]
    assert not run.labels.exists()
    assert not (tmp_path / run.place.product).exists()


def test_ratio_failed_may_not_leave_nothing(tmp_path: Path, odd: LabelRun) -> None:
    run = odd.copy(tmp_path, ratio_failed=1.0)
    (tmp_path / run.place.done / "000000.json").unlink()
    report = run.reduce(1)
    assert report.classes == {"lost": 7}
    assert (report.complete, report.next) == (False, False)


def test_a_calculator_that_cannot_be_made_fails_the_job(tmp_path: Path) -> None:
    run = LabelRun(tmp_path, label("no_such_module:X"), marked(2), ["Cu"])
    report = run.stage()
    assert not report.complete
    assert report.classes == {"lost": 2}
    assert (report.jobs.finished, report.jobs.failed) == (0, 1)
    assert report.messages[1] == (
        "job 000000 task.000000: lost: error: label.calculator no_such_module:X: "
        "ModuleNotFoundError: No module named 'no_such_module' (and 1 more)"
    )


@pytest.mark.parametrize(
    ("calculator", "kwargs", "message"),
    [
        ("ase.calculators.emt:XMT", {}, "AttributeError: module 'ase.calculators.emt' has no attribute 'XMT'"),
        ("ase.io.read", {"x": 1}, "TypeError: "),
    ],
)
def test_calculators_that_cannot_be_made(tmp_path: Path, calculator: str, kwargs: dict[str, Any], message: str) -> None:
    (tmp_path / "calculator.json").write_text(json.dumps({"calculator": calculator, "kwargs": kwargs}))
    (tmp_path / "frames.json").write_text("[]")
    names = [str(tmp_path / name) for name in ("calculator.json", "frames.json", "labels.jsonl")]
    with pytest.raises(SystemExit, match=f"error: label.calculator {calculator}: {message}"):
        ase_job.main(*names)
    assert not (tmp_path / "labels.jsonl").exists()


def test_a_later_iteration_labels_what_was_selected(finished: LabelRun) -> None:
    assert finished.reduce(2).summary == {"labelled": 5.0, "discarded": 0.0}
    assert {each["structure"] for each in finished.index} == {"fcc"}
    assert (finished.root / "dataset/deepmd/iter/000002/Cu2/type.raw").is_file()


def test_the_keys_of_the_frames_lie_beside_them(tmp_path: Path, finished: LabelRun) -> None:
    run = finished.copy(tmp_path)
    assert f"Cu2/{KEYS}" in parse((run.labels / SUMS).read_bytes())
    data = dpdata.LabeledSystem(str(run.labels / "Cu2"), fmt="deepmd/npy").data
    expected = keys(np.full(2, 29), data["cells"], data["coords"])
    assert (run.labels / "Cu2" / KEYS).read_bytes() == b"".join(expected)
    for path in run.labels.rglob("coord.npy"):
        path.write_bytes(path.read_bytes()[:128])  # its header, which says how many frames it has
    assert dataset_keys(run.labels.parent, ["000002/Cu2"]) == (set(expected), [])


def test_the_index_is_indented_by_one(tmp_path: Path, odd: LabelRun) -> None:
    nothing = LabelRun(tmp_path, label(), [], ["Cu"], iteration=1)
    nothing.reduce(0)
    for run in (odd, nothing):
        text = (run.root / run.place.product / "labels.json").read_text()
        assert text == json.dumps(json.loads(text), indent=1) + "\n"
    assert nothing.index == [] and len(odd.index) == 7


def test_nothing_selected_is_complete_and_has_no_next(tmp_path: Path) -> None:
    run = LabelRun(tmp_path, label(), [], ["Cu"], iteration=1)
    assert run.plan().n_jobs == 0
    report = run.reduce(0)
    assert (report.complete, report.next) == (True, False)
    assert report.summary == {"labelled": 0.0, "discarded": 0.0}
    assert not run.labels.exists()


def test_planning_and_reducing_again_change_nothing(tmp_path: Path, finished: LabelRun) -> None:
    run = finished.copy(tmp_path)

    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = everything()
    planned = run.plan()
    assert (planned.n_jobs, planned.n_todo) == (2, 0)
    run.reduce(2)
    assert everything() == before
    shutil.rmtree(tmp_path / run.place.done)
    assert run.plan().job_ids == ["000000", "000001"]
    shutil.copytree(finished.root / run.place.done, tmp_path / run.place.done)
    assert everything() == before


def test_outputs_that_are_no_labels(tmp_path: Path, finished: LabelRun) -> None:
    """Results that make no sense are counted by class."""
    run = finished.copy(tmp_path, ratio_failed=0.9)
    results = tmp_path / run.place.jobs / "000000/out/task.000000/labels.jsonl"
    lines = results.read_text().splitlines()
    short = {**json.loads(lines[0]), "forces": [[0.0, 0.0, 0.0]]}
    broken = [json.dumps(short), lines[1].replace('"energy": ', '"energy": NaN, "x": ')]
    results.write_text("\n".join(broken))
    record(run.place, tmp_path, "000000")
    assert run.reduce(2).classes == {"ok": 2, "wrong_atoms": 1, "unreadable": 1, "truncated": 1}
    results = tmp_path / run.place.jobs / "000001/out/task.000000/labels.jsonl"
    results.write_bytes(json.dumps({**short, "forces": None}).encode() + b"\n\xff")
    record(run.place, tmp_path, "000001")
    assert run.reduce(2).classes == {"truncated": 1, "unreadable": 2, "wrong_atoms": 2}


def test_a_job_without_a_marker_counts_all_its_frames(tmp_path: Path, finished: LabelRun) -> None:
    run = finished.copy(tmp_path)
    (tmp_path / run.place.done / "000001.json").unlink()
    report = run.reduce(2)
    assert report.classes == {"ok": 3, "lost": 2}
    assert report.jobs.failed == 1
    assert report.messages == ["job 000001 task.000000: lost: it left no completion marker (and 1 more)"]


@pytest.mark.parametrize("calculator", ["EMT", "os;rm:X", "a.b:", "a..b:C", "a:b:c", "1a.b"])
def test_calculator_is_an_import_path(calculator: str) -> None:
    with pytest.raises(ValidationError):
        AseConfig(calculator=calculator)
