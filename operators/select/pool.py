"""All score jobs together: how many rows of each class there are, and the candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.jobs import TaskOutput

from .choose import Candidates
from .score import CANDIDATE, CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES = "scores.npz"
_COLUMNS = {"step": "i8", "max_devi_f": "f8", "max_devi_v": "f8", "cls": "u1"}


@dataclass(frozen=True)
class Pool:
    """What the score jobs found.

    Attributes
    ----------
    outputs
        The tasks; one whose scores are damaged has no folder.
    counts
        Rows by class.
    level
        95th percentile of max_devi_f over all rows that have one, eV/A.
    unusable
        Number and problem of each trajectory without rows.
    """

    outputs: list[TaskOutput]
    counts: Counter[str]
    level: float | None
    unusable: list[tuple[int, str]]
    candidates: Candidates


def gather(outputs: Iterable[TaskOutput], sizes: Iterable[int]) -> Pool:
    """Read all scores, one job at a time; only numbers of candidates, and the deviations for the level, are kept.

    Parameters
    ----------
    sizes
        Number of trajectories of each task.
    """
    judged: list[TaskOutput] = []
    counts: Counter[str] = Counter()
    unusable: list[tuple[int, str]] = []
    deviations = [np.empty(0, np.float32)]
    columns: list[tuple[NDArray[Any], ...]] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))]
    first = 0
    for output, size in zip(outputs, sizes, strict=True):
        if output.folder is not None:
            try:
                scores = load_scores(output.folder / SCORES, size)
            except Exception as error:  # numpy's reader raises whatever it meets
                output = replace(output, folder=None, problem=f"{SCORES} is damaged: {error}")
            else:
                rows, classes = scores["rows"], scores["cls"]
                counts.update({name: int(np.count_nonzero(classes == code)) for code, name in enumerate(CLASSES)})
                devi_f = scores["max_devi_f"]
                deviations.append(devi_f[np.isfinite(devi_f) & (classes <= CLASSES.index("failed"))].astype(np.float32))
                unusable += [(first + int(i), str(scores["problem"][i])) for i in np.flatnonzero(rows == 0)]
                wanted = classes == CANDIDATE
                trajectory = np.repeat(np.arange(first, first + size), rows)
                columns.append(tuple(x[wanted] for x in (trajectory, scores["step"], devi_f, scores["max_devi_v"])))
        judged.append(output)
        first += size
    values = np.concatenate(deviations)
    level = float(np.percentile(values, 95)) if len(values) else None
    return Pool(judged, counts, level, unusable, Candidates(*(np.concatenate(x) for x in zip(*columns, strict=True))))


def load_scores(path: Path, trajectories: int) -> dict[str, NDArray[Any]]:
    """The arrays that `score.score` describes.

    Raises
    ------
    Exception
        Of any kind, when the file is damaged or is about another number of trajectories.
    """
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in ("rows", "problem", *_COLUMNS)}
    total = int(found["rows"].sum())
    if len(found["rows"]) != trajectories or len(found["problem"]) != trajectories or found["rows"].min(initial=0) < 0:
        raise ValueError(f"{len(found['rows'])} trajectories instead of {trajectories}")
    for name, kind in _COLUMNS.items():
        if found[name].shape != (total,) or found[name].dtype != np.dtype(kind):
            raise ValueError(f"{name} is not {total} numbers")
    return found
