"""How many frames of each structure set may be labelled: fewer where the models already are accurate, as in DP-GEN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .score import ACCURATE, FAILED

if TYPE_CHECKING:
    from numpy.typing import NDArray


def limits(settings: Any, systems: Sequence[str], counts: NDArray[np.int64]) -> dict[str, int]:
    """Most frames to label, by structure set.

    Parameters
    ----------
    settings
        Of select/model_devi.
    systems
        The structure set of each trajectory.
    counts
        Rows of each trajectory by class, shape (trajectories, classes).
    """
    most = min(settings.fp_task_max, settings.fp_task_max_per_system or settings.fp_task_max)
    end = settings.fp_accurate_threshold
    if end is None:
        return dict.fromkeys(systems, most)
    begin = end if settings.fp_accurate_soft_threshold is None else settings.fp_accurate_soft_threshold
    names = list(dict.fromkeys(systems))
    place = {name: number for number, name in enumerate(names)}
    rows = np.zeros((len(names), counts.shape[1]), np.int64)
    np.add.at(rows, [place[name] for name in systems], counts)
    shares = rows[:, ACCURATE] / np.maximum(1, rows[:, : FAILED + 1].sum(axis=1))

    def limit(share: float) -> int:
        if share >= end:
            return 0
        return most if share < begin else int(most * (end - share) / (end - begin))

    return {name: limit(share) for name, share in zip(names, shares.tolist(), strict=True)}
