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
    found = _with_images(cell, positions, reach, reach)
    if found is None:
        return 0.0
    inside, images, _ = found
    distances, _ = cKDTree(images).query(inside, k=2)  # the first one is the atom itself
    return float(distances[:, 1].min())


def too_close(
    cell: NDArray[np.float64],
    types: NDArray[np.int64],
    positions: NDArray[np.float64],
    limits: NDArray[np.float64],
    periodic: bool = True,
) -> bool:
    """Are two atoms, or images, closer than the limit of their types?

    Parameters
    ----------
    cell, types, positions
        (3, 3), (atoms,) and (atoms, 3), Angstrom.
    limits
        By pair of types, (types, types), Angstrom.
    periodic
        False: a molecule, of which the cell is only a box.
    """
    from scipy.spatial import cKDTree

    present = np.unique(types)
    mine = limits[np.ix_(present, present)]
    reach, least = float(mine.max()), float(mine.min())
    if reach == least:
        return closest(cell, positions, reach, periodic) < reach
    if periodic:
        found = _with_images(cell, positions, reach, least)
        if found is None:
            return True
        inside, images, owner = found
    else:
        inside, images, owner = positions, positions, np.arange(len(positions))
    near = cKDTree(inside).sparse_distance_matrix(cKDTree(images), reach, output_type="ndarray")
    first, image, distance = near["i"], near["j"], near["v"]
    # An atom's own place is among the images, and is no neighbour; two atoms at one place are.
    same = (owner[image] == first) & (distance < 1e-6)
    return bool(np.any((distance < limits[types[first], types[owner[image]]]) & ~same))


def _with_images(
    cell: NDArray[np.float64], positions: NDArray[np.float64], reach: float, least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]] | None:
    """The atoms inside the cell, all images within `reach` of it, and the atom of each image; Angstrom.

    None where some pair must be closer than `least`, or the cell is so flat that images would be endless.
    """
    inverse = np.linalg.inv(cell)
    heights = 1 / np.linalg.norm(inverse, axis=0)
    volume_per_atom = abs(np.linalg.det(cell)) / len(positions)
    # Spheres cannot be packed denser than this.
    if volume_per_atom < least**3 / np.sqrt(2) or heights.min() < 0.1 * reach:
        return None
    inside = positions @ inverse
    inside -= np.floor(inside)
    images, owner = inside, np.arange(len(positions))
    for axis in range(3):
        margin = reach / heights[axis]
        shifts = np.arange(-np.ceil(margin), np.ceil(margin) + 1)
        images = (images + shifts[:, None, None] * np.eye(3)[axis]).reshape(-1, 3)
        owner = np.tile(owner, len(shifts))
        near = (images[:, axis] >= -margin) & (images[:, axis] <= 1 + margin)
        images, owner = images[near], owner[near]
    return inside @ cell, images @ cell, owner
