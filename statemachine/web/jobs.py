"""The jobs of a stage, and what one has printed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from conventions.documents import DoneMarker
from conventions.errors import DataError, Dpgen2Error, NotFound
from conventions.names import format_id
from conventions.space import DoneKey, StageSpace
from conventions.state import State
from statemachine.engine import LiveJob
from statemachine.run.opening import engine_of
from statemachine.run.place import elsewhere, works_elsewhere
from statemachine.run.progress import is_of_attempt
from statemachine.store import Store

from .view import engine_here

PAGE = 100  # jobs of a page
READING = 1.0  # seconds for reading markers
TAIL = 256 << 10  # bytes of a log that are shown: its end
LARGEST = 32 << 20  # bytes of a log that is read
PRINTED = 2 << 20  # characters of all logs of a job
MORE = "(there may be more: `dpgen2-sm logs` shows all)\n"


@dataclass(frozen=True)
class Job:
    number: int
    where: str  # running, finished, waiting
    told: str = ""


@dataclass(frozen=True)
class Jobs:
    """Some jobs of a stage. `running` is None where the engine does not see which do."""

    jobs: list[Job]
    first: int
    total: int
    ended: int
    running: int | None


def place_of(state: State, stage: str, iteration: int) -> StageSpace:
    """A stage that the run has or had.

    Raises
    ------
    NotFound
        When there is no such stage or iteration.
    """
    if iteration > state.iteration:
        raise NotFound(f"the run is at iteration {state.iteration}")
    try:
        return state.place.space.stage(stage, iteration)
    except DataError:
        raise NotFound("there is no such stage") from None


def jobs(store: Store, state: State, stage: str, iteration: int, first: int = 0) -> Jobs:
    """The jobs from a number on: which run, which have ended, and how."""
    place = place_of(state, stage, iteration)
    names = [name for name in store.folders(place.jobs + "/") if name.isdigit()]
    parsed = {entry.key: place.space.parse(entry.key) for entry in store.list(place.done + "/")}
    ended = {found.job_id: key for key, found in parsed.items() if isinstance(found, DoneKey)}
    running: list[LiveJob] | None = []
    if _present(state, place) and state.at.endswith(".running"):
        engine = engine_here(store, state)
        running = None if engine is None else engine.running(state.workflow)
    live = {job.job_id for job in running or ()}
    until = time.monotonic() + READING
    found = []
    for name in names[first : first + PAGE]:
        if name in live:
            found.append(Job(int(name), "running"))
        elif name in ended:
            found.append(Job(int(name), "finished", _marker(store, ended[name]) if time.monotonic() < until else ""))
        else:
            found.append(Job(int(name), "not finished"))
    return Jobs(found, first, len(names), len(ended.keys() - live), None if running is None else len(live))


def _marker(store: Store, key: str) -> str:
    try:
        codes = [task.code for task in DoneMarker.load(store.get(key).data, key).tasks]
    except (NotFound, DataError):
        return "its marker cannot be read"
    bad = sum(code != 0 for code in codes)
    if len(codes) == 1:
        return "failed" if bad else "ok"
    return f"{len(codes)} tasks{f', {bad} failed' if bad else ''}"


def log(store: Store, state: State, stage: str, iteration: int, number: int) -> str:
    """What a job has printed: as far as it is to be seen while it runs, and then as it was published.

    Raises
    ------
    NotFound
        When there is nothing.
    """
    place = place_of(state, stage, iteration).job(format_id(number))
    parts = _some(_running(store, state, place)) or _some(_published(store, place))
    if not parts:
        raise NotFound("the job has no log yet: it does not run, or its log is published when it has ended")
    return "\n".join(parts)


def steps(store: Store, state: State) -> str:
    """What guard, plan and reduce of the current workflow have printed.

    Raises
    ------
    NotFound
        When there is nothing to be seen from here.
    """
    engine = engine_of(store, state)
    if away := elsewhere(state, engine.home, engine):
        raise NotFound(works_elsewhere(away, engine.home))
    text = ""
    for line in engine.logs(state.workflow):
        text += f"{line}\n"
        if len(text) > PRINTED:
            return f"{text}{MORE}"
    return text


def _some(logs: Iterable[tuple[str, str]]) -> list[str]:
    """Logs with their names, as many as a page can show; no further one is read."""
    parts: list[str] = []
    for name, text in logs:
        parts.append(f"== {name} ==\n{text}")
        if sum(map(len, parts)) > PRINTED:
            return [*parts, MORE]
    return parts


def _running(store: Store, state: State, place: StageSpace) -> Iterator[tuple[str, str]]:
    if not _present(state, place) or (engine := engine_here(store, state)) is None:
        return
    if is_of_attempt(store, place, state.attempt, place.job_done):
        return
    found: dict[str, bytes] = {}
    try:
        for name, data in engine.job_logs(state.workflow, place.job_id, lambda: False):
            found[name] = (found.get(name, b"") + data)[-TAIL - 1 :]
    except (Dpgen2Error, OSError):
        return
    yield from ((name, _end(data)) for name, data in found.items())


def _published(store: Store, place: StageSpace) -> Iterator[tuple[str, str]]:
    for entry in store.list(place.job_log + "/"):
        name = entry.key.rpartition("/")[2]
        if entry.size > LARGEST:
            yield name, f"({entry.size:,} bytes: `dpgen2-sm logs` shows it)\n"
        else:
            yield name, _end(store.get(entry.key).data)


def _end(data: bytes) -> str:
    text = data[-TAIL:].decode("utf-8", "replace")
    return f"(the last {TAIL:,} bytes)\n{text}" if len(data) > TAIL else text


def _present(state: State, place: StageSpace) -> bool:
    return (place.stage, place.iteration) == (state.stage, state.iteration)
