"""The poller: `step()` observes, decides, commits, acts. Daemon, `run`, `resume` and cron all call it.

It keeps nothing important in memory: any process may die at any line, and two may run at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from conventions.documents import StageReport
from conventions.errors import Conflict, DataError, EngineError, NotFound, NotTrusted
from conventions.space import DoneKey
from conventions.state import State
from statemachine.engine.base import Engine, Status
from statemachine.machine.observation import Action, Observation
from statemachine.machine.orders import Order
from statemachine.machine.transitions import command, decide

from .place import elsewhere
from .record import Loaded, Record
from .submission import Submission
from .trail import lengthened

DONE = ("converged", "exhausted")
REVOKED = b"revoked"
log = logging.getLogger("dpgen2-sm")
Listener = Callable[[State], None]


def tell(record: Record, order: Order) -> tuple[State, State]:
    """Commit a user's order; return the states before and after it. The poller then stops what it stops."""
    while True:
        loaded = record.load()
        rewinding = order.trigger == "rewind"
        state = lengthened(record.store, loaded.state, order.iteration) if rewinding else loaded.state
        committed = record.commit(loaded, command(state, order))
        if committed is not None:
            return loaded.state, committed.state


class Poller:
    """Advances one run.

    Parameters
    ----------
    record
        The run's state.
    engine
        Where its workflows run.
    submission
        How a workflow is prepared.
    on_commit
        Called with every state that this poller committed.
    loaded
        The state, if it was just read: saves the first step a request.
    """

    def __init__(
        self,
        record: Record,
        engine: Engine,
        submission: Submission,
        on_commit: Listener | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        self.record, self.engine, self.submission, self._loaded = record, engine, submission, loaded
        self.store = record.store
        self.on_commit = on_commit or (lambda state: None)
        self.run_uid = loaded.state.run_uid if loaded else ""
        self.status: Status | None = None
        self.away = ""  # where the run works, when that is elsewhere

    def step(self, while_at: str = "") -> State:
        """Advance as far as is possible now, or while the run is at one state; return the state that it ended in."""
        loaded = self._loaded or self.record.load(verify=False)
        self._loaded, seen = None, self._fresh(loaded.state)
        while True:
            if while_at and loaded.state.at != while_at:
                return loaded.state
            decision = decide(self._reaching_back(loaded.state), seen)
            if decision.action is not Action.CHECK and not (decision.action is Action.WAIT and seen.checks):
                self.record.verify(loaded)  # an idle tick, which only asks the engine, needs not
            if decision.action is Action.WAIT:
                if loaded.state.ended:
                    self.record.keep(loaded.state.version, loaded.data)
                return loaded.state
            if decision.action is Action.COMMIT:
                loaded = self._commit(loaded, decision.state)
                seen = self._fresh(loaded.state)
            else:
                seen = self._act(decision.action, loaded, seen)

    def _fresh(self, state: State) -> Observation:
        """Nothing is seen yet but where this process is, and whether the attempt is to be seen from here."""
        self._same_run(state)
        home = self.engine.home
        self.away = elsewhere(state, home, self.engine)
        return Observation(home=home, found=not self.away)

    def _same_run(self, state: State) -> None:
        """Raise `NotTrusted` for the state of another run in this one's place: its workflows are not this poller's."""
        self.run_uid = self.run_uid or state.run_uid
        if state.run_uid != self.run_uid:
            raise NotTrusted(f"{self.store.url}: the state is that of another run now; nothing was done for it")

    def take_over(self, reason: str) -> State:
        """A person's word that the attempt's home is lost for good: this process goes on in its place."""
        return self.tell(Order("take_over", reason, home=self.engine.home))

    def _reaching_back(self, state: State) -> State:
        """A rewind that waits for the workflow's end needs the iteration that it goes back to."""
        return lengthened(self.store, state, state.goal.iteration) if state.goal else state

    def tell(self, order: Order) -> State:
        """Carry out a user's command; raise `CommandRefused` when it does not fit."""
        self._loaded = None
        before, after = tell(self.record, order)
        self._same_run(before)
        self._forget(before, after)
        self.on_commit(after)
        return after

    def _commit(self, before: Loaded, after: State) -> Loaded:
        """Swap the state; the winner deletes the workflow whose results it has used. The loser only reloads."""
        committed = self.record.commit(before, after)
        if committed is None:
            return self.record.load(verify=False)
        self._forget(before.state, committed.state)
        self.on_commit(committed.state)
        return committed

    def _forget(self, before: State, after: State) -> None:
        """Delete the workflows of a stage that is left; until then `logs` shows those that were given up, too."""
        if (after.iteration, after.stage) == (before.iteration, before.stage) and after.at not in DONE:
            return
        for attempt in range(before.attempt + 1):
            try:
                self.engine.delete(before.workflow_of(attempt))
            except EngineError as error:  # a leftover workflow does no harm
                log.warning("the workflow %s could not be deleted: %s", before.workflow_of(attempt), error)

    def _act(self, action: Action, loaded: Loaded, seen: Observation) -> Observation:
        state, name = loaded.state, loaded.state.workflow
        if action in (Action.SUBMIT, Action.REVOKE, Action.TERMINATE):
            self.record.keep(state.version, loaded.data)  # nothing is done for a version that could still be lost
        if action is Action.SUBMIT:
            prepared = self.submission.prepare(state)
            self.engine.submit(prepared.manifest)
            return replace(seen, submitted=True, systems=prepared.systems)
        if action is Action.CHECK:
            self.status = self.engine.status(name)
            message = seen.message or self.status.message
            return replace(seen, phase=self.status.phase, checks=seen.checks + 1, message=message)
        if action is Action.LOOK:
            keys = (entry.key for entry in self.store.list(state.place.done + "/"))
            finished = sum(isinstance(state.place.space.parse(key), DoneKey) for key in keys)
            return replace(seen, looked=True, report=self._report(state), finished=finished)
        if action is Action.REVOKE:
            return replace(seen, revoked=self._revoke(state), message=self._explain(state) or seen.message)
        self.engine.terminate(name)
        return replace(seen, terminated=True)

    def _report(self, state: State) -> StageReport | None:
        """The stage's report; None if it is damaged or its files are incomplete: then the attempt is repeated."""
        key = state.place.report
        try:
            report = StageReport.load(self.store.get(key).data, key)
        except (NotFound, DataError):
            return None
        for root, sizes in report.files.items():
            folder = getattr(state.place, root) + "/"
            there = {entry.key[len(folder) :]: entry.size for entry in self.store.list(folder)}
            if not sizes.items() <= there.items():
                return None
        return report

    def _explain(self, state: State) -> str:
        """Why the attempt is given up, as far as the engine knows; an error of the engine is ignored."""
        try:
            return self.engine.explain(state.workflow)
        except EngineError:
            return ""

    def _revoke(self, state: State) -> bool:
        """Take the attempt's claim ourselves; False when its workflow has it."""
        key = state.place.claim(state.attempt)
        try:
            self.store.put(key, REVOKED, if_absent=True)
        except Conflict:
            return self.store.get(key).data == REVOKED
        return True
