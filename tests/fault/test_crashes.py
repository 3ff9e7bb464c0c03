"""The poller dies before and after every external call, and a new one goes on: nothing is lost or done twice."""

from __future__ import annotations

import pytest

from conventions.space import DataSpace
from conventions.state import State
from statemachine.engine import Phase
from statemachine.machine.orders import Order
from statemachine.run import trail
from tests.doubles import Crash, Crashing, FakeEngine, MemoryStore, first_state, poller_of, run_to_end


def fresh(**settings: object) -> tuple[MemoryStore, FakeEngine]:
    store = MemoryStore()
    store.objects["state.json"] = first_state().seal()
    return store, FakeEngine(store, **settings)  # type: ignore[arg-type]


def undisturbed() -> tuple[State, list[str], int]:
    store, engine = fresh()
    budget = [10**9]
    poller = poller_of(Crashing(store, budget, False), Crashing(engine, budget, False))
    state = run_to_end(poller, engine)
    return state, engine.bodies, 10**9 - budget[0]


END, BODIES, CALLS = undisturbed()


def check_history(store: MemoryStore, last: int) -> None:
    """Every version is there, each naming the one before."""
    events = [State.unseal(store.objects[DataSpace({}).event(v)]) for v in range(1, last + 1)]
    assert [event.version for event in events] == list(range(1, last + 1))


def test_an_undisturbed_run_converges() -> None:
    assert END.at == "converged"
    assert len(BODIES) == len(set(BODIES)) == 8
    assert CALLS > 60


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("rows", [trail.ROWS, 1])
def test_a_crash_at_any_point_changes_nothing(rows: int, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rows of the table move to objects of their own."""
    monkeypatch.setattr(trail, "ROWS", rows)
    calls = undisturbed()[2]
    assert calls == CALLS + (rows == 1)
    for point in range(1, calls + 1):
        store, engine = fresh()
        budget = [point]
        with pytest.raises(Crash):
            run_to_end(poller_of(Crashing(store, budget, after), Crashing(engine, budget, after)), engine)
        state = run_to_end(poller_of(store, engine), engine)
        assert engine.bodies == BODIES, f"crash at call {point}"
        assert (state.at, trail.rows(store, state)) == (END.at, END.trail), f"crash at call {point}"
        check_history(store, state.version)


def test_a_stage_whose_product_did_not_arrive_is_repeated() -> None:
    """Argo goes on with the next artifact after an upload that failed: the report can be ahead of what it tells of."""
    for how in ("loses its product", "cuts its product"):
        store, engine = fresh(spoil=lambda state, how=how: how if state.workflow.endswith("0-train-a0") else "")
        state = run_to_end(poller_of(store, engine), engine)
        assert state.at == "converged"
        assert [name.rpartition("-")[2] for name in engine.bodies if "-000000-train-" in name] == ["a0", "a1"]
        assert len(engine.bodies) == len(BODIES) + 1


def test_workflows_that_were_given_up_are_kept_until_the_stage_is_left() -> None:
    """Their logs may be asked for."""
    store, engine = fresh()
    poller = poller_of(store, engine)
    name = poller.step().workflow
    poller.tell(Order("cancel", "by a person"))
    assert poller.step().at == "cancelled" and name in engine.workflows
    poller.tell(Order("resume", "by a person"))
    while poller.step().stage == "label":
        assert name in engine.workflows
        engine.run()
    assert [each for each in engine.workflows if "-label-" in each] == []


@pytest.mark.parametrize(("accurate_after", "at"), [(1, "converged"), (99, "exhausted")])
def test_a_run_that_ended_leaves_no_workflow(accurate_after: int, at: str) -> None:
    """Nobody comes back to it: on a cluster the last one would stay for ever."""
    store, engine = fresh(accurate_after=accurate_after)
    assert run_to_end(poller_of(store, engine), engine).at == at
    assert engine.workflows == {}


def test_two_pollers_in_turns_do_it_once() -> None:
    store, engine = fresh()
    one, two = poller_of(store, engine), poller_of(store, engine)
    for _ in range(60):
        one.step()
        two.step()
        engine.run()
    assert engine.bodies == BODIES
    assert State.unseal(store.objects["state.json"]).at == "converged"


def test_a_poller_that_slept_before_its_swap_has_lost() -> None:
    store, engine = fresh()
    sleeper = poller_of(store, engine).record
    before = sleeper.load()
    rival = poller_of(store, engine).step()
    assert sleeper.commit(before, before.state.model_copy(update={"hold": True})) is None
    assert State.unseal(store.objects["state.json"]) == rival
    check_history(store, rival.version - 1)


def test_a_poller_that_slept_cannot_start_finished_work_again() -> None:
    store, engine = fresh()
    sleeper = first_state()
    run_to_end(poller_of(store, engine), engine)
    engine.submit({"name": sleeper.workflow, "state": sleeper})
    engine.run()
    assert engine.workflows[sleeper.workflow] is Phase.failed
    assert engine.bodies == BODIES


def test_a_workflow_that_dies_is_followed_by_a_new_attempt() -> None:
    died: list[str] = []

    def once(state: State) -> str:
        if state.stage == "train" and state.iteration == 1 and not died:
            died.append(state.workflow)
            return "dies"
        return ""

    store, engine = fresh(spoil=once)
    state = run_to_end(poller_of(store, engine), engine)
    assert state.at == "converged"
    assert [name for name in engine.bodies if name not in BODIES] == [died[0].replace("-a0", "-a1")]


def test_complete_outputs_of_a_failed_workflow_are_used() -> None:
    store, engine = fresh(spoil=lambda state: "dies at the end")
    assert run_to_end(poller_of(store, engine), engine).at == "converged"
    assert engine.bodies == BODIES


def test_a_stage_that_never_completes_fails_with_its_message_and_can_be_resumed() -> None:
    broken = [True]
    store, engine = fresh(spoil=lambda s: "incomplete" if s.stage == "train" and broken[0] else "")
    poller = poller_of(store, engine)
    state = run_to_end(poller, engine)
    assert state.at == "failed" and "it broke" in state.reason
    assert sum("train" in name for name in engine.bodies) == 4
    broken[0] = False
    poller.tell(Order("resume", "fixed"))
    assert run_to_end(poller, engine).at == "converged"


def test_cancel_stops_and_resume_goes_on() -> None:
    store, engine = fresh()
    poller = poller_of(store, engine)
    poller.step()
    poller.tell(Order("cancel", "enough"))
    assert poller.step().at == "cancelled"
    assert engine.bodies == []
    poller.tell(Order("resume", "after all"))
    assert run_to_end(poller, engine).at == "converged"


def test_a_damaged_report_costs_an_attempt_and_nothing_else() -> None:
    store, engine = fresh()
    poller = poller_of(store, engine)
    state = poller.step()
    engine.run()
    store.objects[state.place.report] = b"{half"
    poller.step()
    engine.run()
    assert run_to_end(poller, engine).at == "converged"
    assert [name for name in engine.bodies if name not in BODIES] == [state.workflow.replace("-a0", "-a1")]
