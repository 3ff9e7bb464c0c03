"""Learning curves of the newest models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conventions.errors import NotFound
from conventions.state import State
from statemachine.store import Store

ROWS = 300  # of a curve that is drawn


@dataclass(frozen=True)
class Curve:
    """Errors on training batches along the steps: eV/atom and eV/Angstrom, each of shape (rows,)."""

    steps: list[float]
    rmse_e: list[float]
    rmse_f: list[float]


def read_curves(store: Store, state: State) -> list[Curve]:
    """The curves of the newest committee, where its trainer wrote DeePMD-kit's lcurve.out; empty elsewhere."""
    product = state.place.newest_product("train")
    if product is None:
        return []
    keys = [entry.key for entry in store.list(f"{product}/lcurve.") if entry.key.endswith(".out")]
    found = []
    for key in keys:
        try:
            curve = parse_curve(store.get(key).data.decode("ascii", "replace"))
        except NotFound:
            continue
        if curve.steps:
            found.append(curve)
    return found


def parse_curve(text: str) -> Curve:
    """An lcurve.out, thinned to some hundred rows; rows that cannot be read are left out.

    >>> parse_curve("# step rmse_e_trn rmse_f_trn\\n0 0.1 0.2\\n")
    Curve(steps=[0.0], rmse_e=[0.1], rmse_f=[0.2])
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


def _numbers(lines: list[str], places: list[int]) -> Iterator[tuple[float, float, float]]:
    for line in lines:
        words = line.split()
        try:
            step, energy, force = float(words[0]), float(words[places[0]]), float(words[places[1]])
        except (ValueError, IndexError):
            continue
        yield step, energy, force
