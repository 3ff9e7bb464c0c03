"""Figures of a new committee for reports: each model's errors, and how well they know the labels that were new to them
(the absorption)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conventions.documents import parse_json
from conventions.errors import DataError
from conventions.figures import Errors, TrainFigures
from operators.jobs import TaskOutput

from .dp_model import short

NEW = "new.json"  # what a task leaves of its model's errors on these labels


def write_figures(tasks: Sequence[TaskOutput], models: Sequence[dict[str, float]], product: Path) -> dict[str, float]:
    """Write `figures.json`; errors on new labels are means over the models, and none where a model was not measured.

    Returns
    -------
    For the iteration table: `new_rmse_f` over the components of all these labels, eV/Angstrom.
    """
    try:
        measured = [_read(task) for task in tasks]
        systems = {name: _mean([each[name] for each in measured]) for name in measured[0]}
    except (OSError, DataError, KeyError, TypeError, ValueError, IndexError):  # the models are what counts
        systems = {}
    figures = TrainFigures(models=[dict(each) for each in models], systems=systems)
    (product / "figures.json").write_bytes(figures.dump())
    atoms = sum(each.atoms * len(each.rmse_f) for each in systems.values())
    if not atoms:
        return {}
    squares = sum(each.atoms * sum(value**2 for value in each.rmse_f) for each in systems.values())
    return {"new_rmse_f": float(f"{math.sqrt(squares / atoms):.6g}")}


def _read(task: TaskOutput) -> dict[str, Errors]:
    assert task.folder is not None
    found: dict[str, Any] = parse_json((task.folder / NEW).read_bytes(), NEW)
    return {name: Errors.model_validate(each) for name, each in found.items()}


def _mean(models: Sequence[Errors]) -> Errors:
    def mean(lists: Sequence[list[float]]) -> list[float]:
        return [short(sum(values) / len(values)) or 0.0 for values in zip(*lists, strict=True)]

    return Errors(
        atoms=models[0].atoms,
        max_error_f=mean([each.max_error_f for each in models]),
        rmse_f=mean([each.rmse_f for each in models]),
    )
