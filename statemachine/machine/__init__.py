"""When a stage begins, is repeated, has ended: pure decisions. No I/O, no clock, no random.

What may enter: states, transitions, orders of users, what the poller has seen. The state itself, as it is stored,
is `conventions.state`. Imports nothing else of `statemachine`.
"""

from .observation import Action, Decision, Observation, Phase
from .orders import Order
from .transitions import command, decide

__all__ = ["Action", "Decision", "Observation", "Order", "Phase", "command", "decide"]
