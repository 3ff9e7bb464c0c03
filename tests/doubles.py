"""Doubles for tests of the poller: a store and an engine in memory, and a proxy that crashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from conventions.documents import COSTS, JobCounts, StageReport, StageUsed
from conventions.errors import Conflict, NotFound
from conventions.state import IterationSummary, Policy, State
from statemachine.engine import LiveJob, Phase, Status
from statemachine.run.poller import Poller
from statemachine.run.record import Record
from statemachine.store import Blob, Entry, check_key
from statemachine.store.base import Arrived

APPS = {"label": "ase", "train": "deepmd", "explore": "lammps", "select": "model_devi"}


def first_state(**changes: Any) -> State:
    policy = Policy(apps=APPS, max_iterations=5, explore_stages=1, retries=dict.fromkeys(APPS, 2))
    state = State(
        run="cu", run_uid="0" * 32, version=1, nonce="n", previous_sha256="", writer="w", updated_at="t",
        at="label.submitting", iteration=0, stage="label", policy=policy,
    )  # fmt: skip
    return state.model_copy(update=changes)


class MemoryStore:
    """Objects in a dictionary."""

    url = "memory://run"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def at(self, key: str) -> str:
        return f"{self.url}/{key}"

    def secrets(self) -> list[str]:
        return []

    def get(self, key: str) -> Blob:
        if check_key(key) not in self.objects:
            raise NotFound(key)
        return Blob(self.objects[key], hashlib.sha256(self.objects[key]).hexdigest())

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        present = self.get(key).etag if check_key(key) in self.objects else None
        if (if_absent and present is not None) or (if_match is not None and present != if_match):
            raise Conflict(key)
        self.objects[key] = data
        return hashlib.sha256(data).hexdigest()

    def list(self, prefix: str) -> Iterator[Entry]:
        found = sorted(key for key in self.objects if key.startswith(prefix))
        return iter([Entry(key, len(self.objects[key])) for key in found])

    def folders(self, prefix: str) -> Sequence[str]:
        below = {key[len(prefix) :].partition("/") for key in self.objects if key.startswith(prefix)}
        return sorted({name for name, slash, _ in below if slash and not name.startswith(".")})

    def head(self, key: str) -> Entry | None:
        return Entry(key, len(self.objects[key])) if key in self.objects else None

    def copy(self, source: str, target: str) -> None:
        self.objects[target] = self.get(source).data

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def fetch(self, key: str, scratch: Path) -> Path | None:
        raise NotImplementedError

    def publish(self, path: Path, key: str, arrived: Arrived = lambda size: None) -> None:
        raise NotImplementedError


def without_costs(rows: list[IterationSummary]) -> list[IterationSummary]:
    """Rows of the table that can be compared: what jobs used differs from run to run."""
    kept = [{name: value for name, value in row.figures.items() if name not in COSTS} for row in rows]
    return [row.model_copy(update={"figures": figures}) for row, figures in zip(rows, kept, strict=True)]


USED = StageUsed(began=1_800_000_000, wall=3600, cpu=9000.0, gpu=3600)


@dataclass
class FakeEngine:
    """Runs a stage in an instant when `run` is called, as a workflow does: claim, jobs, report."""

    store: MemoryStore
    accurate_after: int = 1
    workflows: dict[str, Phase] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    spoil: Callable[[State], str] = lambda state: ""
    home: str = "here"

    def finds(self, name: str) -> bool:
        return False

    def submit(self, manifest: dict[str, Any]) -> bool:
        name = manifest["name"]
        if name in self.workflows:
            return False
        self.workflows[name] = Phase.running
        self.states[name] = manifest["state"]
        return True

    def run(self) -> None:
        """Let every running workflow go to its end."""
        for name, phase in list(self.workflows.items()):
            if phase is Phase.running:
                self.workflows[name] = self._body(self.states[name])

    def _body(self, state: State) -> Phase:
        place = state.place
        try:
            self.store.put(place.claim(state.attempt), state.workflow.encode(), if_absent=True)
        except Conflict:
            return Phase.failed
        self.bodies.append(state.workflow)
        spoiled = self.spoil(state)
        if spoiled == "dies":
            return Phase.gone
        self.store.put(place.job("000000").job_done, b"{}")
        good = state.iteration >= self.accurate_after
        figures = {
            "accurate": 10.0 if good else 5.0,
            "candidate": 0.0 if good else 5.0,
            "selected": 0.0 if good else 5.0,
        }
        report = StageReport(
            stage=state.stage,
            app=place.app,
            iteration=state.iteration,
            attempt=state.attempt,
            complete=spoiled != "incomplete",
            next=state.stage != "select" or not good,
            jobs=JobCounts(planned=1, finished=1, used=USED),
            summary={"label": {"labelled": 5.0}, "select": figures}.get(state.stage, {}),
            messages=["job 000000: it broke"] if spoiled else [],
            files={"product": {"model": 3}},
        )
        if spoiled != "loses its product":
            self.store.put(f"{place.product}/model", b"12" if spoiled == "cuts its product" else b"123")
        self.store.put(place.report, report.dump())
        return Phase.failed if spoiled == "dies at the end" else Phase.succeeded

    def status(self, name: str) -> Status:
        return Status(self.workflows.get(name, Phase.gone))

    def logs(self, name: str) -> Iterator[str]:
        return iter(())

    def job_logs(self, name: str, job_id: str, goes_on: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        return iter(())

    def running(self, name: str) -> list[LiveJob] | None:
        return None

    def terminate(self, name: str) -> None:
        if self.workflows.get(name) is Phase.running:
            self.workflows[name] = Phase.failed

    def delete(self, name: str) -> None:
        if self.workflows.get(name) is not Phase.running:
            self.workflows.pop(name, None)

    def check(self) -> str:
        return "fake"

    def explain(self, name: str) -> str:
        return self.status(name).message

    def wait(self, name: str, seconds: float) -> None:
        self.run()


class FakeSubmission:
    """A manifest that carries its state."""

    def prepare(self, state: State) -> Any:
        return SimpleNamespace(manifest={"name": state.workflow, "state": state}, systems=None)


class Crash(BaseException):
    """The process dies."""


class Crashing:
    """A proxy that dies before, or after, its n-th external call."""

    def __init__(self, inner: Any, budget: list[int], after: bool) -> None:
        self._inner, self._budget, self._after = inner, budget, after

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            self._budget[0] -= 1
            if self._budget[0] == 0 and not self._after:
                raise Crash(name)
            try:
                return value(*args, **kwargs)
            finally:
                if self._budget[0] == 0:
                    raise Crash(name)

        return call


def poller_of(store: Any, engine: Any) -> Poller:
    counter = iter(range(10**9))
    record = Record(store, nonce=lambda: f"nonce-{next(counter)}", clock=lambda: "t")
    return Poller(record, engine, FakeSubmission())  # type: ignore[arg-type]


def run_to_end(poller: Poller, engine: FakeEngine, most: int = 200) -> State:
    for _ in range(most):
        state = poller.step()
        if state.ended:
            return state
        engine.run()
    raise AssertionError(f"no end: {state.at}")
