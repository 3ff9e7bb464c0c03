"""Which of the frames that a rule chooses have a label: those that the run chose as well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from conventions.state import IterationSummary, State
from statemachine.report.chosen import Chosen, read_chosen
from statemachine.report.iteration import Scored, read_iteration
from statemachine.run.trail import rows
from statemachine.store import Store

from .selection import Selected

Key = tuple[int, str, str, int]  # iteration, job, task and step of a frame


@dataclass(frozen=True)
class Label:
    """A label of the run: system and index in `dataset/deepmd/iter`, and how wrong the first model was, eV/Angstrom."""

    iteration: int
    system: str
    index: int
    max_error_f: float | None


def key_of(iteration: int, frame: Chosen) -> Key:
    """What a frame is known by."""
    return iteration, frame.job_id, frame.task_id, frame.step


def labels_of(store: Store, state: State) -> dict[Key, Label]:
    """The labels of frames that were selected, by frame. Frames of `init.label` are not among them."""
    space, found = state.place.space, {}
    waiting: IterationSummary | None = None
    for row in rows(store, state):
        if row.left and "label" not in row.stages:
            continue
        if "label" in row.stages and waiting is not None:
            place = space.stage("select", waiting.iteration)
            chosen = read_chosen(store, place.product)
            scored = read_iteration(store, space, row).labels
            if len(scored) == len(chosen):
                for frame, label in zip(chosen, scored, strict=True):
                    if (known := _label(row.iteration, label)) is not None:
                        found[key_of(waiting.iteration, frame)] = known
        if "select" in row.stages:
            waiting = row
    return found


def _label(iteration: int, scored: Scored) -> Label | None:
    if scored.kind != "ok" or scored.system is None or scored.index is None:
        return None
    return Label(iteration, scored.system, scored.index, scored.max_error_f)


def labelled(known: dict[Key, Label], selections: Iterable[Selected]) -> list[Label]:
    """The labels of the frames that were chosen."""
    keys = (key_of(selected.iteration, frame) for selected in selections for frame in selected.frames)
    return [known[key] for key in keys if key in known]
