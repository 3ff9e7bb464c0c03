"""label/abacus: energies, forces and virials from ABACUS.

The user's INPUT is the template; STRU is the frame, its atoms grouped by element. Energy is `!FINAL_ETOT_IS`, with -TS
where electrons are smeared.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from conventions.config import Element, RunConfig, UserFile
from conventions.errors import ConfigError
from operators.structures import masses

from .frames import Label, grouped, rows_of
from .outputs import Problem, number, same_atoms, unit, vectors
from .program import Fill, Program, ProgramConfig, names_by_element, read_text

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

OUTPUT = "running_scf.log"
PSEUDO, ORBITAL = "{element}{suffix}", "{element}.orb"

# ABACUS's own lines on stdout go to the job's log.
CALL = f"""\
COMMAND
status=$?
[ ! -f OUT.ABACUS/{OUTPUT} ] || mv OUT.ABACUS/{OUTPUT} .
(exit "$status")"""

_CONVERGED = re.compile(r"charge density convergence is achieved|#SCF IS CONVERGED#")
_NOT_CONVERGED = re.compile(r"convergence has not been achieved|SCF IS NOT CONVERGED", re.IGNORECASE)
_ENERGY = re.compile(r"!FINAL_ETOT_IS\s+(\S+) eV")
_FORCES = re.compile(r"^\s*#?\s*TOTAL-FORCE \(eV/Angstrom\)", re.MULTILINE)
_STRESS = re.compile(r"^\s*#?\s*TOTAL-STRESS \((KBAR|kbar)\)", re.MULTILINE)
_ATOM = re.compile(r"^\s*([A-Z][a-z]?)\d+\s+(.*)$")
_NUMBERS = re.compile(r"^\s*[-+*.\dNni]\S*(\s+\S+){2}\s*$")


class AbacusConfig(ProgramConfig):
    """Labels from ABACUS."""

    app: Literal["abacus"] = "abacus"
    input: UserFile = Field(description="Your INPUT of an scf. The run sets cal_force, and cal_stress unless it is 0.")
    pseudo: dict[Element, UserFile] = Field(min_length=1, description="The pseudopotential of each element.")
    orbital: dict[Element, UserFile] = Field({}, description="The orbitals of each element, for basis_type lcao.")
    kpt: UserFile | None = Field(None, description="A KPT file, for all frames; else kspacing of the INPUT.")


def fill_input(config: RunConfig, files: Path) -> Fill:
    """What writes the inputs of a frame."""
    label = config.label
    assert isinstance(label, AbacusConfig)
    where = f"label.input ({label.input.name})"
    keys = read_input(read_text(label.input, files, where), label.kpt is not None, bool(label.orbital), where)
    weights = masses(config.type_map, config.mass_map)
    pseudo = names_by_element(PSEUDO, label.pseudo)
    common = {"KPT": read_text(label.kpt, files, "label.kpt")} if label.kpt else {}

    def fill(atoms: Atoms) -> dict[str, str]:
        counts = Counter(atoms.get_chemical_symbols())
        lines = ["INPUT_PARAMETERS", *(f"{key} {value}" for key, value in keys.items()), f"ntype {len(counts)}"]
        species = [f"{element} {weights[element]!r} {pseudo[element]}" for element in counts]
        orbitals = [ORBITAL.format(element=element) for element in counts] if label.orbital else []
        return {"INPUT": "\n".join(lines) + "\n", "STRU": stru(atoms, species, orbitals), **common}

    return fill


def read_input(text: str, has_kpt: bool, has_orbitals: bool, where: str) -> dict[str, str]:
    """The keys of an INPUT and their values, with those that the run sets."""
    lines = (re.split(r"#|//", line, maxsplit=1)[0].split(None, 1) for line in text.splitlines())
    keys = {words[0].lower(): words[1].strip() for words in lines if len(words) == 2}
    if keys.get("calculation", "scf") != "scf":
        raise ConfigError(f"{where}: calculation {keys['calculation']}: a label is one scf; remove it, or write scf")
    if keys.get("gamma_only", "0") in ("0", "false") and ("kspacing" in keys) == has_kpt:
        raise ConfigError(f"{where}: give kspacing (or gamma_only 1) in it or label.kpt, one of the two")
    if keys.get("basis_type", "pw") != "pw" and not has_orbitals:
        raise ConfigError(f"{where}: basis_type {keys['basis_type']} needs orbitals; give label.orbital")
    keys.pop("ntype", None)
    names = {"suffix": "ABACUS", "stru_file": "STRU", "kpoint_file": "KPT", "pseudo_dir": "./", "orbital_dir": "./"}
    return {**keys, "calculation": "scf", "cal_force": "1", "cal_stress": keys.get("cal_stress", "1"), **names}


def stru(atoms: Atoms, species: list[str], orbitals: list[str]) -> str:
    """The frame with every digit of its numbers, atoms grouped by element."""
    symbols = atoms.get_chemical_symbols()
    lines = ["ATOMIC_SPECIES", *species, *(["NUMERICAL_ORBITAL", *orbitals] if orbitals else [])]
    # In units of the lattice constant (Bohr), which is one Angstrom.
    lines += ["LATTICE_CONSTANT", repr(1 / unit("bohr", "length")), "LATTICE_VECTORS", *rows_of(atoms.cell.array)]
    lines += ["ATOMIC_POSITIONS", "Cartesian"]
    for element, atoms_of in itertools.groupby(grouped(symbols), lambda atom: symbols[atom]):
        rows = rows_of(atoms.positions[list(atoms_of)])
        lines += [element, "0.0", str(len(rows)), *(f"{row} 1 1 1" for row in rows)]
    return "\n".join(lines) + "\n"


def read(text: str, atoms: Atoms) -> Label:
    """The label of the frame that an output is of."""
    import numpy as np

    if _NOT_CONVERGED.search(text):
        raise Problem("scf_not_converged", "convergence has NOT been achieved: see scf_nmax, mixing_beta")
    if not re.search(r"^\s*Total\s+Time\s*:", text, re.MULTILINE):
        raise Problem("truncated", "the output has no Total Time: ABACUS was stopped")
    if not _CONVERGED.search(text):
        raise Problem("scf_not_converged", "the output does not say that the charge density has converged")
    symbols = atoms.get_chemical_symbols()
    order = grouped(symbols)
    energies = _ENERGY.findall(text)
    if not energies:
        raise Problem("unreadable", "the output has no !FINAL_ETOT_IS")
    found = _table(text, _FORCES, _ATOM)
    if found is None:
        raise Problem("no_forces", "the output has no TOTAL-FORCE (eV/Angstrom)")
    same_atoms([match[1] for match in found], [symbols[atom] for atom in order], "the table of forces")
    rows = vectors([match[2].split() for match in found], "forces")
    forces = np.empty_like(rows)
    forces[order] = rows
    return Label("ok", "", number(energies[-1], "energy"), forces, _virial(text, atoms.get_volume()))


def _virial(text: str, volume: float) -> NDArray[np.float64] | None:
    """TOTAL-STRESS has the sign of a pressure, as the virial; None where cal_stress is 0."""
    rows = _table(text, _STRESS, _NUMBERS)
    if rows is None:
        return None
    if len(rows) != 3:
        raise Problem("unreadable", f"TOTAL-STRESS has {len(rows)} rows")
    return vectors([row[0].split() for row in rows], "stress") * unit("kbar", "stress") * volume


def _table(text: str, head: re.Pattern[str], row: re.Pattern[str]) -> list[re.Match[str]] | None:
    """The rows of the last table with that head, which begin a few lines below it; None where there is none."""
    heads = list(head.finditer(text))
    if not heads:
        return None
    lines = text[heads[-1].end() :].splitlines()[1:]
    first = next((at for at, line in enumerate(lines[:8]) if row.match(line)), len(lines))
    found = itertools.takewhile(lambda match: match is not None, map(row.match, lines[first:]))
    return [match for match in found if match]


PROGRAM = Program(
    name="abacus",
    config=AbacusConfig,
    command="abacus",
    call=CALL,
    inputs=("INPUT", "STRU", "KPT"),
    output=OUTPUT,
    fill=fill_input,
    read=read,
    element_files={"pseudo": PSEUDO, "orbital": ORBITAL},
    tail=0,
)
APP = PROGRAM.app()
