"""select/model_devi with a lower trust level that follows the errors of the newest labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from conventions.config import RunConfig
from conventions.errors import DataError
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import IterationSummary
from operators.explore.task_group import MdGroup
from operators.select.auto import resolved
from operators.select.checks import check
from statemachine.run.calibration import calibration
from statemachine.run.submission import Submission
from statemachine.run.trail import shortened, write
from tests.conftest import CONFIG, Cli
from tests.doubles import APPS, MemoryStore, first_state
from tests.select_run import SelectRun, config, deviations, dump

AUTO: dict[str, Any] = {"f_trust_lo": None, "auto_trust_lo": {"error": 0.1, "start": 0.05}}
KNOWN = {"iteration": 1.0, "labels": 18.0, "ratio": 4.0}


def explored(root: Path, known: dict[str, float], **select: Any) -> SelectRun:
    """Frames with deviations 0.01, 0.02, ... 0.4."""
    run = SelectRun(root, **{**AUTO, "f_trust_hi": 0.3, **select})
    run.calibration = known
    run.add(deviations([(step, 0.001 * (step + 10)) for step in range(0, 400, 10)]), dump(range(0, 400, 10)))
    return run


@pytest.mark.parametrize(
    ("known", "level"),
    [({}, 0.05), (KNOWN, 0.025), ({**KNOWN, "ratio": 0.9}, 0.111111), ({**KNOWN, "ratio": 0.1}, 0.3)],
)
def test_the_level_follows_the_labels(tmp_path: Path, known: dict[str, float], level: float) -> None:
    run = explored(tmp_path, known)
    report = run.stage()
    accurate = sum(0.001 * (step + 10) < level - 1e-9 for step in range(0, 300, 10))
    assert (report.summary["f_trust_lo"], report.summary["accurate"]) == (level, accurate)
    assert min((one["max_devi_f"] for one in run.manifest), default=1) >= level
    assert report.summary["level"] == pytest.approx(0.38, abs=0.003), "the 95th percentile, as ever"
    kept = json.loads((run.product / "manifest.json").read_text())["auto_trust_lo"]
    assert kept == {"error": 0.1, "start": 0.05, **known}
    assert json.loads((run.product / "figures.json").read_text())["levels"]["bulk"]["f_trust_lo"] == level


def test_jobs_are_those_of_the_same_number(tmp_path: Path) -> None:
    digests = []
    for name, known, select in (("auto", KNOWN, {}), ("number", {}, {"f_trust_lo": 0.025, "auto_trust_lo": None})):
        run = explored(tmp_path / name, known, **select)
        run.plan()
        digests.append((tmp_path / name / run.place.jobs / "000000/in/digest").read_bytes())
    assert digests[0] == digests[1]


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    run = explored(tmp_path, KNOWN, check_fraction=0.1)
    run.stage()
    before = {path: path.read_bytes() for path in run.product.iterdir()}
    run.reduce(1)
    assert {path: path.read_bytes() for path in run.product.iterdir()} == before


def test_the_smallest_upper_level_is_the_limit() -> None:
    settings: Any = config(**AUTO, f_trust_hi={"bulk": 0.4, "surface": 0.07}).select
    assert resolved(settings, {**KNOWN, "ratio": 1.0}).f_trust_lo == 0.07
    fixed: Any = config().select
    assert resolved(fixed, KNOWN) is fixed


# --- which labels it goes by --------------------------------------------------------------------------------------


def row(
    iteration: int, labels: float, ratio: float = 3.0, stages: str = "label train", **more: Any
) -> IterationSummary:
    figures = {"blind_labels": labels, "blind_ratio_95": ratio + iteration}
    return IterationSummary(iteration=iteration, figures=figures, stages=stages.split(), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], {}),
        ([IterationSummary(iteration=0, stages=["label"])], {}),
        ([row(1, 9)], {}),
        ([row(1, 10)], {"iteration": 1.0, "labels": 10.0, "ratio": 4.0}),
        ([row(1, 12), row(2, 10)], {"iteration": 2.0, "labels": 10.0, "ratio": 5.0}),
        ([row(1, 12), row(2, 9)], {"iteration": 1.0, "labels": 12.0, "ratio": 4.0}),
        ([row(1, 12), row(2, 12, stages="", left=True)], {"iteration": 1.0, "labels": 12.0, "ratio": 4.0}),
        ([row(1, 12, stages="label", left=True)], {"iteration": 1.0, "labels": 12.0, "ratio": 4.0}),
        ([row(1, 12, ratio=-1.0)], {}),
    ],
)
def test_the_newest_labels_that_count_and_are_enough(rows: list[IterationSummary], found: dict[str, float]) -> None:
    assert calibration(MemoryStore(), first_state(trail=rows)) == found  # type: ignore[arg-type]


def test_rows_that_left_the_state_are_looked_up() -> None:
    store: Any = MemoryStore()
    state = first_state(trail=[row(1, 12), *(row(number, 2) for number in range(2, 20))], iteration=20)
    short, moved = shortened(state, state)
    assert short.trail[0].iteration > 1
    for past in moved:
        write(store, past)
    assert calibration(store, short) == calibration(store, state) == {"iteration": 1.0, "labels": 12.0, "ratio": 4.0}


def facts(select: dict[str, Any], stage: str) -> dict[str, Any]:
    store: Any = MemoryStore()
    data = config(**select).dump()
    store.put(DataSpace(APPS).configuration(sha256(data)), data)
    store.put(DataSpace(APPS).dataset + "/x", b"")
    state = first_state(stage=stage, iteration=1, trail=[row(1, 10)], config_sha256=sha256(data))
    return Submission(store).facts(state)


def test_select_is_told_where_it_asks() -> None:
    assert facts(AUTO, "select")["calibration"] == {"iteration": 1.0, "labels": 10.0, "ratio": 4.0}
    assert facts({}, "select")["calibration"] == facts(AUTO, "train")["calibration"] == {}


# --- what does not fit ----------------------------------------------------------------------------------------------


def problems(select: dict[str, Any], **group: Any) -> list[str]:
    found: RunConfig = config(**select)
    grid = MdGroup(structures=["bulk"], ensemble="nvt", temps=[300.0], nsteps=100, **group)
    return check(found.model_copy(update={"explore": type("Explore", (), {"stages": [[grid]], "app": "stub"})()}))


@pytest.mark.parametrize(
    ("select", "group", "expected"),
    [
        ({}, {}, []),
        (
            {"auto_trust_lo": {"error": 0.1, "start": 0.3}},
            {},
            ["select.auto_trust_lo.start: 0.3 .*is not below f_trust_hi"],
        ),
        ({"f_trust_hi": {"bulk": 0.04}}, {}, ["select.auto_trust_lo.start: 0.05 of 'bulk' is not below f_trust_hi"]),
        ({}, {"epsilon": 0.1}, ["the deviations of explore.stages.0.0 are relative"]),
        ({"v_trust_lo": 0.01, "v_trust_hi": 0.1}, {"epsilon_v": 0.1}, []),
    ],
)
def test_what_does_not_fit_the_rest(select: dict[str, Any], group: dict[str, Any], expected: list[str]) -> None:
    found = problems({**AUTO, **select}, **group)
    assert len(found) == len(expected), found
    assert all(re.search(each, text) for each, text in zip(expected, found, strict=True)), found


@pytest.mark.parametrize(
    ("select", "says"),
    [
        ({"f_trust_lo": "auto"}, "write auto_trust_lo: {error: 0.1, start: 0.05}"),
        ({**AUTO, "f_trust_lo": 0.1}, "`auto_trust_lo` finds this level"),
        ({**AUTO, "adaptive": {}}, "`adaptive` finds this level"),
        ({"f_trust_lo": None, "auto_trust_lo": {"error": 0.0, "start": 0.1}}, "greater than 0"),
        ({"f_trust_lo": None, "auto_trust_lo": {"error": 0.1}}, "start"),
        ({"f_trust_lo": None, "auto_trust_lo": 0.1}, "auto_trust_lo"),
    ],
)
def test_nonsense_is_refused(select: dict[str, Any], says: str) -> None:
    with pytest.raises((DataError, ValidationError), match=re.escape(says)):
        config(**select)


def test_validate_names_the_key(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    levels = "select: {app: model_devi, f_trust_lo: auto, f_trust_hi: 0.4, fp_task_max: 5}"
    path.write_text(CONFIG.replace("select: {app: stub, accurate_after: 1}", levels))
    code, _, errors = cli("validate", path)
    assert code == 2 and "select.f_trust_lo" in errors and "auto_trust_lo: {error: 0.1, start: 0.05}" in errors
