"""Carrying out what a person orders, from the command line and from the pages alike."""

from __future__ import annotations

import math
import time

from conventions.errors import CommandRefused, EngineError
from conventions.state import State
from statemachine.machine.orders import Order

from .configuration import configuration
from .place import works_elsewhere
from .poller import Poller

_PAUSE = 0.2  # seconds between two looks at a workflow that is to stop


def carry_out(poller: Poller, order: Order, seconds: float = math.inf) -> State:
    """Give an order, and stop the workflow that it stops.

    Parameters
    ----------
    seconds
        To wait for that; afterwards the state is still `cancelling`, and whoever advances the run goes on with it.

    Raises
    ------
    CommandRefused
        When the order does not fit the state.
    StateError
        When the configuration that takes effect with it is missing.
    EngineError
        When the workflow works elsewhere: only a poller there can stop it.
    """
    state = poller.record.load().state
    if order.trigger == "rewind" or (order.trigger == "resume" and state.next_keeps_sha256):
        configuration(poller.store, state, newest=True)
    try:
        state = poller.tell(order)
    except CommandRefused:
        state = poller.record.load().state
        if order.trigger != "cancel" or state.at != "cancelling":  # a cancel that was interrupted is completed
            raise
    return stopped(poller, seconds) if order.trigger in ("cancel", "rewind") else state


def stopped(poller: Poller, seconds: float = math.inf) -> State:
    """Wait until a cancel or a rewind has stopped the workflow; return the state."""
    end = time.monotonic() + seconds
    state = poller.step(while_at="cancelling")
    while state.at == "cancelling" and time.monotonic() < end:
        if poller.away:
            raise EngineError(f"the run is to stop, but {works_elsewhere(poller.away, poller.engine.home)}")
        time.sleep(_PAUSE)
        state = poller.step(while_at="cancelling")
    return state
