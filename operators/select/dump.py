"""Single frames out of a LAMMPS text dump, by step, without reading the others.

Format: https://docs.lammps.org/dump.html. Boxes: orthogonal (`xlo xhi`), restricted triclinic (`xlo_bound xhi_bound
xy`) and general triclinic (`ax ay az origin`, header `abc origin`). Columns: type, and x y z, xu yu zu, xs ys zs or
xsu ysu zsu; where there is an id, atoms are sorted by it. Forces: fx fy fz, or those that LAMMPS's `fix store/force`
kept (`f_NAME[1]` to `[3]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conventions.errors import DataError

from .score import find_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COORDINATES = (("x", "y", "z"), ("xu", "yu", "zu"), ("xs", "ys", "zs"), ("xsu", "ysu", "zsu"))
_FORCES = (("f_dpgen_force[1]", "f_dpgen_force[2]", "f_dpgen_force[3]"), ("fx", "fy", "fz"))
_MOST_DIGITS = 10  # of a number of atoms
_LARGEST = 1e9  # of a coordinate, Angstrom
_FLATTEST = 1e-6  # volume of a box by that of a brick with the same edges


class CorruptFrame(DataError):
    """The frame is truncated, damaged, or not of a kind that can be labelled."""


@dataclass(frozen=True)
class Frame:
    """Cell vectors as rows (3, 3) and positions (atoms, 3) from the box's origin in Angstrom; types from 0 (atoms,).

    Where it is not `periodic`, it is a molecule, and the cell is a box around it. `forces` are the first model's,
    eV/Angstrom (atoms, 3), where the dump has them.
    """

    cell: NDArray[np.float64]
    types: NDArray[np.int64]
    positions: NDArray[np.float64]
    periodic: bool = True
    forces: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class DumpIndex:
    """Where each frame of a dump lies: step, first byte and the byte after its last one; all of shape (frames,)."""

    steps: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path, sha256: str | None = None) -> DumpIndex:
        """The index of a file, which must be the recorded one if a hash is given."""
        steps, starts = find_frames(path, sha256)
        return cls(steps, starts, np.append(starts[1:], path.stat().st_size)[: len(starts)])


def read_frames(
    path: Path, index: DumpIndex, steps: Iterable[int], n_types: int
) -> Iterator[tuple[int, Frame | CorruptFrame | None]]:
    """The frames of `steps`, in the order in which the file has them: one open, one forward pass.

    A frame must have as many atoms as the first one of the file.

    Yields
    ------
    step and its Frame, None where the dump has no such step, or a CorruptFrame that says what is wrong.
    """
    places: list[tuple[int, int]] = []
    for step in steps:
        found = np.flatnonzero(index.steps == step)
        if not len(found):
            yield step, None
        elif len(found) > 1:
            yield step, CorruptFrame(f"step {step} appears {len(found)} times")
        else:
            places.append((int(found[0]), step))
    if not places:
        return
    with open(path, "rb") as stream:
        try:
            expected = _count(stream.read(4096))
        except CorruptFrame as error:
            yield from ((step, error) for _, step in places)
            return
        for place, step in sorted(places):
            stream.seek(index.starts[place])
            try:
                yield step, parse_frame(stream.read(index.ends[place] - index.starts[place]), n_types, expected)
            except CorruptFrame as error:
                yield step, error


def parse_frame(data: bytes, n_types: int, n_atoms: int | None = None) -> Frame:
    """One frame from its bytes.

    Raises
    ------
    CorruptFrame
        When it is cut off, has other than `n_atoms` atoms, numbers that are not finite, types outside 1..n_types,
        an atom twice, no volume, or a box that is periodic in one or two directions.
    """
    head, _, rest = data.partition(b"ITEM: ATOMS ")
    header, _, body = rest.partition(b"\n")
    names = header.decode("ascii", "replace").split()
    count = _count(head)
    if n_atoms is not None and count != n_atoms:
        raise CorruptFrame(f"{count} atoms, but {n_atoms} in the first frame")
    *lines, after = body.split(b"\n", count)
    words = b" ".join(lines).split()
    if len(lines) != count or len(words) != count * len(names) or not b"ITEM:".startswith(after[:5]):
        raise CorruptFrame(f"the frame is cut off or damaged: {len(words)} values in {len(lines)} lines, {count} atoms")
    kind = next((kind for kind in _COORDINATES if set(kind) <= set(names)), None)
    if kind is None or "type" not in names:
        raise CorruptFrame(f"the dump needs columns type x y z; it has {' '.join(names)}")
    forced = next((columns for columns in _FORCES if set(columns) <= set(names)), ())
    order = (*(["id"] if "id" in names else []), "type", *kind, *forced)
    try:
        table = np.array([words[names.index(name) :: len(names)] for name in order], dtype=np.float64)
    except ValueError:
        raise CorruptFrame("the frame holds something that is not a number") from None
    if not np.isfinite(table).all() or np.abs(table[len(order) - len(forced) - 3 :]).max() > _LARGEST:
        raise CorruptFrame("coordinates are not finite, or absurdly large")
    if "id" in names:
        table = table[:, np.argsort(table[0], kind="stable")]
        if np.any(np.diff(table[0]) == 0):
            raise CorruptFrame("an atom appears twice")
        table = table[1:]
    types = table[0].astype(np.int64) - 1
    if np.any(types != table[0] - 1) or types.min() < 0 or types.max() >= n_types:
        raise CorruptFrame(f"types outside 1..{n_types}: the dump does not fit type_map")
    cell, origin, periodic = _box(head)
    positions = table[1:4].T
    forces = table[4:].T if forced else None
    if kind[0].startswith("xs"):
        return Frame(cell, types, positions @ cell, periodic, forces)
    return Frame(cell, types, positions - origin, periodic, forces)


def _count(head: bytes) -> int:
    words = head.partition(b"ITEM: NUMBER OF ATOMS\n")[2].split(b"\n", 1)
    count = words[0].strip()
    if len(words) < 2 or not count.isdigit() or len(count) > _MOST_DIGITS or int(count) == 0:
        raise CorruptFrame("the number of atoms is missing")
    return int(count)


def _box(head: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Cell vectors (3, 3) and origin (3,), Angstrom, and whether they are periodic."""
    lines = head.partition(b"ITEM: BOX BOUNDS")[2].split(b"\n")
    flags = [word for word in lines[0].split() if len(word) == 2 and set(word) <= set(b"pfsm")]
    periodic = {flag == b"pp" for flag in flags} or {True}
    if len(periodic) > 1:
        raise CorruptFrame("the box is periodic in some directions only; let vacuum part the images")
    try:
        rows = np.array([line.split() for line in lines[1:4]], dtype=np.float64)
    except ValueError:
        raise CorruptFrame("the box cannot be read") from None
    if rows.shape == (3, 2):
        cell, origin = np.diag(rows[:, 1] - rows[:, 0]), rows[:, 0]
    elif rows.shape == (3, 3):
        xy, xz, yz = rows[:, 2]
        low = rows[:, 0] - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
        high = rows[:, 1] - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
        lx, ly, lz = high - low
        cell, origin = np.array([[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]]), low
    elif rows.shape == (3, 4):
        cell, origin = rows[:, :3], rows[:, 3]
    else:
        raise CorruptFrame("the box cannot be read")
    sane = np.isfinite(rows).all() and np.abs(rows).max() < _LARGEST
    if not sane or np.linalg.det(cell) <= _FLATTEST * np.linalg.norm(cell, axis=1).prod():
        raise CorruptFrame("the box has no volume")
    return cell, origin, periodic.pop()
