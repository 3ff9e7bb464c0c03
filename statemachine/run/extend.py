"""More iterations for a run that reached `max_iterations`: `dpgen2-sm extend RUN --iterations N`.

Two orders that exist: a patch of `max_iterations`, and a rewind that explores with the newest models. An interrupted
one can be repeated: the number of iterations is counted from those that the run has had.
"""

from __future__ import annotations

from conventions.errors import CommandRefused
from conventions.state import State
from operators.registry import load_config
from statemachine.machine.orders import Order
from statemachine.machine.outlook import is_accurate
from statemachine.store import Store

from .configuration import configuration
from .patch import adopt
from .poller import tell
from .record import Record


def extend(store: Store, iterations: int, reason: str) -> State:
    """Let a run have more iterations.

    Raises
    ------
    CommandRefused
        When it did not end at `max_iterations`.
    """
    record = Record(store)
    state = record.load().state
    if state.at != "exhausted":
        raise CommandRefused(
            f"cannot extend: the run's state is {state.at}; only a run that ended at max_iterations is extended "
            "(`patch` changes max_iterations of one that goes on)"
        )
    if state.policy.convergence.repeat == "once" and state.explore_stage + 1 >= state.policy.explore_stages:
        raise CommandRefused(
            "cannot extend: with convergence.repeat: once the last exploration stage is not repeated; add stages to "
            "the configuration, `patch` it, and `rewind` to the last explore"
        )
    if not state.final and not is_accurate(state, state.figures):
        raise CommandRefused(
            "cannot extend: the run ended because no frame was chosen to label, and the next iteration would choose "
            "none either; change the configuration (see `dpgen2-sm status RUN`), `patch` it, and `rewind` to select"
        )
    stored = load_config(configuration(store, state, newest=True))
    stored = stored.model_copy(update={"max_iterations": state.round + iterations})
    if state.policy.max_iterations != stored.max_iterations:
        adopt(record, state, stored, {}, reason)
    return tell(record, Order("rewind", reason, state.iteration, "explore"))[1]
