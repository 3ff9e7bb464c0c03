"""How far the model that explored was from the labels, before it was trained on them: the blind spot.

The deviation, by which frames are chosen, is only how far models are from each other. The forces that the first model
had for a frame come with it from exploration, so that no model is evaluated again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.errors import DataError
from operators.selected import CHECKS_ENOUGH, selected_frames

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

    Labelled = tuple[Atoms, NDArray[np.float64] | None]  # a frame, and the forces of its label, if it has one

FORCES = "model_forces"
DIGITS = 6  # of what is kept: these are figures, not data


def blind_spot(found: Sequence[Labelled], product: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Figures of each frame, and of all of them for the iteration table.

    Parameters
    ----------
    product
        The product of select that the frames are from; it may be missing.

    Returns
    -------
    For each frame, as far as they are known: `max_force`, the largest force of the label; `max_devi_f`, by which it was
    chosen; `max_error_f`, the largest error of the first model's force on an atom, and `rmse_f`, over components; all
    in eV/Angstrom; `check` of those that were drawn among the accurate.

    For the table, of the candidates: `blind_rmse_f`, over the components of all labels, `blind_labels`, how many have
    an error and a deviation, and `blind_ratio` and `blind_ratio_95`, median and 95th percentile of max_error_f /
    max_devi_f. Of the check frames, which are a fair sample of the accurate: `check_labels`, `check_rmse_f`, and
    `check_rmse_f_high`, the upper end of its 95 % confidence interval.
    """
    import numpy as np

    chosen = _chosen(found, product)
    figures: list[dict[str, Any]] = []
    squares: dict[bool, list[tuple[float, int]]] = {False: [], True: []}  # by check: sum, number of components
    for (_, forces), frame in zip(found, chosen, strict=True):
        figures.append(known := {} if frame is None else {"max_devi_f": _short(frame.info.get("max_devi_f"))})
        if check := frame is not None and bool(frame.info.get("check")):
            known["check"] = True
        if forces is None:
            continue
        known["max_force"] = _short(np.linalg.norm(forces, axis=1).max(initial=0.0))
        if frame is not None and FORCES in frame.arrays:
            error = forces - frame.arrays[FORCES]
            known["max_error_f"] = _short(np.linalg.norm(error, axis=1).max(initial=0.0))
            known["rmse_f"] = _short(np.sqrt(np.square(error).mean()))
            squares[check].append((float(np.square(error).sum()), error.size))
    summary = {}
    if squares[False]:
        summary["blind_rmse_f"] = _short(rmse(squares[False]))
    ratios = [
        known["max_error_f"] / known["max_devi_f"]
        for known in figures
        if "max_error_f" in known and known["max_devi_f"] and "check" not in known
    ]
    if ratios:
        median, high = np.percentile(ratios, [50, 95])
        summary |= {"blind_labels": float(len(ratios)), "blind_ratio": _short(median), "blind_ratio_95": _short(high)}
    if squares[True]:
        summary |= {"check_labels": float(len(squares[True])), "check_rmse_f": _short(rmse(squares[True]))}
        if len(squares[True]) >= CHECKS_ENOUGH:
            summary["check_rmse_f_high"] = _short(rmse_below(squares[True]))
    return figures, summary


def rmse(squares: Sequence[tuple[float, int]]) -> float:
    """Over all components of some frames, each given by the sum of its squares and the number of its components."""
    return math.sqrt(sum(total for total, _ in squares) / sum(count for _, count in squares))


def rmse_below(squares: Sequence[tuple[float, int]]) -> float:
    """The upper end of the 95 % confidence interval of the RMSE of all such frames.

    By Student's t of the frames' mean squares: components of one frame are not independent, frames are taken to be.
    Their errors are not normal (cold frames have small ones): of samples of ten it holds in 86 to 97 %.

    Examples
    --------
    >>> round(rmse_below([(0.01, 1), (0.02, 1), (0.01, 1), (0.02, 1), (0.01, 1)]), 3)
    0.144
    """
    import numpy as np
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    totals, counts = np.array(squares, float).T
    mean = totals.sum() / counts.sum()
    spread = np.std((totals - mean * counts) / counts.mean(), ddof=1) / math.sqrt(len(totals))
    return math.sqrt(mean + float(stdtrit(len(totals) - 1, 0.975)) * spread)


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
