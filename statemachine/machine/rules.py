"""Guards of the transitions, which read a state and an observation, and effects, which change the state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from conventions.names import STAGES
from conventions.state import Goal, IterationSummary, State

from .observation import Action, Observation, Phase
from .orders import Order, adopted, forked, new_row, patch_error, patched, prune_error, rewind_error, rewound
from .outlook import is_accurate, rmse_problem, why_not_converged

NOTHING, UNSEEN = Order(""), Observation()


@dataclass
class Cursor:
    """The model that `transitions` moves: guards read it, effects write `changes` and `action`."""

    doc: State
    seen: Observation = UNSEEN
    action: Action = Action.WAIT
    changes: dict[str, Any] = field(default_factory=dict)
    order: Order = NOTHING

    def __post_init__(self) -> None:
        self.state = self.doc.at
        if self.doc.goal and self.order is NOTHING:
            self.order = Order("rewind", self.doc.reason, self.doc.goal.iteration, self.doc.goal.stage)

    # --- guards -------------------------------------------------------------------------------------------

    def held(self) -> bool:
        return self.doc.hold

    def homeless(self) -> bool:
        """No poller has said yet where it will submit the attempt."""
        return self.doc.home == "" != self.seen.home

    def elsewhere(self) -> bool:
        """The attempt belongs to an engine that this process cannot ask: what is not found here may work there."""
        return self.doc.home not in ("", self.seen.home) and not self.seen.found

    def begun(self) -> bool:
        return self.seen.revoked is False

    def submitted(self) -> bool:
        return self.seen.submitted

    def unchecked(self) -> bool:
        return self.seen.phase is None

    def alive(self) -> bool:
        return self.seen.phase is Phase.running

    def unlooked(self) -> bool:
        return not self.seen.looked

    def complete(self) -> bool:
        report, doc = self.seen.report, self.doc
        return (
            report is not None
            and report.complete
            and (report.stage, report.iteration) == (doc.stage, doc.iteration)
            and self.seen.finished >= report.jobs.finished
        )

    def doubtful(self) -> bool:
        """The workflow seemed dead when it was last asked about: ask again before acting."""
        return self.seen.phase is not Phase.succeeded and self.seen.checks < 2

    def unrevoked(self) -> bool:
        return self.seen.revoked is None

    def unsure_of_claim(self) -> bool:
        """The workflow had its claim: only its death lets the attempt be given up."""
        return self.seen.revoked is False and self.seen.checks < 3

    def may_retry(self) -> bool:
        return self._stalled() <= self.doc.policy.retries[self.doc.stage]

    def has_work(self) -> bool:
        return self.seen.report is not None and self.seen.report.next

    def has_frames(self) -> bool:
        """There is something to label: candidates, or check frames, which are reason enough for the last iteration."""
        return self.has_work() or bool(self.seen.report and self.seen.report.summary.get("check"))

    def is_final(self) -> bool:
        return self.doc.final != ""

    def final_converged(self) -> bool:
        return self.doc.final == "converged"

    def precise(self) -> bool:
        """The force RMSE is as small as the run asks for, if it does."""
        return not self._rmse_problem()

    def may_explore(self) -> bool:
        """An exploration more is allowed after the last labels."""
        rules = self.doc.policy
        return self.doc.round < rules.max_iterations and rules.convergence.repeat != "once"

    def explored(self) -> bool:
        """The last exploration stage is done."""
        return self._leaves() and self.doc.explore_stage + 1 >= self.doc.policy.explore_stages

    def clean(self) -> bool:
        return self._clean()

    def goes_on(self) -> bool:
        """Another iteration is allowed and would not repeat the same one."""
        another = self.doc.round + 1 < self.doc.policy.max_iterations
        return another and not self.explored() and (self.has_work() or self._accurate() or self._leaves())

    def unterminated(self) -> bool:
        return not self.seen.terminated

    def going_back(self) -> bool:
        return self.doc.goal is not None

    def may_rewind(self) -> bool:
        return not rewind_error(self.doc, self.order.iteration, self.order.stage)

    def may_prune(self) -> bool:
        return not prune_error(self.doc, self.order.iteration)

    def may_patch(self) -> bool:
        return self.order.policy is not None and not patch_error(self.doc, self.order.policy)

    # --- effects ------------------------------------------------------------------------------------------

    def settle(self) -> None:
        self._change(home=self.seen.home)

    def take_over(self) -> None:
        self._change(home=self.seen.home, reason=self.order.reason)

    def ask_submit(self) -> None:
        self.action = Action.SUBMIT

    def ask_check(self) -> None:
        self.action = Action.CHECK

    def ask_look(self) -> None:
        self.action = Action.LOOK

    def ask_revoke(self) -> None:
        self.action = Action.REVOKE

    def ask_terminate(self) -> None:
        self.action = Action.TERMINATE

    def begin(self) -> None:
        self._change(reason="submitted", systems=self.seen.systems or self.doc.systems)

    def next_stage(self) -> None:
        self._enter(self.state.partition(".")[0])

    def next_iteration(self) -> None:
        """After select: start the next one; without new labels the models stay, and exploration repeats or moves on."""
        clean = self.doc.clean + 1 if self._accurate() else 0
        moved = {"explore_stage": self.doc.explore_stage + 1, "clean": 0} if self._leaves() else {"clean": clean}
        self._enter(self.state.partition(".")[0], iteration=self.doc.iteration + 1, **moved, **adopted(self.doc))

    def last_labels(self) -> None:
        """The last iteration: label what was chosen last, and train on it."""
        final = "converged" if self.explored() and self._clean() else "exhausted"
        self._enter("label", iteration=self.doc.iteration + 1, final=final, **adopted(self.doc))

    def explore_after_all(self) -> None:
        """The last labels showed that the models are not good enough yet: the iteration goes on like any other."""
        why = self._rmse_problem()
        self._enter("explore", final="")
        *before, row = self.changes["trail"]
        self._change(trail=[*before, row.model_copy(update={"final": ""})], reason=f"not converged yet: {why}")

    def finish(self) -> None:
        ending = {
            "converged": "exploration converged; the models are trained with the last labels",
            "exhausted": self._why_exhausted(),
        }[self.state]
        self._change(reason=ending, trail=self._trail(), hold=False)  # there is nothing left that a pause holds up

    def retry(self) -> None:
        self._change(
            attempt=self.doc.attempt + 1,
            home=self.seen.home,
            stalled=self._stalled(),
            finished=max(self.doc.finished, self.seen.finished),
            reason=f"attempt {self.doc.attempt} did not complete the stage: {self._trouble()}{self._repeated()}",
        )

    def fail(self) -> None:
        self._change(
            finished=max(self.doc.finished, self.seen.finished),
            stalled=self._stalled(),
            reason=f"{self.doc.stage} of iteration {self.doc.iteration} failed: {self._trouble()}",
        )

    def no_work(self) -> None:
        self._change(
            reason=f"{self.doc.stage} of iteration {self.doc.iteration} gave the next stage no work: {self._trouble()}"
        )

    def hold(self) -> None:
        self._change(hold=True, reason=self.order.reason)

    def release(self) -> None:
        self._change(hold=False, reason=self.order.reason)

    def revive(self) -> None:
        attempt = {"attempt": self.doc.attempt + 1, "stalled": 0, "home": ""}
        config = adopted(self.doc) if self.doc.next_keeps_sha256 == self.doc.config_sha256 else {}
        self._change(**attempt, hold=False, reason=self.order.reason, **config)

    def stop_to_go_back(self) -> None:
        goal = Goal(iteration=self.order.iteration, stage=self.order.stage)  # type: ignore[arg-type]
        self._change(goal=goal, reason=self.order.reason)

    def go_back(self) -> None:
        self._change(home=self.seen.home, **rewound(self.doc, self.order))

    def patch(self) -> None:
        self._change(**patched(self.doc, self.order))

    def fork(self) -> None:
        self._change(**forked(self.doc, self.order))

    def prune(self) -> None:
        self._change(pruned=max(self.doc.pruned, self.order.iteration))

    def note(self) -> None:
        self._change(reason=self.order.reason, goal=None)

    # --- helpers ------------------------------------------------------------------------------------------

    def _change(self, **changes: Any) -> None:
        self.changes.update(changes)
        self.action = Action.COMMIT

    def _enter(self, stage: str, **changes: Any) -> None:
        fresh = {"attempt": 0, "home": self.seen.home, "stalled": 0, "finished": 0, "reason": ""}
        self._change(stage=stage, trail=self._trail(), **fresh, **changes)

    def _trail(self) -> list[IterationSummary]:
        """The iteration table with this stage's figures."""
        report, doc, trail = self.seen.report, self.doc, list(self.doc.trail)
        row = trail.pop() if trail and trail[-1].iteration == doc.iteration else new_row(doc)
        figures = {**row.figures, **(report.summary if report else {})}
        for name, hours in report.jobs.used.hours.items() if report and report.jobs.used else ():
            figures[name] = round(row.figures.get(name, 0.0) + hours, 6)
        return [*trail, row.model_copy(update={"figures": figures, "stages": [*row.stages, doc.stage]})]

    def _stalled(self) -> int:
        return 0 if self.seen.finished > self.doc.finished else self.doc.stalled + 1

    def _accurate(self) -> bool:
        """Is this iteration's exploration accurate enough, and its level (95th percentile) stable?"""
        return is_accurate(self.doc, self.seen.report.summary if self.seen.report else {})

    def _rmse_problem(self) -> str:
        return rmse_problem(self.doc, {**self.doc.figures, **(self.seen.report.summary if self.seen.report else {})})

    def _clean(self) -> bool:
        return self._accurate() and self.doc.clean + 1 >= self.doc.policy.convergence.clean_iterations

    def _leaves(self) -> bool:
        """Is this iteration the last one of its exploration stage?"""
        return self._clean() or self.doc.policy.convergence.repeat == "once"

    def _trouble(self) -> str:
        messages = list(self.seen.report.messages) if self.seen.report else []
        return "; ".join(dict.fromkeys([*messages, *([self.seen.message] if self.seen.message else [])])) or (
            "some jobs have no valid result"
        )

    def _repeated(self) -> str:
        report = self.seen.report
        if report is None or not report.jobs.failed:
            return ""
        return f"; {report.jobs.failed} of {report.jobs.planned} jobs are run again"

    def _why_exhausted(self) -> str:
        claimed = self.final_converged() or (self.explored() and self._clean())
        problem = self._rmse_problem() if claimed else ""
        last = self.doc.explore_stage + 1 >= self.doc.policy.explore_stages
        once = last and self.doc.policy.convergence.repeat == "once"
        if once or self.doc.final or self.doc.round + 1 >= self.doc.policy.max_iterations:
            why = why_not_converged(self._trail(), self.doc.policy.convergence.accuracy)
            why = f"exploration is accurate, but {problem}" if problem else why
            if once:
                reached = "every exploration stage has had its one iteration (convergence.repeat: once)"
                more = "; to go on, add stages, `patch`, and `rewind` to the last explore"
            else:
                reached = f"max_iterations ({self.doc.policy.max_iterations}) reached before convergence"
                goes = self.doc.final or self._accurate()
                more = "; `dpgen2-sm extend RUN --iterations N` goes on" if goes else ""
            return f"{reached}{': ' * bool(why)}{why}{more}"
        if problem:
            return (
                f"not converged: exploration is accurate and no frame was chosen to label, but {problem}; lower "
                "f_trust_lo, train with more steps, or explore harder conditions"
            )
        return (
            "not converged, but no frame was chosen to label: the inaccurate frames are above f_trust_hi or were "
            "filtered out; lower the temperatures, or add initial data (`dpgen2-sm explain RUN ITERATION` says which)"
        )


for _stage in STAGES:
    setattr(Cursor, f"in_{_stage}", lambda self, _name=_stage: self.doc.stage == _name)
    setattr(Cursor, f"to_{_stage}", lambda self, _name=_stage: self.order.stage == _name)
