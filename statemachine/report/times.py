"""How long stages took, how long they waited, and what their jobs used. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conventions.documents import StageUsed
from conventions.names import STAGES

from .iteration import Iteration
from .timeline import Span

_SECOND = 1.0  # to which jobs tell when they began


@dataclass(frozen=True)
class StageTimes:
    """All attempts of a stage together. Seconds; None where no job told.

    Attributes
    ----------
    total, longest
        From the decision to submit an attempt to its end.
    waited
        Until the first job began.
    queued
        Mean wait of a job in the queue of a batch system.
    wall, cpu, gpu
        Of all jobs, each when it was last run: their time, and that of their processors and of their GPUs.
    """

    stage: str
    attempts: int
    total: float
    longest: float
    waited: float | None
    queued: float | None
    wall: float | None
    cpu: float | None
    gpu: float | None


def waits(iterations: Iterable[Iteration], spans: Sequence[Span]) -> dict[Span, float]:
    """How long attempts waited for their first job, seconds: those in which the first job of their stage began."""
    began = {
        (one.row.iteration, stage): outcome.used.began
        for one in iterations
        for stage, outcome in one.stages.items()
        if outcome.used
    }
    found = {}
    for span in spans:
        when = began.get((span.iteration, span.stage))
        if when is not None and span.begin - _SECOND < when <= span.end:
            found[span] = max(0.0, when - span.begin)
    return found


def stage_times(iterations: Sequence[Iteration], spans: Sequence[Span]) -> list[StageTimes]:
    """The times of each stage that was begun."""
    waited, found = waits(iterations, spans), []
    for stage in STAGES:
        lengths = [span.end - span.begin for span in spans if span.stage == stage]
        used = [told for one in iterations if stage in one.stages and (told := one.stages[stage].used)]
        if lengths:
            found.append(
                StageTimes(
                    stage,
                    len(lengths),
                    sum(lengths),
                    max(lengths),
                    _sum([seconds for span, seconds in waited.items() if span.stage == stage]),
                    _mean([each.queued for each in used]),
                    *(_of_all(used, name) for name in ("wall", "cpu", "gpu")),
                )
            )
    return found


def _of_all(used: Iterable[StageUsed], name: str) -> float | None:
    return _sum([getattr(each, name) for each in used])


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
