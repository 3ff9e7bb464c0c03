"""The world of the search: objects, workflows and their bodies as plain values, and what the promise says of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from conventions.documents import JobCounts, StageReport
from conventions.names import STAGES, sha256
from conventions.space import DataSpace
from conventions.state import State
from statemachine.run.trail import lengthened
from statemachine.store import Blob
from tests.doubles import APPS

from .process import Spec, spec_of

SPACE = DataSpace(APPS)
LOST = "~lost"  # home one is no more
GUARD, JOB, MARK, REDUCE, REPORT, END = range(6)  # what a body does next
POD = {GUARD: GUARD, JOB: JOB, MARK: JOB, REDUCE: REDUCE, REPORT: REDUCE}  # where the pod of a step begins


class Violation(AssertionError):
    """Something was lost, or done twice."""


class Flow(NamedTuple):
    """A workflow: `uid` tells creations of one name apart, `take` the repetitions of a pod.

    A `stray` is a pod that goes on although the engine calls its workflow dead.
    """

    spec: Spec
    uid: int
    phase: str = "running"
    pc: int = GUARD
    take: int = 0
    seen: bytes = b""
    stray: bool = False
    stopping: bool = False
    home: str = "one"

    @property
    def moves(self) -> bool:
        return self.pc < END and (self.phase == "running" or self.stray)

    @property
    def works(self) -> bool:
        """A body that has begun, and that the engine calls alive."""
        return self.phase == "running" and GUARD < self.pc < END

    @property
    def place(self) -> Place:
        return place_of(self.spec)

    @property
    def owner(self) -> bytes:
        """What it writes into its claim."""
        return b"%d.%d" % (self.spec.attempt, self.uid)

    @property
    def tag(self) -> bytes:
        """What its job writes: no two runs write the same."""
        return b"%d.%d.%d" % (self.spec.attempt, self.uid, self.take)


class Sealed(NamedTuple):
    """A state in the store; `author` is the process that wrote it and does not know yet that it did."""

    data: bytes
    author: int | None = None


Objects = Mapping[str, Any]


@functools.cache
def unsealed(data: bytes) -> State:
    return State.unseal(data)


class Place(NamedTuple):
    """Keys of an attempt of a stage."""

    root: str
    labels: str
    claim: str
    product: str
    out: str
    marker: str
    report: str


@functools.cache
def place_of(spec: Spec) -> Place:
    place = SPACE.stage(spec.stage, spec.iteration)
    job = place.job("000000")
    return Place(
        root=place.root,
        labels=place.labels,
        claim=place.claim(spec.attempt),
        product=f"{place.labels}/frames" if spec.stage == "label" else f"{place.product}/model",
        out=f"{job.job_out}/file",
        marker=job.job_done,
        report=place.report,
    )


class View(NamedTuple):
    """What the search asks of a state again and again."""

    state: State
    at: str
    version: int
    etag: str
    workflow: str
    place: Place
    over: bool  # done for good: nothing is submitted any more, by no command


@functools.cache
def view(data: bytes) -> View:
    state = unsealed(data)
    etag, over = f"v{state.version} {sha256(data)[:8]}", state.at in ("converged", "exhausted")
    return View(state, state.at, state.version, etag, state.workflow, place_of(spec_of(state)), over)


def view_of(objects: Objects) -> View:
    return view(objects[SPACE.state].data)


def newest_of(objects: Objects) -> bytes:
    """The newest version that there is: of the state, or of a history that has gone on since it was put back."""
    version = view_of(objects).version
    while SPACE.event(version + 1) in objects:
        version += 1
    data: bytes = objects.get(SPACE.event(version), objects[SPACE.state]).data
    return data


def forget() -> None:
    """Another code is searched now."""
    for known in (unsealed, view, place_of):
        known.cache_clear()


def etag_of(value: Any) -> str:
    return view(value.data).etag if isinstance(value, Sealed) else value.decode("latin-1")


@functools.cache
def report_of(spec: Spec, tag: bytes, complete: bool, good: bool, precise: bool = True, checks: bool = False) -> bytes:
    figures = {
        "accurate": 10.0 if good else 5.0, "candidate": 0.0 if good else 5.0, "selected": 0.0 if good else 5.0
    }  # fmt: skip
    summary = {"select": {**figures, **({"check": 1.0} if checks else {})}, "train": {"rmse_f": 0.1 if precise else 1}}
    root = "labels" if spec.stage == "label" else "product"
    name = place_of(spec).product.rpartition("/")[2]
    return StageReport(
        stage=spec.stage,  # type: ignore[arg-type]
        app=APPS[spec.stage],
        iteration=spec.iteration,
        attempt=spec.attempt,
        complete=complete,
        next=spec.stage != "select" or not good,
        jobs=JobCounts(planned=1, finished=1),
        summary=summary.get(spec.stage, {}),
        messages=[tag.decode()],
        files={root: {name: len(tag)}} if complete else {},  # type: ignore[dict-item]
    ).dump()


# --- what the promise says ------------------------------------------------------------------------------------


def check_begins(objects: Objects, flows: tuple[Flow, ...], flow: Flow) -> None:
    """A body is about to begin its work."""
    state = view(newest_of(objects)).state
    here = (flow.spec.stage, flow.spec.iteration, flow.spec.attempt)
    begun = objects.get(f"~begun/{flow.spec.name}")
    if begun is not None and begun != flow.owner:
        raise Violation(f"the work of {flow.spec.name} begins twice")
    if here != (state.stage, state.iteration, state.attempt) or state.ended:
        raise Violation(f"{flow.spec.name} begins although the run is at {state.at} of {state.workflow}")
    if any(other.works for other in flows if other.uid != flow.uid or other.spec != flow.spec):
        raise Violation(f"{flow.spec.name} begins beside another workflow that works")


def whole(objects: Objects, state: State) -> State:
    """A state with all its rows."""
    return lengthened(_Reader(objects), state)  # type: ignore[arg-type]


class _Reader:
    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def at(self, key: str) -> str:
        return key

    def get(self, key: str) -> Blob:
        if key not in self.objects:
            raise Violation(f"the state names {key}, which is not there")
        return Blob(self.objects[key], "")


def check_write(objects: Objects, key: str, data: bytes) -> None:
    """What was used never changes."""
    used = objects.get(f"~used/{key}")
    if used is not None and used != data:
        raise Violation(f"{key} is changed after it was used")


def check_input(objects: Objects, flow: Flow) -> None:
    """A body reads what an earlier stage made: it must be what was recorded."""
    before = STAGES[STAGES.index(flow.spec.stage) - 1]
    iteration = dict(flow.spec.newest).get(before)
    key = "" if iteration is None else place_of(Spec("", before, iteration, 0)).product
    if objects.get(key) != objects.get(f"~used/{key}"):
        raise Violation(f"{key} is read, but is not what was recorded")
    explored = place_of(Spec("", "explore", dict(flow.spec.newest).get("explore", 0), 0))
    if flow.spec.stage == "select" and explored.out not in objects:
        raise Violation(f"{explored.out} is read, and was deleted")


def check_commit(objects: Objects, flows: tuple[Flow, ...], before: State, after: State) -> None:
    """A state is swapped for another one."""
    if _taken_back(objects, before, after):
        return
    if after.version != before.version + 1:
        raise Violation(f"version {before.version} is followed by {after.version}")
    event = objects.get(SPACE.event(before.version))
    if event is None or event.data != objects[SPACE.state].data:
        raise Violation(f"version {before.version} is overwritten, and is not in the history")
    rows = [row.iteration for row in whole(objects, after).trail]
    if rows != [*range(len(rows))] or len(rows) < len(whole(objects, before).trail):
        raise Violation(f"rows of the table are lost: {rows} are left")
    where = [(state.iteration, state.stage, state.attempt) for state in (before, after)]
    if where[0] == where[1]:
        _check_same_attempt(objects, flows, before, after)
        return
    _check_at_rest(objects, flows, before)
    if where[0][:2] != where[1][:2] and (before.ended or before.goal):  # rewound: what is to be read is there
        _check_counted(objects, after)
        return
    if where[0][:2] == where[1][:2]:
        if after.attempt != before.attempt + 1:
            raise Violation(f"attempt {before.attempt} is followed by {after.attempt}")
        return
    following = STAGES[(STAGES.index(before.stage) + 1) % 4]
    repeated = before.stage == "select" and after.stage == "explore" and after.iteration == before.iteration + 1
    if not (repeated or after.stage == following) or after.iteration != before.iteration + (before.stage == "select"):
        raise Violation(f"{before.stage} of {before.iteration} is followed by {after.stage} of {after.iteration}")
    _check_complete(objects, before)


def _taken_back(objects: Objects, before: State, after: State) -> bool:
    """Is a swap undone that was made of a state that had been rolled back to: the history goes on otherwise?"""
    kept, older = objects.get(SPACE.event(before.version)), objects.get(SPACE.event(after.version))
    if after.version + 1 != before.version or kept is None or older is None:
        return False
    return bool(kept.data != objects[SPACE.state].data and older.data == after.seal())


def _check_same_attempt(objects: Objects, flows: tuple[Flow, ...], before: State, after: State) -> None:
    if after.at.endswith(".running") and before.at != after.at and f"~made/{before.workflow}" not in objects:
        raise Violation(f"{before.workflow} is called running before it was submitted")
    if after.ended:
        _check_at_rest(objects, flows, before)
    if after.at in ("converged", "exhausted"):
        _check_complete(objects, before)
        _check_counted(objects, after)
        _check_errors(objects, after)
        for key in [key for key in objects if key.startswith("~used/")]:
            if objects.get(key[len("~used/") :]) != objects[key]:
                raise Violation(f"{key[len('~used/') :]} is not at the end what it was when it was used")


def _check_errors(objects: Objects, state: State) -> None:
    """A run that has converged is as good as its rule asks, by the newest models that count."""
    wanted = state.policy.convergence.rmse_f
    trained = [row.figures for row in whole(objects, state).trail if "train" in row.stages]
    found = [figures["rmse_f"] for figures in trained if "rmse_f" in figures]
    if state.at == "converged" and wanted is not None and not (found and found[-1] <= wanted):
        raise Violation(f"the run is converged although the force RMSE is {found[-1:]}, not below {wanted}")
    rows = [row for row in whole(objects, state).trail if not row.left]
    checked = [row.iteration for row in rows if row.figures.get("check")]
    labelled = [row.iteration for row in rows if "label" in row.stages]
    if checked and state.at == "converged" and not labelled[-1] > checked[-1]:
        raise Violation(f"the run is converged although check frames of iteration {checked[-1]} have no label")


def _check_counted(objects: Objects, state: State) -> None:
    """The products of all stages that count are there."""
    for row in whole(objects, state).trail:
        for stage in row.stages:
            if place_of(Spec("", stage, row.iteration, 0)).product not in objects:
                raise Violation(f"{stage} of {row.iteration} counts, and its product is not there")


def _check_at_rest(objects: Objects, flows: tuple[Flow, ...], state: State) -> None:
    """Nothing works on the state's attempt, and nothing ever will."""
    if state.place.claim(state.attempt) not in objects:
        raise Violation(f"{state.workflow} is left, and may still begin")
    if any(flow.works for flow in flows if flow.spec.name == state.workflow):
        raise Violation(f"{state.workflow} is left, and still works")


def _check_complete(objects: Objects, state: State) -> None:
    """The stage that is left was done: what a report told of is there."""
    place = view_of(objects).place
    product = objects.get(place.product)
    if product is None or place.marker not in objects:
        raise Violation(f"{state.stage} of {state.iteration} is left without its results")
    if f"~told/{place.root}/{product.decode()}" not in objects:
        raise Violation(f"no report of {state.stage} told of the results that are there")
