"""label/vasp: energies, forces and virials from VASP.

INCAR and KPOINTS are the user's, and go to VASP as they are, but for MAGMOM by element; POSCAR is the frame, its atoms
grouped by element, and POTCAR the elements' files in that order.
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

from .frames import grouped, rows_of
from .program import Fill, Program, ProgramConfig, read_text
from .vasp_output import read, said

if TYPE_CHECKING:
    from ase import Atoms

POTCAR = "POTCAR.{element}"
OUTPUT = "OUTCAR"

# VASP's own output (OSZICAR's lines, its warnings) goes to the job's log.
CALL = """\
set --
for element in $(sed -n 6p POSCAR); do set -- "$@" "POTCAR.$element"; done
cat "$@" >POTCAR || exit 70
COMMAND"""

_TAG = re.compile(r"(?:^|;)\s*([A-Za-z_]\w*)\s*=\s*([^;#!\n]*)", re.MULTILINE)
_OF_POTCAR = re.compile(r"VRHFIN\s*=\s*([A-Za-z]+)\s*:")


class VaspConfig(ProgramConfig):
    """Labels from VASP."""

    app: Literal["vasp"] = "vasp"
    incar: UserFile = Field(
        description="Your INCAR, of a single point (NSW = 0), with KSPACING unless there is `kpoints`."
    )
    incar_by_set: dict[Name, UserFile] = Field({}, description="Other INCARs, by the name of a structure set.")
    potcar: dict[Element, UserFile] = Field(min_length=1, description="The POTCAR of each element.")
    kpoints: UserFile | None = Field(None, description="A KPOINTS file, for all frames; else KSPACING of the INCAR.")
    magmom: dict[Element, float] = Field(
        {}, description="MAGMOM by element, written into the INCAR (ISPIN = 2) for each frame's atoms; others have 1."
    )


def fill_input(config: RunConfig, files: Path) -> Fill:
    """What writes the inputs of a frame."""
    label = config.label
    assert isinstance(label, VaspConfig)
    for name in label.incar_by_set:
        if name not in config.structures:
            near = did_you_mean(name, config.structures)
            raise ConfigError(f"label.incar_by_set: there is no structure set {name!r} in structures; {near}")
    for element in label.magmom:
        if element not in config.type_map:
            raise ConfigError(f"label.magmom: {element} is not in type_map ({', '.join(config.type_map)})")
    incar = read_incar(label.incar, files, "label.incar", label)
    by_set = {
        name: read_incar(file, files, f"label.incar_by_set.{name}", label) for name, file in label.incar_by_set.items()
    }
    common = {"KPOINTS": read_text(label.kpoints, files, "label.kpoints")} if label.kpoints else {}
    for element, file in label.potcar.items():
        # Latin-1 reads every byte. Of a POTCAR nothing is told but its element.
        found = _OF_POTCAR.search(user_file(files, file.root).read_text("latin-1"))
        if not found or found[1] != element:
            what = f"is of {found[1]}" if found else "is no POTCAR: it has no VRHFIN"
            raise ConfigError(f"label.potcar.{element}: {file.name} {what}; give the POTCAR of {element}")

    def fill(atoms: Atoms) -> dict[str, str]:
        chosen = by_set.get(str(atoms.info.get("structure", "")), incar)
        return {"INCAR": chosen + magmom(atoms, label.magmom), "POSCAR": poscar(atoms), **common}

    return fill


def read_incar(file: UserFile, files: Path, key: str, label: VaspConfig) -> str:
    """The text of an INCAR that gives labels."""
    where = f"{key} ({file.name})"
    text = read_text(file, files, where)
    lines = "\n".join(re.split("[#!]", line, maxsplit=1)[0] for line in text.splitlines())
    tags = {name.upper(): value.strip().upper() for name, value in _TAG.findall(lines)}
    if tags.get("NSW", "0") != "0" or tags.get("IBRION", "-1") in ("5", "6", "7", "8"):
        given = "NSW" if tags.get("NSW", "0") != "0" else "IBRION"
        raise ConfigError(f"{where}: {given} = {tags[given]}: a label is a single point; write NSW = 0 and IBRION = -1")
    if tags.get("ML_LMLFF", "F").strip(".")[:1] == "T":
        raise ConfigError(f"{where}: ML_LMLFF: labels of a machine-learned force field are no DFT; remove it")
    if label.magmom and ("MAGMOM" in tags or tags.get("ISPIN") != "2"):
        problem = "it has MAGMOM itself" if "MAGMOM" in tags else "without ISPIN = 2 it would do nothing"
        raise ConfigError(f"label.magmom: {where}: {problem}; take one of the two out, or write ISPIN = 2")
    if ("KSPACING" in tags) == (label.kpoints is not None):
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


def magmom(atoms: Atoms, moments: dict[str, float]) -> str:
    """The line of an INCAR with the moment of each atom of `poscar`, in Bohr magnetons; "" without any."""
    if not moments:
        return ""
    counts = Counter(atoms.get_chemical_symbols())
    # VASP takes 1 for each atom where nothing is said.
    return "\nMAGMOM = " + " ".join(f"{count}*{moments.get(one, 1.0):g}" for one, count in counts.items()) + "\n"


PROGRAM = Program(
    name="vasp",
    config=VaspConfig,
    command="vasp_std",
    call=CALL,
    inputs=("INCAR", "POSCAR", "KPOINTS"),
    output=OUTPUT,
    fill=fill_input,
    read=read,
    said=said,
    element_files={"potcar": POTCAR},
    tail=0,  # where VASP stops early, OUTCAR ends within what it copies from POTCAR
)
APP = PROGRAM.app()
