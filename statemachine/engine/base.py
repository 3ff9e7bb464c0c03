"""The protocol that every engine implements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from conventions.errors import NameTaken
from operators.live import Read
from statemachine.machine import Phase

# Variable with two file descriptors: of the lock of a workflow's interpreter, and of the one that its jobs hold, too.
LOCKS = "DPGEN2_LOCK_FDS"


@dataclass(frozen=True)
class Status:
    """Phase of a workflow, how far its jobs are, and what went wrong first."""

    phase: Phase
    step: str = ""
    finished: int = 0
    total: int = 0
    message: str = ""


UNKNOWN = "?"


@dataclass(frozen=True)
class LiveJob:
    """A job that runs now, as far as the engine can see it.

    Attributes
    ----------
    codes
        Exit codes of its tasks that have ended.
    task
        The task that runs; "" where none does yet, UNKNOWN where it cannot be seen which.
    read
        Beginning and end of one of that task's files, as an app's `live` reads them.
    note
        What a batch system has said of it.
    """

    job_id: str
    codes: Mapping[str, int] = field(default_factory=dict)
    task: str = ""
    read: Read = lambda name: ""
    note: str = ""


def name_taken(name: str) -> NameTaken:
    return NameTaken(
        f"a workflow {name} exists with another specification: was dpgen2-sm upgraded or the configuration "
        "changed while it was being submitted? `dpgen2-sm cancel`, then `resume`, starts a new attempt"
    )


class Engine(Protocol):
    """Runs single-stage workflow manifests. A workflow's name is unique while the workflow exists."""

    @property
    def home(self) -> str:
        """Where workflows are submitted to, for people; no two engines that do not see each other's have the same."""

    def finds(self, name: str) -> bool:
        """Is there surely that very workflow, although it was submitted under the name of another home?"""

    def submit(self, manifest: dict[str, Any]) -> bool:
        """Start a workflow; False when it exists already with the same specification.

        Raises
        ------
        NameTaken
            When a workflow of that name has another specification.
        """

    def status(self, name: str) -> Status:
        """Phase and progress; `gone` when there is no such workflow or its process died."""

    def explain(self, name: str) -> str:
        """Why a workflow failed or cannot proceed: called rarely, so it may cost more than `status`."""

    def logs(self, name: str) -> Iterator[str]:
        """What the workflow's own steps (guard, plan, reduce) printed; raise `NotFound` when it is gone."""

    def job_logs(self, name: str, job_id: str, goes_on: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        """What the tasks of a job that runs have printed so far, by file; what is added as long as `goes_on` says so.

        Nothing for what the engine cannot see.
        """

    def running(self, name: str) -> list[LiveJob] | None:
        """The jobs of a workflow that run now; None where the engine cannot see that."""

    def terminate(self, name: str) -> None:
        """Stop a workflow and all that it started; no error when it has ended or does not exist."""

    def delete(self, name: str) -> None:
        """Delete a workflow that has ended and whose results were used."""

    def wait(self, name: str, seconds: float) -> None:
        """Return when the workflow has ended, or after that time."""

    def check(self) -> str:
        """Say where workflows would run; raise `EngineError` or `ConfigError` when they could not."""
