"""The frames that a select stage chose, for the stages that go on from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conventions.errors import DataError

from .structures import read_file
from .sums import verify

if TYPE_CHECKING:
    from ase import Atoms

FRAMES = "frames.extxyz"
CHECKS_ENOUGH = 10  # labels of check frames of which a confidence can be told


def selected_frames(product: Path) -> list[Atoms]:
    """The frames in the product of select; none where it chose none, or there is no product. Angstrom.

    Raises
    ------
    DataError
        When they are not what select recorded, or cannot be read.
    """
    path = product / FRAMES
    if path.exists():
        verify(product, FRAMES, what="the product of select")
    if not path.is_file() or path.stat().st_size == 0:
        return []
    try:
        return read_file(path, "extxyz")
    except ValueError as error:
        raise DataError(f"{FRAMES} of the select stage: {error}") from None
