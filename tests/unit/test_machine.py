"""`decide` and the commands, as pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conventions.documents import JobCounts, StageReport
from conventions.errors import CommandRefused
from conventions.names import STAGES
from conventions.state import Convergence, IterationSummary, Policy, State, Systems
from statemachine.engine import Phase, Status
from statemachine.machine.orders import Order
from statemachine.machine.transitions import Action, Observation, command, decide, machine
from tests.doubles import APPS, FakeEngine, MemoryStore, first_state, poller_of


def report(stage: str, iteration: int = 0, **changes: Any) -> StageReport:
    settings: dict[str, Any] = {
        "stage": stage, "app": APPS[stage], "iteration": iteration, "attempt": 0, "complete": True, "next": True,
        "jobs": JobCounts(planned=2, finished=2), **changes,
    }  # fmt: skip
    return StageReport(**settings)


def seen(found: StageReport | None, phase: Phase = Phase.succeeded, **changes: Any) -> Observation:
    return Observation(phase=phase, checks=1, looked=True, report=found, finished=2, **changes)


def running(stage: str, **changes: Any) -> State:
    return first_state(at=f"{stage}.running", stage=stage, **changes)


def selected(accurate: int, candidate: int, failed: int = 0, level: float = 0.1, **changes: Any) -> StageReport:
    figures = {"accurate": accurate, "candidate": candidate, "failed": failed, "level": level}
    return report("select", summary={k: float(v) for k, v in figures.items()}, next=candidate > 0, **changes)


@pytest.mark.parametrize(("stage", "after"), [("label", "train"), ("train", "explore"), ("explore", "select")])
def test_a_complete_stage_is_followed_by_the_next(stage: str, after: str) -> None:
    decision = decide(running(stage, attempt=2, stalled=1, finished=1), seen(report(stage)))
    assert decision.action is Action.COMMIT
    state = decision.state
    assert (state.at, state.stage) == (f"{after}.submitting", after)
    assert (state.attempt, state.stalled, state.finished) == (0, 0, 0)


def test_the_order_of_looking() -> None:
    state = running("train")
    assert decide(state, Observation()).action is Action.CHECK
    assert decide(state, Observation(phase=Phase.running, checks=1)).action is Action.WAIT
    assert decide(state, Observation(phase=Phase.failed, checks=1)).action is Action.LOOK


@pytest.mark.parametrize("phase", [Phase.failed, Phase.gone])
def test_complete_outputs_of_a_dead_workflow_count_after_its_claim_and_another_look(phase: Phase) -> None:
    """They may be an earlier attempt's: this one's workflow may not have begun yet."""
    first = seen(report("train"), phase)
    assert decide(running("train"), first).action is Action.REVOKE
    assert decide(running("train"), replace(first, revoked=True)).action is Action.CHECK
    again = replace(first, revoked=True, checks=2)
    assert decide(running("train"), again).state.at == "explore.submitting"
    revived = replace(again, phase=Phase.running)
    assert decide(running("train"), revived).action is Action.WAIT


def test_an_attempt_is_given_up_only_after_its_claim_is_revoked() -> None:
    state = running("train")
    unfinished = seen(None, Phase.failed)
    assert decide(state, unfinished).action is Action.REVOKE
    taken = Observation(phase=Phase.failed, checks=2, looked=True, revoked=False)
    assert decide(state, taken).action is Action.CHECK
    for given_up in (
        seen(None, Phase.failed, revoked=True),
        Observation(phase=Phase.gone, checks=3, looked=True, revoked=False),
    ):
        decision = decide(state, given_up)
        assert (decision.state.at, decision.state.attempt) == ("train.submitting", 1)


def test_what_took_its_claim_and_seems_dead_is_asked_about_three_times() -> None:
    """Once to see it, once before and once after its outputs: then it is given up."""
    store, asked = MemoryStore(), []

    class Asked(FakeEngine):
        def status(self, name: str) -> Status:
            asked.append(name)
            return super().status(name)

        def explain(self, name: str) -> str:
            return ""

    engine = Asked(store, spoil=lambda state: "dies" if state.attempt == 0 else "")
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    first = poller.step().workflow
    engine.run()
    asked.clear()
    state = poller.step()
    assert (state.stage, state.attempt) == ("label", 1)
    assert asked.count(first) == 3


def test_fewer_markers_than_the_report_says_are_not_complete() -> None:
    stale = Observation(phase=Phase.succeeded, checks=1, looked=True, report=report("train"), finished=1)
    assert decide(running("train"), stale).action is Action.REVOKE


def test_a_report_of_another_stage_or_iteration_is_not_ours() -> None:
    for foreign in (report("train", iteration=1), report("label")):
        assert decide(running("train"), seen(foreign)).action is Action.REVOKE


def test_retries_end_unless_jobs_keep_finishing() -> None:
    stuck = seen(report("train", complete=False, messages=["job 000001: out of memory"]), revoked=True)
    state = running("train", finished=2, stalled=2)
    failed = decide(state, stuck).state
    assert failed.at == "failed"
    assert "out of memory" in failed.reason
    progress = decide(running("train", finished=1, stalled=2), stuck).state
    assert (progress.at, progress.stalled) == ("train.submitting", 0)


def test_an_attempt_that_is_repeated_says_why() -> None:
    failed = JobCounts(planned=2, finished=1, failed=1)
    found = report("train", complete=False, jobs=failed, messages=["job 000001: out of memory"])
    gone = replace(seen(found, Phase.gone, revoked=True, message="the process died"), finished=1)
    assert decide(running("train"), gone).state.reason == (
        "attempt 0 did not complete the stage: job 000001: out of memory; the process died; 1 of 2 jobs are run again"
    )
    silent = decide(running("train", attempt=1), seen(None, Phase.gone, revoked=True)).state.reason
    assert silent == "attempt 1 did not complete the stage: some jobs have no valid result"


def test_jobs_whose_markers_come_and_go_are_no_progress() -> None:
    """Else a stage that gets nowhere would be repeated for ever: what was lost and made again counts each time."""
    state = running("train", finished=2)
    for finished in (1, 2, 1):
        assert state.at != "failed", "there are two retries"
        attempt = replace(seen(None, Phase.failed, revoked=True), finished=finished)
        state = decide(state.model_copy(update={"at": "train.running"}), attempt).state
    assert (state.at, state.finished) == ("failed", 2)


def test_not_converged_goes_on_to_label() -> None:
    state = decide(running("select"), seen(selected(50, 50))).state
    assert (state.at, state.iteration, state.final) == ("label.submitting", 1, "")
    assert state.trail[-1].figures["candidate"] == 50


def test_converged_with_candidates_left_trains_on_the_last_labels() -> None:
    state = decide(running("select"), seen(selected(98, 2))).state
    assert (state.at, state.iteration, state.final) == ("label.submitting", 1, "converged")
    trained = state.model_copy(update={"at": "train.running", "stage": "train"})
    assert decide(trained, seen(report("train", iteration=1))).state.at == "converged"


def test_the_last_iteration_takes_a_patch_that_waits() -> None:
    patched = running("select", config_sha256="a" * 64, next_config_sha256="b" * 64)
    state = decide(patched, seen(selected(98, 2))).state
    assert (state.final, state.config_sha256, state.next_config_sha256) == ("converged", "b" * 64, "")


def test_as_accurate_as_is_asked_for_is_accurate() -> None:
    assert first_state().policy.convergence.accuracy == 0.95
    assert decide(running("select"), seen(selected(95, 5))).state.final == "converged"
    assert decide(running("select"), seen(selected(94, 6))).state.final == ""


def test_converged_without_candidates_ends_at_once() -> None:
    assert decide(running("select"), seen(selected(100, 0))).state.at == "converged"


def test_the_last_iteration_is_labelled_and_trained_too() -> None:
    before = decide(running("select", iteration=3), seen(selected(50, 50, iteration=3))).state
    assert (before.at, before.iteration, before.final) == ("label.submitting", 4, ""), "five explore"
    state = decide(running("select", iteration=4), seen(selected(50, 50, iteration=4))).state
    assert (state.at, state.final) == ("label.submitting", "exhausted")
    trained = state.model_copy(update={"at": "train.running", "stage": "train"})
    ended = decide(trained, seen(report("train", iteration=5))).state
    assert ended.at == "exhausted" and "max_iterations" in ended.reason and ended.newest["train"] == 5


def test_nothing_to_label_and_not_accurate_ends_with_advice() -> None:
    state = decide(running("select"), seen(selected(50, 0, 50))).state
    assert state.at == "exhausted" and "f_trust_hi" in state.reason


# --- check frames, and the force RMSE that convergence may ask for -----------------------------------------------


def asking(rmse_f: float | None = 0.1, most: int = 5, **rules: Any) -> Policy:
    asked = Convergence(rmse_f=rmse_f, **rules)
    return first_state().policy.model_copy(update={"convergence": asked, "max_iterations": most})


def checked(accurate: int, candidate: int, failed: int = 0) -> StageReport:
    found = selected(accurate, candidate, failed)
    return found.model_copy(update={"summary": {**found.summary, "check": 2.0}})


def test_check_frames_make_no_iteration_but_the_last() -> None:
    two_stages = first_state().policy.model_copy(update={"explore_stages": 2})
    state = decide(running("select", policy=two_stages), seen(checked(100, 0))).state
    assert (state.at, state.explore_stage) == ("explore.submitting", 1)
    state = decide(running("select"), seen(checked(100, 0))).state
    assert (state.at, state.iteration, state.final) == ("label.submitting", 1, "converged")
    state = decide(running("select"), seen(checked(50, 0, 50))).state
    assert state.at == "exhausted", "they are no reason to go on where nothing else is"


def last_training(policy: Policy, iteration: int = 1, **figures: float) -> State:
    row = IterationSummary(iteration=iteration, figures=figures, stages=["label"], final="converged")
    return running("train", iteration=iteration, final="converged", policy=policy, trail=[row])


def trained(iteration: int = 1, **figures: float) -> StageReport:
    return report("train", iteration=iteration, summary=figures)


def test_a_run_converges_when_its_last_models_are_good_enough_on_the_test_set() -> None:
    state = last_training(asking(0.1), rmse_f=9.0)
    assert decide(state, seen(trained(rmse_f=0.1))).state.at == "converged"
    after = decide(state, seen(trained(rmse_f=0.101, train_rmse_f=0.01))).state
    assert (after.at, after.iteration, after.final, after.trail[-1].final) == ("explore.submitting", 1, "", "")
    assert after.trail[-1].stages == ["label", "train"] and after.trail[-1].figures["rmse_f"] == 0.101
    assert "the force RMSE on the test set is 0.101 eV/A (convergence.rmse_f: 0.1)" in after.reason
    # It goes on like any other iteration, and may claim again.
    select = after.model_copy(update={"at": "select.running", "stage": "select"})
    again = decide(select, seen(selected(98, 2, iteration=1))).state
    assert (again.at, again.iteration, again.final) == ("label.submitting", 2, "converged")


def test_without_a_test_set_the_check_frames_decide_with_confidence() -> None:
    def ends(**figures: float) -> State:
        return decide(last_training(asking(0.1), **figures), seen(trained(train_rmse_f=0.01))).state

    assert ends(check_rmse_f=0.05, check_rmse_f_high=0.1).at == "converged"
    above = ends(check_rmse_f=0.05, check_rmse_f_high=0.11)
    assert above.at == "explore.submitting" and "of accurate frames may be 0.11 eV/A" in above.reason
    unknown = ends(check_rmse_f=0.05)
    assert unknown.at == "explore.submitting" and "too few check frames have a label" in unknown.reason


def test_a_claim_that_fails_at_max_iterations_ends_the_run() -> None:
    state = last_training(asking(0.1, most=4), iteration=4)
    end = decide(state, seen(trained(4, rmse_f=0.2))).state
    assert end.at == "exhausted"
    assert end.reason.startswith(
        "max_iterations (4) reached before convergence: exploration is accurate, but the force"
    )
    assert "`dpgen2-sm extend RUN" in end.reason
    before = last_training(asking(0.1, most=4), iteration=3)
    assert decide(before, seen(trained(3, rmse_f=0.2))).state.at == "explore.submitting"


def test_a_claim_that_nothing_can_improve_ends_the_run() -> None:
    trail = [IterationSummary(iteration=0, figures={"rmse_f": 0.2}, stages=["label", "train"])]
    state = running("select", policy=asking(0.1), trail=trail)
    end = decide(state, seen(selected(100, 0))).state
    assert end.at == "exhausted" and "no frame was chosen to label, but the force RMSE" in end.reason
    good = [trail[0].model_copy(update={"figures": {"rmse_f": 0.1}})]
    assert decide(state.model_copy(update={"trail": good}), seen(selected(100, 0))).state.at == "converged"
    assert decide(running("select", policy=asking(0.1)), seen(checked(100, 0))).state.at == "label.submitting"


def test_the_newest_models_decide_that_count() -> None:
    def end(*rows: tuple[float | None, bool, str]) -> str:
        trail = [
            IterationSummary(
                iteration=number, figures={} if rmse is None else {"rmse_f": rmse}, left=left, stages=stages.split()
            )  # type: ignore[arg-type]
            for number, (rmse, left, stages) in enumerate(rows)
        ]
        state = running("select", policy=asking(0.1, most=9), trail=trail, iteration=len(rows) - 1)
        return decide(state, seen(selected(100, 0, iteration=len(rows) - 1))).state.at

    old, good, bad = (0.3, False, "label train"), (0.05, False, "label train"), (0.2, False, "label train")
    none = (None, False, "explore")
    assert (end(old, good, none), end(good, bad, none)) == ("converged", "exhausted")
    assert end(old, good, (0.2, True, ""), none) == "converged", "a rewind dropped the models"
    assert end(old, (0.05, True, "label train"), none) == "converged", "it went back to explore: they are used"


def test_with_repeat_once_a_claim_that_fails_ends_the_run() -> None:
    end = decide(last_training(asking(0.1, repeat="once")), seen(trained(rmse_f=0.2))).state
    assert (
        end.at == "exhausted" and "one iteration (convergence.repeat: once): exploration is accurate, but" in end.reason
    )


def test_k_clean_iterations_in_a_row() -> None:
    policy = first_state().policy.model_copy(update={"convergence": Convergence(clean_iterations=2)})
    once = decide(running("select", policy=policy), seen(selected(100, 0))).state
    assert (once.at, once.clean, once.iteration) == ("explore.submitting", 1, 1)
    again = once.model_copy(update={"at": "select.running", "stage": "select"})
    assert decide(again, seen(selected(100, 0, iteration=1))).state.at == "converged"
    spoiled = decide(again, seen(selected(50, 50, iteration=1))).state
    assert (spoiled.at, spoiled.clean) == ("label.submitting", 0)


def test_each_exploration_stage_has_its_own_clean_iterations() -> None:
    """Else the hotter stage would count as converged after fewer iterations than the user asked for."""
    policy = first_state().policy.model_copy(
        update={"convergence": Convergence(clean_iterations=2), "explore_stages": 2}
    )
    state = decide(running("select", policy=policy, clean=1), seen(selected(100, 0))).state
    assert (state.at, state.explore_stage, state.clean) == ("explore.submitting", 1, 0)


def test_level_drift_must_be_small() -> None:
    policy = first_state().policy.model_copy(update={"convergence": Convergence(level_drift=0.1)})
    trail = [IterationSummary(iteration=0, figures={"level": 0.2}), IterationSummary(iteration=1)]
    state = running("select", iteration=1, policy=policy, trail=trail)
    assert decide(state, seen(selected(99, 1, level=0.5, iteration=1))).state.final == ""
    assert decide(state, seen(selected(99, 1, level=0.19, iteration=1))).state.final == "converged"


def once(stages: int = 2, most: int = 9) -> Policy:
    """The rules of a run each of whose exploration stages takes one iteration."""
    rules = Convergence(repeat="once")
    return Policy(
        apps=APPS, max_iterations=most, explore_stages=stages, retries=dict.fromkeys(APPS, 2), convergence=rules
    )


@pytest.mark.parametrize(
    ("figures", "at"),
    [((50, 50), "label"), ((50, 0, 50), "explore"), ((99, 1), "label"), ((100, 0), "explore")],
)
def test_with_repeat_once_every_stage_is_followed_by_the_next(figures: tuple[int, ...], at: str) -> None:
    state = decide(running("select", policy=once()), seen(selected(*figures))).state
    assert (state.at, state.explore_stage, state.iteration, state.final) == (f"{at}.submitting", 1, 1, "")


@pytest.mark.parametrize(("figures", "final"), [((50, 50), "exhausted"), ((99, 1), "converged")])
def test_with_repeat_once_the_last_stage_is_labelled_and_trained_on(figures: tuple[int, ...], final: str) -> None:
    state = decide(running("select", policy=once(1)), seen(selected(*figures))).state
    assert (state.at, state.iteration, state.final) == ("label.submitting", 1, final)
    trained = state.model_copy(update={"at": "train.running", "stage": "train"})
    ended = decide(trained, seen(report("train", iteration=1))).state
    assert ended.at == final and ("convergence.repeat: once" in ended.reason) == (final == "exhausted")


@pytest.mark.parametrize(("figures", "at"), [((50, 0, 50), "exhausted"), ((100, 0), "converged")])
def test_with_repeat_once_the_last_stage_ends_the_run(figures: tuple[int, ...], at: str) -> None:
    state = decide(running("select", policy=once(1)), seen(selected(*figures))).state
    assert state.at == at
    assert ("add stages, `patch`, and `rewind`" in state.reason) == (at == "exhausted")


def test_with_repeat_once_max_iterations_still_ends_the_run() -> None:
    state = decide(running("select", policy=once(3, most=1)), seen(selected(50, 50))).state
    assert (state.at, state.final) == ("label.submitting", "exhausted")
    trained = state.model_copy(update={"at": "train.running", "stage": "train"})
    assert "max_iterations (1)" in decide(trained, seen(report("train", iteration=1))).state.reason


def test_what_is_not_repeated_has_no_iterations_in_a_row() -> None:
    with pytest.raises(ValueError, match="clean_iterations"):
        Convergence(repeat="once", clean_iterations=2)


@pytest.mark.parametrize(("candidate", "at"), [(1, "label.submitting"), (0, "explore.submitting")])
def test_a_clean_exploration_stage_is_followed_by_the_next(candidate: int, at: str) -> None:
    policy = Policy(apps=APPS, max_iterations=9, explore_stages=2, retries=dict.fromkeys(APPS, 2))
    state = decide(running("select", policy=policy), seen(selected(99, candidate))).state
    assert (state.at, state.explore_stage, state.iteration, state.final) == (at, 1, 1, "")


def test_a_stage_that_leaves_no_work_fails_with_a_reason() -> None:
    state = decide(running("label"), seen(report("label", next=False, messages=["all SCF failed"]))).state
    assert state.at == "failed" and "all SCF failed" in state.reason


@pytest.mark.parametrize("final", ["converged", "exhausted"])
def test_a_pause_during_the_last_stage_ends_with_it(final: str) -> None:
    """`converged, paused` could not be resumed, and a rewind of it stayed held without saying so."""
    paused = running("train", hold=True, final=final)
    ended = decide(paused, seen(report("train"))).state
    assert (ended.at, ended.hold) == (final, False)


def test_the_systems_of_a_training_are_noted_when_it_begins_and_stay() -> None:
    first, second = (Systems(iteration=number, sha256=str(number) * 64) for number in (1, 2))
    begun = decide(first_state(), Observation(submitted=True, systems=first)).state
    assert (begun.at, begun.systems) == ("label.running", first)
    assert decide(first_state(systems=first), Observation(submitted=True)).state.systems == first
    assert decide(first_state(systems=first), Observation(submitted=True, systems=second)).state.systems == second


def test_pause_holds_submission_and_resume_releases() -> None:
    paused = command(first_state(), Order("pause", "lunch"))
    assert (paused.hold, paused.reason) == (True, "lunch")
    assert decide(paused, Observation()).action is Action.WAIT
    released = command(paused, Order("resume", "back"))
    assert (released.hold, released.reason) == (False, "back")
    assert decide(released, Observation()).action is Action.SUBMIT


def test_a_cancel_says_why() -> None:
    assert command(running("label"), Order("cancel", "a wrong input")).reason == "a wrong input"


def test_a_paused_run_still_consumes_what_runs() -> None:
    assert decide(running("label", hold=True), seen(report("label"))).state.at == "train.submitting"


@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_run_is_revived_in_its_stage_with_a_new_attempt(stage: str) -> None:
    state = command(first_state(at="failed", stage=stage, attempt=3, stalled=9), Order("resume", "again"))
    assert (state.at, state.attempt, state.stalled) == (f"{stage}.submitting", 4, 0)


def test_cancel_revokes_terminates_and_waits() -> None:
    state = command(running("train"), Order("cancel", "enough"))
    assert decide(state, Observation()).action is Action.REVOKE
    assert decide(state, Observation(revoked=True)).action is Action.TERMINATE
    assert decide(state, Observation(revoked=True, terminated=True)).action is Action.CHECK
    alive = Observation(revoked=True, terminated=True, phase=Phase.running, checks=1)
    assert decide(state, alive).action is Action.WAIT
    dead = Observation(revoked=True, terminated=True, phase=Phase.gone, checks=1)
    assert decide(state, dead).state.at == "cancelled"


@pytest.mark.parametrize(
    ("at", "trigger"),
    [
        ("converged", "pause"),
        ("converged", "resume"),
        ("exhausted", "cancel"),
        ("cancelling", "pause"),
        ("train.running", "resume"),
        ("failed", "cancel"),
    ],
)
def test_commands_that_do_not_fit_are_refused_with_the_state(at: str, trigger: str) -> None:
    with pytest.raises(CommandRefused, match=at):
        command(first_state(at=at, stage="train"), Order(trigger, ""))


def test_every_state_is_reached_and_left() -> None:
    rows = [row for event in machine().events.values() for group in event.transitions.values() for row in group]
    edges = {(row.source, row.dest or row.source) for row in rows}
    reached = {"label.submitting"}
    while more := {dest for source, dest in edges if source in reached} - reached:
        reached |= more
    assert reached == set(machine().states)


def test_what_a_stage_has_submitted_is_deleted_when_it_is_left() -> None:
    """The workflows that were given up, and the one whose results were used."""
    store = MemoryStore()
    engine = FakeEngine(store, spoil=lambda state: "dies" if state.attempt == 0 else "")
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    while poller.step().stage == "label":
        engine.run()
    assert [name for name in engine.workflows if "-label-" in name] == []
    assert len(engine.bodies) == 2
