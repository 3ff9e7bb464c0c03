"""What a select stage saw, in numbers for a report: `figures.json` of its product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from conventions.figures import Explored, SelectFigures
from conventions.names import canonical_json

from .score import CANDIDATE, CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Ten to a decade, from 0.001 to 100 eV/Angstrom: trust levels lie well inside.
EDGES: list[float] = [float(f"{10 ** (power / 10):.4g}") for power in range(-30, 21)]


class Seen:
    """The rows of each trajectory by class and by deviation.

    Attributes
    ----------
    counts
        (trajectories, classes)
    histogram
        Rows that have a max_devi_f, (trajectories, edges + 1).
    """

    def __init__(self, trajectories: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((trajectories, len(CLASSES)), np.int64)
        self.histogram: NDArray[np.int64] = np.zeros((trajectories, len(EDGES) + 1), np.int64)

    def add(self, first: int, scores: Mapping[str, NDArray[Any]]) -> None:
        """The scores of a job, whose first trajectory has this number."""
        trajectory = np.repeat(np.arange(first, first + len(scores["rows"])), scores["rows"])
        self.counts += _table(trajectory, scores["cls"].astype(np.int64), self.counts.shape)
        usable = np.isfinite(scores["max_devi_f"]) & (scores["cls"] <= CLASSES.index("failed"))
        place = np.searchsorted(EDGES, scores["max_devi_f"][usable], side="right")
        self.histogram += _table(trajectory[usable], place, self.histogram.shape)

    def narrow(self, trajectory: NDArray[np.int64]) -> None:
        """Only these are candidates, by the number of their trajectory; the others that were are accurate."""
        candidates = np.bincount(trajectory, minlength=len(self.counts))
        self.counts[:, CLASSES.index("accurate")] += self.counts[:, CANDIDATE] - candidates
        self.counts[:, CANDIDATE] = candidates


def figures(seen: Seen, trajectories: Sequence[Any], levels: Mapping[str, Mapping[str, float]]) -> SelectFigures:
    """The figures of a stage, by structure set and conditions."""
    groups: dict[tuple[str, bytes], list[int]] = {}
    for number, one in enumerate(trajectories):
        groups.setdefault((one.structure, canonical_json(one.conditions)), []).append(number)
    return SelectFigures(
        edges=EDGES,
        groups=[
            Explored(
                structure=structure,
                conditions=trajectories[numbers[0]].conditions,
                trajectories=len(numbers),
                broken=sum(trajectories[number].broken for number in numbers),
                classes=dict(zip(CLASSES, seen.counts[numbers].sum(axis=0).tolist(), strict=True)),
                histogram=seen.histogram[numbers].sum(axis=0).tolist(),
            )
            for (structure, _), numbers in sorted(groups.items())
        ],
        levels={name: dict(found) for name, found in levels.items()},
    )


def _table(row: NDArray[np.int64], column: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """How often each pair of numbers appears."""
    return np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
