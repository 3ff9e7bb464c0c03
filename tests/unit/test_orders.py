"""Rewind and patch: what they change, when they are refused, and a run that goes on after them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conventions.errors import CommandRefused
from conventions.names import STAGES, canonical_json, sha256
from conventions.space import DataSpace
from conventions.state import Convergence, Goal, IterationSummary, Policy, State
from statemachine.engine import Phase
from statemachine.machine.observation import Action, Observation
from statemachine.machine.orders import Order, adopted, rewind_error
from statemachine.machine.transitions import command, decide
from statemachine.run.submission import Submission
from statemachine.store import open_store
from tests.conftest import Cli
from tests.doubles import APPS, FakeEngine, MemoryStore, first_state, poller_of, run_to_end

OLD, NEW = "a" * 64, "b" * 64


def policy(**changes: Any) -> Policy:
    rules = {"apps": APPS, "max_iterations": 5, "explore_stages": 1, "retries": dict.fromkeys(APPS, 2)}
    return Policy(**{**rules, **changes})


def rewind(state: State, iteration: int, stage: str) -> State:
    return command(state, Order("rewind", "again", iteration, stage))


def patch(state: State, config: str = NEW, keeps: str = "", **changes: Any) -> State:
    return command(state, Order("patch", "better", config_sha256=config, keeps_sha256=keeps, policy=policy(**changes)))


def ended(**changes: Any) -> tuple[MemoryStore, FakeEngine, State]:
    """A run in memory that has come to its end; it converges in the iteration that is named."""
    store = MemoryStore()
    store.objects["state.json"] = first_state(policy=policy(), config_sha256=OLD).seal()
    engine = FakeEngine(store, **{"accurate_after": 2, **changes})
    return store, engine, run_to_end(poller_of(store, engine), engine)


# --- rewind ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_rewind_begins_an_iteration_with_a_new_number(stage: str) -> None:
    store, engine, end = ended()
    before = dict(store.objects)
    state = poller_of(store, engine).tell(Order("rewind", "again", 1, stage))
    assert (state.at, state.iteration, state.attempt) == (f"{stage}.submitting", end.iteration + 1, 0)
    assert state.round == 1, "it stands in the place of iteration 1"
    assert [row.left for row in state.trail] == [False, True, True]
    counts = STAGES[: STAGES.index(stage)]
    assert state.newest == {each: 1 if each in counts else 0 for each in STAGES}
    again = run_to_end(poller_of(store, engine), engine)
    assert again.at == "converged"
    assert len(engine.bodies) == len(set(engine.bodies))
    for key, data in before.items():
        assert store.objects[key] == data or key == "state.json", f"{key} has changed"


def test_what_a_rewind_left_counts_no_more() -> None:
    store, engine, _ = ended()
    engine.accurate_after = 99
    poller_of(store, engine).tell(Order("rewind", "", 1, "train"))
    end = run_to_end(poller_of(store, engine), engine)
    assert end.at == "exhausted" and end.round == 5, "the iterations that were left are none of max_iterations"
    labelled = [row.iteration for row in end.trail if "label" in row.stages]
    assert labelled == [0, 1, 4, 5, 6, 7], "iteration 1 labelled, iteration 3 goes on from there"


def test_rewind_twice_to_what_still_counts() -> None:
    store, engine, _ = ended()
    poller = poller_of(store, engine)
    poller.tell(Order("rewind", "", 1, "train"))  # iteration 3
    run_to_end(poller, engine)
    state = poller.tell(Order("rewind", "", 1, "label"))  # its label stage still counted
    assert state.newest == dict.fromkeys(STAGES, 0) and state.round == 1
    assert "select of iteration 2 was not done, or was dropped" in rewind_error(state, 2, "select")
    assert run_to_end(poller, engine).at == "converged"
    assert len(engine.bodies) == len(set(engine.bodies))


def test_a_converged_run_goes_on_with_more_stages() -> None:
    store, engine, end = ended()
    poller = poller_of(store, engine)
    with pytest.raises(CommandRefused, match="converged"):
        poller.tell(Order("resume", ""))
    poller.tell(Order("patch", "", config_sha256=NEW, policy=policy(explore_stages=2)))
    state = poller.tell(Order("rewind", "", end.iteration, "explore"))
    assert (state.config_sha256, state.next_config_sha256) == (NEW, "")
    assert run_to_end(poller, engine).explore_stage == 1


def test_the_last_labels_can_be_trained_on_again() -> None:
    last = first_state(at="converged", stage="train", iteration=3, final="converged")
    before = IterationSummary(iteration=2, stages=list(STAGES))
    last = last.model_copy(update={"trail": [before, IterationSummary(iteration=3, stages=["label", "train"])]})
    last = last.model_copy(update={"trail": [last.trail[0], last.trail[1].model_copy(update={"final": "converged"})]})
    assert rewind(last, 3, "train").final == "converged"
    assert rewind(last, 2, "train").final == "", "it explores again"
    assert rewind(last, 3, "explore").final == "", "it was the last training, from which the run would have gone on"


@pytest.mark.parametrize(
    ("iteration", "stage", "why"),
    [
        (7, "train", "no iteration 7; the run is at iteration 2"),
        (1, "trian", "did you mean 'train'"),
        (2, "label", "label of iteration 2 was not done.*stages to go back to: explore, select"),
        (0, "label", "explored stage 1"),
    ],
)
def test_a_rewind_that_leads_nowhere_is_refused(iteration: int, stage: str, why: str) -> None:
    trail = [
        IterationSummary(iteration=0, explore_stage=1, stages=list(STAGES)),
        IterationSummary(iteration=1, stages=list(STAGES)),
        IterationSummary(iteration=2, stages=["explore", "select"]),
    ]
    state = first_state(at="exhausted", stage="select", iteration=2, trail=trail)
    with pytest.raises(CommandRefused, match=f"cannot rewind: .*{why}"):
        rewind(state, iteration, stage)


def test_a_rewind_to_a_select_that_never_was_is_refused_as_such() -> None:
    """Nothing was deleted where nothing was explored."""
    state = first_state(at="train.running", stage="train", trail=[row(0, "label")])
    assert "select of iteration 0 was not done" in rewind_error(state, 0, "select")


def test_the_last_labels_of_the_last_labels() -> None:
    """A place has what it had when it was gone to the first time."""
    store, engine, end = ended(accurate_after=99)
    poller = poller_of(store, engine)
    assert (end.at, end.final, end.iteration) == ("exhausted", "exhausted", 5)
    for stage in ("train", "label"):
        state = poller.tell(Order("rewind", "", 5, stage))
        assert (state.final, state.round) == ("exhausted", 5)
        assert run_to_end(poller, engine).at == "exhausted"
    assert not any("-explore-" in body for body in engine.bodies if "-000006-" in body or "-000007-" in body)


def test_a_rewind_counts_the_clean_iterations_before_its_place() -> None:
    rules = policy(convergence=Convergence(clean_iterations=2), max_iterations=3)
    store, engine = MemoryStore(), FakeEngine(MemoryStore(), accurate_after=1)
    engine.store = store
    store.objects["state.json"] = first_state(policy=rules).seal()
    poller = poller_of(store, engine)
    assert run_to_end(poller, engine).iteration == 2
    assert poller.tell(Order("rewind", "", 2, "explore")).clean == 1
    assert run_to_end(poller, engine).at == "converged"


@pytest.mark.parametrize("at", ["train.submitting", "train.running", "cancelling"])
def test_what_works_is_stopped_before_a_rewind(at: str) -> None:
    state = rewind(first_state(at=at, stage="train", hold=True), 0, "train")
    assert (state.at, state.goal) == ("cancelling", Goal(iteration=0, stage="train"))
    assert state.workflow == first_state(stage="train").workflow
    assert decide(state, Observation()).action is Action.REVOKE
    dead = Observation(revoked=True, terminated=True, phase=Phase.gone, checks=1)
    gone_back = decide(state, dead).state
    assert (gone_back.at, gone_back.iteration, gone_back.goal, gone_back.hold) == ("train.submitting", 1, None, True)
    assert gone_back.reason == "again"


def test_a_rewind_that_is_under_way_can_be_cancelled_or_sent_elsewhere() -> None:
    state = rewind(first_state(at="train.running", stage="train", trail=[row(0, "label")]), 0, "train")
    assert rewind(state, 0, "label").goal == Goal(iteration=0, stage="label")
    cancelled = command(state, Order("cancel", "after all not"))
    assert (cancelled.at, cancelled.goal) == ("cancelling", None)
    with pytest.raises(CommandRefused, match="cannot cancel: the run's state is cancelling"):
        command(cancelled, Order("cancel", ""))


def test_a_place_that_a_patch_has_taken_away_meanwhile() -> None:
    trail = [IterationSummary(iteration=0, explore_stage=1, stages=list(STAGES))]
    state = first_state(at="label.running", iteration=1, trail=trail, policy=policy(explore_stages=2))
    state = patch(rewind(state, 0, "select"), explore_stages=1)
    dead = Observation(revoked=True, terminated=True, phase=Phase.gone, checks=1)
    assert decide(state, dead).state.at == "cancelled"


# --- patch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["label.submitting", "label.running", "cancelling", "failed", "converged"])
def test_a_patch_waits_and_its_rules_hold_at_once(at: str) -> None:
    state = patch(first_state(at=at, config_sha256=OLD), max_iterations=9)
    assert (state.at, state.config_sha256, state.next_config_sha256) == (at, OLD, NEW)
    assert state.policy.max_iterations == 9
    assert state.workflow == first_state().workflow


def test_a_patched_configuration_comes_with_the_next_iteration() -> None:
    store, engine, _ = ended()
    store.objects.clear()
    engine.workflows.clear()
    store.objects["state.json"] = first_state(policy=policy(), config_sha256=OLD).seal()
    poller = poller_of(store, engine)
    poller.step()
    poller.tell(Order("patch", "", config_sha256=NEW, policy=policy()))
    end = run_to_end(poller, engine)
    versions = [State.unseal(store.objects[DataSpace({}).event(v)]) for v in range(1, end.version + 1)]
    assert {(state.iteration > 0, state.config_sha256) for state in versions} == {(False, OLD), (True, NEW)}


@pytest.mark.parametrize(("keeps", "config"), [(OLD, NEW), ("", OLD), ("c" * 64, OLD)])
def test_a_resumed_attempt_plans_the_same_jobs(keeps: str, config: str) -> None:
    waiting = patch(first_state(at="failed", stage="label", config_sha256=OLD), keeps=keeps)
    state = command(waiting, Order("resume", "corrected"))
    assert (state.attempt, state.config_sha256) == (1, config)
    assert state.next_config_sha256 == (NEW if config == OLD else "")


def test_a_pause_is_no_new_attempt() -> None:
    waiting = patch(first_state(hold=True, config_sha256=OLD))
    state = command(waiting, Order("resume", "on"))
    assert (state.attempt, state.config_sha256, state.next_config_sha256) == (0, OLD, NEW)


def test_the_last_patch_counts_and_can_be_taken_back() -> None:
    state = patch(patch(first_state(config_sha256=OLD), "c" * 64), NEW)
    assert adopted(state) == {"config_sha256": NEW, "next_config_sha256": "", "next_keeps_sha256": ""}
    assert patch(state, OLD).next_config_sha256 == ""


def test_a_patch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CommandRefused, match="exploration stage 1, which the patched"):
        patch(first_state(explore_stage=1, policy=policy(explore_stages=2)))
    with pytest.raises(CommandRefused, match="software"):
        patch(first_state(), apps={**APPS, "label": "cp2k"})


# --- through the command line -----------------------------------------------------------------------------------


def edit(run: Path, **changes: Any) -> None:
    config = yaml.safe_load(run.read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    run.write_text(yaml.safe_dump(config))


def test_a_failed_stage_goes_on_by_a_patched_configuration(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    """A wrong command costs an attempt, and no job that was finished."""
    edit(stub_run, explore={"setup": ['[ "$JOB_ID" != 000002 ] || exit 9'], "retries": 0})
    assert cli("run", stub_run)[0] == 1
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/explore/stub/iter/000000/done").iterdir()}
    assert len(done) == 3
    edit(stub_run, explore={"setup": []})
    code, _, errors = cli("run", stub_run)
    assert code == 2 and "differs in: explore" in errors and "dpgen2-sm patch" in errors
    code, output, _ = cli("patch", stub_run)
    first, change, second = output.splitlines()
    assert (code, first) == (0, "stub: iteration 0, failed (patched by the user)")
    assert change.startswith("  explore.setup: [") and change.endswith("] -> []")
    assert second in cli("status", stub_run)[1] and second.endswith("or `resume` after a failure or a cancel")
    assert cli("patch", stub_run)[0] == 2, "it has that configuration already"
    assert cli("resume", stub_run)[0] == 0
    for path, then in done.items():
        assert path.stat().st_mtime_ns == then or path.name == "000002.json"
    frozen = json.loads((tmp_path / "out/config/iter/000000/config.json").read_bytes())
    assert frozen["explore"]["setup"], "what the iteration began with is kept"
    state = State.unseal((tmp_path / "out/state.json").read_bytes())
    used = (tmp_path / f"out/config/run/{state.config_sha256}.json").read_bytes()
    assert json.loads(used)["explore"]["setup"] == [] and sha256(used) == state.config_sha256


def test_labels_that_a_rewind_left_are_not_trained_on(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    edit(stub_run, select={"accurate_after": 3})
    assert cli("run", stub_run)[0] == 0
    assert cli("rewind", stub_run, "--iter", "9", "--stage", "train")[0] == 2
    code, output, _ = cli("rewind", stub_run, "--iter", "1", "--stage", "train", "--reason", "other levels")
    assert (code, output) == (0, "stub: iteration 4, train.submitting (other levels)\n")
    state = State.unseal((tmp_path / "out/state.json").read_bytes())
    facts = Submission(open_store(f"file://{tmp_path}/out")).facts(state)
    assert facts["systems"] == ["iter/000000/Cu1", "iter/000001/Cu1"]
    assert (tmp_path / "out/dataset/deepmd/iter/000002/Cu1").is_dir(), "nothing is deleted"
    assert cli("resume", stub_run)[0] == 0
    _, output, _ = cli("status", stub_run)
    assert len([line for line in output.splitlines() if line.endswith("dropped by a rewind")]) == 3


def test_other_jobs_wait_for_another_iteration(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    """Two tasks of one job, and then three of three: attempts of one iteration would mix them."""
    edit(stub_run, label={"setup": [f"[ ! -e {tmp_path}/broken ] || exit 9"], "retries": 0, "group_size": 2})
    (tmp_path / "broken").touch()
    assert cli("run", stub_run)[0] == 1
    (tmp_path / "broken").unlink()
    edit(stub_run, label={"tasks": 3, "group_size": 1})
    assert "`dpgen2-sm rewind`\n" in cli("patch", stub_run)[1], "no `resume`"
    assert cli("resume", stub_run)[0] == 0
    done = [tmp_path / f"out/label/stub/iter/{iteration}/done" for iteration in ("000000", "000001")]
    assert [len(list(folder.iterdir())) for folder in done] == [1, 3]


def test_a_configuration_that_was_lost_is_put_back(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    first = stub_run.read_text()
    edit(stub_run, explore={"tasks": 4})
    assert cli("patch", stub_run)[0] == 0
    state = State.unseal((tmp_path / "out/state.json").read_bytes())
    waiting = tmp_path / f"out/config/run/{state.next_config_sha256}.json"
    whole = waiting.read_bytes()
    waiting.write_bytes(b"edited")
    assert "NO  configuration" in cli("doctor", tmp_path / "out")[1]
    code, _, errors = cli("rewind", tmp_path / "out", "--iter", "0", "--stage", "label")
    assert code == 2 and "`dpgen2-sm patch CONFIG`" in errors
    assert (tmp_path / "out/state.json").read_bytes() == state.seal()
    assert cli("patch", stub_run)[0] == 0
    assert waiting.read_bytes() == whole
    waiting.unlink()
    stub_run.write_text(first)
    assert cli("patch", stub_run)[0] == 0, "it can be taken back, too"
    present = tmp_path / f"out/config/run/{state.config_sha256}.json"
    present.write_bytes(b"edited")
    assert cli("step", tmp_path / "out")[0] == 2
    assert cli("patch", stub_run)[0] == 0
    assert cli("run", stub_run)[0] == 0


def test_a_run_that_works_is_stopped_before_it_is_rewound(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    edit(stub_run, label={"setup": ["sleep 60"]})
    assert cli("init", stub_run)[0] == 0
    assert "label.running" in cli("step", stub_run)[1]
    edit(stub_run, label={"setup": []})
    assert cli("patch", stub_run)[0] == 0
    assert cli("rewind", stub_run, "--iter", "0", "--stage", "select")[0] == 2
    assert "label.running" in cli("status", stub_run)[1], "a rewind that is refused cancels nothing"
    strange = "\udcff{{workflow.uid}}" + "x" * 9000
    code, output, _ = cli("rewind", stub_run, "--iter", "0", "--stage", "label", "--reason", strange)
    assert code == 0 and "iteration 1, label.submitting (?{{workflow.uid}}xxx" in output
    assert cli("resume", stub_run)[0] == 0
    versions = [State.unseal(path.read_bytes()) for path in sorted((tmp_path / "out/event").iterdir())]
    assert [state.at for state in versions][4:6] == ["cancelling", "label.submitting"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"type_map": ["Cu", "O"]}, "type_map"),
        ({"init": {"label": []}, "structures": {}}, "init"),
        ({"engine": {"type": "argo", "server": "https://argo:2746"}}, "prefix"),
        ({"label": {"app": "ase", "calculator": "ase.calculators.emt:EMT"}}, "label.app"),
    ],
)
def test_what_a_run_is_made_of_cannot_be_patched(
    cli: Cli, stub_run: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    assert cli("init", stub_run)[0] == 0
    config = yaml.safe_load(stub_run.read_text()) | changes
    config["init"] = (changes.get("init") and {"data": {"a": {"path": "."}}}) or config["init"]
    stub_run.write_text(yaml.safe_dump(config))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    code, output, errors = cli("patch", stub_run)
    assert (code, output) == (2, "") and named in errors
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_patch_needs_a_run(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    code, _, errors = cli("patch", stub_run)
    assert code == 2 and "there is no run" in errors
    assert not (tmp_path / "out").exists()


def test_a_patch_that_cannot_be_read_writes_nothing(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    for changes, named in (
        ({"explore": {"taskss": 3}}, "did you mean 'tasks'"),
        ({"structures": {"start": {"files": "none.xyz"}}}, "none.xyz"),
        ({"structures": {"start": {"files": "run.yaml", "format": "vasp"}}}, "ASE cannot read"),
    ):
        whole = stub_run.read_text()
        edit(stub_run, **changes)
        code, output, errors = cli("patch", stub_run)
        assert (code, output) == (2, "") and named in errors
        stub_run.write_text(whole)
    state = tmp_path / "out/state.json"
    state.write_bytes(state.read_bytes()[:-9])
    edit(stub_run, explore={"tasks": 4})
    code, _, errors = cli("patch", stub_run)
    assert code == 2 and "doctor RUN --restore" in errors
    state.write_bytes(before[state])
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


# --- states of schema_version 1 ---------------------------------------------------------------------------------


def version_1(state: State, trained: int) -> bytes:
    """The state as the first version of the format had it."""
    body = {**state.model_dump(mode="json"), "schema_version": 1, "trained": trained}
    for name in ("next_config_sha256", "next_keeps_sha256", "goal"):
        del body[name]
    for row in body["trail"]:
        for name in ("stages", "left", "clean", "final"):
            del row[name]
    return canonical_json({**body, "sha256": sha256(canonical_json(body))}) + b"\n"


def row(iteration: int, *stages: str) -> IterationSummary:
    figures = {"label": "labelled", "train": "train_rmse_f", "explore": "trajectories", "select": "accurate"}
    return IterationSummary(iteration=iteration, stages=list(stages), figures={figures[each]: 1.0 for each in stages})  # type: ignore[arg-type]


LAST_LABELS = row(2, "label", "train").model_copy(update={"final": "converged"})


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, 0),
        ({"stage": "train", "at": "train.running", "trail": [row(0, "label")]}, 0),
        ({"stage": "explore", "at": "explore.submitting", "trail": [row(0, "label", "train")]}, 0),
        ({"stage": "explore", "at": "failed", "iteration": 1, "trail": [row(0, *STAGES)]}, 0),
        ({"stage": "select", "at": "cancelled", "iteration": 1, "trail": [row(0, *STAGES), row(1, "explore")]}, 0),
        ({"stage": "select", "at": "converged", "iteration": 0, "trail": [row(0, *STAGES[1:])]}, 0),
        (
            {"stage": "train", "at": "converged", "iteration": 2, "final": "converged"}
            | {"trail": [row(0, *STAGES), row(1, *STAGES[2:]), LAST_LABELS]},
            2,
        ),
    ],
)
def test_a_state_of_the_first_version_is_understood(changes: dict[str, Any], trained: int) -> None:
    state = first_state(**changes)
    assert State.unseal(version_1(state, trained)) == state


def test_a_run_of_the_first_version_goes_on() -> None:
    store = MemoryStore()
    state = first_state(trail=[row(0, "label")], stage="train", at="train.submitting", config_sha256=OLD)
    store.objects["state.json"] = version_1(state, 0)
    engine = FakeEngine(store)
    assert run_to_end(poller_of(store, engine), engine).at == "converged"
    assert store.objects[DataSpace({}).event(1)] == version_1(state, 0), "its history keeps the bytes"
