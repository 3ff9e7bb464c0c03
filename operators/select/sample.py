"""A sample of the accurate frames, drawn while the scores are read one job at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .choose import Candidates

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SPARE = 50  # rows for each frame that is wanted: some are filtered out, or known already


class Sample:
    """Each row gets a random number, and those with the smallest are kept: so all are equally likely, in any jobs.

    Parameters
    ----------
    wanted
        How many frames are to be labelled; with 0 nothing is kept.
    """

    def __init__(self, wanted: int, seed: int) -> None:
        self._most = wanted * _SPARE
        self._random = np.random.default_rng(seed)
        self._numbers: NDArray[np.float64] = np.empty(0)
        self._rows: list[Any] = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)]

    def add(self, *columns: NDArray[np.generic]) -> None:
        """Rows in the order of their trajectories, by the columns of `Candidates`."""
        if not self._most:
            return
        numbers = np.concatenate([self._numbers, self._random.random(len(columns[0]))])
        kept = np.argsort(numbers)[: self._most]
        self._numbers = numbers[kept]
        self._rows = [np.concatenate(pair)[kept] for pair in zip(self._rows, columns, strict=True)]

    @property
    def rows(self) -> Candidates:
        return Candidates(*self._rows)
