"""What a person orders a run to do: pause, cancel, rewind, patch. `app` makes commands of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ConfigFile, Reason, Target

if TYPE_CHECKING:
    from conventions.state import State
    from statemachine.run.poller import Poller


def pause(target: Target, reason: Reason = "paused by a person") -> None:
    """Submit nothing new, until `resume`.

    A workflow that runs is left to end.
    """
    from statemachine.cli.show import print_state
    from statemachine.machine.orders import Order
    from statemachine.run.opening import find_prefix, open_poller

    print_state(open_poller(find_prefix(target)).tell(Order("pause", reason)))


def cancel(target: Target, reason: Reason = "cancelled by a person") -> None:
    """Stop a run and its workflow.

    Everything that was finished is kept; `resume` goes on with a new attempt.
    """
    from conventions.errors import CommandRefused
    from statemachine.cli.show import print_state
    from statemachine.machine.orders import Order
    from statemachine.run.opening import find_prefix, open_poller

    poller = open_poller(find_prefix(target))
    try:
        poller.tell(Order("cancel", reason))
    except CommandRefused:
        if poller.record.load().state.at != "cancelling":  # a cancel that was interrupted is brought to its end
            raise
    print_state(stopped(poller))


def rewind(
    target: Target,
    iteration: Annotated[int, typer.Option("--iter", min=0, help="Iteration to go back to.")],
    stage: Annotated[str, typer.Option(help="Stage of it to begin with: label, train, explore or select.")],
    reason: Reason = "rewound by a person",
) -> None:
    """Go back to a stage of an earlier iteration, and on from there.

    What works is stopped first. The run goes on in an iteration with a new number, in the place of the one named; a
    patched configuration comes into force. Nothing is deleted, but what was made from that stage on counts no more: its
    labels are not trained on. `resume`, `step` or a daemon then takes the run up.
    """
    from statemachine.cli.show import print_state
    from statemachine.machine.orders import Order
    from statemachine.run.configuration import configuration
    from statemachine.run.opening import find_prefix, open_poller

    poller = open_poller(find_prefix(target))
    configuration(poller.store, poller.record.load().state, newest=True)  # the one that comes into force is there
    poller.tell(Order("rewind", reason, iteration, stage))
    print_state(stopped(poller))


def patch(config: ConfigFile, reason: Reason = "patched by a person") -> None:
    """Change the configuration of a run to that of the file.

    The next iteration goes by it, or the one that `rewind` begins; a workflow that is there is left alone. One that
    changes nothing but how jobs are run (command, setup, retries, ratio_failed, image, pod, hpc, engine) also comes
    with the attempt that `resume` begins after a failure or a cancel. retries, max_iterations, convergence and the
    number of exploration stages hold at once. What a run is made of (run, prefix, type_map, init, the stages' apps,
    where the engine is) cannot be changed.
    """
    from statemachine.cli.show import print_state, waiting
    from statemachine.run.config_file import read_config
    from statemachine.run.patch import patch

    state = patch(read_config(config), config.parent, reason)
    print_state(state)
    if text := waiting(state):
        typer.echo(text)


def stopped(poller: Poller) -> State:
    """The state when all that a cancel, or a rewind, stops has stopped."""
    state = poller.step(while_at="cancelling")
    while state.at == "cancelling":
        time.sleep(0.2)
        state = poller.step(while_at="cancelling")
    return state
