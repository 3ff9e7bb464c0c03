"""label/vasp: energies, forces and virials from VASP.

INCAR and KPOINTS are the user's, and go to VASP as they are; POSCAR is the frame, its atoms grouped by element, and
POTCAR the elements' files in that order. Energy is `free  energy   TOTEN`, as in DP-GEN and dpdata: where electrons are
smeared, forces are its derivatives.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from conventions.config import Element, Name, RunConfig, UserFile
from conventions.errors import ConfigError, did_you_mean
from operators.sums import user_file

from .frames import Label, grouped, rows_of
from .outputs import Problem, count, number, same_positions, unit, vectors
from .program import Fill, Program, ProgramConfig, name_of, read_text

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

POTCAR = "POTCAR.{element}"
OUTPUT = "OUTCAR"

# VASP's own output (OSZICAR's lines, its warnings) goes to the job's log.
CALL = """\
set --
for element in $(sed -n 6p POSCAR); do set -- "$@" "POTCAR.$element"; done
cat "$@" >POTCAR || exit 70
COMMAND"""

_TAG = re.compile(r"(?:^|;)\s*([A-Za-z_]\w*)\s*=\s*([^;#!\n]*)", re.MULTILINE)
_STEP = re.compile(r"Iteration\s+(\d+)\(\s*(\d+)\)")
_NELM = re.compile(r"^\s*NELM\s*=\s*(\d+);", re.MULTILINE)
_ELEMENT = re.compile(r"^\s*POTCAR:\s+\S+\s+([A-Z][a-z]?)", re.MULTILINE)
_OF_POTCAR = re.compile(r"VRHFIN\s*=\s*([A-Za-z]+)\s*:")
_COUNTS = re.compile(r"ions per type =((?:\s+\d+)+)\s*$", re.MULTILINE)
_TOTAL = re.compile(r"NIONS =\s*(\d+)")
_ENERGY = re.compile(r"free  energy   TOTEN\s*=\s*(\S+) eV")
_FORCES = re.compile(r"^\s*POSITION\s+TOTAL-FORCE \(eV/Angst\)(?! \(ML\)).*\n.*\n", re.MULTILINE)
_STRESS = re.compile(r"^\s*in kB\s+(.*)$", re.MULTILINE)
_BOX = re.compile(r"^\s*\|\s*(\S.*?)\s*\|\s*$", re.MULTILINE)


class VaspConfig(ProgramConfig):
    """Labels from VASP."""

    app: Literal["vasp"] = "vasp"
    incar: UserFile = Field(
        description="Your INCAR, of a single point (NSW = 0), with KSPACING unless there is `kpoints`."
    )
    incar_by_set: dict[Name, UserFile] = Field({}, description="Other INCARs, by the name of a structure set.")
    potcar: dict[Element, UserFile] = Field(min_length=1, description="The POTCAR of each element.")
    kpoints: UserFile | None = Field(None, description="A KPOINTS file, for all frames; else KSPACING of the INCAR.")


def fill_input(config: RunConfig, files: Path) -> Fill:
    """What writes the inputs of a frame."""
    label = config.label
    assert isinstance(label, VaspConfig)
    for name in label.incar_by_set:
        if name not in config.structures:
            near = did_you_mean(name, config.structures)
            raise ConfigError(f"label.incar_by_set: there is no structure set {name!r} in structures; {near}")
    incar = read_incar(label.incar, files, "label.incar", label.kpoints is not None)
    by_set = {
        name: read_incar(file, files, f"label.incar_by_set.{name}", label.kpoints is not None)
        for name, file in label.incar_by_set.items()
    }
    common = {"KPOINTS": read_text(label.kpoints, files, "label.kpoints")} if label.kpoints else {}
    for element, file in label.potcar.items():
        # Latin-1 reads every byte. Of a POTCAR nothing is told but its element.
        found = _OF_POTCAR.search(user_file(files, file.root).read_text("latin-1"))
        if not found or found[1] != element:
            what = f"is of {found[1]}" if found else "is no POTCAR: it has no VRHFIN"
            raise ConfigError(f"label.potcar.{element}: {name_of(file)} {what}; give the POTCAR of {element}")

    def fill(atoms: Atoms) -> dict[str, str]:
        chosen = by_set.get(str(atoms.info.get("structure", "")), incar)
        return {"INCAR": chosen, "POSCAR": poscar(atoms), **common}

    return fill


def read_incar(file: UserFile, files: Path, key: str, has_kpoints: bool) -> str:
    """The text of an INCAR that gives labels."""
    where = f"{key} ({name_of(file)})"
    text = read_text(file, files, where)
    lines = "\n".join(re.split("[#!]", line, maxsplit=1)[0] for line in text.splitlines())
    tags = {name.upper(): value.strip().upper() for name, value in _TAG.findall(lines)}
    if tags.get("NSW", "0") != "0" or tags.get("IBRION", "-1") in ("5", "6", "7", "8"):
        given = "NSW" if tags.get("NSW", "0") != "0" else "IBRION"
        raise ConfigError(f"{where}: {given} = {tags[given]}: a label is a single point; write NSW = 0 and IBRION = -1")
    if tags.get("ML_LMLFF", "F").strip(".")[:1] == "T":
        raise ConfigError(f"{where}: ML_LMLFF: labels of a machine-learned force field are no DFT; remove it")
    if ("KSPACING" in tags) == has_kpoints:
        raise ConfigError(
            f"{where}: give KSPACING in it or label.kpoints, one of the two (KPOINTS would hide KSPACING)"
        )
    return text


def poscar(atoms: Atoms) -> str:
    """The frame with every digit of its numbers, atoms grouped by element. Angstrom."""
    order = grouped(atoms.get_chemical_symbols())
    counts = Counter(atoms.get_chemical_symbols())
    lines = ["label", "1.0", *rows_of(atoms.cell.array), " ".join(counts), " ".join(map(str, counts.values()))]
    return "\n".join([*lines, "Cartesian", *rows_of(atoms.positions[order])]) + "\n"


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
    elements, numbers = (
        named[: len(named) // 2],
        [count(word, "ions") for word in counts[1].split()],
    )  # VASP lists POTCARs twice
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


PROGRAM = Program(
    name="vasp",
    config=VaspConfig,
    command="vasp_std",
    call=CALL,
    inputs=("INCAR", "POSCAR", "KPOINTS"),
    output=OUTPUT,
    gave_up="END { exit 1 }",  # it ends well where it does not converge; what else stops it may not stop it again
    fill=fill_input,
    read=read,
    said=said,
    element_files={"potcar": POTCAR},
    tail=0,  # where VASP stops early, OUTCAR ends within what it copies from POTCAR
)
APP = PROGRAM.app()
