"""Energy, forces and stress of one frame from VASP's OUTCAR, or the class of what went wrong.

Energy is `free  energy   TOTEN`, as in DP-GEN and dpdata: with smeared electrons, forces are its derivatives. Atoms
are those of POSCAR, grouped by element. With vdW the table of forces has further columns; with NWRITE = 0 there is no
VRHFIN, so elements are read from the lines `POTCAR:`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from .frames import Label, grouped
from .outputs import Problem, count, number, same_positions, unit, vectors

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

_STEP = re.compile(r"Iteration\s+(\d+)\(\s*(\d+)\)")
_NELM = re.compile(r"^\s*NELM\s*=\s*(\d+);", re.MULTILINE)
_ELEMENT = re.compile(r"^\s*POTCAR:\s+\S+\s+([A-Z][a-z]?)", re.MULTILINE)
_COUNTS = re.compile(r"ions per type =((?:\s+\d+)+)\s*$", re.MULTILINE)
_TOTAL = re.compile(r"NIONS =\s*(\d+)")
_ENERGY = re.compile(r"free  energy   TOTEN\s*=\s*(\S+) eV")
_FORCES = re.compile(r"^\s*POSITION\s+TOTAL-FORCE \(eV/Angst\)(?! \(ML\)).*\n.*\n", re.MULTILINE)
_STRESS = re.compile(r"^\s*in kB\s+(.*)$", re.MULTILINE)
_BOX = re.compile(r"^\s*\|\s*(\S.*?)\s*\|\s*$", re.MULTILINE)


def read(text: str, atoms: Atoms) -> Label:
    """The label of the frame that an OUTCAR is of."""
    import numpy as np

    if message := said(text):
        raise Problem("aborted", message)
    if "General timing and accounting" not in text:
        raise Problem("truncated", "OUTCAR has no General timing: VASP was stopped")
    _check_converged(text)
    _check_atoms(text, Counter(atoms.get_chemical_symbols()))
    order = grouped(atoms.get_chemical_symbols())
    energies = _ENERGY.findall(text)
    if not energies:
        raise Problem("unreadable", "OUTCAR has no free energy TOTEN")
    positions, rows = np.split(_table(text, len(atoms)), 2, axis=1)
    same_positions(positions, atoms[order])
    forces = np.empty_like(rows)
    forces[order] = rows
    return Label("ok", "", number(energies[-1], "energy"), forces, _virial(text, atoms.get_volume()))


def said(text: str) -> str:
    """What the box says that VASP 6 writes where it stops; without the large letters ERROR."""
    start = text.find("EEEEEEE")
    lines = _BOX.findall(text[start:]) if start >= 0 else []
    return " ".join(line for line in lines[:30] if re.search(r"[a-z]", line) and "-------" not in line)[:300]


def _check_converged(text: str) -> None:
    """One ionic step, with fewer electronic ones than NELM: at NELM some versions say that EDIFF is reached."""
    steps, nelm = _STEP.findall(text), _NELM.search(text)
    if not steps or not nelm:
        raise Problem("unreadable", "OUTCAR has no electronic steps, or no NELM")
    if steps[-1][0] != "1":
        raise Problem("unreadable", f"OUTCAR has {steps[-1][0]} ionic steps; write NSW = 0 into the INCAR")
    if count(steps[-1][1], "steps") >= count(nelm[1], "NELM") or "EDIFF was not reached" in text:
        raise Problem("scf_not_converged", f"{steps[-1][1]} electronic steps, and NELM = {nelm[1]}: not converged")
    if "aborting loop because EDIFF is reached" not in text:
        raise Problem("scf_not_converged", "OUTCAR does not say that EDIFF is reached")


def _check_atoms(text: str, expected: Counter[str]) -> None:
    """Elements and their counts; VASP up to 6.3 tells the counts of ten types only."""
    named, total, counts = _ELEMENT.findall(text), _TOTAL.search(text), _COUNTS.search(text)
    if len(named) % 2 or not total or not counts:
        raise Problem("unreadable", "OUTCAR has no whole list of POTCARs, no NIONS, or no ions per type")
    elements = named[: len(named) // 2]  # VASP lists POTCARs twice
    numbers = [count(word, "ions") for word in counts[1].split()]
    wanted = list(expected.values())
    told = wanted if len(numbers) > 10 else wanted[:10]
    if elements != list(expected) or numbers != told or count(total[1], "NIONS") != sum(wanted):
        found = " ".join(f"{element}{atoms}" for element, atoms in zip(elements, numbers, strict=False))
        frame = " ".join(f"{element}{atoms}" for element, atoms in expected.items())
        raise Problem("wrong_atoms", f"OUTCAR is of {found}, the frame of {frame}")


def _table(text: str, atoms: int) -> NDArray[np.float64]:
    """Positions and forces in the order of POSCAR, shape (atoms, 6). Further columns (w/o vdW) are not read."""
    import numpy as np

    tables = list(_FORCES.finditer(text))
    if not tables:
        raise Problem("no_forces", "OUTCAR has no TOTAL-FORCE")
    rows = [line.split()[:6] for line in text[tables[-1].end() :].splitlines()[: atoms + 1]]
    if len(rows) != atoms + 1 or not rows.pop()[0].startswith("---"):
        raise Problem("wrong_atoms", f"OUTCAR has not {atoms} rows of forces, which the frame has atoms")
    halves = [vectors([row[at : at + 3] for row in rows], "forces") for at in (0, 3)]
    return np.concatenate(halves, axis=1)


def _virial(text: str, volume: float) -> NDArray[np.float64] | None:
    """`in kB` has the sign of a pressure, as the virial; XX YY ZZ XY YZ ZX. None where ISIF asks for no stress."""
    rows = _STRESS.findall(text)
    if not rows:
        return None
    words = rows[-1].split()
    if len(words) != 6:
        raise Problem("unreadable", "OUTCAR has a broken row `in kB`")
    xx, yy, zz, xy, yz, zx = words
    return vectors([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]], "stress") * unit("kbar", "stress") * volume
