"""The choice: walks through shuffled candidates and reads only those, until enough frames have passed every test."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
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
    duplicate: it is known already; too_few: its system has too few candidates. `corrupt` lists those candidates with
    what is wrong; `refused` the others that were looked at, with their class.
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
    per_system: int | None,
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
    maximum, per_system
        Most frames in all, and of one system.
    least
        A system with fewer candidates than that gives none, as in DP-GEN; whether they can be labelled does not matter.
    reject
        Class of the filter that a frame fails, or an empty string.
    known
        Keys of structures that are not wanted again; those of the chosen ones are added.
    """
    index = lru_cache(maxsize=1024)(DumpIndex.of)
    choice = Choice()
    taken: Counter[str] = Counter()
    full = maximum if per_system is None else per_system

    def system(candidate: int) -> str:
        return systems[int(candidates.trajectory[candidate])]

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
    if least > 1:
        enough = _of_large_systems(candidates, systems, least)
        order = order[enough[order]]
        if not enough.all():
            choice.rejected["too_few"] = int(np.count_nonzero(~enough))
    start, size = 0, maximum
    while start < len(order) and len(choice.chosen) < maximum:
        batch = [candidate for candidate in order[start : start + size].tolist() if taken[system(candidate)] < full]
        # Each further batch is larger: where nearly all are rejected, dumps would be opened too often.
        start, size = start + size, max(size, min(2 * size, _LARGEST_BATCH))
        found = read(batch)
        for candidate in batch:
            if len(choice.chosen) == maximum or taken[system(candidate)] == full:
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


def _of_large_systems(candidates: Candidates, systems: Sequence[str], least: int) -> NDArray[np.bool_]:
    """Which candidates are of a system that has at least so many, shape (candidates,)."""
    number = {name: place for place, name in enumerate(dict.fromkeys(systems))}
    system = np.array([number[name] for name in systems], np.int64)[candidates.trajectory]
    enough: NDArray[np.bool_] = np.bincount(system)[system] >= least
    return enough
