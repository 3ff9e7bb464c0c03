"""select/model_devi with lower trust levels that each iteration finds itself."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conventions.state import Convergence, IterationSummary
from operators.select.adaptive import lower_level
from operators.select.checks import check
from operators.select.model_devi import APP
from statemachine.cli.show import iteration_line
from statemachine.machine.outlook import is_accurate
from tests.conftest import CONFIG, Cli
from tests.doubles import first_state
from tests.select_run import HEADER, SelectRun, config, deviations, dump, frame

NONE = {"f_trust_lo": None}
STEPS = range(0, 200, 10)


def adaptive(root: Path, rule: dict[str, Any], **select: Any) -> SelectRun:
    return SelectRun(root, adaptive=rule, **{**NONE, **select})


def steps(run: SelectRun) -> list[tuple[str, int]]:
    return sorted((one["structure"], one["step"]) for one in run.manifest)


def both(rows: list[tuple[int, float, float]]) -> str:
    """A model_devi.out from steps, max_devi_v and max_devi_f."""
    line = "{0:12d}{1:19.6e}{2:19.6e}{2:19.6e}{3:19.6e}{2:19.6e}{2:19.6e}\n"
    return HEADER + "\n" + "".join(line.format(step, v, 0.0, f) for step, v, f in rows)


def test_a_fixed_number_of_frames_below_the_upper_level(tmp_path: Path) -> None:
    run = adaptive(tmp_path, {"numb_candi_f": 3, "rate_candi_f": 0.0}, f_trust_hi=0.3)
    for seed, start in enumerate((0.01, 0.02)):
        run.add(deviations([(10 * i, start + 0.02 * i) for i in range(20)]), dump(STEPS, seed))
    report = run.stage()
    # 0.01, 0.02, ... 0.40: 29 are below 0.3, 11 from there on
    assert report.summary == {
        "accurate": 26,
        "candidate": 3,
        "failed": 11,
        "selected": 3,
        "level": pytest.approx(0.27),
        "f_trust_lo": pytest.approx(0.27),
    }
    assert sorted(one["max_devi_f"] for one in run.manifest) == pytest.approx([0.27, 0.28, 0.29])
    assert report.next and report.complete


def test_a_fraction_of_the_frames_below_the_upper_level(tmp_path: Path) -> None:
    for rate, number, expected in ((0.25, 1, 4), (0.25, 5, 5), (0.03, 0, 0), (1.0, 0, 16), (0.0, 99, 16)):
        run = adaptive(tmp_path / f"{rate}-{number}", {"numb_candi_f": number, "rate_candi_f": rate})
        run.add(deviations([(step, 0.1 + step / 1000) for step in range(0, 160, 10)]), dump(range(0, 160, 10)))
        run.add(deviations([(0, 0.3), (10, 0.9)]), dump([0, 10], 1))  # failed, and counted in no fraction
        report = run.stage()
        assert (report.summary["candidate"], report.summary["accurate"]) == (expected, 16 - expected)
        assert report.summary["failed"] == 2
        assert report.summary["f_trust_lo"] == pytest.approx(0.3 if not expected else 0.26 - expected / 100)


def test_frames_with_the_very_value_of_the_level_are_candidates(tmp_path: Path) -> None:
    run = adaptive(tmp_path, {"numb_candi_f": 2, "rate_candi_f": 0.0})
    run.add(deviations([(0, 0.2), (10, 0.1), (20, 0.1), (30, 0.1), (40, 0.05)]), dump(range(0, 50, 10)))
    report = run.stage()
    assert (report.summary["candidate"], report.summary["f_trust_lo"]) == (4, pytest.approx(0.1))


def test_each_structure_set_has_its_own_levels_where_the_upper_ones_are_their_own(tmp_path: Path) -> None:
    outcome = {}
    for name, high in (("one", 0.6), ("own", {"bulk": 0.3, "surface": 0.6})):
        run = adaptive(tmp_path / name, {"numb_candi_f": 2, "rate_candi_f": 0.0}, f_trust_hi=high, group_size=1)
        run.add(deviations([(10 * i, 0.05 * i) for i in range(10)]), dump(STEPS), "bulk")
        run.add(deviations([(10 * i, 0.1 + 0.04 * i) for i in range(10)]), dump(STEPS, 1), "surface")
        report = run.stage()
        levels = run.levels
        outcome[name] = (steps(run), levels)
        assert (
            report.summary["f_trust_lo"]
            == report.summary["level"]
            == max(each["f_trust_lo"] for each in levels.values())
        )
    assert outcome["one"][0] == [("bulk", 90), ("surface", 90)]  # 0.45 and 0.46
    assert outcome["one"][1] == {name: {"f_trust_lo": pytest.approx(0.45)} for name in ("bulk", "surface")}
    assert outcome["own"][0] == [("bulk", 40), ("bulk", 50), ("surface", 80), ("surface", 90)]
    assert outcome["own"][1] == {
        "bulk": {"f_trust_lo": pytest.approx(0.2)},
        "surface": {"f_trust_lo": pytest.approx(0.42)},
    }


def test_virials(tmp_path: Path) -> None:
    """The candidates are those of either deviation; what is from an upper level on is failed."""
    rows = [(0, 0.01, 0.1), (10, 0.02, 0.2), (20, 0.03, 0.05), (30, 0.09, 0.06), (40, 0.01, 0.4), (50, 0.015, 0.01)]
    for rule, expected, level in (
        ({"numb_candi_v": 1}, [10, 20], 0.03),
        ({"numb_candi_v": 2}, [10, 20], 0.02),
        ({"rate_candi_v": 0.75}, [10, 20, 50], 0.015),
        ({}, [10], 0.05),
    ):
        name = "-".join(rule) + str(level)
        run = adaptive(tmp_path / name, {"numb_candi_f": 1, "rate_candi_f": 0.0, **rule}, v_trust_hi=0.05)
        run.add(both(rows), dump(range(0, 60, 10)))
        report = run.stage()
        assert [step for _, step in steps(run)] == expected
        assert report.summary["failed"] == 2
        assert report.summary["v_trust_lo"] == pytest.approx(level)
        assert all("max_devi_v" in one for one in run.manifest)


def test_molecules(tmp_path: Path) -> None:
    run = adaptive(tmp_path, {"numb_candi_f": 1, "rate_candi_f": 0.0})
    box = "ff ff ff\n0 4\n0 4\n0 4"
    run.add(deviations([(0, 0.1), (10, 0.2)]), frame(0, box=box) + frame(10, box=box))
    run.stage()
    assert steps(run) == [("bulk", 10)]
    assert not run.frames[0].pbc.any()


def test_broken_trajectories_and_what_is_no_frame_are_in_no_number(tmp_path: Path) -> None:
    lost = f"{20:12d}" + f"{0:19.6e}{1.797693e308:19.6e}{0:19.6e}" * 2 + "\n"
    run = adaptive(tmp_path, {"numb_candi_f": 0, "rate_candi_f": 0.5}, model_devi_skip=1)
    run.add(deviations([(0, 0.29), (10, 0.2), (15, 0.1)]) + lost, dump([0, 10, 15]), kind="lost_atoms")
    run.add(deviations([(0, 0.28), (10, 0.15), (20, 0.16)]) + "  30  0.", dump([0, 10, 20], 1))
    run.add(None, dump(STEPS), kind="nan")
    report = run.stage()
    assert report.classes["skipped"] == 2 and report.classes["invalid"] == 1
    assert (report.summary["accurate"], report.summary["candidate"], report.summary["failed"]) == (2, 2, 1)
    assert report.summary["f_trust_lo"] == pytest.approx(0.16)
    assert "1 of 3 trajectories cannot be used" in report.messages[0]


def test_nothing_below_the_upper_level(tmp_path: Path) -> None:
    run = adaptive(tmp_path, {})
    run.add(deviations([(0, 0.5), (10, 0.6)]), dump([0, 10]))
    report = run.stage()
    assert report.summary == {"accurate": 0, "candidate": 0, "failed": 2, "selected": 0}
    run = adaptive(tmp_path / "none", {})
    run.offer([])
    assert "level" not in run.stage().summary


def test_a_lost_job_has_no_part_in_the_level(tmp_path: Path) -> None:
    run = adaptive(tmp_path, {"numb_candi_f": 2, "rate_candi_f": 0.0}, group_size=1, ratio_failed=0.5)
    run.add(deviations([(0, 0.29), (10, 0.28)]), dump([0, 10]))
    run.add(deviations([(0, 0.1), (10, 0.11), (20, 0.12)]), dump([0, 10, 20], 1), "surface")
    run.plan()
    assert run.job("000001") == 0
    run.reduce(2)
    report = run.reduce(2)
    assert report.complete and steps(run) == [("surface", 10), ("surface", 20)]
    assert set(run.levels) == {"bulk", "surface"}, "one group"


@pytest.mark.parametrize("seed", range(4))
def test_against_sorting_everything(tmp_path: Path, seed: int) -> None:
    """The same frames as a sort of all deviations finds, as DP-GEN does it; jobs and ties make no difference."""
    random = np.random.default_rng(seed)
    rule = {"numb_candi_f": 5, "rate_candi_f": 0.1, "numb_candi_v": 3, "rate_candi_v": 0.05}
    run = adaptive(tmp_path, rule, f_trust_hi=0.4, v_trust_hi=0.08, group_size=int(random.integers(1, 4)))
    found = {}
    for number in range(6):
        v, f = random.uniform(0, 0.1, 20).round(6), random.uniform(0, 0.5, 20).round(6)
        found.update({(number, 10 * i): (f[i], v[i]) for i in range(20)})
        run.add(both([(10 * i, v[i], f[i]) for i in range(20)]), dump(STEPS, number))
    report = run.stage()
    good = {key: value for key, value in found.items() if value[0] < 0.4 and value[1] < 0.08}
    wanted: set[tuple[int, int]] = set()
    for place, number in enumerate((max(5, int(0.1 * len(good))), max(3, int(0.05 * len(good))))):
        wanted |= set(sorted(good, key=lambda key: good[key][place])[-number:])
    assert {(int(one["job_id"]), one["step"]) for one in run.manifest} == wanted
    assert report.summary["accurate"] == len(good) - len(wanted)
    assert report.summary["failed"] == len(found) - len(good)


def test_the_job_of_a_fixed_level_is_as_ever_and_that_of_an_adaptive_one_does_not_depend_on_the_numbers(
    tmp_path: Path,
) -> None:
    bytes_of = {}
    for name, select in {
        "fixed": {},
        "zero": {"f_trust_lo": 0.0},
        "adaptive": {**NONE, "adaptive": {}},
        "other numbers": {**NONE, "adaptive": {"numb_candi_f": 7}},
    }.items():
        run = SelectRun(tmp_path / name, **select)
        run.add(deviations([(0, 0.2)]), dump([0]))
        run.plan()
        bytes_of[name] = (tmp_path / name / run.place.jobs / "000000/in/digest").read_bytes()
    assert bytes_of["zero"] == bytes_of["adaptive"] == bytes_of["other numbers"] != bytes_of["fixed"]


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    run = adaptive(tmp_path, {"numb_candi_f": 4})
    run.add(deviations([(step, 0.001 * (step % 70)) for step in STEPS]), dump(STEPS))
    run.stage()
    before = {path: path.read_bytes() for path in run.product.iterdir()}
    run.reduce(1)
    assert {path: path.read_bytes() for path in run.product.iterdir()} == before


def test_a_lower_level_of_few_values() -> None:
    values = np.array([0.3, 0.1, 0.2])
    assert [lower_level(values, number, 0.0, 0.5) for number in range(5)] == [0.5, 0.3, 0.2, 0.1, 0.1]
    assert lower_level(values[:0], 3, 1.0, 0.5) == 0.5
    assert values.tolist() == [0.3, 0.1, 0.2]


RULES = Convergence(accuracy=0.01, level_drift=0.1)


def test_a_run_has_converged_when_the_lower_level_does_not_change_any_more(tmp_path: Path) -> None:
    """DPGEN2's rule: it looks at the lower level of the last iterations, and not at how many frames are accurate."""
    figures: list[dict[str, float]] = []
    for number, largest in enumerate((0.28, 0.20, 0.19, 0.9)):
        run = adaptive(tmp_path / str(number), {"numb_candi_f": 15})
        run.add(deviations([(step, largest - step / 2000) for step in STEPS]), dump(STEPS))
        figures.append(run.stage().summary)
    policy = first_state().policy.model_copy(update={"convergence": RULES})
    said = []
    for number, now in enumerate(figures):
        rows = [IterationSummary(iteration=i, figures=figures[i]) for i in range(number)]
        state = first_state().model_copy(update={"policy": policy, "trail": rows, "iteration": number})
        said.append(is_accurate(state, now))
    assert said == [False, False, True, False]  # 0.21, 0.13, 0.12; then all frames failed
    assert figures[2]["accurate"] == 5  # of 20 frames


def test_the_table_shows_the_level() -> None:
    row = {"iteration": 1, "explore_stage": 0, "accurate": 9.0, "candidate": 1.0, "failed": 0.0, "f_trust_lo": 0.123456}
    assert iteration_line(row, {}).endswith("  f_trust_lo 0.1235")
    dropped = row | {"v_trust_lo": 0.01, "left": True}
    assert iteration_line(dropped, {}).endswith("  f_trust_lo 0.1235, v_trust_lo 0.01, dropped by a rewind")


ONCE = {"convergence": Convergence(repeat="once")}
BOTH = {"convergence": RULES}


@pytest.mark.parametrize(
    ("select", "more", "expected"),
    [
        ({}, ONCE, []),
        ({}, BOTH, []),
        ({}, {}, ["convergence.level_drift: give it", "convergence.accuracy: give it .* 0.95 may be out of reach"]),
        ({}, {"convergence": Convergence(accuracy=0.995, level_drift=0.1)}, ["convergence.accuracy: 0.995 is never"]),
        ({"adaptive": {"rate_candi_f": 0.1}}, {"convergence": Convergence(accuracy=0.9, level_drift=0.1)}, []),
        ({"adaptive": {"numb_candi_v": 3}}, ONCE, ["select.adaptive.numb_candi_v: it needs v_trust_hi"]),
        ({"adaptive": {"rate_candi_v": 0.1}}, ONCE, ["select.adaptive.rate_candi_v: it needs v_trust_hi"]),
        ({"adaptive": {"rate_candi_v": 0.1}, "v_trust_hi": 0.1}, ONCE, []),
        (
            {"adaptive": {"numb_candi_f": 4, "rate_candi_f": 0.0}, "fp_task_min": 5},
            ONCE,
            [r"select.fp_task_min: 5 is more than .* allow \(4\), so nothing"],
        ),
        ({"adaptive": {"numb_candi_f": 4}, "fp_task_min": 5}, ONCE, []),
        (
            {"adaptive": {"numb_candi_f": 4, "rate_candi_f": 0.0}, "fp_task_min_per_system": 5},
            ONCE,
            [r"select.fp_task_min_per_system: 5 is more than .* allow \(4\), so nothing"],
        ),
        (
            {
                "adaptive": {"numb_candi_f": 4, "rate_candi_f": 0.0},
                "fp_task_min": 5,
                "f_trust_hi": {"bulk": 0.3, "surface": 0.3},
            },
            ONCE,
            [],
        ),
        ({"f_trust_hi": 0.0}, ONCE, ["select.f_trust_hi: no frame is below 0.0, so nothing"]),
        ({"f_trust_hi": {"bulk": 0.3, "surface": 0.0}}, ONCE, ["no frame is below 0.0 of 'surface'"]),
        ({"f_trust_hi": {"bulk": 0.3}}, ONCE, ["select.f_trust_hi: structure set 'surface' is explored but has no"]),
        ({"v_trust_hi": {"bulk": 0.3}}, ONCE, ["select.v_trust_hi: structure set 'surface' is explored but has no"]),
        ({"f_trust_hi": {"bulk": 0.3, "surface": 0.3, "x": 1}}, ONCE, ["there is no structure set 'x'"]),
    ],
)
def test_check(select: dict[str, Any], more: dict[str, Any], expected: list[str]) -> None:
    found = config(**{"adaptive": {}, **NONE, **select})
    explore = SimpleNamespace(stages=[[SimpleNamespace(structures=["bulk", "surface"])]])
    problems = check(found.model_copy(update={"explore": explore, **more}))
    assert len(problems) == len(expected), problems
    assert all(re.search(part, text) for part, text in zip(expected, problems, strict=True)), problems


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("f_trust_hi: 0.3, adaptive: {}, f_trust_lo: 0.1", "select.f_trust_lo: `adaptive` finds this level .* leave"),
        ("f_trust_hi: 0.3, adaptive: {}, v_trust_lo: 0.1", "select.v_trust_lo: `adaptive` finds this level .* leave"),
        ("adaptive: {}", "select.f_trust_hi: this key is required"),
        ("f_trust_hi: 0.3", "select.f_trust_lo: this key is required"),
        ("f_trust_hi: 0.3, adaptive: {numb_candi_f: 0, rate_candi_f: 0}", "select.adaptive: no frame would ever"),
        ("f_trust_hi: 0.3, adaptive: {numb_candi_f: -1}", r"select.adaptive.numb_candi_f: .*-1"),
        ("f_trust_hi: 0.3, adaptive: {numb_candi_f: 2.5}", r"select.adaptive.numb_candi_f: .*2\.5"),
        ("f_trust_hi: 0.3, adaptive: {rate_candi_f: 1.5}", r"select.adaptive.rate_candi_f: .*1\.5"),
        ("f_trust_hi: 0.3, adaptive: {perc_candi_f: 1}", "select.adaptive.perc_candi_f: unknown key; did you "),
        ("f_trust_hi: 0.3, f_trust_lo: 0.1, numb_candi_f: 9", "select.numb_candi_f: this key belongs below `adaptive`"),
        ("f_trust_hi: 0.3, adaptive: true", "select.adaptive: a mapping of keys is expected"),
    ],
)  # fmt: skip
def test_what_is_refused(cli: Cli, stub_run: Path, typed: str, seen: str) -> None:
    select = f"{{app: model_devi, fp_task_max: 4, {typed}}}"
    stub_run.write_text(CONFIG.replace("{app: stub, accurate_after: 1}", select) + "convergence: {repeat: once}\n")
    code, _, errors = cli("validate", stub_run)
    assert code == 2 and len(errors.splitlines()) == 1 and re.search(seen, errors), errors
    assert not (stub_run.parent / "out").exists()


def test_the_trial_has_fixed_levels() -> None:
    settings = config(**NONE, adaptive={}).select
    tried = settings.model_dump(mode="json") | APP.tiny(settings)
    assert config(**{key: tried[key] for key in tried if key != "app"}).select.f_trust_lo == 1e3
