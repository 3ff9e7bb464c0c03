"""How far the deviation, by which frames are chosen, is from the true error of a model. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from operators.select.auto import ENOUGH

from .iteration import Scored


@dataclass(frozen=True)
class Calibration:
    """Labels against the deviation by which they were chosen.

    Attributes
    ----------
    labels
        How many have both.
    ratio
        5 %, median and 95 % of max_error_f / max_devi_f.
    rank_correlation
        Spearman's, between the two; None below three labels, or where all are alike.
    check
        They are a sample of the accurate frames, not candidates.
    below, between, above
        Fractions of the labels whose error is below f_trust_lo, between the levels, and above f_trust_hi; None where
        the levels are not known.
    """

    labels: int
    ratio: tuple[float, float, float]
    rank_correlation: float | None
    check: bool = False
    below: float | None = None
    between: float | None = None
    above: float | None = None

    def level_for(self, error: float) -> float | None:
        """The deviation below which 95 % of such labels had a smaller error than this; None where they are too few."""
        return error / self.ratio[2] if self.labels >= ENOUGH and self.ratio[2] > 0 else None


def calibrate(
    found: Iterable[Scored], low: float | None = None, high: float | None = None, check: bool = False
) -> Calibration | None:
    """The figures of some labels, of candidates or of check frames; None where none was scored.

    Parameters
    ----------
    low, high
        f_trust_lo and f_trust_hi of the iteration that chose them, eV/Angstrom.
    """
    pairs = [(one.max_devi_f, one.max_error_f) for one in found if one.compared and one.check is check]
    if not pairs:
        return None
    deviation, error = np.array(pairs, float).T
    five, median, ninety_five = np.percentile(error / deviation, [5, 50, 95]).tolist()
    below = between = above = None
    if low is not None and high is not None:
        below, above = float(np.mean(error < low)), float(np.mean(error >= high))
        between = 1 - below - above
    return Calibration(
        len(pairs),
        (five, median, ninety_five),
        rank_correlation(deviation.tolist(), error.tolist()),
        check,
        below,
        between,
        above,
    )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation; equal values share their mean rank.

    >>> rank_correlation([1, 2, 3], [10, 30, 20])
    0.5
    """
    if len(one) < 3:
        return None
    first, second = _ranks(one), _ranks(other)
    spread = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    return round(float((first * second).sum()) / spread, 12) if spread else None


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Ranks around their mean."""
    _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = ranks[place] - (len(values) + 1) / 2
    return found
