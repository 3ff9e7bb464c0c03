"""Energy, forces and stress of one frame from CP2K's output, or the class of what went wrong.

Formats, by release (the unit is always read from the text: some are options of the input):

    energy  `ENERGY| Total FORCE_EVAL ( QS ) energy (a.u.):`  |  `[a.u.]:`  |  `[hartree]` from 2025 on
    forces  `ATOMIC FORCES in [a.u.]`                         |  `FORCES| Atomic forces [hartree/bohr]`
    stress  `STRESS TENSOR [GPa]`                             |  `STRESS| Analytical stress tensor [GPa]`, later [bar]

The exit code says little: without convergence it may be 0, and a file cut off after the forces looks good but for its
end. Cell and positions are not read: the output rounds them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .frames import Label
from .outputs import Problem, number, unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ENERGY = re.compile(r"^ ?ENERGY\| Total FORCE_EVAL \( *\w+ *\) energy [\[(](.+?)[\])]:?\s+(\S+)\s*$", re.MULTILINE)
_FORCES = re.compile(r"^ ?(?:FORCES\| )?atomic forces (?:in )?\[(.+?)\]\s*$", re.IGNORECASE | re.MULTILINE)
_STRESS = re.compile(
    r"^ ?(?:STRESS\| )?(?:analytical |numerical )?stress tensor \[(.+?)\]\s*$", re.IGNORECASE | re.MULTILINE
)
_ATOM = re.compile(r"^\s*(?:FORCES\|\s+\d+|\d+\s+\d+\s+[A-Z])")
_NOT_CONVERGED = re.compile(r"SCF run NOT converged|outer SCF loop FAILED to converge", re.IGNORECASE)


def read_output(text: str, symbols: Sequence[str], volume: float) -> Label:
    """Label of the frame that an output is of.

    Parameters
    ----------
    symbols
        Elements of the frame's atoms, in the order of the input.
    volume
        Volume of its cell, Angstrom^3.

    Returns
    -------
    Label
        virial[eV] = stress x volume: CP2K's stress is positive under compression. Classes of failure:
        scf_not_converged, aborted, truncated, no_forces, unreadable, wrong_atoms.
    """
    try:
        _check_ended(text)
        forces = _read_forces(text, symbols)
        stress = _read_stress(text)
        return Label("ok", "", _read_energy(text), forces, None if stress is None else stress * volume)
    except Problem as problem:
        return problem.label


def abort_message(text: str) -> str:
    """What CP2K wrote into the box with its [ABORT] drawing, and where; empty where there is none."""
    lines = text[text.rfind("\n", 0, text.find("[ABORT]")) + 1 :].splitlines() if "[ABORT]" in text else []
    box = itertools.takewhile(lambda line: set(line.strip()) != {"*"}, lines[:20])
    return " ".join(" ".join(line.rstrip()[10:-1] for line in box).split())


def _check_ended(text: str) -> None:
    if _NOT_CONVERGED.search(text):
        raise Problem("scf_not_converged", "SCF run NOT converged")
    if "[ABORT]" in text:
        raise Problem("aborted", abort_message(text))
    if "PROGRAM ENDED AT" not in text:
        raise Problem("truncated", "the output has no PROGRAM ENDED: CP2K was stopped")


def _read_energy(text: str) -> float:
    found = _ENERGY.findall(text)
    if not found:
        raise Problem("unreadable", "the output has no total energy")
    named, word = found[-1]
    return number(word, "energy") * unit(named, "energy")


def _read_forces(text: str, symbols: Sequence[str]) -> NDArray[np.float64]:
    import numpy as np

    blocks = list(_FORCES.finditer(text))
    if not blocks:
        raise Problem("no_forces", "the output has no forces: put &FORCES ON into &FORCE_EVAL / &PRINT")
    rows = list(_rows(text, blocks[-1].end()))
    if len(rows) != len(symbols):
        raise Problem("wrong_atoms", f"forces on {len(rows)} atoms for a frame of {len(symbols)}")
    forces = []
    for atom, (row, symbol) in enumerate(zip(rows, symbols, strict=True), 1):
        words = row.split()
        if "*" in row:
            raise Problem("unreadable", f"the forces have ***** for a number (atom {atom}): do atoms overlap?")
        old = words[0] != "FORCES|"
        if len(words) != 6 or words[0 if old else 1] != str(atom):
            raise Problem("unreadable", f"the forces have a broken row for atom {atom}")
        if old and words[2].capitalize() != symbol:
            raise Problem("wrong_atoms", f"atom {atom} is {words[2]} in the output and {symbol} in the frame")
        forces.append([number(word, "force") for word in (words[3:] if old else words[2:5])])
    return np.array(forces, dtype=np.float64).reshape(-1, 3) * unit(blocks[-1][1], "force")


def _rows(text: str, start: int) -> Iterator[str]:
    """The rows of a table of forces: from the first that begins like one to the first that does not."""
    begun = False
    for line in text[start:].splitlines():
        if _ATOM.match(line):
            begun = True
            yield line
        elif begun or (line.strip(" ") and not re.match(r"^\s*(#|FORCES\|\s+Atom\b)", line)):
            return


def _read_stress(text: str) -> NDArray[np.float64] | None:
    """Stress in eV/Angstrom^3, shape (3, 3); None where the output has none."""
    import numpy as np

    blocks = list(_STRESS.finditer(text))
    if not blocks:
        return None
    lines = [line.replace("STRESS|", "", 1).split() for line in text[blocks[-1].end() :].splitlines()]
    rows = [words for words in lines[:10] if words][1:4]  # below the names of the columns
    if [(words[0].lower(), len(words)) for words in rows] != [("x", 4), ("y", 4), ("z", 4)]:
        raise Problem("unreadable", "the stress tensor is broken")
    values = [[number(word, "stress") for word in words[1:]] for words in rows]
    return np.array(values, dtype=np.float64) * unit(blocks[-1][1], "stress")
