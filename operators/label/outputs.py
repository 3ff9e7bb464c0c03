"""Reading outputs: classes of failure, numbers as Fortran writes them, tables of vectors, units.

A number is taken only from an output that has ended and converged, for the atoms of the frame.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .frames import Label

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

_MISSING_E = re.compile(r"(?<=\d)([+-]\d{3})$")


class Problem(Exception):
    """A class of failure and what to say of it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.label = Label(kind, message)


def number(word: str, what: str) -> float:
    """A number as Fortran may write it: 1.0D-03, and 1.0-101, without the E of a long exponent."""
    try:
        return float(_MISSING_E.sub(r"e\1", word.replace("D", "E")))
    except ValueError:
        raise Problem("unreadable", f"{word!r} is not a number ({what})") from None


def count(word: str, what: str) -> int:
    """A number of things: of atoms, of steps."""
    if not word.isdecimal() or len(word) > 9:
        raise Problem("unreadable", f"{word[:30]!r} is no count ({what})")
    return int(word)


def vectors(rows: Sequence[Sequence[str]], what: str) -> NDArray[np.float64]:
    """Rows of three numbers, shape (rows, 3)."""
    import numpy as np

    for row, words in enumerate(rows, 1):
        if any("*" in word for word in words):
            raise Problem("unreadable", f"the {what} have ***** for a number (row {row}): do atoms overlap?")
        if len(words) != 3:
            raise Problem("unreadable", f"the {what} have a broken row ({row})")
    return np.array([[number(word, what) for word in words] for words in rows], dtype=np.float64).reshape(-1, 3)


def same_atoms(found: Sequence[str], symbols: Sequence[str], what: str = "the output") -> None:
    """Raise `Problem` unless these are the elements of the frame's atoms, in its order."""
    if len(found) != len(symbols):
        raise Problem("wrong_atoms", f"{what} has {len(found)} atoms for a frame of {len(symbols)}")
    for atom, (theirs, ours) in enumerate(zip(found, symbols, strict=True), 1):
        if theirs != ours:
            raise Problem("wrong_atoms", f"atom {atom} is {theirs} in {what} and {ours} in the frame")


def same_positions(found: NDArray[np.float64], atoms: Atoms, within: float = 1e-3) -> None:
    """Raise `Problem` unless the frame has its atoms there, or at a periodic image. Angstrom."""
    import numpy as np

    moved = found - atoms.positions
    moved -= np.rint(moved @ np.linalg.pinv(atoms.cell.array)) @ atoms.cell.array
    farthest = float(np.linalg.norm(moved, axis=1).max(initial=0))
    if not farthest <= within:
        raise Problem("wrong_atoms", f"an atom of the output is {farthest:.3g} Angstrom from where the frame has it")


def unit(name: str, what: str) -> float:
    """The factor of a unit that an output names."""
    factor = units()[what].get(name.lower())
    if factor is None:
        raise Problem("unreadable", f"the output's {what} is in {name!r}; remove the unit keyword from the input")
    return factor


@functools.cache
def units() -> dict[str, dict[str, float]]:
    """Factors to Angstrom, eV, eV/Angstrom and eV/Angstrom^3, by dpdata's constants as for all other data."""
    from dpdata.unit import EnergyConversion, LengthConversion, PressureConversion

    hartree = float(EnergyConversion("hartree", "eV").value())
    bohr = float(LengthConversion("bohr", "angstrom").value())
    bar = float(PressureConversion("bar", "eV/angstrom^3").value())
    return {
        "length": {"bohr": bohr},
        "energy": {"a.u.": hartree, "hartree": hartree, "ry": hartree / 2, "ev": 1.0},
        "force": {
            "a.u.": hartree / bohr,
            "hartree/bohr": hartree / bohr,
            "ry/bohr": hartree / 2 / bohr,
            "ev/angstrom": 1.0,
        },
        "stress": {
            "bar": bar,
            "kbar": 1e3 * bar,
            "gpa": 1e4 * bar,
            "mpa": 10 * bar,
            "pa": 1e-5 * bar,
            "ry/bohr^3": hartree / 2 / bohr**3,
        },
    }
