"""select/model_devi as a stage: plan, score jobs through the wrapper, reduce."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dpdata
import numpy as np
import pytest
from pydantic import ValidationError

from conventions.errors import ConfigError, DataError
from conventions.figures import SelectFigures
from operators.select import score
from operators.select.dump import parse_frame
from operators.select.model_devi import check
from operators.workflow.shipping import pack
from tests.select_run import SelectRun, config, deviations, dump, frame, recorded
from tests.stage_harness import record

STEPS = range(0, 200, 10)


def mixed(steps: Any = STEPS) -> str:
    """Accurate, candidate and failed rows in turn."""
    return deviations([(step, (0.05, 0.2, 0.5)[i % 3]) for i, step in enumerate(steps)])


def test_the_stage(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, fp_task_max=5)
    for seed in range(4):
        run.add(mixed(), dump(STEPS, seed), structure=("bulk", "surface")[seed % 2])
    report = run.stage()
    assert (report.complete, report.next, report.messages) == (True, True, [])
    assert report.summary == {"accurate": 28, "candidate": 28, "failed": 24, "selected": 5, "level": pytest.approx(0.5)}
    assert (report.jobs.planned, report.jobs.finished, report.jobs.failed) == (1, 1, 0)
    assert len(run.manifest) == len(run.frames) == 5
    for one, atoms in zip(run.manifest, run.frames, strict=True):
        seed = int(one["job_id"])
        assert one["step"] in list(STEPS)[1::3]
        assert one["max_devi_f"] == 0.2
        assert one["structure"] == atoms.info["structure"] == ("bulk", "surface")[seed % 2]
        assert np.array_equal(atoms.positions, parse_frame(frame(one["step"], seed).encode(), 1).positions)
        assert str(atoms.symbols) == "Cu4"


def test_rows_and_frames_are_joined_by_step_never_by_index(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.add(deviations([(step, 0.2) for step in range(0, 200, 7)]), dump(STEPS))
    report = run.stage()
    assert {one["step"] for one in run.manifest} == {0, 70, 140}
    assert report.classes["selected"] == 3
    assert report.classes["no_frame"] == 26


def outcome(path: Path, seed: int = 1, turn: int = 0, group_size: int = 500) -> tuple[bytes, bytes]:
    run = SelectRun(path, fp_task_max=6, group_size=group_size)
    for number in range(5):
        run.add(mixed(), dump(STEPS, number))
    run.offer(run.trajectories[turn:] + run.trajectories[:turn])
    if seed != 1:
        run.config = run.config.model_copy(update={"seed": seed})
        (path / run.place.config).write_bytes(run.config.dump())
    run.stage()
    return (run.product / "frames.extxyz").read_bytes(), (run.product / "manifest.json").read_bytes()


def test_the_choice_depends_on_the_seed_only(tmp_path: Path) -> None:
    first = outcome(tmp_path / "first")
    assert first == outcome(tmp_path / "again")
    assert first == outcome(tmp_path / "order", turn=3)
    assert first == outcome(tmp_path / "jobs", group_size=2)
    assert first != outcome(tmp_path / "seed", seed=2)


def test_rejected_frames_are_replaced_by_others(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, fp_task_max=4)
    more = SelectRun(tmp_path / "more", fp_task_max=5)
    frames = [frame(step) for step in STEPS]
    for number in range(16):  # atoms 1 and 2 on top of each other; in the end a type that type_map does not have
        lines = frames[number].splitlines(keepends=True)
        lines[10] = lines[9].replace("1 1 ", "2 1 ", 1) if number < 8 else lines[10].replace("2 1 ", "2 3 ", 1)
        frames[number] = "".join(lines)
    for one in (run, more):
        one.add(deviations([(step, 0.2) for step in STEPS]), "".join(frames))
        assert one.stage().classes["selected"] == 4
        assert sorted(frame["step"] for frame in one.manifest) == [160, 170, 180, 190]
    report = more.reduce(1)
    assert report.classes["too_close"] == 8
    assert report.classes["corrupt"] == 8
    assert "8 corrupt frames" in report.messages[0]
    assert "type_map" in report.messages[0]


def test_box_filters_reject(tmp_path: Path) -> None:
    flat, skew = "pp pp pp\n0 4\n0 4\n0 40", "xy xz yz pp pp pp\n0 12 8\n0 4 0\n0 4 0"
    run = SelectRun(tmp_path, max_length_ratio=5.0, max_tilt_angle=60.0)
    run.add(deviations([(0, 0.2), (10, 0.2), (20, 0.2)]), frame(0, box=flat) + frame(10, box=skew) + frame(20))
    assert run.stage().classes["bad_box"] == 2
    assert [one["step"] for one in run.manifest] == [20]


def test_caps_per_system(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, fp_task_max=8, fp_task_max_per_system=3)
    for seed in range(3):
        run.add(mixed(), dump(STEPS, seed))
    run.add(mixed(), dump(STEPS, 9), structure="surface")
    run.stage()
    assert Counter(one["structure"] for one in run.manifest) == {"bulk": 3, "surface": 3}


def test_levels_per_system(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, f_trust_lo={"bulk": 0.1, "surface": 0.3}, f_trust_hi={"bulk": 0.2, "surface": 0.6})
    for structure in ("bulk", "surface"):
        run.add(deviations([(0, 0.15), (10, 0.25), (20, 0.45)]), dump(range(0, 30, 10), len(structure)), structure)
    report = run.stage()
    assert (report.summary["accurate"], report.summary["failed"]) == (2, 2)
    assert {(one["structure"], one["step"]) for one in run.manifest} == {("bulk", 0), ("surface", 20)}


def test_duplicates_within_the_round_and_in_the_dataset(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, iteration=3)
    run.add(deviations([(step, 0.2) for step in range(0, 50, 10)]), dump(range(0, 50, 10)))
    run.add(deviations([(step, 0.2) for step in range(0, 50, 10)]), dump(range(0, 50, 10)))  # the same trajectory
    labelled = parse_frame(frame(30).encode(), 1)
    system = dpdata.System(
        data={
            "atom_names": ["O", "Cu"],
            "atom_numbs": [0, 4],
            "atom_types": np.ones(4, int),
            "cells": labelled.cell[None],
            "coords": labelled.positions[None] + labelled.cell[0],
            "orig": np.zeros(3),
            "nopbc": False,
        }
    )
    run.systems = ["init/bulk/Cu4"]
    system.to_deepmd_npy(str(tmp_path / run.place.space.dataset / "init/bulk/Cu4"))
    report = run.stage()
    assert sorted(one["step"] for one in run.manifest) == [0, 10, 20, 40]
    assert report.classes["duplicate"] == 6
    assert report.messages == []


def test_an_unreadable_training_system_is_reported(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.add(mixed(), dump(STEPS))
    run.systems = ["iter/000000/Cu4"]
    report = run.stage()
    assert report.next
    assert "iter/000000/Cu4" in report.messages[0]


def test_no_candidates_is_not_an_error(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.add(deviations([(step, 0.01) for step in STEPS]), dump(STEPS))
    report = run.stage()
    assert (report.complete, report.next) == (True, False)
    assert report.summary == {"accurate": 20, "candidate": 0, "failed": 0, "selected": 0, "level": pytest.approx(0.01)}
    assert run.frames == run.manifest == []


def test_candidates_of_which_none_can_be_labelled(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, min_distance=3.5)
    run.add(mixed(), dump(STEPS))
    report = run.stage()
    assert (report.complete, report.next) == (True, False)
    assert report.messages == ["none of 7 candidates can be labelled: 7 too_close"]


def test_what_was_rejected_is_listed(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, min_distance={"Cu-Cu": 3.5}, min_distance_ratio=0.1)
    run.add(mixed(), dump(STEPS))
    run.stage()
    rejected = json.loads((run.product / "manifest.json").read_text())["rejected"]
    assert len(rejected) == 7 and {one["class"] for one in rejected} == {"too_close"}
    assert {one["step"] for one in rejected} <= set(STEPS)


def test_no_candidate_after_the_first_failed_frame(tmp_path: Path) -> None:
    rows = [(10, 0.05), (20, 0.2), (30, 0.9), (40, 0.2), (50, 0.05), (60, 0.2)]
    for cut, counts in ((False, (2, 3, 1)), (True, (2, 1, 3))):
        run = SelectRun(tmp_path / str(cut), cut_at_failed=cut)
        run.add(deviations(rows), dump([step for step, _ in rows]))
        report = run.stage()
        assert tuple(report.classes[name] for name in ("accurate", "candidate", "failed")) == counts
        assert [one["step"] for one in run.manifest if one["step"] > 30] == [] if cut else True
    whole = SelectRun(tmp_path / "whole", cut_at_failed=True)
    whole.add(deviations(rows[:2]), dump([10, 20]))
    assert whole.stage().classes["candidate"] == 1


def test_the_figures_are_by_structure_set_and_conditions(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, f_trust_lo={"bulk": 0.1, "surface": 0.2})
    for structure, temp in (("bulk", 300.0), ("bulk", 300.0), ("bulk", 600.0), ("surface", 300.0)):
        run.add(deviations([(10, 0.05), (20, 0.15), (30, 0.5), (40, float("nan"))]), dump([10, 20, 30, 40]), structure)
        run.trajectories[-1]["temp"] = temp
    run.offer(run.trajectories)
    run.stage()
    figures = SelectFigures.load((run.product / "figures.json").read_bytes())
    found = {(one.structure, one.conditions["temp"]): one for one in figures.groups}
    assert {name: one.trajectories for name, one in found.items()} == {
        ("bulk", 300.0): 2, ("bulk", 600.0): 1, ("surface", 300.0): 1,
    }  # fmt: skip
    assert found["bulk", 300.0].classes == {"accurate": 2, "candidate": 2, "failed": 4, "invalid": 0, "skipped": 0}
    assert found["surface", 300.0].classes["accurate"] == 2
    assert sum(found["bulk", 300.0].histogram) == 6  # a NaN has no place in it
    low = max(place for place, edge in enumerate(figures.edges) if edge <= 0.05)
    assert found["bulk", 600.0].histogram[low + 1] == 1
    assert figures.levels["surface"] == {"f_trust_lo": 0.2, "f_trust_hi": 0.3}


def test_figures_with_adaptive_levels(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, adaptive={"numb_candi_f": 1, "rate_candi_f": 0.0}, f_trust_lo=None)
    run.add(deviations([(10, 0.05), (20, 0.15), (30, 0.25), (40, 0.9)]), dump([10, 20, 30, 40]))
    report = run.stage()
    (group,) = SelectFigures.load((run.product / "figures.json").read_bytes()).groups
    assert {name: group.classes[name] for name in ("accurate", "candidate", "failed")} == {
        name: report.classes[name] for name in ("accurate", "candidate", "failed")
    }
    assert group.classes["candidate"] == 1


def test_fewer_than_fp_task_min(tmp_path: Path) -> None:
    for minimum, expected in ((7, 7), (8, 0)):
        run = SelectRun(tmp_path / str(minimum), fp_task_min=minimum)
        run.add(mixed(), dump(STEPS))
        report = run.stage()
        assert (report.complete, report.next, report.classes["selected"]) == (True, expected > 0, expected)
        assert len(run.frames) == expected
    assert "fp_task_min (8)" in report.messages[0]


def test_skipped_frames_count_nowhere(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, model_devi_skip=19)
    run.add(mixed(), dump(STEPS))
    report = run.stage()
    assert report.classes["skipped"] == 19
    assert report.summary["candidate"] == 1  # i = 19
    assert [one["step"] for one in run.manifest] == [190]


def test_virial_levels_reach_the_manifest(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, v_trust_lo=0.005, v_trust_hi=0.02)
    run.add(deviations([(0, 0.05)]), dump([0]))
    run.stage()
    assert run.manifest[0]["max_devi_v"] == 0.01


def test_broken_trajectories_give_their_frames_before_the_blow_up(tmp_path: Path) -> None:
    lost = f"{20:12d}" + f"{0:19.6e}{1.797693e308:19.6e}{0:19.6e}" * 2 + "\n"
    run = SelectRun(tmp_path)
    run.add(deviations([(0, 0.05), (10, 0.2)]) + lost, dump([0, 10]), kind="lost_atoms")
    run.add(deviations([(0, 0.05), (10, 0.2), (20, 0.2)]), dump([0, 10], 1) + frame(20)[:-3], kind="truncated")
    report = run.stage()
    assert report.summary["accurate"] == 2
    assert report.summary["failed"] == 1
    assert [one["step"] for one in run.manifest] == [10, 10]
    assert report.classes["corrupt"] == 1


def test_unusable_trajectories_are_reported_and_the_rest_counts(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.add(mixed(), dump(STEPS))
    run.add(None, dump(STEPS), kind="nan")
    run.add("", "", kind="truncated")
    run.add(deviations([(0, 0.2)]), None)
    report = run.stage()
    assert (report.complete, report.classes["selected"], report.classes["no_frame"]) == (True, 7, 1)
    assert "2 of 4 trajectories cannot be used" in report.messages[0]
    assert "explore job 000001" in report.messages[0]


def test_without_any_row_the_stage_is_not_complete(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.add(None, dump(STEPS))  # numb_models 1: LAMMPS writes no model_devi.out
    report = run.stage()
    assert (report.complete, report.next) == (False, False)
    assert "model_devi.out" in report.messages[0]
    assert not run.product.exists()


def test_missing_score_jobs(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, group_size=2, ratio_failed=0.5)
    for seed in range(4):
        run.add(mixed(), dump(STEPS, seed))
    planned = run.plan()
    assert planned.job_ids == ["000000", "000001"]
    report = run.reduce(planned.n_jobs)
    assert (report.complete, report.next, report.jobs.failed) == (False, False, 2)
    assert not run.product.exists()
    assert run.job("000001") == 0
    report = run.reduce(planned.n_jobs)
    assert (report.complete, report.jobs.failed, report.summary["candidate"]) == (True, 1, 14)
    assert {one["job_id"] for one in run.manifest} == {"000002", "000003"}
    assert run.plan().job_ids == ["000000"]


def test_damaged_scores_are_a_failed_job(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.add(mixed(), dump(STEPS))
    run.stage()
    scores = tmp_path / run.place.jobs / "000000/out/task.000000/scores.npz"
    data = bytearray(scores.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    scores.write_bytes(data)
    record(run.place, tmp_path, "000000")
    report = run.reduce(1)
    assert (report.complete, report.jobs.failed) == (False, 1)
    assert "scores.npz is damaged" in report.messages[0]


def test_a_failing_command_is_told(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, command="false", setup=["echo 'error: no such module' >&2"])
    run.add(mixed(), dump(STEPS))
    report = run.stage()
    assert not report.complete
    assert report.messages == ["job 000000 task.000000: error: no such module"]


def test_nothing_explored(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.offer([])
    report = run.stage()
    assert (report.complete, report.next, report.jobs.planned) == (True, False, 0)
    assert "level" not in report.summary


def test_plan_and_reduce_give_the_same_bytes_again(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    run.add(mixed(), dump(STEPS))
    run.stage()

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    before = contents()
    assert run.plan().job_ids == []
    run.reduce(1)
    assert contents() == before


def test_the_script_is_found_where_operators_come_from_a_zip(tmp_path: Path) -> None:
    for package in ("conventions", "operators"):
        (tmp_path / f"{package}.zip").write_bytes(pack(package))
    code = """if True:
        import sys
        sys.path[:0] = ["operators.zip", "conventions.zip"]
        from operators.select import model_devi
        assert "operators.zip" in model_devi.__file__
        config = model_devi.ModelDeviConfig(f_trust_lo=0.1, f_trust_hi=0.2, fp_task_max=1)
        sys.stdout.buffer.write(model_devi.make_script(config).files["score.py"])
    """
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True).stdout
    assert found == Path(score.__file__).read_bytes()


def test_scores_of_an_earlier_exploration_are_not_used_again(tmp_path: Path) -> None:
    run = SelectRun(tmp_path)
    folder = run.add(mixed(), dump(STEPS))
    for _ in range(2):
        assert run.plan().job_ids == ["000000"]
        assert run.job("000000") == 0
        assert run.plan().job_ids == []
        (folder / "model_devi.out").write_text(mixed().replace("0", "1", 1))
        run.offer([{**run.trajectories[0], "files": recorded(folder)}])


@pytest.mark.parametrize(
    "change",
    [{"job_id": "../etc"}, {"task_id": "task.000000/../.."}, {"job_id": "0000000"}, {"structure": 7}, {"class": None}],
)
def test_odd_lists_of_trajectories(tmp_path: Path, change: dict[str, Any]) -> None:
    run = SelectRun(tmp_path)
    run.add(mixed(), dump(STEPS))
    one: dict[str, Any] = {**run.trajectories[0], **change}
    if change == {"class": None}:
        del one["class"]
    run.offer([one])
    with pytest.raises(DataError, match=r"trajectories\.json"):
        run.plan()
    run.offer([run.trajectories[0]] * 2)
    with pytest.raises(DataError, match="twice"):
        run.plan()


def test_a_structure_set_without_a_level(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, f_trust_lo={"bulk": 0.1})
    run.add(mixed(), dump(STEPS), structure="surface")
    with pytest.raises(ConfigError, match=r"select\.f_trust_lo.*'surface'"):
        run.plan()


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({}, []),
        ({"f_trust_lo": 0.3}, ["select.f_trust_lo: 0.3 is not below f_trust_hi (0.3)"]),
        ({"f_trust_lo": {"bulk": 0.1, "surface": 0.4}}, ["0.4 of 'surface' is not below f_trust_hi (0.3)"]),
        ({"f_trust_hi": {"bulk": 0.05}}, ["0.1 of 'bulk' is not below f_trust_hi (0.05)"]),
        ({"f_trust_lo": {"bulk": 0.1, "surfce": 0.1}}, ["no structure set 'surfce'; did you mean 'surface'?"]),
        ({"f_trust_lo": {"zzz": 0.1}}, ["no structure set 'zzz'; there are bulk, surface"]),
        ({"v_trust_lo": 0.1}, ["v_trust_lo and select.v_trust_hi: give both or none"]),
        ({"v_trust_lo": 0.2, "v_trust_hi": 0.1}, ["select.v_trust_lo: 0.2 is not below v_trust_hi (0.1)"]),
        ({"fp_task_min": 101}, ["101 is more than fp_task_max (100)"]),
    ],
)
def test_check(select: dict[str, Any], expected: list[str]) -> None:
    found = check(config(**select))
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))


def test_check_of_other_stages() -> None:
    both = config(f_trust_lo={"bulk": 0.1})
    group = SimpleNamespace(structures=["bulk", "surface"])
    odd = both.model_copy(
        update={"train": SimpleNamespace(numb_models=1), "explore": SimpleNamespace(stages=[[group], [group]])}
    )
    found = check(odd)
    assert len(found) == 2
    assert "train.numb_models" in found[0]
    assert "select.f_trust_lo: structure set 'surface' is explored but has no level" in found[1]


@pytest.mark.parametrize(
    "select",
    [
        {"f_trust_lo": -0.1},
        {"f_trust_lo": "0.1"},
        {"f_trust_lo": {"bulk": -1.0}},
        {"f_trust_lo": {"../bulk": 0.1}},
        {"fp_task_max": 0},
        {"fp_task_max": 1.5},
        {"min_distance": 0.0},
        {"max_tilt_angle": 90.0},
        {"max_length_ratio": 0.5},
        {"model_devi_skip": -1},
        {"group_size": 0},
        {"f_trust_low": 0.1},
    ],
)
def test_odd_values_are_refused(select: dict[str, Any]) -> None:
    with pytest.raises((DataError, ValidationError)):
        config(**select)
