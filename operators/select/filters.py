"""Tests that a frame must pass before it is labelled: atoms not on top of each other, a box that a code can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from operators.distances import closest

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
    if min_distance is not None:
        distance = closest(frame.cell, frame.positions, min_distance, frame.periodic)
        return "too_close" if distance < min_distance else ""
    return ""


def tilt_angle(cell: NDArray[np.float64]) -> float:
    """Largest of atan(|xy| / ly), atan(|xz| / lz), atan(|yz| / lz) of a cell (3, 3), in degrees."""
    box = np.linalg.cholesky(cell @ cell.T)
    return float(np.degrees(np.arctan(max(abs(box[1, 0]) / box[1, 1], np.abs(box[2, :2]).max() / box[2, 2]))))
