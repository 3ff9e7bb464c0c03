"""label/qe: energies, forces and virials from pw.x of Quantum ESPRESSO.

The user's own input is the template, with a pseudopotential for each element. Energy is `!    total energy`: where
electrons are smeared it holds -TS, and forces are its derivatives.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from conventions.config import Element, RunConfig, UserFile
from operators.structures import masses

from .frames import Label
from .outputs import Problem, number, same_atoms, same_positions, unit, vectors
from .program import Fill, Program, ProgramConfig, names_by_element, read_text

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

INPUT, OUTPUT = "pw.in", "pw.out"
PSEUDO = "{element}{suffix}"

GAVE_UP = """\
/Self-consistent Calculation/ { begun = 1 }
    /convergence NOT achieved/ || /Error in routine *check_atoms/ || (begun && /Error in routine/) { gave_up = 1 }
    END { exit !gave_up }"""

PROBE = """\
: >empty
COMMAND -in empty >version 2>&1
grep -q PWSCF version || { tail -n 3 version; exit 1; }
sed -n 's/^ *Program \\(PWSCF v[^ ]*\\).*/\\1/p' version
"""

_SITE = re.compile(r"^\s*\d+\s+(\S+)\s+tau\(\s*\d+\)\s*=\s*\((.*)\)\s*$")
_ALAT = re.compile(r"celldm\(1\)=\s*(\S+)")
_ENERGY = re.compile(r"^!+\s+total energy\s+=\s*(\S+) Ry", re.MULTILINE)
_FORCE = re.compile(r"^\s*atom\s+(\d+)\s+type\s+\d+\s+force =\s*(.*)$")
_STRESS = re.compile(r"^\s*total\s+stress\s+\(Ry/bohr\*\*3\)", re.MULTILINE)
_SAID = re.compile(r"%{9,}\s*\n\s*(Error in routine .*?)\n\s*%{9,}", re.DOTALL)


class QeConfig(ProgramConfig):
    """Labels from pw.x of Quantum ESPRESSO."""

    app: Literal["qe"] = "qe"
    input: UserFile = Field(
        description="Your input of pw.x. The run sets calculation, tprnfor, tstress (unless it is .false.) and writes "
        "each frame's cell, species and positions into it."
    )
    pseudo: dict[Element, UserFile] = Field(min_length=1, description="The pseudopotential (UPF) of each element.")
    kspacing: float | None = Field(
        None,
        gt=0,
        description="Spacing of the k-point grid, 1/Angstrom with 2 pi as in VASP; else the input's K_POINTS.",
    )


def fill_input(config: RunConfig, files: Path) -> Fill:
    """What puts a frame into the user's input."""
    from .qe_input import fill, read_template

    label = config.label
    assert isinstance(label, QeConfig)
    where = f"label.input ({label.input.name})"
    pseudo = names_by_element(PSEUDO, label.pseudo)
    text = read_text(label.input, files, where)
    template = read_template(
        text, config.type_map, masses(config.type_map, config.mass_map), pseudo, label.kspacing, where
    )
    return lambda atoms: {INPUT: fill(template, atoms, label.kspacing)}


def read(text: str, atoms: Atoms) -> Label:
    """The label of the frame that an output is of."""
    if "convergence NOT achieved" in text:
        raise Problem("scf_not_converged", "convergence NOT achieved: see electron_maxstep, mixing_beta")
    if message := said(text):
        raise Problem("aborted", message)
    if "JOB DONE." not in text:
        raise Problem("truncated", "the output has no JOB DONE: pw.x was stopped")
    if "convergence has been achieved" not in text:
        raise Problem("scf_not_converged", "the output does not say that convergence has been achieved")
    _check_sites(text, atoms)
    energies = _ENERGY.findall(text)
    if not energies:
        raise Problem("unreadable", "the output has no total energy")
    virial = _stress(text) * atoms.get_volume() if "Computing stress" in text else None
    return Label("ok", "", number(energies[-1], "energy") * unit("ry", "energy"), _forces(text, len(atoms)), virial)


def said(text: str) -> str:
    """What pw.x wrote between its lines of %, and where."""
    found = _SAID.search(text)
    return " ".join(found[1].split()) if found else ""


def _check_sites(text: str, atoms: Atoms) -> None:
    """The first table of sites has the frame's atoms, at its places in units of alat."""
    lines = text[text.find("site n.") :].splitlines()[1:] if "site n." in text else []
    sites = [match for match in itertools.takewhile(bool, map(_SITE.match, lines)) if match]
    same_atoms([site[1] for site in sites], atoms.get_chemical_symbols())
    alat = _ALAT.search(text)
    if not alat:
        raise Problem("unreadable", "the output has no celldm(1)")
    places = vectors([site[2].split() for site in sites], "positions")
    same_positions(places * number(alat[1], "celldm(1)") * unit("bohr", "length"), atoms)


def _forces(text: str, atoms: int) -> NDArray[np.float64]:
    start = text.rfind("Forces acting on atoms")
    if start < 0:
        raise Problem("no_forces", "the output has no forces")
    rows: list[list[str]] = []
    for line in text[start:].splitlines()[1:]:
        if match := _FORCE.match(line):
            if match[1] != str(len(rows) + 1):
                raise Problem("unreadable", f"the forces have a broken row for atom {len(rows) + 1}")
            rows.append(match[2].split())
        elif rows:
            break
    if len(rows) != atoms:
        raise Problem("wrong_atoms", f"forces on {len(rows)} atoms for a frame of {atoms}")
    return vectors(rows, "forces") * unit("ry/bohr", "force")


def _stress(text: str) -> NDArray[np.float64]:
    """Stress in eV/Angstrom^3, shape (3, 3); pw.x gives it the sign of a pressure, as the virial has."""
    blocks = list(_STRESS.finditer(text))
    if not blocks:
        raise Problem("unreadable", "the output has no total stress")
    rows = [line.split()[:3] for line in text[blocks[-1].end() :].splitlines()[1:4]]
    if len(rows) != 3:
        raise Problem("unreadable", "the stress is broken")
    return vectors(rows, "stress") * unit("ry/bohr^3", "stress")


PROGRAM = Program(
    name="qe",
    config=QeConfig,
    command="pw.x",
    call=f"COMMAND -in {INPUT} >{OUTPUT}",
    inputs=(INPUT,),
    output=OUTPUT,
    gave_up=GAVE_UP,
    fill=fill_input,
    read=read,
    said=said,
    element_files={"pseudo": PSEUDO},
    probe=PROBE,
)
APP = PROGRAM.app()
