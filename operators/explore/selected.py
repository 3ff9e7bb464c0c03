"""Where exploration goes on: the frames that select chose last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conventions.errors import DataError
from operators.structures import read_file
from operators.sums import verify

if TYPE_CHECKING:
    from ase import Atoms

FRAMES = "frames.extxyz"


def selected_frames(product: Path, name: str) -> list[Atoms]:
    """The frames that come from a structure set, in the product of select; none where it chose none. Angstrom.

    Raises
    ------
    DataError
        When they are not what select recorded, or cannot be read.
    """
    path = product / FRAMES
    if not path.is_file() or path.stat().st_size == 0:
        return []
    verify(product, FRAMES, what="the product of select")
    try:
        frames = read_file(path, "extxyz")
    except ValueError as error:
        raise DataError(f"{FRAMES} of the select stage: {error}") from None
    found = [frame for frame in frames if frame.info.get("structure") == name]
    for frame in found:
        frame.info = {"structure": name}
    return found
