"""Where workflows run: one protocol (`base`), one file per engine, one contract test for all.

What may enter: starting, watching and stopping workflows. Nothing that reads or changes a run's state.
"""

from statemachine.machine import Phase

from .base import Engine, LiveJob, Status
from .opening import open_engine

__all__ = ["Engine", "LiveJob", "Phase", "Status", "open_engine"]
