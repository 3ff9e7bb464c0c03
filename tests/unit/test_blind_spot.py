"""Each new label scored by the model that explored, before it is trained on: in labels.json and in the table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from operators.label.blind_spot import blind_spot, rmse_below
from operators.select.dump import Frame
from operators.select.extxyz import write_frames
from operators.selected import CHECKS_ENOUGH
from operators.sums import write_sums
from tests.label_run import LabelRun

LABEL = {"app": "ase", "calculator": "ase.calculators.emt:EMT", "command": sys.executable}
WRONG = np.array([[0.3, 0.0, 0.4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # of the forces, eV/Angstrom


def copper(seed: int) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def forces(atoms: Atoms) -> np.ndarray:
    atoms = atoms.copy()
    atoms.calc = EMT()
    return np.asarray(atoms.get_forces())


def chosen(product: Path, frames: list[Atoms], known: bool = True) -> None:
    product.mkdir(parents=True, exist_ok=True)
    made = [
        Frame(one.cell.array, np.zeros(4, int), one.positions, forces=forces(one) + WRONG if known else None)
        for one in frames
    ]
    write_frames(product / "frames.extxyz", [("bulk", 0.1 * n, one) for n, one in enumerate(made, 1)], ["Cu"])
    write_sums(product)


def run_of(path: Path, known: bool = True) -> LabelRun:
    run = LabelRun(path, LABEL, [], ["Cu"], iteration=1)
    select = run.place.of("select")
    assert select is not None
    chosen(path / select.product, [copper(1), copper(2)], known)
    return run


def test_labels_are_scored_by_the_model_that_explored(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    report = run.stage()
    assert (report.complete, report.classes) == (True, {"ok": 2})
    assert [one["max_devi_f"] for one in run.index] == [0.1, 0.2]
    for one, frame in zip(run.index, (copper(1), copper(2)), strict=True):
        assert one["max_error_f"] == pytest.approx(0.5, rel=1e-5)
        assert one["rmse_f"] == pytest.approx(np.sqrt(0.25 / 12), rel=1e-5)
        assert one["max_force"] == pytest.approx(np.linalg.norm(forces(frame), axis=1).max(), rel=1e-5)
    assert report.summary == {
        "labelled": 2.0,
        "discarded": 0.0,
        "blind_rmse_f": pytest.approx(0.144338, rel=1e-5),
        "blind_labels": 2.0,
        "blind_ratio": pytest.approx(3.75),  # the median of 5 and 2.5
        "blind_ratio_95": pytest.approx(4.875),
    }


def test_without_the_models_forces_there_is_no_score(tmp_path: Path) -> None:
    run = run_of(tmp_path, known=False)
    report = run.stage()
    assert report.summary == {"labelled": 2.0, "discarded": 0.0}
    assert [set(one) & {"max_devi_f", "max_error_f", "rmse_f"} for one in run.index] == [{"max_devi_f"}] * 2


def test_the_first_labels_have_no_model_to_score(tmp_path: Path) -> None:
    run = LabelRun(tmp_path, LABEL, [copper(1)], ["Cu"])
    assert run.stage().summary == {"labelled": 1.0, "discarded": 0.0}
    assert [sorted(set(one) & {"max_devi_f", "max_error_f", "max_force"}) for one in run.index] == [["max_force"]]


def test_other_frames_than_the_chosen_ones_are_not_scored(tmp_path: Path) -> None:
    chosen(tmp_path, [copper(1), copper(2)])
    first, second = ((copper(seed), forces(copper(seed))) for seed in (1, 2))
    other, smaller = (copper(3), forces(copper(3))), (bulk("Cu"), np.zeros((1, 3)))

    def scored(*found: tuple[Atoms, np.ndarray]) -> list[bool]:
        return ["max_error_f" in one for one in blind_spot(found, tmp_path)[0]]

    assert scored(first, second) == [True, True]
    assert scored(first, other) == [True, False]
    assert scored(second, first) == [False, False]
    assert scored(smaller, second) == [False, True]
    assert scored(first) == [False]


def test_a_failed_label_has_only_its_deviation(tmp_path: Path) -> None:
    chosen(tmp_path, [copper(1)])
    assert blind_spot([(copper(1), None)], tmp_path) == ([{"max_devi_f": 0.1}], {})


def test_damage_to_what_was_chosen_costs_the_figures_only(tmp_path: Path) -> None:
    chosen(tmp_path, [copper(1)])
    with open(tmp_path / "frames.extxyz", "a") as stream:
        stream.write("more\n")
    figures, summary = blind_spot([(copper(1), forces(copper(1)))], tmp_path)
    assert (list(figures[0]), summary) == (["max_force"], {})


def test_labels_that_are_too_strong_are_left_out(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    strongest = [np.linalg.norm(forces(copper(seed)), axis=1).max() for seed in (1, 2)]
    limit = float(sum(strongest) / 2)
    report = run.copy(tmp_path / "other", max_force=limit).stage()
    assert (report.complete, report.classes) == (True, {"ok": 1, "too_strong": 1})
    assert report.summary["discarded"] == 1.0
    assert f"label.max_force is {limit:g}" in report.messages[0]
    report = run.copy(tmp_path / "none", max_force=0.5 * min(strongest)).stage()
    assert (report.complete, report.classes) == (False, {"too_strong": 2})


# --- check frames ---------------------------------------------------------------------------------------------------


def sampled(
    path: Path, candidates: int, checks: int, wrong: float = 0.01
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Figures where the model is wrong by WRONG for candidates, by `wrong` on one component for check frames."""
    atoms = [copper(seed) for seed in range(candidates + checks)]
    made = []
    for number, one in enumerate(atoms):
        error = WRONG if number < candidates else np.pad([[wrong * (1 + number % 2), 0, 0]], ((0, 3), (0, 0)))
        made.append(("bulk", 0.1, Frame(one.cell.array, np.zeros(4, int), one.positions, forces=forces(one) + error)))
    write_frames(path / "frames.extxyz", made, ["Cu"], checks=checks)
    write_sums(path)
    return blind_spot([(one, forces(one)) for one in atoms], path)


def test_check_frames_are_told_apart(tmp_path: Path) -> None:
    figures, summary = sampled(tmp_path, 3, 2)
    assert [one.get("check") for one in figures] == [None] * 3 + [True] * 2
    assert (summary["blind_labels"], summary["blind_ratio"]) == (3.0, pytest.approx(5.0))
    assert summary["blind_rmse_f"] == pytest.approx(0.144338, rel=1e-5)
    assert (summary["check_labels"], summary["check_rmse_f"]) == (2.0, pytest.approx(np.sqrt(5e-4 / 24), rel=1e-4))
    assert "check_rmse_f_high" not in summary, "two are too few"


def test_check_frames_alone(tmp_path: Path) -> None:
    _, summary = sampled(tmp_path, 0, CHECKS_ENOUGH)
    assert set(summary) == {"check_labels", "check_rmse_f", "check_rmse_f_high"}
    assert summary["check_rmse_f"] < summary["check_rmse_f_high"] < 2 * summary["check_rmse_f"]


def test_the_rmse_is_below_the_bound_with_the_confidence_that_is_told() -> None:
    """Frames of two sizes whose errors differ from frame to frame: the bound holds in nearly all samples."""
    random = np.random.default_rng(0)

    def frames(number: int) -> list[tuple[float, int]]:
        counts = random.choice([96, 288], number)
        return [(float(count * 0.05**2 * random.gamma(8) / 8), int(count)) for count in counts]

    for number in (10, 40):
        held = [rmse_below(frames(number)) >= 0.05 for _ in range(1000)]
        assert 0.92 < np.mean(held) < 0.99
