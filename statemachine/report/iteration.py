"""The figures of one iteration, from the small documents that its stages left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conventions.documents import Document, StageReport, StageUsed, parse_json
from conventions.errors import DataError, NotFound
from conventions.figures import SelectFigures, TrainFigures
from conventions.space import DataSpace, StageSpace
from conventions.state import IterationSummary
from statemachine.store import Store

D = TypeVar("D", bound=Document)
FIGURES, LABELS = "figures.json", "labels.json"


@dataclass(frozen=True)
class StageOutcome:
    """What a stage reported: classes of its results, its jobs, what they used, and what a person should know."""

    classes: dict[str, int]
    planned: int
    failed: int
    attempts: int
    messages: list[str]
    used: StageUsed | None = None


@dataclass(frozen=True)
class Scored:
    """A frame that was to be labelled. Forces in eV/Angstrom; None where it is not known.

    Attributes
    ----------
    kind
        `ok`, or the class of what was wrong.
    max_devi_f
        The deviation by which it was chosen.
    max_error_f
        Largest error of the first model's force on an atom, before any model was trained on it: the blind spot.
    new_error_f
        The same of the next committee, which was trained on it: the absorption.
    check
        It was drawn among the accurate.
    """

    structure: str
    kind: str
    message: str
    job_id: str
    task_id: str
    system: str | None
    index: int | None
    max_force: float | None = None
    max_devi_f: float | None = None
    max_error_f: float | None = None
    rmse_f: float | None = None
    new_error_f: float | None = None
    check: bool = False

    @property
    def compared(self) -> bool:
        """Are its deviation and its error known?"""
        return bool(self.max_devi_f) and self.max_error_f is not None


@dataclass(frozen=True)
class Iteration:
    """An iteration: its row of the table, what its stages reported, its labels, what it explored, its new models."""

    row: IterationSummary
    stages: dict[str, StageOutcome]
    labels: list[Scored]
    explored: SelectFigures | None
    trained: TrainFigures | None = None
    damage: list[str] = field(default_factory=list)


def read_iteration(store: Store, space: DataSpace, row: IterationSummary) -> Iteration:
    """Read an iteration; what is missing is left out, what is damaged is told."""
    damage: list[str] = []

    def document(key: str, load: Callable[[bytes, str], D]) -> D | None:
        try:
            return load(store.get(key).data, store.at(key))
        except NotFound:
            return None
        except DataError as error:
            damage.append(str(error))
            return None

    places = {stage: space.stage(stage, row.iteration) for stage in row.stages}
    reports = {stage: document(place.report, StageReport.load) for stage, place in places.items()}
    explored = trained = None
    labels: list[Scored] = []
    if "select" in places:
        explored = document(f"{places['select'].product}/{FIGURES}", SelectFigures.load)
    if "train" in places:
        trained = document(f"{places['train'].product}/{FIGURES}", TrainFigures.load)
    if "label" in places:
        try:
            labels = _labels(store, places["label"], trained)
        except DataError as error:
            damage.append(str(error))
    stages: dict[str, StageOutcome] = {
        stage: _outcome(report) for stage, report in reports.items() if report is not None
    }
    return Iteration(row, stages, labels, explored, trained, damage)


def _outcome(report: StageReport) -> StageOutcome:
    jobs = report.jobs
    return StageOutcome(report.classes, jobs.planned, jobs.failed, report.attempt + 1, report.messages, jobs.used)


def _labels(store: Store, place: StageSpace, trained: TrainFigures | None) -> list[Scored]:
    key = f"{place.product}/{LABELS}"
    try:
        found: Any = parse_json(store.get(key).data, store.at(key))
    except NotFound:
        return []
    try:
        return [_scored(frame, trained) for frame in found["frames"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{store.at(key)}: not a list of labels: {error!r}") from None


def _scored(frame: Mapping[str, Any], trained: TrainFigures | None) -> Scored:
    system, index = frame["system"], frame["index"]
    errors = trained.systems.get(system) if trained and system is not None else None
    known = errors is not None and isinstance(index, int) and 0 <= index < len(errors.max_error_f)
    return Scored(
        structure=str(frame["structure"]),
        kind=str(frame["class"]),
        message=str(frame["message"]),
        job_id=str(frame["job_id"]),
        task_id=str(frame["task_id"]),
        system=system,
        index=index,
        **{name: _number(frame.get(name)) for name in ("max_force", "max_devi_f", "max_error_f", "rmse_f")},
        new_error_f=errors.max_error_f[index] if known and errors else None,
        check=frame.get("check") is True,
    )


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None
