"""The protocol's rules, each switched off once. What the search finds then says what the rule is good for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from conventions.documents import StageReport
from conventions.errors import StoreError
from conventions.space import StageSpace
from conventions.state import State
from statemachine.engine import Phase
from statemachine.machine import orders, rules, transitions
from statemachine.machine.orders import Order
from statemachine.machine.rules import Cursor
from statemachine.machine.transitions import Action, Observation
from statemachine.run import poller, prune, record
from statemachine.run.poller import REVOKED, Poller
from statemachine.run.record import Loaded, Record

from .process import Line
from .world import SPACE

Switch = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Mutant:
    """A rule that is off.

    Parameters
    ----------
    off
        Switches it off in the code under search; `world` names the rules of the workflow's own steps and the engine.
    faults, commands, stages, pollers, damage
        The budget that the shortest story needs, the length of the run, who advances it, and whether the state may be
        damaged.
    long
        The search takes minutes.
    says
        Part of the violation that is found. Empty: there is none, for the reason in `why`.
    """

    says: str = ""
    off: Switch = contextlib.nullcontext
    world: dict[str, bool] = field(default_factory=dict)
    faults: int = 0
    commands: int = 0
    stages: int = 1
    pollers: int = 2
    damage: bool = False
    long: bool = False
    why: str = ""


def guard(name: str, answer: Any) -> Switch:
    """A guard of the machine that gives always the same answer, or asks something else."""
    return method(Cursor, name, answer if callable(answer) else lambda self: answer)


def method(owner: Any, name: str, instead: Any) -> Switch:
    return lambda: mock.patch.object(owner, name, instead)


_rewind_error, _needed_from = rules.rewind_error, prune.needed_from
_commit, _put, _keep, _take = Record.commit, Line.put, Record.keep, Poller._commit
_enter, _report, _act, _rewound = Cursor._enter, Poller._report, Poller._act, rules.rewound


def _knows_of_no_prune(state: State, iteration: int, stage: str) -> str:
    return _rewind_error(state.model_copy(update={"pruned": 0}), iteration, stage)


@contextlib.contextmanager
def _prunes_all() -> Iterator[None]:
    with (
        mock.patch.object(prune, "needed_from", lambda state: _needed_from(state) + 1),
        mock.patch.object(rules, "prune_error", lambda state, iteration: ""),
        mock.patch.object(orders, "prune_error", lambda state, iteration: ""),
    ):
        yield


def _believes_any_report(self: Cursor) -> bool:
    return self.seen.report is not None


def _asks_for_no_claim_of_finished_work(self: Cursor) -> bool:
    return self.seen.revoked is None and not self.complete()


def _counts_no_markers(self: Cursor) -> bool:
    return self.seen.report is not None and self.seen.report.complete


def _looks_after_success_only(self: Cursor) -> bool:
    return not self.seen.looked and self.seen.phase is Phase.succeeded


def _puts_without_match(self: Line, key: str, data: bytes, **conditions: Any) -> str:
    return _put(self, key, data, if_absent=conditions.get("if_absent", False))


def _keeps_nothing(self: Record, before: Loaded, after: State) -> Loaded | None:
    self._kept = before.data
    return _commit(self, before, after)


def _swaps_again(self: Poller, before: Loaded, after: State) -> Loaded:
    committed = self.record.commit(before, after)
    if committed is None:
        present = self.store.get(SPACE.state)
        committed = self.record.commit(Loaded(before.state, before.data, present.etag), after)
    return committed or self.record.load()


def _forgets_rows(after: State, before: State) -> tuple[State, list[Any]]:
    return after.model_copy(update={"trail": after.trail[-1:]}), []


def _takes_an_error_for_a_win(self: Record, before: Loaded, after: State) -> Loaded | None:
    try:
        return _commit(self, before, after)
    except StoreError:
        return Loaded(after, before.data, before.etag)


def _forgets_before_the_swap(self: Poller, before: Loaded, after: State) -> Loaded:
    self._forget(before.state, after)
    return _take(self, before, after)


def _revokes_over_a_claim(self: Poller, state: State) -> bool:
    self.store.put(state.place.claim(state.attempt), REVOKED)
    return True


def _takes_any_claim_for_revoked(self: Poller, state: State) -> bool:
    with contextlib.suppress(StoreError):
        self.store.put(state.place.claim(state.attempt), REVOKED, if_absent=True)
    return True


def _looks_at_no_files(self: Poller, state: State) -> StageReport | None:
    with contextlib.suppress(StoreError):
        return StageReport.load(self.store.get(state.place.report).data)
    return None


def _skips_explore(self: Cursor, stage: str, **changes: Any) -> None:
    _enter(self, "select" if stage == "explore" else stage, **changes)
    self.state = self.state.replace("explore", "select")


def _acts_on_what_is_not_kept(self: Poller, action: Action, loaded: Loaded, seen: Observation) -> Observation:
    with mock.patch.object(self.record, "keep", lambda version, data: None):
        return _act(self, action, loaded, seen)


def _rewinds_what_works(state: State, order: Order) -> State:
    if order.trigger == "rewind":
        return state.model_copy(update={**_rewound(state, order), "at": f"{order.stage}.submitting"})
    return transitions.command(state, order)


def _rewinds_to_the_same_number(state: State, order: Order) -> dict[str, Any]:
    return {**_rewound(state, order), "iteration": order.iteration}


def _patches_at_once(state: State, order: Order) -> dict[str, Any]:
    return {"config_sha256": order.config_sha256, "policy": order.policy}


def _name_without_attempt(self: State) -> str:
    return f"{self.run}-{self.stage}"


NAME_OF_ALL = method(State, "workflow", property(_name_without_attempt))
CLAIM_OF_ALL = method(StageSpace, "claim", lambda self, attempt: f"{self.root}/claim/all")

MUTANTS: dict[str, Mutant] = {
    # what the machine asks for before it acts
    "a workflow that runs is left alone": Mutant("still works", guard("alive", False)),
    "an attempt's claim is taken before it is given up": Mutant("may still begin", guard("unrevoked", False), faults=1),
    "an attempt that has its claim is looked at again": Mutant(
        "still works", guard("unsure_of_claim", False), faults=2
    ),
    "the claim is taken before outputs of a dead workflow are used": Mutant(
        "may still begin", guard("unrevoked", _asks_for_no_claim_of_finished_work), faults=2, long=True
    ),
    "an incomplete stage is not left": Mutant(
        "without its results", guard("complete", _believes_any_report), faults=2
    ),
    "submitted comes before running": Mutant("before it was submitted", guard("submitted", True)),
    "a cancelled workflow is awaited": Mutant("still works", guard("alive", False), commands=1),
    "a cancelled attempt is revoked": Mutant("may still begin", guard("unrevoked", False), commands=1),
    "no stage is skipped": Mutant("is followed by", method(Cursor, "_enter", _skips_explore), stages=4),
    # one record, swapped
    "the state is swapped, not written": Mutant("is followed by", method(Line, "put", _puts_without_match)),
    "who lost a swap reads again": Mutant("is followed by", method(Poller, "_commit", _swaps_again)),
    "an error is no win": Mutant(
        "although the run is at", method(Record, "commit", _takes_an_error_for_a_win), faults=1, stages=2, pollers=1
    ),
    "a version is kept before it is replaced": Mutant("not in the history", method(Record, "commit", _keeps_nothing)),
    "a version is kept before it is acted on": Mutant(
        "begins although", method(Poller, "_act", _acts_on_what_is_not_kept), faults=1, stages=2, pollers=1, damage=True
    ),
    # homes
    "what works elsewhere is not dead": Mutant("still works", guard("elsewhere", False), world={"homes": True}),
    "a home is named before anything is submitted there": Mutant(
        "still works", guard("homeless", False), world={"homes": True}
    ),
    # what people order
    "what works is stopped before a rewind": Mutant(
        "may still begin", method(poller, "command", _rewinds_what_works), commands=1
    ),
    "a rewind takes a new number": Mutant(
        "used twice", method(rules, "rewound", _rewinds_to_the_same_number), commands=1
    ),
    "a patch waits for a new name": Mutant(
        "another specification", method(rules, "patched", _patches_at_once), commands=1
    ),
    # names and claims
    "a name belongs to one attempt": Mutant("another specification", NAME_OF_ALL, faults=1),
    "a claim belongs to one attempt": Mutant("no end can be reached", CLAIM_OF_ALL, faults=1),
    "a claim that is taken stays": Mutant("still works", method(Poller, "_revoke", _revokes_over_a_claim), faults=2),
    "only a claim of one's own revokes": Mutant(
        "may still begin", method(Poller, "_revoke", _takes_any_claim_for_revoked), faults=2
    ),
    "the guard asks for the claim": Mutant("begins twice", world={"claims": False}, faults=1),
    "a name is taken while its workflow exists": Mutant("still works", world={"names": False}, faults=1),
    # outputs
    "the files of a report are looked for": Mutant(
        "without its results", method(Poller, "_report", _looks_at_no_files), faults=1
    ),
    "an output is what its marker says": Mutant("told of", world={"checksums": False}, faults=1),
    # equivalent here: the whole search goes by without a violation
    "a report counts when its markers are listed": Mutant(
        off=guard("complete", _counts_no_markers), faults=1,
        why="the report lists what it wrote, and those files are looked for; what is missing of the jobs it tells",
    ),
    "outputs of a dead workflow are used after another look at it": Mutant(
        off=guard("doubtful", False), faults=1,
        why="its claim is taken: if it is made again it does not work; another look helps where an engine was wrong",
    ),
    "rows are written before the state that names them": Mutant(
        "which is not there", method(record, "write", lambda store, past: None), stages=9,
    ),
    "a row that is taken out of the state is in an object": Mutant(
        "rows of the table are lost", method(record, "shortened", _forgets_rows), stages=9,
    ),
    "nobody goes back to trajectories that were deleted": Mutant(
        "is read, and was deleted", method(rules, "rewind_error", _knows_of_no_prune), {"prunes": True},
        commands=2, stages=9, pollers=1,
    ),
    "a prune is in the state before it deletes": Mutant(
        "is read, and was deleted", method(prune, "tell", lambda store, order: None), {"prunes": True},
        commands=2, stages=9, pollers=1,
    ),
    "what the newest exploration left is kept": Mutant(
        "is read, and was deleted", _prunes_all, {"prunes": True}, commands=1, stages=9, pollers=1,
    ),
    "outputs are looked at before liveness": Mutant(
        off=guard("unlooked", _looks_after_success_only), faults=1,
        why="it costs an attempt, which finds everything done",
    ),
    "a version is kept as soon as it is written": Mutant(
        off=method(Record, "_keep_later", lambda self, version, data: True), faults=1, damage=True,
        why="whoever swaps next, or acts, keeps it first; `doctor --restore` finds an older one, and nothing is lost",
    ),
    "a state is verified by its history": Mutant(
        off=method(Record, "verify", lambda self, loaded: None), faults=1, damage=True,
        why="who acts on a version, or replaces it, keeps it first, and finds another one there; this says so earlier",
    ),
    "the winner forgets, after its swap": Mutant(
        off=method(Poller, "_commit", _forgets_before_the_swap), faults=1,
        why="what a decision leaves behind has ended, whoever wins",
    ),
    "a consumed workflow is deleted": Mutant(
        off=method(Poller, "_forget", lambda self, before, after: None), faults=1,
        why="a finished workflow too many does no harm",
    ),
}  # fmt: skip
