"""Which systems are trained on: all that count, at a cost that does not grow with the run."""

from __future__ import annotations

from typing import Any

import pytest

from conventions.documents import JobCounts, StageReport
from conventions.errors import DataError
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import IterationSummary, State, Systems
from operators.sums import SUMS
from statemachine.run.systems import argument_of, training_systems
from statemachine.store import Blob
from tests.doubles import APPS, MemoryStore, first_state

SPACE = DataSpace(APPS)


class Counting(MemoryStore):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []

    def get(self, key: str) -> Blob:
        self.requests.append(f"get {key}")
        return super().get(key)

    def list(self, prefix: str) -> Any:
        self.requests.append(f"list {prefix}")
        return super().list(prefix)


def labelled(store: MemoryStore, iteration: int) -> None:
    put_system(store, f"{SPACE.dataset_iter(iteration)}/Cu4")


def put_system(store: MemoryStore, key: str) -> None:
    folder, _, name = key.rpartition("/")
    store.put(f"{key}/type.raw", b"0\n")
    store.put(f"{folder}/{SUMS}", f"{'0' * 64}  {name}/type.raw\n".encode())


def begun(iterations: int) -> tuple[Counting, State]:
    """A run in the train stage of an iteration, after as many; each has labels."""
    store = Counting()
    put_system(store, f"{SPACE.dataset_init('bulk')}/Cu32")
    for iteration in range(iterations + 1):
        labelled(store, iteration)
    rows = [IterationSummary(iteration=n, stages=["label", "train"]) for n in range(iterations)]
    return store, first_state(stage="train", at="train.submitting", iteration=iterations, trail=rows)


def given(store: MemoryStore, state: State) -> State:
    """The state after its train stage was submitted."""
    data = argument_of(training_systems(store, state))
    store.put(SPACE.argument(sha256(data)), data)
    return state.model_copy(update={"systems": Systems(iteration=state.iteration, sha256=sha256(data))})


def following(store: MemoryStore, state: State) -> State:
    labelled(store, state.iteration + 1)
    row = IterationSummary(iteration=state.iteration, stages=["label", "train"])
    return state.model_copy(update={"iteration": state.iteration + 1, "trail": [*state.trail, row]})


@pytest.mark.parametrize("iterations", [2, 200])
def test_a_stage_asks_for_what_is_new_only(iterations: int) -> None:
    store, state = begun(iterations)
    after = following(store, given(store, state))
    store.requests.clear()
    found = training_systems(store, after)
    assert len(store.requests) == 3
    assert found == ["init/bulk/Cu32", *(f"iter/{n:06d}/Cu4" for n in range(iterations + 2))]
    assert found == training_systems(store, after.model_copy(update={"systems": None})), "as from the beginning"


def test_select_and_a_second_attempt_take_the_same_list() -> None:
    store, state = begun(3)
    after = given(store, state)
    store.requests.clear()
    assert training_systems(store, after.model_copy(update={"stage": "select"})) == training_systems(store, state)
    assert argument_of(training_systems(store, after)) == argument_of(training_systems(store, state))


@pytest.mark.parametrize("damage", [None, b"", b'["iter/000000/Cu4"]'])
def test_a_list_that_was_lost_is_made_again(damage: bytes | None) -> None:
    store, state = begun(3)
    after = following(store, given(store, state))
    expected = training_systems(store, after)
    assert after.systems
    key = SPACE.argument(after.systems.sha256)
    if damage is None:
        store.delete(key)
    else:
        store.put(key, damage)
    assert training_systems(store, after) == expected


def test_labels_that_a_rewind_dropped_long_ago_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows are in the state no more."""
    from statemachine.run import trail

    store, state = begun(9)
    rows = [row.model_copy(update={"left": 3 <= row.iteration < 6, "stages": []}) for row in state.trail]
    monkeypatch.setattr(trail, "ROWS", 1)
    whole = state.model_copy(update={"trail": rows})
    short, moved = trail.shortened(whole, whole)
    for past in moved:
        trail.write(store, past)
    assert len(short.trail) == 1
    left = [n for n in range(10) if not 3 <= n < 6]
    assert training_systems(store, short) == ["init/bulk/Cu32", *(f"iter/{n:06d}/Cu4" for n in left)]


@pytest.mark.parametrize("complete", [True, False])
def test_a_list_of_sums_that_was_deleted_is_damage(complete: bool) -> None:
    """Unfinished labels have none yet, and are not trained on."""
    store, state = begun(2)
    report = StageReport(
        stage="label",
        app="stub",
        iteration=1,
        attempt=0,
        complete=complete,
        next=True,
        jobs=JobCounts(planned=1, finished=1),
        files={"labels": {"Cu4/type.raw": 2}} if complete else {},
    )
    store.put(SPACE.stage("label", 1).report, report.dump())
    assert len(training_systems(store, state)) == 4
    store.delete(f"{SPACE.dataset_iter(1)}/{SUMS}")
    if not complete:
        assert len(training_systems(store, state)) == 3
        return
    with pytest.raises(DataError, match=r"iter/000001/SHA256SUMS is missing, but these labels were complete"):
        training_systems(store, state)
    row = IterationSummary(iteration=1, stages=[], left=True)
    assert len(training_systems(store, state.model_copy(update={"trail": [row]}))) == 3, "labels that do not count"


def test_initial_data_without_their_list_are_damage() -> None:
    store, state = begun(1)
    store.delete(f"{SPACE.dataset_init('bulk')}/{SUMS}")
    with pytest.raises(DataError, match=r"init/bulk/SHA256SUMS is missing"):
        training_systems(store, state)
