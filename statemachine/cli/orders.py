"""What a person orders a run to do: pause, cancel, rewind, patch. `app` makes commands of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ConfigFile, Reason, Target

if TYPE_CHECKING:
    from conventions.state import State
    from statemachine.poller import Poller


def pause(target: Target, reason: Reason = "paused by a person") -> None:
    """Submit nothing new, until `resume`.

    A workflow that runs is left to end.
    """
    from statemachine.cli.show import print_state
    from statemachine.orders import Order
    from statemachine.runs import find_prefix, open_poller

    print_state(open_poller(find_prefix(target)).tell(Order("pause", reason)))


def cancel(target: Target, reason: Reason = "cancelled by a person") -> None:
    """Stop a run and its workflow.

    Everything that was finished is kept; `resume` goes on with a new attempt.
    """
    from statemachine.cli.show import print_state
    from statemachine.runs import find_prefix, open_poller

    print_state(cancelled(open_poller(find_prefix(target)), reason))


def rewind(
    target: Target,
    iteration: Annotated[int, typer.Option("--iter", min=0, help="Iteration to go back to.")],
    stage: Annotated[str, typer.Option(help="Stage of it to begin with: label, train, explore or select.")],
    reason: Reason = "rewound by a person",
) -> None:
    """Go back to a stage of an earlier iteration, and on from there.

    A run that has not ended is cancelled first. The run goes on in an iteration with a new number, in the place of
    the one named; a patched configuration comes into force. Nothing is deleted, but what was made from that stage on
    counts no more: its labels are not trained on. `resume`, `step` or a daemon then takes the run up.
    """
    from conventions.errors import CommandRefused
    from statemachine.cli.show import print_state
    from statemachine.orders import Order, why_no_rewind
    from statemachine.runs import find_prefix, open_poller

    poller = open_poller(find_prefix(target))
    state = poller.record.load().state
    if why := why_no_rewind(state, iteration, stage):  # before the run is cancelled for it
        raise CommandRefused(f"cannot rewind: {why}")
    if not state.ended:
        cancelled(poller, reason)
    print_state(poller.tell(Order("rewind", reason, iteration, stage)))


def patch(config: ConfigFile, reason: Reason = "patched by a person") -> None:
    """Change the configuration of a run to that of the file.

    The next iteration goes by it, or the attempt that `resume` or `rewind` begins; a workflow that is there is left
    alone. retries, max_iterations, convergence and the number of exploration stages hold at once. What a run is made of
    (run, prefix, type_map, init, the stages' apps, where the engine is) cannot be changed.
    """
    from statemachine.cli.show import print_state
    from statemachine.configfile import read_config
    from statemachine.patching import patch

    print_state(patch(read_config(config), config.parent, reason))


def cancelled(poller: Poller, reason: str = "") -> State:
    """Cancel a run, unless that was begun already; the state when all that it stops has stopped."""
    from statemachine.orders import Order

    if poller.record.load().state.at != "cancelling":
        poller.tell(Order("cancel", reason))
    state = poller.step()
    while state.at == "cancelling":
        time.sleep(0.2)
        state = poller.step()
    return state
