"""What became of a trajectory: its class, from what its program said and the heads and tails of its files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

MODEL_DEVI = "model_devi.out"
TRAJECTORY = "traj.lammpstrj"
FORCES = "dpgen_force"  # LAMMPS's fix that keeps the forces of the first model
# Classes of trajectories whose physics went wrong.
BROKEN = ("lost_atoms", "nan", "box_blown", "collapsed")
# A box that became that many times larger or smaller is a gas or a lump, whatever the models say about it.
LARGEST_VOLUME_RATIO = 4.0
_CHUNK = 65536
_LARGEST_STEP = 2.0**63  # of LAMMPS


@dataclass(frozen=True)
class Outcome:
    """Class of a trajectory, the rows of model deviation before any trouble, and the last one's step (-1: none)."""

    kind: str
    rows: int
    last_step: int


def judge(folder: Path, said: str | None) -> Outcome:
    """Classify the trajectory in a task's output folder.

    Parameters
    ----------
    said
        The class that the program itself gives it: `ok` if it says that all steps were done, None if it says nothing.

    Returns
    -------
    Outcome
        `ok`; `lost_atoms`, `nan`, `box_blown`, `collapsed` where the physics went wrong; `truncated` where files are
        cut off or the program never said that it was done.
    """
    rows, last_step, trouble = _rows(folder / MODEL_DEVI)
    kind = (said if said != "ok" else None) or trouble or _frames(folder / TRAJECTORY)
    if kind is None and (rows == 0 or said is None):
        kind = "truncated"
    return Outcome(kind or "ok", rows, last_step)


def _rows(path: Path) -> tuple[int, int, str | None]:
    """Number of rows before the first unusable one, the last one's step, and what is wrong with the unusable one.

    LAMMPS goes on after a NaN, and then writes rows of zeros: a perfect agreement that means nothing. When atoms are
    lost it may write a row whose maximum is 0 and whose minimum is the largest double.
    """
    count, last = 0, -1
    for line in _text(path).splitlines():
        if line.startswith("#") or not line.strip():
            continue
        try:
            step, *values = (float(word) for word in line.split()[:7])
        except ValueError:
            return count, last, "truncated"
        if len(values) < 6 or not abs(step) < _LARGEST_STEP:
            return count, last, "truncated"
        if not all(map(math.isfinite, values)) or values[4] > values[3] or not any(values):
            return count, last, "nan"
        count, last = count + 1, int(step)
    return count, last, None


def _frames(path: Path) -> str | None:
    """What is wrong with the dump, from its first and its last frame."""
    size = _CHUNK
    head, end = _text(path, size), tail(path, size)
    while (place := end.rfind("ITEM: TIMESTEP")) < 0 and len(end) == size:  # the last frame is longer than that
        size *= 4
        end = tail(path, size)
    first, last = _header(head), _header(end[place:])
    if first is None or last is None:
        return "truncated"
    if last[0] != first[0]:
        return "lost_atoms"
    if not end.endswith("\n") or end[place:].count("\n") < last[0] + 9:
        return "truncated"
    if not 1 / LARGEST_VOLUME_RATIO <= last[1] / first[1] <= LARGEST_VOLUME_RATIO:
        return "box_blown"
    return None


def _header(text: str) -> tuple[int, float] | None:
    """Atoms and volume (Angstrom^3) of the frame that `text` begins with; format: https://docs.lammps.org/dump.html"""
    lines = text.split("\n", 9)
    try:
        atoms = int(lines[3])
        bounds = [[float(word) for word in line.split()] for line in lines[5:8]]
        xy, xz, yz = (row[2] if len(row) == 3 else 0.0 for row in bounds)
        lx, ly, lz = (row[1] - row[0] for row in bounds)
    except (IndexError, ValueError):
        return None
    lx -= max(0.0, xy, xz, xy + xz) - min(0.0, xy, xz, xy + xz)
    ly -= max(0.0, yz) - min(0.0, yz)
    volume = lx * ly * lz
    return (atoms, volume) if atoms > 0 and math.isfinite(volume) and volume > 0 else None


def _text(path: Path, size: int = -1) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read(size).decode("ascii", "replace")
    except OSError:
        return ""


def tail(path: Path, size: int = _CHUNK) -> str:
    """The end of a file; empty where there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read().decode("ascii", "replace")
    except OSError:
        return ""
