"""All figures of a run: read once, shown by the page, by `--json` and by the plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from conventions.documents import COSTS
from conventions.state import IterationSummary, State
from statemachine.machine.outlook import compared, needed, warnings
from statemachine.run.record import Record
from statemachine.run.trail import readable
from statemachine.store import Store

from .calibration import Calibration, calibrate
from .iteration import Iteration, Scored, read_iteration
from .timeline import Span, read_timeline
from .times import StageTimes, stage_times

SETTLED = 2  # iterations after which nothing is added to one: the labels that it chose are trained on in the next


@dataclass(frozen=True)
class Figures:
    """A run in numbers. `damage` says what could not be read."""

    prefix: str
    state: State
    iterations: list[Iteration]
    spans: list[Span]
    damage: list[str]

    @property
    def labelled(self) -> int:
        """Labels of the iterations that count."""
        return int(sum(one.row.figures.get("labelled", 0) for one in self.iterations if not one.row.left))

    @property
    def costs(self) -> dict[str, float]:
        """Hours of jobs, processors and GPUs in all iterations, also in what a rewind dropped; missing: not known."""
        rows = [one.row.figures for one in self.iterations]
        told = [name for name in COSTS if any(name in row for row in rows)]
        return {name: round(sum(row.get(name, 0.0) for row in rows), 6) for name in told}

    @property
    def times(self) -> list[StageTimes]:
        return stage_times(self.iterations, self.spans)

    @property
    def needed(self) -> list[str]:
        return needed(self.state)

    @property
    def warnings(self) -> dict[int, list[str]]:
        """By iteration, what is a bad sign in its row."""
        rows = [{**one.row.figures, "left": one.row.left} for one in self.iterations]
        return {
            one.row.iteration: found
            for one, before in zip(self.iterations, compared(rows), strict=True)
            if (found := warnings(one.row.figures, before))
        }

    def calibrations(self) -> list[tuple[int, str, Calibration]]:
        """How far deviations were from errors, by iteration and structure set."""
        return [(number, structure, found) for number, structure, found, _ in self._calibrated()]

    def suggestions(self) -> list[str]:
        """What f_trust_lo would be for errors below it, from the newest labels of each structure set."""
        newest = {
            structure: (number, found, low) for number, structure, found, low in self._calibrated() if not found.check
        }
        told = []
        for structure, (number, found, low) in sorted(newest.items()):
            wanted = found.level_for(low) if low else None
            if low and wanted:
                told.append(
                    f"{structure}: for errors below {low:.3g} eV/A, f_trust_lo would be {wanted:.2g} "
                    f"({found.labels} labels of iteration {number}, 95 % of them)"
                )
        return told

    def _calibrated(self) -> Iterator[tuple[int, str, Calibration, float | None]]:
        """With the f_trust_lo by which the frames were chosen: that of the last exploration before their iteration."""
        levels: dict[str, dict[str, float]] = {}
        for one in self.iterations:
            for structure in sorted({label.structure for label in one.labels}):
                low, high = (levels.get(structure, {}).get(name) for name in ("f_trust_lo", "f_trust_hi"))
                labels = [label for label in one.labels if label.structure == structure]
                for check in (False, True):
                    if figures := calibrate(labels, low, high, check):
                        yield one.row.iteration, structure, figures, low
            if one.explored is not None:
                levels = one.explored.levels


class Reader:
    """Reads a run again and again; each settled iteration, and each version of its history, once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._record = Record(store)
        self._known: dict[int, tuple[IterationSummary, Iteration]] = {}
        self._versions: dict[int, dict[str, Any]] = {}

    def read(self, last: int | None = None) -> Figures:
        """The figures of the last iterations, by default of all."""
        state = self._record.load().state
        rows, damage = readable(self.store, state, last)
        iterations = [self._iteration(state, row) for row in rows]
        told = [text for one in iterations for text in one.damage]
        spans = read_timeline(self.store, state, self._versions)
        return Figures(self.store.url, state, iterations, spans, [*filter(None, [damage]), *told])

    def _iteration(self, state: State, row: IterationSummary) -> Iteration:
        known = self._known.get(row.iteration)
        if known is not None and known[0] == row:
            return known[1]
        found = read_iteration(self.store, state.place.space, row)
        if row.iteration + SETTLED <= state.iteration or state.ended:
            self._known[row.iteration] = (row, found)
        return found


def as_json(figures: Figures) -> dict[str, Any]:
    """The figures as plain data, for scripts."""
    state = figures.state
    return {
        "schema_version": 1,
        "run": state.run,
        "prefix": figures.prefix,
        "at": state.at,
        "paused": state.hold,
        "iteration": state.iteration,
        "stage": state.stage,
        "attempt": state.attempt,
        "updated_at": state.updated_at,
        "reason": state.reason,
        "needed": figures.needed,
        "labels": figures.labelled,
        "costs": figures.costs,
        "iterations": [_row(one) for one in figures.iterations],
        "calibration": [
            {"iteration": number, "structure": structure, **asdict(found)}
            for number, structure, found in figures.calibrations()
        ],
        "suggestions": figures.suggestions(),
        "timeline": [asdict(span) for span in figures.spans],
        "times": [asdict(one) for one in figures.times],
        "damage": figures.damage,
    }


def _row(one: Iteration) -> dict[str, Any]:
    return {
        "iteration": one.row.iteration,
        "explore_stage": one.row.explore_stage,
        "left": one.row.left,
        "final": one.row.final,
        "figures": one.row.figures,
        "stages": {
            stage: {**asdict(found), "used": found.used and found.used.model_dump(mode="json")}
            for stage, found in one.stages.items()
        },
        "labels": [asdict(label) for label in one.labels],
        "models": one.trained.models if one.trained else [],
        "explored": one.explored.model_dump(mode="json", exclude={"schema_version"}) if one.explored else None,
    }


def scored(iterations: Sequence[Iteration]) -> list[tuple[int, Scored]]:
    """The labels that have a deviation and an error, with their iterations."""
    return [(one.row.iteration, label) for one in iterations for label in one.labels if label.compared]
