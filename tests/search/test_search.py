"""Nothing is lost and nothing is done twice, in every world that two pollers, a person and accidents can reach."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from conventions.names import sha256
from conventions.state import Convergence, IterationSummary, State
from statemachine.machine.rules import Cursor
from tests.doubles import first_state
from tests.figures import Figures

from .mutants import MUTANTS, Mutant
from .process import FIRST, RULES, record_on
from .search import Found, Scenario, Search
from .world import Violation


@pytest.fixture(autouse=True)
def alike() -> Iterator[None]:
    """States that differ in their histories only are the same world; a search says nothing on its way."""
    with (
        mock.patch("statemachine.run.record.sha256", lambda data: ""),
        mock.patch("statemachine.run.restore.sha256", lambda data: ""),
        mock.patch("statemachine.run.prune.Record", record_on),
        mock.patch("statemachine.run.trail.ROWS", 1),  # so that each iteration moves one
    ):
        logging.disable()
        yield
        logging.disable(logging.NOTSET)


def first(stages: int) -> State:
    """A run of that many stages: the last training, the last labels and it, one iteration, two."""
    state = first_state(policy=RULES, nonce="", writer="", updated_at="", config_sha256=sha256(FIRST))
    if stages == 1:
        return state.model_copy(update={"stage": "train", "at": "train.submitting", "final": "converged"})
    return state.model_copy(update={"final": "converged" if stages == 2 else ""})


def searched(
    stages: int, faults: int = 0, commands: int = 0, pollers: int = 2, damage: bool = False, **rules: bool
) -> Found:
    """What a search finds; `rules` are switches of the scenario, such as `homes`."""
    return Search(Scenario(first(stages), faults, commands, pollers, damage, int(stages > 4), **rules)).run()


@pytest.mark.parametrize(
    ("stages", "faults", "commands", "pollers", "damage"),
    [
        (1, 0, 1, 2, False),
        (1, 1, 0, 1, True),
        (9, 0, 0, 2, False),
        pytest.param(1, 1, 0, 2, False, marks=pytest.mark.slow),
        pytest.param(1, 2, 0, 1, False, marks=pytest.mark.slow),
        pytest.param(1, 0, 2, 2, False, marks=pytest.mark.slow),
        pytest.param(1, 1, 0, 2, True, marks=pytest.mark.slow),
        pytest.param(1, 2, 0, 1, True, marks=pytest.mark.slow),
        pytest.param(2, 0, 1, 2, False, marks=pytest.mark.slow),
        pytest.param(4, 1, 0, 1, False, marks=pytest.mark.slow),
        pytest.param(1, 2, 0, 2, False, marks=pytest.mark.search),
        pytest.param(1, 1, 1, 2, False, marks=pytest.mark.search),
        pytest.param(1, 1, 1, 1, True, marks=pytest.mark.search),
    ],
)
def test_nothing_is_lost_and_nothing_is_done_twice(
    figure: Figures, stages: int, faults: int, commands: int, pollers: int, damage: bool
) -> None:
    found = searched(stages, faults, commands, pollers, damage)
    assert set(found.ends) >= {"train.submitting", "train.running", "converged"}
    what = f"stages {stages}, accidents {faults}{' or damage' * damage}, commands {commands}, pollers {pollers}"
    figure(f"search: worlds ({what})", found.worlds, exact=False)
    figure(f"search: moves between them ({what})", found.moves, exact=False)


@pytest.mark.parametrize(("faults", "pollers"), [(0, 2), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_exploration_stages_that_run_once(figure: Figures, faults: int, pollers: int) -> None:
    """Two of them, never accurate: two iterations, then the last labels and training."""
    policy = RULES.model_copy(update={"explore_stages": 2, "convergence": Convergence(repeat="once")})
    start = first(9).model_copy(update={"policy": policy})
    found = Search(Scenario(start, faults, 0, pollers, False, 9)).run()
    assert set(found.ends) >= {"explore.running", "exhausted"} and "converged" not in found.ends
    what = f"10 stages, exploration once, accidents {faults}, commands 0, pollers {pollers}"
    figure(f"search: worlds ({what})", found.worlds, exact=False)
    figure(f"search: moves between them ({what})", found.moves, exact=False)


@pytest.mark.parametrize(("faults", "pollers"), [(0, 2), pytest.param(1, 1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("most", "ends"), [(4, {"converged"}), (1, {"exhausted"})])
def test_a_claim_of_convergence_that_the_last_labels_refute(
    most: int, ends: set[str], faults: int, pollers: int
) -> None:
    """Exploration is accurate at once; only the models of iteration 2 are good enough, if the run gets so far."""
    found = Search(claimed(most, faults, pollers)).run()
    assert set(found.ends) & {"converged", "exhausted"} == ends


def claimed(most: int = 4, faults: int = 0, pollers: int = 2, precise_after: int = 2) -> Scenario:
    """A run that asks for a force RMSE, and whose select chooses check frames."""
    rules = Convergence(rmse_f=0.5)
    start = first(9).model_copy(
        update={"policy": RULES.model_copy(update={"max_iterations": most, "convergence": rules})}
    )
    return Scenario(start, faults, 0, pollers, precise_after=precise_after, checks=True)


@pytest.mark.parametrize(
    ("guard", "answer", "precise_after", "says"),
    [
        ("precise", lambda self: True, 2, "not below 0.5"),
        ("has_frames", Cursor.has_work, 0, "have no label"),
    ],
)
def test_a_claim_that_nobody_checks_is_missed(guard: str, answer: Any, precise_after: int, says: str) -> None:
    scenario = claimed(pollers=1, precise_after=precise_after)
    Search(scenario).run()
    with mock.patch.object(Cursor, guard, answer), pytest.raises(Violation, match=says):
        Search(scenario).run()


@pytest.mark.parametrize(
    ("stage", "faults", "commands"),
    [("train", 0, 0), ("label", 0, 0), pytest.param("explore", 1, 0, marks=pytest.mark.slow)],
)
def test_a_campaign_that_was_taken_over(figure: Figures, stage: str, faults: int, commands: int) -> None:
    """It begins in the middle of an iteration; of those before it there are labels, models and what was selected."""
    before = IterationSummary(iteration=0, stages=["train", "select"])
    here = IterationSummary(iteration=1, stages=["label", "train"])
    start = first(9).model_copy(
        update={
            "at": f"{stage}.submitting",
            "stage": stage,
            "iteration": 1,
            "trail": [before, here][: 1 + (stage == "explore")],
            "pruned": 1,
        }
    )
    found = Search(Scenario(start, faults, commands, 2, False, 1)).run()
    assert set(found.ends) >= {"explore.submitting", "converged"}
    what = f"taken over before {stage}, accidents {faults}, commands {commands}, pollers 2"
    figure(f"search: worlds ({what})", found.worlds, exact=False)
    figure(f"search: moves between them ({what})", found.moves, exact=False)


def seen(rule: str) -> str:
    """What a search finds when a rule is off."""
    mutant = MUTANTS[rule]
    try:
        with mutant.off():
            searched(mutant.stages, mutant.faults, mutant.commands, mutant.pollers, mutant.damage, **mutant.world)
    except Violation as violation:
        print(f"without the rule {rule!r}:{violation}")
        return str(violation)
    return ""


def length(mutant: Mutant) -> list[pytest.MarkDecorator]:
    """How long the search for what a rule's absence does takes."""
    if mutant.long:
        return [pytest.mark.search]
    quick = mutant.stages * (mutant.faults + mutant.commands) < 2 and mutant.says and "no end" not in mutant.says
    return [] if quick else [pytest.mark.slow]


@pytest.mark.parametrize(
    ("stages", "faults", "commands"),
    [
        (1, 0, 0),
        pytest.param(1, 1, 0, marks=pytest.mark.slow),
        pytest.param(1, 0, 1, marks=pytest.mark.slow),
        pytest.param(4, 0, 0, marks=pytest.mark.slow),
        pytest.param(2, 1, 0, marks=pytest.mark.search),
        pytest.param(1, 1, 1, marks=pytest.mark.search),
    ],
)
def test_what_works_elsewhere_is_left_alone(figure: Figures, stages: int, faults: int, commands: int) -> None:
    found = searched(stages, faults, commands, homes=True)
    assert set(found.ends) >= {"train.submitting", "train.running", "converged"}
    what = f"stages {stages}, accidents {faults}, commands {commands}, pollers 2 at two homes"
    figure(f"search: worlds ({what})", found.worlds, exact=False)
    figure(f"search: moves between them ({what})", found.moves, exact=False)


@pytest.mark.parametrize("commands", [1, pytest.param(2, marks=pytest.mark.search)])
def test_nothing_that_is_needed_is_pruned(figure: Figures, commands: int) -> None:
    found = searched(9, 0, commands, 1, prunes=True)
    assert set(found.ends) >= {"select.running", "converged"}
    what = f"the last stage of 9, commands {commands} (prune, rewind), pollers 1"
    figure(f"search: worlds ({what})", found.worlds, exact=False)
    figure(f"search: moves between them ({what})", found.moves, exact=False)


@pytest.mark.parametrize("rule", [pytest.param(rule, marks=length(mutant)) for rule, mutant in MUTANTS.items()])
def test_a_rule_that_is_off_is_missed(rule: str) -> None:
    mutant = MUTANTS[rule]
    story = seen(rule).splitlines()
    if mutant.why:
        assert not story
    else:
        assert mutant.says and mutant.says in story[-1]
        assert len(story) > 2


def test_figures(figure: Figures) -> None:
    found = [rule for rule, mutant in MUTANTS.items() if mutant.says]
    assert all(bool(mutant.says) != bool(mutant.why) for mutant in MUTANTS.values())
    figure("search: rules switched off", len(MUTANTS))
    figure("search: rules whose absence is found", len(found))
