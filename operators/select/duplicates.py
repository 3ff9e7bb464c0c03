"""Recognises a structure that is in the dataset already, or was chosen a moment ago.

The key of a structure is a hash of its cell and its fractional coordinates after rounding:

- the cell in its lower triangular form (so that a rotation makes no difference), to multiples of 2**-10 A;
- each fractional coordinate modulo 1 (so that wrapping makes no difference), to multiples of 2**-14;
- atoms sorted by element and rounded coordinates (so that their order makes no difference).

Two structures with equal keys differ by less than 0.001 A in the cell and 0.006 % of a cell vector per atom. Steps
that are powers of two keep lattice sites such as 1/3 or 0.125 away from the places where rounding flips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CELL_STEPS = 2**10
_SITE_STEPS = 2**14
_ATOMS_AT_ONCE = 500_000


def keys(numbers: NDArray[np.int64], cells: NDArray[np.float64], positions: NDArray[np.float64]) -> list[bytes]:
    """Keys of frames with the same atoms.

    Parameters
    ----------
    numbers
        Atomic numbers, (atoms,).
    cells, positions
        (frames, 3, 3) and (frames, atoms, 3), Angstrom.

    Raises
    ------
    numpy.linalg.LinAlgError
        When a cell has no volume.
    """
    triangular = np.linalg.cholesky(cells @ cells.transpose(0, 2, 1))
    boxes = np.rint(triangular * _CELL_STEPS).astype(np.int64)
    sites = np.rint((positions @ np.linalg.inv(cells)) * _SITE_STEPS).astype(np.int64) % _SITE_STEPS
    packed = ((numbers * _SITE_STEPS + sites[..., 0]) * _SITE_STEPS + sites[..., 1]) * _SITE_STEPS + sites[..., 2]
    packed.sort(axis=1)
    return [
        hashlib.sha256(box.tobytes() + atoms.tobytes()).digest()[:16] for box, atoms in zip(boxes, packed, strict=True)
    ]


def dataset_keys(dataset: Path, systems: Iterable[str]) -> tuple[set[bytes], list[str]]:
    """Keys of all frames of deepmd/npy systems, and the systems that could not be read.

    Parameters
    ----------
    systems
        Folders below `dataset`, as `init/bulk/Cu32`.
    """
    known: set[bytes] = set()
    unreadable = []
    for name in systems:
        try:
            for numbers, cells, positions in _read_system(dataset / name):
                known.update(keys(numbers, cells, positions))
        except Exception as error:  # numpy's readers raise whatever they meet
            unreadable.append(f"{name}: {error or type(error).__name__}")
    return known, unreadable


def atomic_numbers(symbols: Sequence[str]) -> NDArray[np.int64]:
    from ase.data import atomic_numbers as table

    return np.array([table[symbol] for symbol in symbols], np.int64)


def _read_system(folder: Path) -> Iterator[tuple[NDArray[np.int64], Any, Any]]:
    types = np.loadtxt(folder / "type.raw", dtype=np.int64, ndmin=1)
    numbers = atomic_numbers((folder / "type_map.raw").read_text().split())[types]
    for part in sorted(folder.glob("set.*")):
        boxes = np.load(part / "box.npy", mmap_mode="r", allow_pickle=False).reshape(-1, 3, 3)
        coordinates = np.load(part / "coord.npy", mmap_mode="r", allow_pickle=False).reshape(
            len(boxes), len(numbers), 3
        )
        size = max(1, _ATOMS_AT_ONCE // len(numbers))
        for start in range(0, len(boxes), size):
            chunk = slice(start, start + size)
            yield numbers, np.array(boxes[chunk], np.float64), np.array(coordinates[chunk], np.float64)
