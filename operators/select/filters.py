"""Tests that a frame must pass before it is labelled: atoms not on top of each other, a box that a code can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .dump import Frame


def rejection(
    frame: Frame, min_distance: float | None, max_length_ratio: float | None, max_tilt_angle: float | None
) -> str:
    """Class of the first test that the frame fails (`bad_box`, `too_close`), or an empty string.

    Parameters
    ----------
    min_distance
        Least distance between two atoms or periodic images, Angstrom.
    max_length_ratio
        Largest ratio between the longest and the shortest cell vector.
    max_tilt_angle
        Largest tilt of the box in degrees: of b from y in the xy plane, of c from z in xz and in yz, with a along x.
    """
    if max_length_ratio is not None:
        lengths = np.linalg.norm(frame.cell, axis=1)
        if lengths.max() > max_length_ratio * lengths.min():
            return "bad_box"
    if max_tilt_angle is not None and tilt_angle(frame.cell) > max_tilt_angle:
        return "bad_box"
    if min_distance is not None and closest(frame.cell, frame.positions, min_distance) < min_distance:
        return "too_close"
    return ""


def tilt_angle(cell: NDArray[np.float64]) -> float:
    """Largest of atan(|xy| / ly), atan(|xz| / lz), atan(|yz| / lz) of a cell (3, 3), in degrees."""
    box = np.linalg.cholesky(cell @ cell.T)
    return float(np.degrees(np.arctan(max(abs(box[1, 0]) / box[1, 1], np.abs(box[2, :2]).max() / box[2, 2]))))


def closest(cell: NDArray[np.float64], positions: NDArray[np.float64], reach: float) -> float:
    """Distance of the closest pair of atoms or images if it is below `reach`, else something larger. Angstrom.

    Parameters
    ----------
    cell, positions
        (3, 3) and (atoms, 3).
    """
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    inverse = np.linalg.inv(cell)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    volume_per_atom = abs(np.linalg.det(cell)) / len(positions)
    # Spheres cannot be packed denser than this; and a box so flat would have endless images.
    if volume_per_atom < reach**3 / np.sqrt(2) or heights.min() < 0.1 * reach:
        return 0.0
    inside = positions @ inverse
    inside -= np.floor(inside)
    images = inside
    for axis in range(3):
        margin = reach / heights[axis]
        shifts = np.arange(-np.ceil(margin), np.ceil(margin) + 1)
        images = (images + shifts[:, None, None] * np.eye(3)[axis]).reshape(-1, 3)
        images = images[(images[:, axis] >= -margin) & (images[:, axis] <= 1 + margin)]
    distances, _ = cKDTree(images @ cell).query(inside @ cell, k=2)  # the first one is the atom itself
    return float(distances[:, 1].min())
