"""The choice: walks through shuffled candidates and reads only those, until enough frames have passed every test."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from operators.frame_keys import keys

from .dump import DumpIndex, Frame, read_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Candidates:
    """Candidate rows, all of shape (candidates,): number of the trajectory, step, deviations in eV/A and eV/atom."""

    trajectory: NDArray[np.int64]
    step: NDArray[np.int64]
    max_devi_f: NDArray[np.float64]
    max_devi_v: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)


class Chosen(NamedTuple):
    candidate: int
    frame: Frame


class Rejected(NamedTuple):
    kind: str
    why: str = ""


@dataclass
class Choice:
    """Chosen frames in the order of the choice, and why others were not taken, by class.

    no_frame: the dump has no frame of that step; corrupt: it cannot be used; bad_box, too_close: a filter;
    duplicate: it is known already; too_few, accurate_set: its system has too few candidates, or is accurate enough.
    `corrupt` lists those candidates with what is wrong; `refused` the others that were looked at, with their class.
    """

    chosen: list[Chosen] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    corrupt: list[tuple[int, str]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, candidate: int, kind: str) -> None:
        self.rejected[kind] += 1
        self.refused.append((candidate, kind))


def choose(
    candidates: Candidates,
    dumps: Sequence[tuple[Path, str | None]],
    systems: Sequence[str],
    numbers: NDArray[np.int64],
    *,
    seed: int,
    maximum: int,
    limits: Mapping[str, int],
    least: int = 1,
    reject: Callable[[Frame], str],
    known: set[bytes],
) -> Choice:
    """Choose up to `maximum` candidates at random.

    Parameters
    ----------
    dumps, systems
        Dump file with its recorded SHA-256, and name of the system of each trajectory.
    numbers
        Atomic numbers of the types.
    maximum, limits
        Most frames in all, and of each system.
    least
        A system with fewer candidates than that, or that may give fewer, gives none, as in DP-GEN; whether they can be
        labelled does not matter.
    reject
        Class of the filter that a frame fails, or an empty string.
    known
        Keys of structures that are not wanted again; those of the chosen ones are added.
    """
    index = lru_cache(maxsize=1024)(DumpIndex.of)
    choice = Choice()
    taken: Counter[str] = Counter()

    def system(candidate: int) -> str:
        return systems[int(candidates.trajectory[candidate])]

    def full(candidate: int) -> bool:
        return taken[system(candidate)] >= limits[system(candidate)]

    def read(batch: Iterable[int]) -> dict[int, Frame | Rejected]:
        """The frames of a batch, or what is wrong with them; each dump is read once, forwards."""
        wanted: defaultdict[int, dict[int, int]] = defaultdict(dict)
        found: dict[int, Frame | Rejected] = {}
        for candidate in batch:
            wanted[int(candidates.trajectory[candidate])][int(candidates.step[candidate])] = candidate
            found[candidate] = Rejected("no_frame")
        for trajectory, steps in wanted.items():
            path, sha256 = dumps[trajectory]
            try:
                for step, frame in read_frames(path, index(path, sha256), steps, len(numbers)):
                    if isinstance(frame, Frame):
                        kind = reject(frame)
                        found[steps[step]] = Rejected(kind) if kind else frame
                    elif frame is not None:
                        found[steps[step]] = Rejected("corrupt", str(frame))
            except OSError:
                continue
            except ValueError as error:
                found.update(dict.fromkeys(steps.values(), Rejected("corrupt", str(error))))
        return found

    order = np.random.default_rng(seed).permutation(len(candidates))
    for kind, kept in (
        ("accurate_set", _of(candidates, systems, {name for name in systems if limits[name] >= least})),
        ("too_few", _of(candidates, systems, _large(candidates, systems, least))),
    ):
        if dropped := np.count_nonzero(~kept[order]):
            choice.rejected[kind] = int(dropped)
            order = order[kept[order]]
    start, size = 0, maximum
    while start < len(order) and len(choice.chosen) < maximum:
        batch = [candidate for candidate in order[start : start + size].tolist() if not full(candidate)]
        # Each further batch is larger: where nearly all are rejected, dumps would be opened too often.
        start, size = start + size, max(size, min(2 * size, _LARGEST_BATCH))
        found = read(batch)
        for candidate in batch:
            if len(choice.chosen) == maximum or full(candidate):
                continue
            frame = found[candidate]
            if isinstance(frame, Rejected):
                choice.refuse(candidate, frame.kind)
                if frame.why:
                    choice.corrupt.append((candidate, frame.why))
                continue
            cells = frame.cell[None] if frame.periodic else None
            (key,) = keys(numbers[frame.types], cells, frame.positions[None])
            if key in known:
                choice.refuse(candidate, "duplicate")
                continue
            known.add(key)
            taken[system(candidate)] += 1
            choice.chosen.append(Chosen(candidate, frame))
    return choice


def _of(candidates: Candidates, systems: Sequence[str], wanted: Collection[str]) -> NDArray[np.bool_]:
    """Which candidates are of one of these systems, shape (candidates,)."""
    found: NDArray[np.bool_] = np.array([name in wanted for name in systems], bool)[candidates.trajectory]
    return found


def _large(candidates: Candidates, systems: Sequence[str], least: int) -> set[str]:
    """The systems that have at least so many candidates."""
    rows = np.bincount(candidates.trajectory, minlength=len(systems))
    counts: Counter[str] = Counter()
    for name, count in zip(systems, rows.tolist(), strict=True):
        counts[name] += count
    return {name for name, count in counts.items() if count >= least}
