"""Input and output of the machine: what the poller has seen, and what it must do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from conventions.documents import StageReport
from conventions.state import State, Systems


class Phase(Enum):
    """What an engine says of a workflow. Only `running` means that it may still write."""

    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    gone = "gone"


class Action(Enum):
    """What the poller must do next."""

    WAIT = auto()  # nothing until something happens outside
    COMMIT = auto()  # swap the state
    SUBMIT = auto()  # submit the workflow of the present attempt
    CHECK = auto()  # ask the engine about the workflow
    LOOK = auto()  # read the report and list the completion markers
    REVOKE = auto()  # take the claim of the attempt, so that its workflow can never begin
    TERMINATE = auto()  # stop the workflow


@dataclass(frozen=True)
class Observation:
    """What the poller has seen in this step. None means: not looked yet."""

    phase: Phase | None = None
    checks: int = 0
    message: str = ""
    looked: bool = False
    report: StageReport | None = None
    finished: int = 0
    submitted: bool = False
    systems: Systems | None = None
    revoked: bool | None = None
    terminated: bool = False
    home: str = ""  # where this poller submits
    found: bool = False  # the attempt is seen from here although it was submitted elsewhere


@dataclass(frozen=True)
class Decision:
    action: Action
    state: State
