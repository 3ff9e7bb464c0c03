"""Telling people what becomes of a run: what is worth a message, where it goes, and that it goes there once.

What may enter: events of a run and ways to send them. It never acts on a run, and no run waits for it: the daemon and
the commands that follow a run show it each state, and a thread does the rest.
"""

from .messages import KINDS, Message, needs_person
from .notifier import Notifier, Watch
from .targets import Targets, take

__all__ = ["KINDS", "Message", "Notifier", "Targets", "Watch", "needs_person", "take"]
