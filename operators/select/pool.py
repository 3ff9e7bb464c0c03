"""All score jobs together: how many rows of each class there are, and the candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.jobs import TaskOutput

from .adaptive import Adapting, Below, Level
from .choose import Candidates
from .figures import Seen
from .sample import Sample
from .score import ACCURATE, CANDIDATE, CLASSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES = "scores.npz"
_COLUMNS = {"step": "i8", "max_devi_f": "f8", "max_devi_v": "f8", "cls": "u1"}
_Columns = tuple[Any, Any, Any, Any]  # of `Candidates`
_NONE: _Columns = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))


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
        What `convergence.level_drift` is about: 95th percentile of max_devi_f over all rows that have one, eV/A; where
        the lower levels are adaptive, the largest f_trust_lo.
    unusable
        Number and problem of each trajectory without rows.
    accurate
        Accurate rows, drawn at random.
    seen
        Rows of each trajectory, for the report.
    lower
        Adaptive levels, by structure set.
    """

    outputs: list[TaskOutput]
    counts: Counter[str]
    level: float | None
    unusable: list[tuple[int, str]]
    candidates: Candidates
    accurate: Candidates
    seen: Seen
    lower: dict[str, Level] = field(default_factory=dict)


def gather(
    outputs: Iterable[TaskOutput], sizes: Sequence[int], adapt: Adapting | None = None, sample: Sample | None = None
) -> Pool:
    """Read all scores, one job at a time; only numbers of candidates, and the deviations for the level, are kept.

    Parameters
    ----------
    sizes
        Number of trajectories of each task.
    adapt
        The rule of adaptive levels. The candidates of the scores are then all frames below the upper levels, which may
        be millions: of these only the deviations are kept, and the scores are read once more for the candidates.
    sample
        Gets the accurate rows.
    """
    sample = sample or Sample(0, 0)
    judged: list[TaskOutput] = []
    counts: Counter[str] = Counter()
    unusable: list[tuple[int, str]] = []
    deviations = [np.empty(0, np.float32)]
    below = Below(adapt) if adapt else None
    seen = Seen(sum(sizes))
    columns = [_NONE]
    first = 0
    firsts: list[int] = []
    for output, size in zip(outputs, sizes, strict=True):
        if output.folder is not None:
            try:
                scores = load_scores(output.folder / SCORES, size)
            except Exception as error:  # numpy's reader raises whatever it meets
                output = replace(output, folder=None, problem=f"{SCORES} is damaged: {error}")
            else:
                rows, classes = scores["rows"], scores["cls"]
                counts.update({name: int(np.count_nonzero(classes == code)) for code, name in enumerate(CLASSES)})
                seen.add(first, scores)
                unusable += [(first + int(i), str(scores["problem"][i])) for i in np.flatnonzero(rows == 0)]
                found = _rows(scores, first, classes == CANDIDATE)
                if below:
                    below.add(found[0], found[2], found[3])
                else:
                    devi_f = scores["max_devi_f"]
                    usable = np.isfinite(devi_f) & (classes <= CLASSES.index("failed"))
                    deviations.append(devi_f[usable].astype(np.float32))
                    columns.append(found)
                    sample.add(*_rows(scores, first, classes == ACCURATE))
        judged.append(output)
        firsts.append(first)
        first += size
    lower: dict[str, Level] = {}
    if below:
        levels = below.levels()
        lower = {name: level for group, level in levels.items() for name in below.adapt.members[group]}
        columns += _candidates(judged, firsts, below.adapt, levels, sample)
        chosen = sum(len(part[0]) for part in columns)
        counts.update(accurate=counts["candidate"] - chosen, candidate=chosen - counts["candidate"])
        level = max((each["f_trust_lo"] for each in levels.values()), default=None)
    else:
        values = np.concatenate(deviations)
        level = float(np.percentile(values, 95)) if len(values) else None
    candidates = Candidates(*(np.concatenate(x) for x in zip(*columns, strict=True)))
    if below:
        seen.narrow(candidates.trajectory)
    return Pool(judged, counts, level, unusable, candidates, sample.rows, seen, lower)


def _rows(scores: dict[str, NDArray[Any]], first: int, wanted: NDArray[np.bool_]) -> _Columns:
    """Columns of `Candidates` of the rows that are wanted, where the first trajectory has this number."""
    trajectory = np.repeat(np.arange(first, first + len(scores["rows"])), scores["rows"])
    return trajectory[wanted], scores["step"][wanted], scores["max_devi_f"][wanted], scores["max_devi_v"][wanted]


def _candidates(
    judged: Sequence[TaskOutput], firsts: Sequence[int], adapt: Adapting, levels: dict[int, Level], sample: Sample
) -> Iterator[_Columns]:
    """Columns of `Candidates` of each task, with the frames between adaptive levels and the upper ones.

    Those below all levels are accurate, and go to `sample`.
    """
    f_lo = np.array([levels.get(group, {}).get("f_trust_lo", np.inf) for group in range(len(adapt.members))])
    v_lo = np.array([levels.get(group, {}).get("v_trust_lo", np.inf) for group in range(len(adapt.members))])
    sizes = np.diff([*firsts, len(adapt.groups)])
    for output, first, size in zip(judged, firsts, sizes.tolist(), strict=True):
        if output.folder is None:
            continue
        scores = load_scores(output.folder / SCORES, size)
        group = np.repeat(np.array(adapt.groups[first : first + size], np.int64), scores["rows"])
        above = (scores["max_devi_f"] >= f_lo[group]) | (scores["max_devi_v"] >= v_lo[group])
        sample.add(*_rows(scores, first, (scores["cls"] == CANDIDATE) & ~above))
        yield _rows(scores, first, (scores["cls"] == CANDIDATE) & above)


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
