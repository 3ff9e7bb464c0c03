"""What a run that ended, or goes wrong, says of itself; and how it goes on."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from conventions.documents import JobCounts, StageReport
from conventions.names import STAGES, sha256
from conventions.state import Convergence, IterationSummary, Policy, State
from statemachine.machine import Observation, Phase, decide
from statemachine.machine.outlook import (
    compared,
    is_accurate,
    needed,
    shares,
    training_limited,
    warnings,
    why_not_converged,
)
from statemachine.run.opening import open_poller
from statemachine.run.record import Record
from tests.conftest import Cli
from tests.doubles import APPS, MemoryStore, first_state
from tests.unit.test_orders import edit


def row(iteration: int, **figures: float) -> IterationSummary:
    return IterationSummary(iteration=iteration, figures=figures)


FIRST = row(0, rmse_f=0.13, accurate=500, candidate=400, failed=100)
WORSE = row(1, rmse_f=0.53, accurate=100, candidate=250, failed=650)
BETTER = row(1, rmse_f=0.05, accurate=900, candidate=90, failed=10)


def levels(*found: float) -> list[IterationSummary]:
    return [row(number, accurate=96, candidate=4, level=level) for number, level in enumerate(found)]


@pytest.mark.parametrize(
    ("rows", "last"),
    [
        (levels(0.2, 0.1, 0.11), "change of the level: 10.0%, at most 5.0%"),
        ([*levels(0.1), row(1, labelled=3), *levels(0.1, 0.1, 0.2)[2:]], "change of the level: 100.0%, at most 5.0%"),
        ([*levels(0.1, 0.11), WORSE.model_copy(update={"left": True})], "change of the level: 10.0%, at most 5.0%"),
    ],
)
def test_what_is_needed_is_told_of_the_last_two_explorations_that_count(
    rows: list[IterationSummary], last: str
) -> None:
    policy = Policy(
        apps=APPS, max_iterations=9, explore_stages=1, retries=dict.fromkeys(APPS, 0),
        convergence=Convergence(level_drift=0.05),
    )  # fmt: skip
    state = first_state(policy=policy, trail=rows, iteration=len(rows))
    first, *_, change = needed(state)
    assert first == f"accurate frames: 96.0% of 95.0% (iteration {max(r.iteration for r in rows if not r.left)})"
    assert change == last


HALF = "50.0% of the frames were accurate (95% are asked for), 10.0% failed"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], ""),
        ([row(0, labelled=3)], ""),
        ([FIRST], HALF),
        ([FIRST, WORSE.model_copy(update={"left": True})], HALF),
        (
            [FIRST, BETTER],
            "90.0% of the frames were accurate (95% are asked for), 1.0% failed; "
            "an iteration before 50.0% and 10.0%; the force RMSE went from 0.13 to 0.05 eV/A",
        ),
        (
            [FIRST, WORSE, row(2, rmse_f=0.5)],
            "10.0% of the frames were accurate (95% are asked for), 65.0% failed; "
            "an iteration before 50.0% and 10.0%; the force RMSE went from 0.13 to 0.5 eV/A. "
            "More than half failed: lower the temperatures, or add initial data",
        ),
        (
            [FIRST, row(1, rmse_f=0.157, accurate=500, candidate=400, failed=100)],
            f"{HALF}; an iteration before 50.0% and 10.0%; the force RMSE went from 0.13 to 0.157 eV/A. "
            "The errors grow: look at the labels (`dpgen2-sm logs`) and at numb_steps of the training",
        ),
    ],
)
def test_why_a_run_has_not_converged(rows: list[IterationSummary], expected: str) -> None:
    assert why_not_converged(rows, 0.95) == expected


def test_bad_signs_in_the_table() -> None:
    assert warnings(WORSE.figures, FIRST.figures) == ["more than half failed", "RMSE grew"]
    assert warnings(BETTER.figures, FIRST.figures) == warnings({}, {}) == warnings(FIRST.figures, {}) == []
    assert warnings({"train_rmse_f": 0.5}, {"rmse_f": 0.1}) == [], "of other data"
    half = row(0, accurate=25, candidate=25, failed=50)
    assert warnings(half.figures, {}) == [] and "More than half" not in why_not_converged([half], 0.95)


# --- labels that do not help any more -----------------------------------------------------------------------

LIMITED = "training-limited: more steps, not more labels (rmse_f 0.100 -> 0.098 with 4 labels more, 0.080 in training)"


@pytest.mark.parametrize(
    ("figures", "before", "expected"),
    [
        ({}, {}, LIMITED),
        ({"train_rmse_f": 0.0783}, {}, ""),  # less than 0.8 of the error on the test set
        ({"rmse_f": 0.0949}, {}, ""),  # labels helped
        ({"labelled": 3.0}, {}, ""),  # less than a tenth of those before
        ({}, {"labels": 0.0}, LIMITED),  # the run began with data
        ({"labelled": 0.0}, {"labels": 0.0}, ""),
        ({}, {"rmse_f": None}, ""),
        ({"rmse_f": None}, {}, ""),
        ({"train_rmse_f": None}, {}, ""),  # a trainer that does not tell it
        ({"labelled": None}, {}, ""),
    ],
)
def test_more_steps_not_more_labels(figures: dict[str, Any], before: dict[str, Any], expected: str) -> None:
    def known(usual: dict[str, float], changes: dict[str, Any]) -> dict[str, float]:
        return {name: value for name, value in {**usual, **changes}.items() if value is not None}

    row = known({"rmse_f": 0.098, "train_rmse_f": 0.08, "labelled": 4.0}, figures)
    then = known({"rmse_f": 0.100, "labels": 40.0}, before)
    assert training_limited(row, then) == expected
    assert warnings(row, then) == ([expected] if expected else [])


def test_what_a_row_is_compared_with() -> None:
    rows: list[dict[str, Any]] = [
        {"labelled": 3.0, "rmse_f": 0.2, "train_rmse_f": 0.1},
        {"labelled": 20.0, "rmse_f": 9.0, "left": True},
        {"accurate": 3.0},
        {"labelled": 2.0, "train_rmse_f": 0.3},
        {},
    ]
    first = {"rmse_f": 0.2, "train_rmse_f": 0.1, "labels": 3.0}
    assert list(compared(rows)) == [{}, first, first, first, {"train_rmse_f": 0.3, "labels": 5.0}]


def test_a_class_without_frames_has_none_of_them() -> None:
    assert shares({"accurate": 4.0}) == {"accurate": 1.0, "candidate": 0.0, "failed": 0.0}
    assert shares({"labelled": 4.0}) == {}


def exhausted(cli: Cli, stub_run: Path) -> str:
    """A run that ends at max_iterations; what it says last."""
    edit(stub_run, max_iterations=1, select={"accurate_after": 2})
    code, output, _ = cli("run", stub_run)
    assert code == 3
    return output.splitlines()[-1]


def test_a_run_that_ended_too_early_is_extended(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    """What was typed: `dpgen2-sm run run.yaml`, and then what its last line says."""
    said = exhausted(cli, stub_run)
    assert said.startswith("max_iterations (1) reached before convergence: 50.0% of the frames were accurate (95% are")
    (command,) = re.findall("`dpgen2-sm (extend RUN --iterations N)`", said)
    words = command.replace("RUN", str(stub_run)).replace("N", "1").split()
    labels = sorted((tmp_path / "out/dataset/deepmd/iter").iterdir())
    code, output, _ = cli(*words)
    assert output.splitlines()[0] == "max_iterations is 2 now; iteration 2 explores"
    assert code == 0, output
    state = State.unseal((tmp_path / "out/state.json").read_bytes())
    assert (state.at, state.policy.max_iterations) == ("converged", 2)
    assert [(each.iteration, each.stages[0]) for each in state.trail if not each.left][1:] == [(2, "explore")]
    assert labels == sorted((tmp_path / "out/dataset/deepmd/iter").iterdir())[: len(labels)], "no label was made again"
    executed = [path.name for path in (tmp_path / "out/train/stub/iter").iterdir()]
    assert "000002" not in executed, "the models were there"
    code, _, errors = cli(*words)
    assert code == 2 and "cannot extend: the run's state is converged" in errors


def test_an_extension_that_was_interrupted_is_repeated(
    cli: Cli, stub_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statemachine.run import extend

    assert cli("init", stub_run)[0] == 0
    record = open_poller(f"file://{tmp_path}/out").record
    loaded = record.load()
    rows = [row(0).model_copy(update={"stages": [*STAGES]}), row(1).model_copy(update={"stages": ["label", "train"]})]
    end = {"at": "exhausted", "iteration": 1, "stage": "train", "final": "exhausted", "trail": rows}
    assert record.commit(loaded, loaded.state.model_copy(update=end))
    with monkeypatch.context() as patch:
        patch.setattr(extend, "tell", lambda record, order: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extend.extend(record.store, 2, "more")
    state = record.load().state
    assert (state.at, state.policy.max_iterations) == ("exhausted", 3)
    state = extend.extend(record.store, 2, "more")
    assert (state.at, state.policy.max_iterations, state.iteration) == ("explore.submitting", 3, 2)


def test_a_run_whose_stages_run_once_is_not_extended(cli: Cli, stub_run: Path) -> None:
    with open(stub_run, "a") as run:
        run.write("convergence: {repeat: once}\n")
    edit(stub_run, select={"accurate_after": 9})
    code, output, _ = cli("run", stub_run)
    assert code == 3
    assert output.splitlines()[-1].startswith("every exploration stage has had its one iteration (convergence.repeat")
    code, _, errors = cli("extend", stub_run, "--iterations", "2")
    assert code == 2 and "cannot extend" in errors and "add stages" in errors


def test_a_run_without_candidates_is_not_extended(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{stub_run.parent}/out")
    loaded = poller.record.load()
    figures = {"accurate": 1.0, "failed": 9.0, "selected": 0.0}
    end = {"at": "exhausted", "stage": "select", "trail": [row(0, **figures)]}
    assert poller.record.commit(loaded, loaded.state.model_copy(update=end))
    code, _, errors = cli("extend", stub_run, "--iterations", "2")
    assert code == 2 and "no frame was chosen to label" in errors and "`patch` it" in errors


@pytest.mark.parametrize(("accurate", "advised"), [(10.0, True), (5.0, False)])
def test_an_end_without_candidates_advises_what_extend_does(accurate: float, advised: bool) -> None:
    """At max_iterations, and nothing was selected: only an accurate exploration has a next one."""
    policy = Policy(apps=APPS, max_iterations=1, explore_stages=2, retries=dict.fromkeys(APPS, 2))
    store = MemoryStore()
    record = Record(store)
    record.create(first_state(policy=policy, stage="select", at="select.running", config_sha256=sha256(b"{}")))
    summary = {"accurate": accurate, "failed": 10.0 - accurate, "selected": 0.0}
    report = StageReport(
        stage="select", app="model_devi", iteration=0, attempt=0, complete=True, next=False,
        jobs=JobCounts(planned=1, finished=1), summary=summary,
    )  # fmt: skip
    seen = Observation(Phase.succeeded, 2, looked=True, report=report, finished=1, revoked=True)
    end = decide(record.load().state, seen).state
    assert end.at == "exhausted" and ("`dpgen2-sm extend" in end.reason) is advised
    assert is_accurate(end, end.figures) is advised


# --- on a terminal ------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("order", [("cancel",), ("rewind", "--iter", "0", "--stage", "label")])
def test_an_order_that_drops_work_asks_on_a_terminal(
    cli: Cli, stub_run: Path, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("init", stub_run)[0] == 0
    for answer, code, at in (("n\n", 1, "label.submitting"), ("y\n", 0, "")):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert cli(*order, stub_run)[0] == code
        assert json.loads(cli("status", "--json", stub_run)[1])["at"].startswith(at)
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    if order[0] == "rewind":
        assert cli("rewind", "--iter", "1", "--stage", "label", "--yes", stub_run)[0] == 0


def test_a_patch_shows_what_it_changes(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    edit(stub_run, explore={"tasks": 4}, max_iterations=7)
    code, output, _ = cli("patch", stub_run)
    assert code == 0
    assert [line for line in output.splitlines() if "->" in line] == [
        "  explore.tasks: 3 -> 4",
        "  max_iterations: 10 -> 7",
    ]


# --- plan ---------------------------------------------------------------------------------------------------


def test_plan_before_a_run_is_begun(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    code, output, _ = cli("plan", stub_run)
    assert code == 0 and output.startswith("next: label/stub of iteration 0") and "2 jobs" in output
    assert not (tmp_path / "out").exists()
    code, _, errors = cli("plan", f"{tmp_path}/out")
    assert code == 2 and "no run" in errors


def test_plan_shows_the_filters_with_their_defaults(cli: Cli, stub_run: Path) -> None:
    levels = "select: {app: model_devi, f_trust_lo: 0.1, f_trust_hi: 0.4, fp_task_max: 5, cut_at_failed: true}\n"
    text = stub_run.read_text()
    stub_run.write_text(text.replace("select: {app: stub, accurate_after: 1}\n", levels))
    code, output, _ = cli("plan", stub_run)
    assert code == 0
    lines = output.partition("which frames are labelled:\n")[2].splitlines()
    assert "  select.min_distance_ratio 0.65 (default)" in lines and "  select.cut_at_failed true" in lines
    assert "  select.min_distance none (default)" in lines and "  select.model_devi_skip 1 (default)" in lines
    found = json.loads(cli("plan", stub_run, "--json")[1])["filters"]
    assert found["select.min_distance_ratio"] == {"value": 0.65, "default": True}
    stub_run.write_text(text)
    assert "which frames" not in cli("plan", stub_run)[1], "a select of another kind has none"


def test_plan_while_a_stage_runs(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    poller: Any
    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{tmp_path}/out")
    poller.step()
    poller.engine.wait(poller.record.load().state.workflow, 60)
    code, output, _ = cli("plan", stub_run)
    assert code == 0 and output.startswith("running: label/stub of iteration 0") and "2 jobs, 0 still to run" in output
