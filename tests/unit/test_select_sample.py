"""Check frames: a sample of the accurate ones, and the start of a trajectory, which counts nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from conventions.config import RunConfig
from operators.select.checks import check
from operators.select.sample import Sample
from tests.select_run import SelectRun, config, deviations, dump

STEPS = range(0, 400, 10)


def offered(path: Path, devi: tuple[float, ...] = (0.05, 0.2), trajectories: int = 3, **select: Any) -> SelectRun:
    """Trajectories of 40 frames, with these deviations in turn."""
    run = SelectRun(path, **{"fp_task_max": 20, "check_fraction": 0.1, **select})
    for seed in range(trajectories):
        rows = [(step, devi[i % len(devi)]) for i, step in enumerate(STEPS)]
        run.add(deviations(rows), dump(STEPS, seed), structure=("bulk", "surface")[seed % 2])
    return run


def checked(run: SelectRun) -> list[dict[str, Any]]:
    return [one for one in run.manifest if one.get("check")]


def test_a_share_of_the_labels_goes_to_accurate_frames(tmp_path: Path) -> None:
    run = offered(tmp_path, check_fraction=0.25)
    report = run.stage()
    assert (report.complete, report.next, report.messages) == (True, True, [])
    assert (report.summary["selected"], report.summary["check"], report.classes["check"]) == (15, 5, 5)
    assert [one["max_devi_f"] for one in run.manifest] == [0.2] * 15 + [0.05] * 5
    assert run.manifest[15:] == checked(run)
    assert [bool(atoms.info.get("check")) for atoms in run.frames] == [False] * 15 + [True] * 5
    assert "check=T" in (run.product / "frames.extxyz").read_text()


def test_without_a_share_nothing_is_drawn(tmp_path: Path) -> None:
    run = offered(tmp_path, check_fraction=0.0)
    report = run.stage()
    assert "check" not in report.summary and "check" not in report.classes and not checked(run)
    assert "check" not in (run.product / "frames.extxyz").read_text()


def test_accurate_frames_alone_are_no_work_for_an_iteration(tmp_path: Path) -> None:
    run = offered(tmp_path, devi=(0.05,))
    report = run.stage()
    assert (report.complete, report.next) == (True, False)
    assert (report.summary["selected"], report.summary["check"], len(run.frames)) == (0, 2, 2)


def test_what_the_accurate_leave_is_for_candidates(tmp_path: Path) -> None:
    report = offered(tmp_path, devi=(0.2,)).stage()
    assert (report.summary["selected"], report.summary["check"]) == (20, 0)


def drawn(path: Path, seed: int = 1, group_size: int = 500, **select: Any) -> list[tuple[str, int]]:
    run = offered(path, trajectories=5, check_fraction=0.5, group_size=group_size, **select)
    run.config = run.config.model_copy(update={"seed": seed})
    (path / run.place.config).write_bytes(run.config.dump())
    run.stage()
    return [(one["job_id"], one["step"]) for one in checked(run)]


def test_the_sample_depends_on_the_seed_only(tmp_path: Path) -> None:
    first = drawn(tmp_path / "first")
    assert len(set(first)) == 10
    assert first == drawn(tmp_path / "again") == drawn(tmp_path / "jobs", group_size=2)
    assert first != drawn(tmp_path / "seed", seed=2)


def test_a_cap_of_a_structure_set_is_for_candidates(tmp_path: Path) -> None:
    run = offered(tmp_path, trajectories=2, check_fraction=0.5, fp_task_max_per_system=1)
    report = run.stage()
    assert (report.summary["selected"], report.summary["check"]) == (2, 10)


def test_the_filters_are_for_the_sample_too(tmp_path: Path) -> None:
    report = offered(tmp_path, devi=(0.05,), min_distance=5.0).stage()
    assert report.summary["check"] == 0 and report.classes["too_close"] > 50
    run = offered(tmp_path / "dump", devi=(0.05,), trajectories=1)
    (tmp_path / "dump" / run.explore.jobs / "000000/out/task.000000/traj.lammpstrj").write_text("")
    run.trajectories[0].pop("files")
    run.offer(run.trajectories)
    report = run.stage()
    assert report.summary["check"] == 0 and report.classes["no_frame"] == len(STEPS)


def test_with_adaptive_levels_the_sample_is_below_them(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, f_trust_lo=None, adaptive={"numb_candi_f": 10}, fp_task_max=20, check_fraction=0.5)
    for seed in range(2):
        rows = [(step, 0.01 + 0.0005 * step) for step in STEPS]
        run.add(deviations(rows), dump(STEPS, seed))
    report = run.stage()
    level = report.summary["f_trust_lo"]
    assert (report.summary["check"], report.summary["selected"]) == (10, 10)
    assert all(one["max_devi_f"] < level for one in checked(run))
    assert all(one["max_devi_f"] >= level for one in run.manifest if not one.get("check"))


def test_every_accurate_frame_is_as_likely_as_the_others() -> None:
    """Of 1000 rows in parts of 10 that begin with many more in a part: ten standard deviations would be an accident."""
    counts = np.zeros(1000)
    for seed in range(400):
        sample = Sample(1, seed)  # keeps 50
        for part in np.split(np.arange(1000), [900, *range(910, 1000, 10)]):
            sample.add(part, part, part.astype(float), part.astype(float))
        kept = sample.rows.step
        assert len(set(kept.tolist())) == 50
        counts[kept] += 1
    assert abs(counts[:900].mean() - 20) < 0.5 and abs(counts[900:].mean() - 20) < 1.5


@pytest.mark.parametrize(
    ("fraction", "most", "frames"), [(0.1, 20, 2), (0.1, 4, 1), (0.1, 25, 3), (0.3, 10, 3), (0.99, 3, 2), (0.0, 9, 0)]
)
def test_how_many_check_frames_there_are(fraction: float, most: int, frames: int) -> None:
    settings: Any = config(check_fraction=fraction, fp_task_max=most).select
    assert settings.check_frames == frames


def with_rule(rmse_f: float, **select: Any) -> RunConfig:
    found = config(**select)
    return found.model_copy(update={"convergence": found.convergence.model_copy(update={"rmse_f": rmse_f})})


def test_what_does_not_fit_is_refused() -> None:
    assert "select.check_fraction: fp_task_max 1 leaves no room" in check(config(fp_task_max=1, check_fraction=0.5))[0]
    (problem,) = check(with_rule(0.1, fp_task_max=20, check_fraction=0.1))
    assert "convergence.rmse_f: nothing tells the RMSE" in problem and "now 2 of fp_task_max 20" in problem
    assert len(check(with_rule(0.1, fp_task_max=20, check_fraction=0.45))) == 1
    assert check(with_rule(0.1, fp_task_max=20, check_fraction=0.5)) == []


def test_explore_does_not_start_from_check_frames(tmp_path: Path) -> None:
    from operators.explore.stage import choose
    from operators.explore.task_group import MdGroup
    from operators.select.dump import Frame
    from operators.select.extxyz import write_frames
    from operators.sums import write_sums

    atoms = [Frame(np.eye(3) * 4, np.zeros(1, int), np.full((1, 3), place)) for place in (0.5, 1.5)]
    write_frames(tmp_path / "frames.extxyz", [("bulk", 0.2, atoms[0]), ("bulk", 0.05, atoms[1])], ["Cu"], checks=1)
    write_sums(tmp_path)
    group = MdGroup(structures=["bulk"], start="selected")
    settings: Any = type("Config", (), {"explore": type("Explore", (), {"stages": [[group]]})})
    context: Any = type("Context", (), {"selected": tmp_path})
    parameters: Any = type("Params", (), {"explore_stage": 0, "iteration": 1})
    ((found, _),) = choose(settings, parameters, 0, context)
    assert isinstance(found, Atoms) and found.positions[0, 0] == 0.5


# --- the start of a trajectory --------------------------------------------------------------------------------------


def test_the_start_of_a_trajectory_is_neither_counted_nor_chosen(tmp_path: Path) -> None:
    settings: Any = config()
    document = settings.select.model_dump()
    document.pop("model_devi_skip")
    assert type(settings.select)(**document).model_devi_skip == 1
    run = offered(tmp_path, devi=(0.2,), check_fraction=0.0, fp_task_max=200, model_devi_skip=1)
    report = run.stage()
    assert (report.summary["candidate"], report.classes["skipped"], report.summary["selected"]) == (117, 3, 117)
    assert 0 not in {one["step"] for one in run.manifest}


def test_trajectories_of_their_start_only_are_an_error_that_says_so(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, model_devi_skip=1)
    for seed in range(2):
        run.add(deviations([(0, 0.05)]), dump([0], seed))
    report = run.stage()
    assert (report.complete, report.next) == (False, False)
    (message,) = report.messages
    assert message.startswith(
        "no frame counts: 2 are among the first of their trajectories (model_devi_skip 1; 0 counts"
    )


def test_a_grid_whose_frames_are_all_skipped_is_refused() -> None:
    from operators.explore.task_group import MdGroup

    found = config(model_devi_skip=3)
    grid: dict[str, Any] = {"structures": ["bulk"], "ensemble": "nvt", "temps": [300.0], "trj_freq": 10}
    for nsteps, problems in ((29, 1), (30, 0)):
        stages = type("Explore", (), {"stages": [[MdGroup(**grid, nsteps=nsteps)]], "app": "stub"})()
        told = check(found.model_copy(update={"explore": stages}))
        assert len(told) == problems, told
        if told:
            assert "all that a trajectory of explore.stages.0.0 has (3 frames)" in told[0]


def test_other_programs_count_it() -> None:
    for example in ("from-dpgen2", "from-ai2kit"):
        page = (Path(__file__).parents[2] / "docs" / f"{example}.md").read_text("utf-8")
        assert "model_devi_skip: 0" in page
