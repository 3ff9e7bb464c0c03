"""Which orders fit a run, and what they will do, in words. Pure."""

from __future__ import annotations

from conventions.errors import CommandRefused
from conventions.names import STAGES, canonical_json, sha256
from conventions.state import State
from statemachine.machine.orders import Order
from statemachine.machine.transitions import command

TITLES = {
    "pause": "Pause",
    "resume": "Resume",
    "cancel": "Cancel",
    "rewind": "Rewind",
    "patch": "Patch",
}
REASONS = {
    "pause": "paused in a browser",
    "resume": "resumed in a browser",
    "cancel": "cancelled in a browser",
    "rewind": "rewound in a browser",
    "patch": "patched in a browser",
}


def refused(state: State, order: Order) -> str:
    """Why an order does not fit the state; "" where it does. A patch is looked at with its configuration only."""
    if order.trigger == "patch" or (order.trigger == "cancel" and state.at == "cancelling"):
        return ""
    try:
        command(state, order)
    except CommandRefused as refusal:
        return str(refusal)
    return ""


def will_do(state: State, order: Order) -> list[str]:
    """What an order will do to a run; of a rewind the state needs the rows back to its iteration."""
    works = state.at.endswith(".running")
    where = f"{state.stage} of iteration {state.iteration}"
    if order.trigger == "pause":
        goes_on = [f"The workflow {state.workflow} is not stopped: it goes on to its end."] if works else []
        return ["Nothing new is submitted until the run is resumed.", *goes_on]
    if order.trigger == "resume":
        if state.hold and not state.ended:
            return [f"The run goes on with {where}."]
        return [f"A new attempt of {where} begins. Jobs that have finished are not run again."]
    if order.trigger == "cancel":
        return [
            f"The workflow {state.workflow} and its jobs are stopped.",
            "Jobs that have finished are kept. Resume begins a new attempt of the stage.",
        ]
    if order.trigger == "rewind":
        stops = [] if state.ended else [f"The workflow {state.workflow} and its jobs are stopped first."]
        return [*stops, *_drops(state, order), *_takes_effect(state)]
    return [
        "The configuration takes effect with the next iteration, or with a rewind; the workflow stays as it is.",
        "retries, max_iterations, convergence and the number of exploration stages take effect at once.",
    ]


def _drops(state: State, order: Order) -> list[str]:
    kept = STAGES[: STAGES.index(order.stage)]
    rows = [row for row in state.trail if row.iteration >= order.iteration and not row.left]
    labels = sum(
        row.figures.get("labelled", 0.0) for row in rows if row.iteration > order.iteration or "label" not in kept
    )
    return [
        f"What was made from {order.stage} of iteration {order.iteration} on is not used any more: {labels:.0f} labels "
        "and all later models. Nothing is deleted.",
        f"The run begins iteration {state.iteration + 1} with {order.stage}, in the place of iteration "
        f"{order.iteration}.",
    ]


def _takes_effect(state: State) -> list[str]:
    return ["The patched configuration takes effect with it."] if state.next_config_sha256 else []


def seen(state: State, order: Order, text: str = "") -> str:
    """What a person confirms: an order to a run that is where he saw it."""
    where = [state.run_uid, state.iteration, state.stage, state.ended, state.next_config_sha256]
    what = [order.trigger, order.reason, order.iteration, order.stage, text]
    return sha256(canonical_json([where, what]))
