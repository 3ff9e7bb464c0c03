"""Learning curves of the newest models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from conventions.errors import NotFound
from conventions.state import State
from statemachine.store import Store

ROWS = 300  # of a curve that is drawn


@dataclass(frozen=True)
class Curve:
    """Errors along a training: eV/atom and eV/Angstrom, each of shape (rows,).

    DeePMD-kit tells them by step and on training batches, MACE by epoch and on its validation data.
    """

    steps: list[float]
    rmse_e: list[float]
    rmse_f: list[float]
    unit: str = "step"
    data: str = "training batches"


def read_curves(store: Store, state: State) -> list[Curve]:
    """The curves of the newest committee, as far as its trainer left what can be read."""
    product = state.place.newest_product("train")
    if product is None:
        return []
    found = []
    for entry in store.list(f"{product}/lcurve."):
        try:
            text = store.get(entry.key).data.decode("ascii", "replace")
        except NotFound:
            continue
        curve = parse_mace(text) if entry.key.endswith(".jsonl") else parse_curve(text)
        if curve.steps:
            found.append(curve)
    return found


def parse_curve(text: str) -> Curve:
    """An lcurve.out, thinned to some hundred rows; rows that cannot be read are left out.

    >>> parse_curve("# step rmse_e_trn rmse_f_trn\\n0 0.1 0.2\\n").rmse_f
    [0.2]
    """
    lines = text.splitlines()
    names = next((line.split()[1:] for line in lines if line.startswith("#")), [])
    try:
        places = [next(n for n, name in enumerate(names) if name.startswith(f"rmse_{kind}_trn")) for kind in "ef"]
    except StopIteration:
        return Curve([], [], [])
    body = [line for line in lines if line.strip() and not line.startswith("#")]
    rows = list(_numbers(body[:: max(1, len(body) // ROWS)], places))
    return Curve([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def parse_mace(text: str) -> Curve:
    """The evaluations in a results file of MACE, thinned to some hundred; lines that cannot be read are left out.

    The first one is of the model before its training. What a training does again after an interruption replaces what it
    did before. Of several heads the last one counts, which is the run's own.

    >>> parse_mace('{"mode": "eval", "epoch": null, "rmse_e_per_atom": 0.1, "rmse_f": 0.2}').rmse_f
    [0.2]
    """
    by_head: dict[str, list[tuple[float, float, float]]] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line) if '"eval"' in line else {}
            epoch = row["epoch"]
            numbers = (0 if epoch is None else epoch + 1, float(row["rmse_e_per_atom"]), float(row["rmse_f"]))
            rows = by_head.setdefault(str(row.get("head")), [])
            if all(map(math.isfinite, numbers)) and (epoch is not None or not rows):
                while rows and rows[-1][0] >= numbers[0]:
                    rows.pop()
                rows.append(numbers)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            continue
    rows = list(by_head.values())[-1] if by_head else []
    rows = rows[:: max(1, len(rows) // ROWS)]
    return Curve(
        [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], "epoch", "validation data"
    )


def _numbers(lines: list[str], places: list[int]) -> Iterator[tuple[float, float, float]]:
    for line in lines:
        words = line.split()
        try:
            step, energy, force = float(words[0]), float(words[places[0]]), float(words[places[1]])
        except (ValueError, IndexError):
            continue
        yield step, energy, force
