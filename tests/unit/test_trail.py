"""The iteration table beyond the state: whatever its length, a state stays small, and nothing else changes."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conventions.errors import CommandRefused, StateError
from conventions.names import STAGES, sha256
from conventions.space import DataSpace
from conventions.state import IterationSummary, Policy, State
from statemachine.machine.orders import Order
from statemachine.run import trail
from statemachine.run.poller import Poller
from statemachine.run.restore import restore
from tests.conftest import Cli
from tests.doubles import APPS, FakeEngine, MemoryStore, first_state, poller_of, run_to_end

SPACE = DataSpace(APPS)
STATES = Path(__file__).parent / "states"
LONG = Policy(apps=APPS, max_iterations=10**6, explore_stages=1, retries=dict.fromkeys(APPS, 2))


class Run:
    """A run in memory that goes on for as long as one likes."""

    def __init__(self, state: bytes = b"", **settings: Any) -> None:
        self.store = MemoryStore()
        self.store.objects[SPACE.state] = state or first_state(policy=LONG, config_sha256=sha256(b"{}")).seal()
        self.store.objects[SPACE.config(0)] = b"{}"
        self.store.objects[SPACE.event(self.state.version)] = self.store.objects[SPACE.state]
        self.engine = FakeEngine(self.store, accurate_after=10**6, **settings)
        self.poller: Poller = poller_of(self.store, self.engine)

    @property
    def state(self) -> State:
        return State.unseal(self.store.objects[SPACE.state])

    @property
    def rows(self) -> list[IterationSummary]:
        return trail.rows(self.store, self.state)

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.poller.step()
            self.engine.run()

    def reach(self, iteration: int) -> Run:
        while self.state.iteration < iteration:
            self.advance(1)
        return self

    def rewind(self, iteration: int, stage: str) -> str:
        """What the order is answered with."""
        try:
            self.poller.tell(Order("rewind", "", iteration, stage))
        except CommandRefused as refused:
            return str(refused)
        return ""

    def past(self) -> list[str]:
        return [key for key in self.store.objects if key.startswith(SPACE.past("").removesuffix(".json"))]


@functools.cache
def _made(*numbers: int) -> Run:
    """A run that has come to an iteration; with more numbers it went back to one, and came to the next, in turns."""
    run = Run().reach(numbers[0])
    for back, until in zip(numbers[1::2], numbers[2::2], strict=True):
        assert run.rewind(back, "explore") == ""
        run.reach(until)
    return run


def come_to(*numbers: int) -> Run:
    """Each test gets one of its own."""
    return copy.deepcopy(_made(*numbers))


def test_state_and_history_stay_small() -> None:
    run = come_to(100)
    assert [row.iteration for row in run.rows] == [*range(100)]
    sizes = [len(data) for key, data in run.store.objects.items() if key == SPACE.state or SPACE.version(key)]
    assert max(sizes) < 10_000
    assert max(len(run.store.objects[key]) for key in run.past()) < 10_000
    assert len(run.state.trail) < 2 * trail.ROWS
    assert run.state.newest == {"label": 99, "train": 99, "explore": 99, "select": 99} and run.state.round == 100


ORDERS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(1, 25), st.just("")),
        st.tuples(st.just("rewind"), st.integers(0, 12), st.sampled_from(STAGES)),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(orders=ORDERS, rows=st.integers(1, 3))
def test_how_the_table_is_kept_changes_nothing(orders: list[tuple[str, int, str]], rows: int) -> None:
    """A table in pieces of any length, against one that stays in the state as a whole."""
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        for length in (rows, 10**6):
            patch.setattr(trail, "ROWS", length)
            run, answers = Run(), []
            for name, number, stage in orders:
                answers.append(run.advance(number) if name == "advance" else run.rewind(number, stage))
            state = run.state
            begun = (run.engine.bodies, run.rows, answers)
            seen.append(
                (state.at, state.iteration, state.version, state.newest, state.round, state.level_before, begun)
            )
            for version in range(1, state.version):  # any of them can be restored
                kept = State.unseal(run.store.objects[SPACE.event(version)])
                told = [row.iteration for row in trail.rows(run.store, kept)]
                assert told == [*range(len(told))]
        assert seen[0] == seen[1]


@pytest.mark.parametrize("left", [set(), {3}, {2, 3}, {0, 1, 2, 3}])
def test_the_level_of_the_last_iteration_that_counts(left: set[int]) -> None:
    rows = [IterationSummary(iteration=n, left=n in left, figures={"level": n / 10}) for n in range(4)]
    whole = first_state(iteration=4, trail=rows)
    expected = max(({0, 1, 2, 3} - left), default=None)
    assert whole.level_before == (None if expected is None else expected / 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trail, "ROWS", 1)
        short, moved = trail.shortened(whole, whole)
    assert len(moved) == 3 and len(short.trail) == 1
    assert (short.level_before, short.round, short.newest) == (whole.level_before, whole.round, whole.newest)


def test_totals_of_all_iterations_are_read_once() -> None:
    """Labels that a rewind dropped do not count; hours do, for they were spent."""
    run, known = come_to(60, 50, 70), dict[str, dict[str, float]]()
    rows = run.rows
    assert any(row.left for row in rows)
    found = trail.totals(run.store, run.state, known)
    assert found["labelled"] == sum(row.figures.get("labelled", 0.0) for row in rows if not row.left) > 0
    assert found["cpu_hours"] == pytest.approx(sum(row.figures.get("cpu_hours", 0.0) for row in rows))
    read: list[str] = []
    usual = run.store.get
    run.store.get = lambda key: (read.append(key), usual(key))[1]  # type: ignore[method-assign]
    run.reach(80)
    read.clear()
    after = trail.totals(run.store, run.state, known)
    assert after["labelled"] > found["labelled"] and len(read) <= 2


def test_totals_without_lost_rows_would_be_wrong() -> None:
    run = come_to(20)
    del run.store.objects[run.past()[0]]
    with pytest.raises(StateError, match="is missing"):
        trail.totals(run.store, run.state, {})


# --- going back ---------------------------------------------------------------------------------------------


def test_a_rewind_reads_only_as_far_back_as_it_goes() -> None:
    run = come_to(100)
    read: list[str] = []
    usual = run.store.get
    run.store.get = lambda key: (read.append(key), usual(key))[1]  # type: ignore[method-assign]
    assert run.rewind(95, "train") == ""
    assert not set(read) & set(run.past())
    run.advance(4)
    assert run.rewind(60, "train") == ""
    assert len(set(read) & set(run.past())) == 4, "rows 56 to 87"
    assert run.poller.step().round == 60
    assert run.state.newest == {"label": 60, "train": 59, "explore": 59, "select": 59}
    assert [row.iteration for row in run.rows if row.left] == [*range(60, run.state.iteration)]


def test_a_rewind_to_an_iteration_whose_rows_are_lost() -> None:
    run = Run().reach(40)
    run.store.delete(run.past()[0])
    before = dict(run.store.objects)
    with pytest.raises(StateError, match=r"event/trail/[0-9a-f]{64}\.json is missing: .*doctor RUN --restore"):
        run.poller.tell(Order("rewind", "", 3, "train"))
    assert run.store.objects == before
    assert run.rewind(39, "train") == "", "these rows are there"
    run.reach(60)


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [None, b"", b"{}", b"[]", b"\xff", b'{"schema_version":1,"rows":[]}'])
def test_lost_rows_are_restored_from_the_history(damage: bytes | None) -> None:
    run = come_to(30, 11, 45)
    rows, before = run.rows, dict(run.store.objects)
    for key in run.past():
        if damage is None:
            run.store.delete(key)
        else:
            run.store.objects[key] = damage
    with pytest.raises(StateError, match="doctor RUN --restore"):
        trail.rows(run.store, run.state)
    done = restore(run.store)
    assert len(done) == len(rows) // trail.ROWS - 1
    assert all("restored from the history" in line for line in done)
    assert run.rows == rows
    named = {key for key in before if key in run.past() and run.store.objects[key] == before[key]}
    assert len(named) >= len(done)
    assert restore(run.store) == [f"state.json is intact: version {run.state.version}; there is nothing to restore"]


def test_rows_that_no_version_holds_any_more() -> None:
    run = Run().reach(30)
    for version in range(1, run.state.version - 1):
        run.store.delete(SPACE.event(version))
    run.store.delete(run.past()[-1])
    (line,) = restore(run.store)
    assert "no version in the history has its rows" in line and "reach back to iteration 16 only" in line
    run.reach(50)


def test_a_damaged_table_is_told_and_the_rest_is_shown(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    state = State.unseal((tmp_path / "out/state.json").read_bytes())
    state = state.model_copy(update={"trail": [IterationSummary(iteration=n) for n in range(60)], "iteration": 60})
    short, moved = trail.shortened(state, state)
    for name in ("state.json", "event/00000001.json"):
        (tmp_path / "out" / name).write_bytes(short.seal())
    code, output, _ = cli("status", stub_run)
    lost = f"event/trail/{moved[-1].name.sha256}.json is missing: {trail.RESTORE_HINT}"
    assert code == 0 and output.splitlines()[-1].endswith(lost)
    assert [line.split()[0] for line in output.splitlines()[-9:-1]] == [str(n) for n in range(52, 60)]
    assert "event/trail" in cli("doctor", stub_run)[1]
    for name in ("state.json", "event/00000001.json"):
        (tmp_path / "out" / name).write_bytes(short.model_copy(update={"at": "exhausted"}).seal())
    code, output, errors = cli("resume", stub_run)
    assert (
        code == 3
        and not errors
        and [line.split()[0] for line in output.splitlines()[1:9]] == [str(row.iteration) for row in short.trail][:8]
    )
    for past in moved:
        path = tmp_path / "out" / SPACE.past(past.name.sha256)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(past.dump())
    output = cli("status", stub_run)[1]
    assert output.splitlines()[-1] == "iterations 0 to 15 are not shown: use --all"
    assert len(json.loads(cli("status", stub_run, "--json")[1])["iterations"]) == 60
    assert len(cli("status", stub_run, "--all")[1].splitlines()) == len(output.splitlines()) - 1 + 20 - 4


# --- states of earlier versions -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_run_of_an_earlier_version_goes_on(version: int) -> None:
    """States as those versions stored them, of a run in its 20th iteration."""
    old = (STATES / f"version_{version}.json").read_bytes()
    assert json.loads(old)["schema_version"] == version
    run = Run(old)
    if run.state.earlier:
        run.store.objects[SPACE.past(run.state.earlier.sha256)] = (STATES / f"version_{version}_past.json").read_bytes()
    before = run.rows
    assert [row.iteration for row in before] == [*range(21)]
    run.engine.submit({"name": run.state.workflow, "state": run.state})
    run.reach(25)
    assert run.rows[:20] == before[:20]
    assert len(run.state.trail) < 2 * trail.ROWS and run.state.schema_version == 4
    assert run.store.objects[SPACE.event(json.loads(old)["version"])] == old, "its history keeps the bytes"
    assert run.rewind(7, "select") == ""
    run.reach(30)
    assert [row.iteration for row in run.rows if row.left] == [*range(7, 26)]


def test_a_run_of_an_earlier_version_ends() -> None:
    run = Run((STATES / "version_2.json").read_bytes())
    run.engine.submit({"name": run.state.workflow, "state": run.state})
    assert run_to_end(run.poller, run.engine).at == "exhausted"
