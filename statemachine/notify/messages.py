"""What is worth telling of a run, and the identity of each event. Pure: states, errors and the time are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from conventions.errors import Dpgen2Error, NoRun
from conventions.forms import printable
from conventions.names import canonical_json
from conventions.state import ENDED, IterationSummary, State
from statemachine.machine.outlook import shares

KINDS = (*ENDED, "paused", "needs_person", "iteration")
USUAL = frozenset(KINDS) - {"iteration"}
LONGEST = 500  # characters of a reason
DAY = 86400.0  # seconds
_WORDS = {"needs_person": "needs a person", "iteration": "an iteration is done", "test": "this is a test"}
# A chat would take these for a link, or for the name of somebody to wake.
_CHAT = str.maketrans({"<": "[", ">": "]", "@": "(at)"})


@dataclass(frozen=True)
class Message:
    """What is told of one event.

    Parameters
    ----------
    event
        Its identity: the same for every process that sees the event, and no other event's.
    time
        When it happened, as the state says.
    """

    event: str
    kind: str
    run: str
    prefix: str
    reason: str = ""
    iteration: int | None = None
    stage: str = ""
    attempt: int | None = None
    version: int | None = None
    time: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{plain(self.run or self.prefix)}: {_WORDS.get(self.kind, self.kind)}".translate(_CHAT)

    @property
    def text(self) -> str:
        """For a chat or a mail."""
        where = f"iteration {self.iteration}, {self.stage}" if self.iteration is not None else ""
        lines = [where, self.reason, _in_words(self.figures), plain(self.prefix)]
        return "\n".join(line for line in lines if line).translate(_CHAT) or self.title

    @property
    def body(self) -> bytes:
        """For a program: one JSON object."""
        found: dict[str, Any] = {
            "schema_version": 1,
            "event": self.event,
            "kind": self.kind,
            "run": self.run,
            "prefix": self.prefix,
            "reason": self.reason,
            "iteration": self.iteration,
            "stage": self.stage or None,
            "attempt": self.attempt,
            "version": self.version,
            "time": self.time or None,
            "figures": dict(self.figures),
        }
        return canonical_json(found)


def messages(before: State, after: State, prefix: str) -> list[Message]:
    """What a version of the state tells, given the version before it."""
    if before.run_uid != after.run_uid or after.version != before.version + 1:
        return []
    found = []
    ended = after.at in ENDED and before.at != after.at
    done = before.at in ("select.running", "train.running")  # a rewind goes through `cancelling`, or begins at an end
    if done and (after.iteration > before.iteration or (ended and after.at != "failed")):
        found.append(_message("iteration", after, prefix, _row(after, before.iteration)))
    if ended:
        found.append(_message(after.at, after, prefix, _row(after, after.iteration)))
    elif after.hold and not before.hold:
        found.append(_message("paused", after, prefix, None))
    return found


def trouble(prefix: str, state: State | None, digest: str, reason: str) -> Message:
    """That a person is needed.

    Parameters
    ----------
    state
        The last one that was good, if any was seen.
    digest
        Of the bytes in the state's place: what is wrong with them is told once.
    """
    known: dict[str, Any] = {}
    if state is not None:
        fields = ("run", "iteration", "stage", "attempt", "version")
        known = {name: getattr(state, name) for name in fields}
    return Message(
        f"{digest}-needs_person", "needs_person", prefix=prefix, reason=plain(reason), **{"run": "", **known}
    )


def needs_person(error: BaseException) -> bool:
    """Does an error not pass by itself? A store that is away comes back; a damaged state does not."""
    return isinstance(error, Dpgen2Error) and error.exit_code == 2 and not isinstance(error, NoRun)


def age(state: State, now: float) -> float:
    """Seconds since the state was written; a time that cannot be read is long ago."""
    try:
        return now - datetime.fromisoformat(state.updated_at).timestamp()
    except (ValueError, OverflowError):
        return float("inf")


def plain(text: str, longest: int = LONGEST) -> str:
    """A text of a store or an engine as one line, without what would command a terminal, and cut."""
    line = printable(" ".join(text.split()), kept="")
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def _message(kind: str, state: State, prefix: str, row: IterationSummary | None) -> Message:
    return Message(
        event=f"{state.run_uid}-{state.version:08d}-{kind}",
        kind=kind,
        run=state.run,
        prefix=prefix,
        reason="" if kind == "iteration" else plain(state.reason),
        iteration=row.iteration if row else state.iteration,
        stage=state.stage if kind != "iteration" else "select",
        attempt=state.attempt if kind != "iteration" else None,
        version=state.version,
        time=plain(state.updated_at, 40),
        figures=dict(row.figures) if row else {},
    )


def _row(state: State, iteration: int) -> IterationSummary | None:
    return next((row for row in reversed(state.trail) if row.iteration == iteration), None)


def _in_words(figures: Mapping[str, float]) -> str:
    found = [f"{name} {share:.1%}" for name, share in shares(figures).items()]
    for name, words in (("labelled", "labels"), ("selected", "chosen")):
        if name in figures:
            found.append(f"{figures[name]:.0f} {words}")
    for name, words in (("rmse_f", "force RMSE {:.3g} eV/A"), ("rmse_e", "energy RMSE {:.3g} eV/atom")):
        if name in figures:
            found.append(words.format(figures[name]))
    return ", ".join(found)
