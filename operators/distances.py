"""Distances between atoms, also across the faces of a periodic cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def closest(cell: NDArray[np.float64], positions: NDArray[np.float64], reach: float, periodic: bool = True) -> float:
    """Distance of the closest pair of atoms or images if it is below `reach`, else something larger. Angstrom.

    Parameters
    ----------
    cell, positions
        (3, 3) and (atoms, 3).
    periodic
        False: a molecule, of which the cell is only a box.
    """
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    if not periodic:
        nearest, _ = cKDTree(positions).query(positions, k=2)
        return float(nearest[:, 1].min())
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
