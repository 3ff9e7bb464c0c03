"""How far a committee's models are from labelled data, and from each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from operators.core import Model

ATOMS = 10_000  # in the frames that a model is given at once


def committee_errors(
    models: Sequence[Model], systems: Iterable[Any], arrived: Callable[[int], None] = lambda frames: None
) -> dict[str, Any]:
    """Errors of each model, and of the mean of their predictions, on one data set.

    Parameters
    ----------
    systems
        dpdata's labelled systems. Those without virials do not count for `rmse_v`.
    arrived
        Called with the number of frames that have been evaluated since the last call.

    Returns
    -------
    dict
        `frames`; `models`, and `mean`: `rmse_e` (eV/atom), `rmse_f` (eV/Angstrom, over components) and, where there
        are virials, `rmse_v` (eV/atom, over components); `max_devi_f` (eV/Angstrom): `mean`, `percentile_95` and
        `max` over the frames of what LAMMPS calls so, or None for a single model.
    """
    import numpy as np

    squares: dict[str, Any] = {}
    counts: dict[str, int] = {}
    deviations = []
    for symbols, positions, cells, labels in _parts(systems):
        found = [model(symbols, positions, cells) for model in models]
        atoms = len(symbols)
        for key, number, unit in (("rmse_e", 0, atoms), ("rmse_f", 1, 1), ("rmse_v", 2, atoms)):
            label = labels[number]
            if label is None:
                continue
            predicted = np.array([each[number] for each in found], dtype=float)
            all_and_mean = np.concatenate([predicted, predicted.mean(axis=0, keepdims=True)])
            errors = (all_and_mean - label).reshape(len(all_and_mean), -1) / unit
            squares[key] = squares.get(key, 0.0) + np.square(errors).sum(axis=1)
            counts[key] = counts.get(key, 0) + label.size
        forces = np.array([each[1] for each in found], dtype=float)
        deviations.append(np.linalg.norm(forces.std(axis=0), axis=-1).max(axis=-1))
        arrived(len(positions))
    rows = [
        {key: _finite(np.sqrt(squares[key][row] / counts[key])) for key in squares} for row in range(len(models) + 1)
    ]
    deviation = np.concatenate(deviations)
    return {
        "frames": len(deviation),
        "models": rows[:-1],
        "mean": rows[-1],
        "max_devi_f": {
            "mean": _finite(deviation.mean()),
            "percentile_95": _finite(np.percentile(deviation, 95)),
            "max": _finite(deviation.max()),
        }
        if len(models) > 1
        else None,
    }


def _parts(systems: Iterable[Any]) -> Iterator[tuple[list[str], Any, Any, tuple[Any, Any, Any]]]:
    """Symbols, positions, cells and labels (energies, forces, virials) of some frames at a time."""
    for system in systems:
        data = system.data
        symbols = [data["atom_names"][number] for number in data["atom_types"]]
        step = max(1, ATOMS // len(symbols))
        for first in range(0, len(data["coords"]), step):
            part = slice(first, first + step)
            labels = tuple(data[key][part] if key in data else None for key in ("energies", "forces", "virials"))
            yield symbols, data["coords"][part], None if system.nopbc else data["cells"][part], labels  # type: ignore[misc]


def _finite(value: Any) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
