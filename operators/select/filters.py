"""Tests that a frame must pass before it is labelled: atoms not on top of each other, a box that a code can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from operators.distances import too_close

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .dump import Frame


def rejection(
    frame: Frame, limits: NDArray[np.float64] | None, max_length_ratio: float | None, max_tilt_angle: float | None
) -> str:
    """Class of the first test that the frame fails (`bad_box`, `too_close`), or an empty string.

    Parameters
    ----------
    limits
        Least distance between two atoms or periodic images, Angstrom, by pair of types, (types, types).
    max_length_ratio
        Largest ratio between the longest and the shortest cell vector; the box of a molecule has no such test.
    max_tilt_angle
        Largest tilt of the box in degrees: of b from y in the xy plane, of c from z in xz and in yz, with a along x.
    """
    if max_length_ratio is not None and frame.periodic:
        lengths = np.linalg.norm(frame.cell, axis=1)
        if lengths.max() > max_length_ratio * lengths.min():
            return "bad_box"
    if max_tilt_angle is not None and frame.periodic and tilt_angle(frame.cell) > max_tilt_angle:
        return "bad_box"
    if limits is not None and too_close(frame.cell, frame.types, frame.positions, limits, frame.periodic):
        return "too_close"
    return ""


def distance_limits(
    elements: Sequence[str], absolute: float | Mapping[str, float] | None, ratio: float | None
) -> NDArray[np.float64] | None:
    """How close atoms of two elements may be, Angstrom, (elements, elements); None where nothing is asked for.

    Parameters
    ----------
    absolute
        One number for all pairs, or one for each of some pairs (`Cu-O`).
    ratio
        For all other pairs: of the sum of their covalent radii (Cordero et al., Dalton Trans. 2008, 2832, as in ASE).
    """
    from ase.data import atomic_numbers, covalent_radii

    count = len(elements)
    if isinstance(absolute, float | int):
        return np.full((count, count), float(absolute))
    radii = covalent_radii[[atomic_numbers[element] for element in elements]]
    limits: NDArray[np.float64] = (ratio or 0.0) * (radii[:, None] + radii)
    for pair, value in (absolute or {}).items():
        one, other = (elements.index(element) for element in pair.split("-"))
        limits[one, other] = limits[other, one] = value
    return limits if limits.any() else None


def tilt_angle(cell: NDArray[np.float64]) -> float:
    """Largest of atan(|xy| / ly), atan(|xz| / lz), atan(|yz| / lz) of a cell (3, 3), in degrees."""
    box = np.linalg.cholesky(cell @ cell.T)
    return float(np.degrees(np.arctan(max(abs(box[1, 0]) / box[1, 1], np.abs(box[2, :2]).max() / box[2, 2]))))
