"""How far the model that explored was from the labels, before it was trained on them: the blind spot.

The deviation, by which frames are chosen, is only how far models are from each other. The forces that the first model
had for a frame come with it from exploration, so that no model is evaluated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.errors import DataError
from operators.selected import selected_frames

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

    Labelled = tuple[Atoms, NDArray[np.float64] | None]  # a frame, and the forces of its label, if it has one

FORCES = "model_forces"
DIGITS = 6  # of what is kept: these are figures, not data


def blind_spot(found: Sequence[Labelled], product: Path) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Figures of each frame, and of all of them for the iteration table.

    Parameters
    ----------
    product
        The product of select that the frames are from; it may be missing.

    Returns
    -------
    For each frame, as far as they are known: `max_force`, the largest force of the label; `max_devi_f`, by which it was
    chosen; `max_error_f`, the largest error of the first model's force on an atom, and `rmse_f`, over components; all
    in eV/Angstrom. For the table: `blind_rmse_f`, over the components of all labels, and `blind_ratio`, the median of
    max_error_f / max_devi_f.
    """
    import numpy as np

    chosen = _chosen(found, product)
    figures, squares, count = [], 0.0, 0
    for (_, forces), frame in zip(found, chosen, strict=True):
        figures.append(known := {} if frame is None else {"max_devi_f": _short(frame.info.get("max_devi_f"))})
        if forces is None:
            continue
        known["max_force"] = _short(np.linalg.norm(forces, axis=1).max(initial=0.0))
        if frame is not None and FORCES in frame.arrays:
            error = forces - frame.arrays[FORCES]
            known["max_error_f"] = _short(np.linalg.norm(error, axis=1).max(initial=0.0))
            known["rmse_f"] = _short(np.sqrt(np.square(error).mean()))
            squares, count = squares + float(np.square(error).sum()), count + error.size
    if not count:
        return figures, {}
    ratios = [
        known["max_error_f"] / known["max_devi_f"]
        for known in figures
        if "max_error_f" in known and known["max_devi_f"]
    ]
    ratio = {"blind_ratio": _short(np.median(ratios))} if ratios else {}
    return figures, {"blind_rmse_f": _short((squares / count) ** 0.5), **ratio}


def _chosen(found: Sequence[Labelled], product: Path) -> list[Atoms | None]:
    """The chosen frame behind each labelled one, in the same order; None where these are others."""
    import numpy as np

    try:
        chosen = selected_frames(product)
    except DataError:  # it is for the figures only
        chosen = []
    if len(chosen) != len(found):
        return [None] * len(found)
    return [
        frame
        if len(frame) == len(atoms)
        and "max_devi_f" in frame.info
        and np.array_equal(frame.numbers, atoms.numbers)
        and np.array_equal(frame.positions, atoms.positions)
        else None
        for (atoms, _), frame in zip(found, chosen, strict=True)
    ]


def _short(value: Any) -> float:
    return float(f"{float(value):.{DIGITS}g}")
