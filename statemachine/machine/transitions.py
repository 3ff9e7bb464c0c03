"""The machine: states, triggers and guards, declared once; and `decide`, which is pure.

A stage of an iteration is `{stage}.submitting` (the name of its workflow is decided) and then
`{stage}.running`. Before it advances or gives an attempt up, the machine asks for what it has to see, in an
order that is safe under any crash and any concurrent poller: outputs first, liveness second. When a workflow seems
dead it takes the claim, so that the workflow can never begin later, and asks about it again before it acts; also when
the outputs are complete (they may be an earlier attempt's that arrived late).

An attempt has a home: the engine that its poller named in the state before it submitted. Elsewhere nothing is known of
it, and unknown is not dead: pollers wait, until a person takes the attempt over.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from conventions.errors import CommandRefused
from conventions.names import STAGES
from conventions.state import ENDED, State

from .observation import Action, Decision, Observation
from .orders import Order, refusal
from .rules import Cursor

if TYPE_CHECKING:
    from transitions import Machine

STATES = [*(f"{stage}.{step}" for stage in STAGES for step in ("submitting", "running")), "cancelling", *ENDED]


def _rows() -> list[dict[str, Any]]:
    """Every transition. For one trigger and source the first row whose conditions hold is taken."""

    def tick(source: str, dest: str | None, conditions: list[str], after: str | None = None) -> dict[str, Any]:
        return {"trigger": "tick", "source": source, "dest": dest, "conditions": conditions, "after": after}

    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        submitting, running = f"{stage}.submitting", f"{stage}.running"
        rows += [
            tick(submitting, running, ["submitted"], "begin"),
            tick(submitting, None, ["held"]),
            tick(submitting, None, ["homeless"], "settle"),
            tick(submitting, None, ["elsewhere"]),
            tick(submitting, None, [], "ask_submit"),
            tick(running, None, ["elsewhere"]),
            tick(running, None, ["unchecked"], "ask_check"),
            tick(running, None, ["alive"]),
            tick(running, None, ["unlooked"], "ask_look"),
            tick(running, None, ["complete", "doubtful", "unrevoked"], "ask_revoke"),
            tick(running, None, ["complete", "doubtful"], "ask_check"),
        ]
        if stage == "label":
            rows += [tick(running, "train.submitting", ["complete", "has_work"], "next_stage")]
        if stage == "train":
            rows += [
                tick(running, "converged", ["complete", "has_work", "final_converged", "precise"], "finish"),
                tick(
                    running,
                    "explore.submitting",
                    ["complete", "has_work", "final_converged", "may_explore"],
                    "explore_after_all",
                ),
                tick(running, "exhausted", ["complete", "has_work", "is_final"], "finish"),
                tick(running, "explore.submitting", ["complete", "has_work"], "next_stage"),
            ]
        if stage == "explore":
            rows += [tick(running, "select.submitting", ["complete", "has_work"], "next_stage")]
        if stage == "select":
            rows += [
                tick(running, "label.submitting", ["complete", "explored", "has_frames"], "last_labels"),
                tick(running, "converged", ["complete", "explored", "clean", "precise"], "finish"),
                tick(running, "label.submitting", ["complete", "goes_on", "has_work"], "next_iteration"),
                tick(running, "explore.submitting", ["complete", "goes_on"], "next_iteration"),
                tick(running, "label.submitting", ["complete", "has_work"], "last_labels"),
                tick(running, "exhausted", ["complete"], "finish"),
            ]
        else:
            rows += [tick(running, "failed", ["complete"], "no_work")]
        rows += [
            tick(running, None, ["unrevoked"], "ask_revoke"),
            tick(running, None, ["unsure_of_claim"], "ask_check"),
            tick(running, submitting, ["may_retry"], "retry"),
            tick(running, "failed", [], "fail"),
        ]
        for source in (submitting, running):
            rows += [
                {"trigger": "pause", "source": source, "dest": None, "unless": "held", "after": "hold"},
                {"trigger": "resume", "source": source, "dest": None, "conditions": "held", "after": "release"},
                {"trigger": "cancel", "source": source, "dest": "cancelling", "after": "note"},
                {
                    "trigger": "take_over",
                    "source": source,
                    "dest": None,
                    "conditions": "elsewhere",
                    "after": "take_over",
                },
            ]
            rows += [{"trigger": "fork", "source": source, "dest": submitting, "after": "fork"}]
        for source in ("failed", "cancelled"):
            rows += [
                {
                    "trigger": "resume",
                    "source": source,
                    "dest": submitting,
                    "conditions": f"in_{stage}",
                    "after": "revive",
                }
            ]
        for source in ENDED:
            rows += [
                {
                    "trigger": "rewind",
                    "source": source,
                    "dest": submitting,
                    "conditions": [f"to_{stage}", "may_rewind"],
                    "after": "go_back",
                }
            ]
    rows += [
        tick("cancelling", None, ["unrevoked"], "ask_revoke"),
        tick("cancelling", None, ["elsewhere", "begun"]),
        tick("cancelling", None, ["unterminated"], "ask_terminate"),
        tick("cancelling", None, ["unchecked"], "ask_check"),
        tick("cancelling", None, ["alive"]),
        *(tick("cancelling", f"{stage}.submitting", [f"to_{stage}", "may_rewind"], "go_back") for stage in STAGES),
        tick("cancelling", "cancelled", [], "note"),
        {"trigger": "cancel", "source": "cancelling", "dest": None, "conditions": "going_back", "after": "note"},
        {"trigger": "take_over", "source": "cancelling", "dest": None, "conditions": "elsewhere", "after": "take_over"},
    ]
    rows += [
        {
            "trigger": "rewind",
            "source": source,
            "dest": "cancelling",
            "conditions": "may_rewind",
            "after": "stop_to_go_back",
        }
        for source in STATES
        if source not in ENDED
    ]
    rows += [tick(source, None, []) for source in ENDED]
    rows += [{"trigger": "fork", "source": source, "dest": None, "after": "fork"} for source in ("cancelling", *ENDED)]
    rows += [
        {"trigger": trigger, "source": source, "dest": None, "conditions": f"may_{trigger}", "after": trigger}
        for trigger in ("patch", "prune")
        for source in STATES
    ]
    return rows


@functools.cache
def machine() -> Machine:
    """The declared machine, built when the first decision is asked for: `status` and `--help` need none."""
    from transitions import Machine

    return Machine(model=None, states=STATES, transitions=_rows(), initial="label.submitting", auto_transitions=False)


def decide(state: State, seen: Observation) -> Decision:
    """What to do next, from the state and what has been seen. Pure: no clock, no network, no random."""
    return _fire("tick", Cursor(state, seen))


def command(state: State, order: Order) -> State:
    """The state after a user's command.

    Raises
    ------
    CommandRefused
        When it does not fit the current state.
    """
    from transitions import MachineError

    try:
        decision = _fire(order.trigger, Cursor(state, Observation(home=order.home), order=order))
    except MachineError:
        decision = Decision(Action.WAIT, state)
    if decision.action is not Action.COMMIT:
        raise CommandRefused(f"cannot {order.trigger.replace('_', ' ')}: {refusal(state, order)}")
    return decision.state


def _fire(trigger: str, cursor: Cursor) -> Decision:
    machine().events[trigger].trigger(cursor)
    if cursor.action is not Action.COMMIT:
        return Decision(cursor.action, cursor.doc)
    return Decision(Action.COMMIT, cursor.doc.model_copy(update={**cursor.changes, "at": cursor.state}))
