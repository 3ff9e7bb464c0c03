"""How far deviations were from errors, by the newest labels that count: what `select.auto_trust_lo` goes by."""

from __future__ import annotations

from collections.abc import Sequence

from conventions.state import IterationSummary, State
from operators.select.auto import ENOUGH
from statemachine.store import Store

from .trail import rows


def calibration(store: Store, state: State) -> dict[str, float]:
    """iteration, labels and ratio of the newest iteration with enough labels; empty where there is none.

    Labels that a rewind dropped do not count.
    """
    return _newest(state.trail) or (_newest(rows(store, state)) if state.earlier else {})


def _newest(trail: Sequence[IterationSummary]) -> dict[str, float]:
    for row in reversed(trail):
        labels, ratio = (row.figures.get(name, 0.0) for name in ("blind_labels", "blind_ratio_95"))
        if "label" in row.stages and labels >= ENOUGH and ratio > 0:
            return {"iteration": float(row.iteration), "labels": labels, "ratio": ratio}
    return {}
