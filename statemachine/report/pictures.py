"""Pictures of the frames that were chosen last, each with where it came from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.errors import DataError, NotFound
from conventions.state import State
from operators.selected import FRAMES, selected_frames
from operators.sums import SUMS
from statemachine.store import Store

from .chosen import Chosen, read_chosen

MOST = 12  # frames that are shown: those with the largest deviations
ATOMS = 400  # of a frame that is drawn


@dataclass(frozen=True)
class Disc:
    """An atom as it is drawn: percent of the picture's width."""

    x: float
    y: float
    radius: float
    colour: str


@dataclass(frozen=True)
class Picture:
    """A chosen frame. `discs` are drawn from back to front; `height` is that of a picture 100 wide."""

    number: int
    fact: Chosen
    formula: str
    discs: list[Disc]
    height: float


def read_pictures(store: Store, state: State) -> tuple[int | None, int, list[Picture]]:
    """The iteration that chose frames last, how many it chose, and pictures of some.

    Nothing where frames or their list are missing or damaged: a report shows what can be read.
    """
    iteration = state.newest.get("select")
    product = state.place.newest_product("select")
    if iteration is None or product is None:
        return None, 0, []
    try:
        facts = read_chosen(store, product)
        with tempfile.TemporaryDirectory() as scratch:
            for name in (FRAMES, SUMS):
                (Path(scratch) / name).write_bytes(store.get(f"{product}/{name}").data)
            frames = selected_frames(Path(scratch))
        order = sorted(range(len(facts)), key=lambda number: (-facts[number].max_devi_f, number))[:MOST]
        return iteration, len(facts), [_picture(number, facts[number], frames[number]) for number in order]
    except (NotFound, DataError, ValueError, IndexError):
        return iteration, 0, []


def _picture(number: int, fact: Chosen, atoms: Any) -> Picture:
    discs, height = draw(atoms) if len(atoms) <= ATOMS else ([], 0.0)
    return Picture(number, fact, str(atoms.symbols.formula.format("metal")), discs, height)


def draw(atoms: Any, rotation: str = "-75x,15y,5z") -> tuple[list[Disc], float]:
    """The atoms of a frame in projection, in the colours of Jmol."""
    import numpy as np
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors
    from ase.utils import rotate

    atoms = atoms.copy()
    if atoms.pbc.all():
        atoms.wrap()
    at = atoms.positions @ rotate(rotation)
    radii = 0.7 * covalent_radii[atoms.numbers]
    low = (at[:, :2] - radii[:, None]).min(axis=0)
    size = (at[:, :2] + radii[:, None]).max(axis=0) - low
    scale = 100 / float(size[0])
    discs = [
        Disc(
            round(float(at[one, 0] - low[0]) * scale, 1),
            round(float(low[1] + size[1] - at[one, 1]) * scale, 1),
            round(float(radii[one]) * scale, 1),
            _hexadecimal(jmol_colors[atoms.numbers[one]]),
        )
        for one in np.argsort(at[:, 2], kind="stable").tolist()
    ]
    return discs, round(float(size[1]) * scale, 1)


def _hexadecimal(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in colour)
