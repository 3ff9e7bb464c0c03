"""Recognises a structure that is in the dataset already, or was chosen a moment ago.

The key of a structure is a hash of its cell and its fractional coordinates after rounding:

- the cell in its lower triangular form (so that a rotation makes no difference), to multiples of 2**-10 A;
- each fractional coordinate modulo 1 (so that wrapping makes no difference), to multiples of 2**-14;
- atoms sorted by element and rounded coordinates (so that their order makes no difference).

Two structures with equal keys differ by less than 0.001 A in the cell and 0.006 % of a cell vector per atom. Steps
that are powers of two keep lattice sites such as 1/3 or 0.125 away from the places where rounding flips.

A molecule has no cell that counts: its atoms are taken from their centre, in a cube of 16 A.

Whoever writes a system to the dataset keeps its keys beside it, so that a comparison need not read all frames that
ever were: `keys.v1.bin`, 16 bytes a frame, in the order of the frames. Another definition of a key needs another name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.sums import SUMS, parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYS = "keys.v1.bin"
_BYTES = 16
_SHAPE = re.compile(rb"'shape': \(([0-9]+)")
_CELL_STEPS = 2**10
_SITE_STEPS = 2**14
_CUBE = 16.0
_ATOMS_AT_ONCE = 500_000


def keys(numbers: NDArray[np.int64], cells: NDArray[np.float64] | None, positions: NDArray[np.float64]) -> list[bytes]:
    """Keys of frames with the same atoms.

    Parameters
    ----------
    numbers
        Atomic numbers, (atoms,).
    cells, positions
        (frames, 3, 3), None for molecules, and (frames, atoms, 3), Angstrom.

    Raises
    ------
    numpy.linalg.LinAlgError
        When a cell has no volume.
    """
    if cells is None:
        boxes = np.zeros((len(positions), 3, 3), np.int64)
        fractions = (positions - positions.mean(axis=1, keepdims=True)) / _CUBE
    else:
        triangular = np.linalg.cholesky(cells @ cells.transpose(0, 2, 1))
        boxes = np.rint(triangular * _CELL_STEPS).astype(np.int64)
        fractions = positions @ np.linalg.inv(cells)
    sites = np.rint(fractions * _SITE_STEPS).astype(np.int64) % _SITE_STEPS
    packed = ((numbers * _SITE_STEPS + sites[..., 0]) * _SITE_STEPS + sites[..., 1]) * _SITE_STEPS + sites[..., 2]
    packed.sort(axis=1)
    return [
        hashlib.sha256(box.tobytes() + atoms.tobytes()).digest()[:_BYTES]
        for box, atoms in zip(boxes, packed, strict=True)
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
    recorded: dict[Path, dict[str, str]] = {}
    for name in systems:
        folder = dataset / name
        try:
            if folder.parent not in recorded:
                sums = folder.parent / SUMS
                recorded[folder.parent] = parse(sums.read_bytes()) if sums.exists() else {}
            kept = _kept_keys(folder, recorded[folder.parent].get(f"{folder.name}/{KEYS}"))
            known.update(_system_keys(folder) if kept is None else kept)
        except Exception as error:  # numpy's readers raise whatever they meet
            unreadable.append(f"{name}: {error or type(error).__name__}")
    return known, unreadable


def write_keys(folder: Path) -> None:
    """Keep the keys of a deepmd/npy system beside it; none where a cell has no volume."""
    try:
        found = b"".join(_system_keys(folder))
    except np.linalg.LinAlgError:
        return
    (folder / KEYS).write_bytes(found)


def _kept_keys(folder: Path, sha256: str | None) -> list[bytes] | None:
    """The keys beside a system. None where they are not recorded or are other ones: the frames themselves tell then."""
    if sha256 is None:
        return None
    try:
        data = (folder / KEYS).read_bytes()
    except FileNotFoundError:
        return None
    frames = sum(_frames_of(part / "coord.npy") for part in folder.glob("set.*"))
    if hashlib.sha256(data).hexdigest() != sha256 or len(data) != frames * _BYTES:
        return None
    found: list[bytes] = np.frombuffer(data, f"V{_BYTES}").tolist()
    return found


def _frames_of(path: Path) -> int:
    """The first dimension of an array, from its header: `numpy.load` takes ten times longer."""
    with open(path, "rb") as stream:
        found = _SHAPE.search(stream.read(256))
    return int(found[1]) if found else -1


def atomic_numbers(symbols: Sequence[str]) -> NDArray[np.int64]:
    from ase.data import atomic_numbers as table

    return np.array([table[symbol] for symbol in symbols], np.int64)


def _system_keys(folder: Path) -> Iterator[bytes]:
    return (key for frames in _read_system(folder) for key in keys(*frames))


def _read_system(folder: Path) -> Iterator[tuple[NDArray[np.int64], Any, Any]]:
    types = np.loadtxt(folder / "type.raw", dtype=np.int64, ndmin=1)
    numbers = atomic_numbers((folder / "type_map.raw").read_text().split())[types]
    periodic = not (folder / "nopbc").exists()
    size = max(1, _ATOMS_AT_ONCE // len(numbers))
    for part in sorted(folder.glob("set.*")):
        coordinates = np.load(part / "coord.npy", mmap_mode="r", allow_pickle=False).reshape(-1, len(numbers), 3)
        boxes = np.load(part / "box.npy", mmap_mode="r", allow_pickle=False) if periodic else None
        for start in range(0, len(coordinates), size):
            chunk = slice(start, start + size)
            cells = None if boxes is None else np.array(boxes.reshape(len(coordinates), 3, 3)[chunk], np.float64)
            yield numbers, cells, np.array(coordinates[chunk], np.float64)
