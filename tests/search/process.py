"""A process of the search: the real poller, fed with the answers that it got so far.

The code under search is not changed and not copied. It is called with a store and an engine that hand out recorded
answers; at the first call without one the process stops and says what it asks. So what a process knows is the list of
its answers, and it can be copied by asking again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from types import SimpleNamespace, TracebackType
from typing import Any, NamedTuple

from pydantic import BaseModel

from conventions.errors import Conflict, Dpgen2Error, EngineError, NotFound, StoreError
from conventions.names import sha256
from conventions.state import Policy, State
from statemachine.engine import Phase, Status
from statemachine.machine.orders import Order
from statemachine.run.poller import Poller
from statemachine.run.prune import prunable, prune
from statemachine.run.record import Loaded, Record
from statemachine.run.restore import restore
from statemachine.store import Blob, Entry
from tests.doubles import APPS

FIRST, PATCHED = (b'{"is": "%s", "prefix": "memory://run"}' % name for name in (b"first", b"patched"))  # configurations
RULES = Policy(apps=APPS, max_iterations=2, explore_stages=1, retries=dict.fromkeys(APPS, 2))
Op = tuple[Any, ...]  # name of the call, and its arguments


@dataclass(frozen=True)
class Raises:
    """An answer that is an error."""

    kind: type[Dpgen2Error]


CONFLICT, NOT_FOUND, STORE_TROUBLE, ENGINE_TROUBLE = map(Raises, (Conflict, NotFound, StoreError, EngineError))


class Ask(BaseException):
    """The process needs the answer to `op`."""

    def __init__(self, op: Op) -> None:
        self.op = op


class Spec(NamedTuple):
    """What the search knows of a submitted workflow."""

    name: str
    stage: str
    iteration: int
    attempt: int
    newest: tuple[tuple[str, int], ...] = ()
    config: str = ""


def spec_of(state: State) -> Spec:
    newest = tuple(sorted(state.newest.items()))
    return Spec(state.workflow, state.stage, state.iteration, state.attempt, newest, state.config_sha256)


class Line:
    """Store and engine of a process: they give its answers back, one call after another."""

    url = "memory://run"

    def __init__(self, answers: tuple[Any, ...], home: str = "one") -> None:
        self.answers, self.home = iter(answers), home

    def finds(self, name: str) -> bool:
        return False

    def ask(self, *op: Any) -> Any:
        for answer in self.answers:
            if isinstance(answer, Raises):
                raise answer.kind("as the search has it")
            return answer
        raise Ask(op)

    def at(self, key: str) -> str:
        return key

    def get(self, key: str) -> Blob:
        found: Blob = self.ask("get", key)
        return found

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return str(self.ask("put", key, data, if_absent, if_match))

    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(self.ask("list", prefix))

    def head(self, key: str) -> Entry | None:
        found: Entry | None = self.ask("head", key)
        return found

    def delete_all(self, keys: list[str]) -> None:
        for key in keys:
            self.ask("remove", key)

    def submit(self, manifest: Spec) -> bool:
        return bool(self.ask("submit", manifest, self.home))

    def status(self, name: str) -> Status:
        return Status(self.ask("status", name, self.home))

    def explain(self, name: str) -> str:
        return ""

    def terminate(self, name: str) -> None:
        self.ask("terminate", name, self.home)

    def delete(self, name: str) -> None:
        """Of the store, or of the engine."""
        self.ask("remove", name) if "/" in name else self.ask("delete", name, self.home)

    def prepare(self, state: State) -> Any:
        return SimpleNamespace(manifest=spec_of(state), systems=None)


def record_on(line: Line) -> Record:
    record = Record(line, nonce=lambda: "", clock=lambda: "")  # type: ignore[arg-type]
    record.writer = ""
    return record


def poller_on(line: Line) -> Poller:
    return Poller(record_on(line), line, line)  # type: ignore[arg-type]


def run_program(program: str, line: Line) -> None:
    """`poller`, `poller two` (at another home), `restore`, `prune`, or an order: `pause`, `rewind 0 train`, ..."""
    trigger, *where = program.split()
    if trigger == "poller":
        poller_on(line).step()
    elif trigger == "take_over":
        poller_on(line).take_over("")
    elif trigger == "restore":
        restore(line)  # type: ignore[arg-type]
    elif trigger == "prune":
        until, _, keys = prunable(line, 0, False)  # type: ignore[arg-type]
        prune(line, until, keys, lambda more: None)  # type: ignore[arg-type]
    elif trigger == "patch":
        poller_on(line).tell(Order("patch", config_sha256=sha256(PATCHED), keeps_sha256=sha256(FIRST), policy=RULES))
    else:
        poller_on(line).tell(Order(trigger, "", *([int(where[0]), where[1]] if where else [])))


def home_of(program: str) -> str:
    """Where a process is: what it submits works there, and of other homes its engine knows nothing."""
    return "two" if program.endswith(" two") else "one"


class Node(NamedTuple):
    """Where a process stands: what it asks, or how it ended. `answers` lead there, as others may."""

    program: str
    answers: tuple[Any, ...]
    op: Op | None
    error: Exception | None = None


class Processes:
    """All places where a process can stand, by number.

    Two processes whose stacks hold the same lines and the same values do the same from there on, whatever they were
    told before: they stand at the same place.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._places: dict[Any, int] = {}
        self._start: dict[str, int] = {}
        self._next: dict[tuple[int, Any], int] = {}

    def start(self, program: str) -> int:
        if program not in self._start:
            self._start[program] = self._add(program, ())
        return self._start[program]

    def answer(self, number: int, answer: Any) -> int:
        key = (number, answer)
        if key not in self._next:
            node = self.nodes[number]
            self._next[key] = self._add(node.program, (*node.answers, answer))
        return self._next[key]

    def _add(self, program: str, answers: tuple[Any, ...]) -> int:
        met = STORE_TROUBLE in answers or ENGINE_TROUBLE in answers
        try:
            run_program(program, Line(answers, home_of(program)))
        except Ask as asked:
            # An error that is being handled may be raised again, and no variable holds it.
            handled = answers[-1] if answers and isinstance(answers[-1], Raises) else None
            place = program, asked.op, handled, _stack(asked.__traceback__)
            node = Node(program, answers, asked.op)
        except Exception as error:  # an end like another: the search judges it
            node, place = Node(program, answers, None, error), (program, met, type(error), str(error))
        else:
            node, place = Node(program, answers, None), (program, None)
        number = self._places.setdefault(place, len(self.nodes))
        if number == len(self.nodes):
            self.nodes.append(node)
        return number


def _stack(traceback: TracebackType | None) -> tuple[Any, ...]:
    """Lines and values of the code under search. Who reads the state anew forgets all that it knew."""
    present, lines = b"", []
    while traceback is not None:
        frame, values = traceback.tb_frame, traceback.tb_frame.f_locals
        if str(frame.f_globals.get("__name__")).startswith("statemachine."):
            if isinstance(loaded := values.get("loaded"), Loaded):
                present = loaded.data
            known = tuple(_value(value, present) for value in values.values())
            lines.append((frame.f_code, traceback.tb_lasti, known))
        traceback = traceback.tb_next
    if lines[-1][0] is Record.load.__code__:
        return tuple(line for line in lines if line[0] is prune.__code__)  # it knows what it is about to delete
    return tuple(lines)


def _value(value: Any, present: bytes) -> Any:
    """What tells one value of a variable from another. A record remembers versions: older ones are never met again."""
    if isinstance(value, Poller):
        return _value(value._loaded, present), _value(value.record, present)
    if isinstance(value, Record):
        return tuple(data if _version(data) >= _version(present) else None for data in (value._verified, value._kept))
    if isinstance(value, Loaded):
        return value.data, value.etag
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    if is_dataclass(value):
        return tuple(_value(getattr(value, each.name), present) for each in fields(value))
    if isinstance(value, (list, tuple)):
        return tuple(_value(each, present) for each in value)
    if isinstance(value, (str, bytes, int, Enum, type(None))):
        return value
    return type(value).__name__


@functools.cache
def _version(data: bytes | None) -> int:
    return State.unseal(data).version if data else 0


PHASES = {phase.value: phase for phase in Phase}
