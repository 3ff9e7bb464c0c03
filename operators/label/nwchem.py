"""label/nwchem: energies and forces from NWChem, for molecules.

The user's own input is the template (https://nwchemgit.github.io). The atoms of a frame are one molecule: its cell is
not used, and there is no virial.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from conventions.config import RunConfig, UserFile
from conventions.errors import ConfigError

from .frames import Label, rows_of
from .outputs import Problem, number, same_atoms, same_positions, unit, vectors
from .program import Fill, Program, ProgramConfig, read_text

if TYPE_CHECKING:
    from ase import Atoms

INPUT, OUTPUT = "label.nw", "label.out"

# What else stops NWChem (memory, disk) may not stop it again.
GAVE_UP = "/failed to converge|geom_verify_coords failed/ { gave_up = 1 } END { exit !gave_up }"

PROBE = """\
echo 'start probe' >probe.nw
COMMAND probe.nw >version 2>&1
grep -q '(NWChem)' version || { tail -n 3 version; exit 1; }
sed -n 's/.*(NWChem) *\\([0-9][^ ]*\\).*/NWChem \\1/p' version | head -n 1
"""

# Without symmetry and centring, forces are on the atoms where the frame has them.
_GEOMETRY = "geometry units angstrom noautosym nocenter noautoz"
_ENERGIES = {"DFT": "DFT", "RHF": "SCF", "UHF": "SCF", "ROHF": "SCF", "MP2": "MP2"}
_THEORIES = ("dft", "scf", "mp2")
_GRADIENTS = re.compile(r"^\s*(\w+) ENERGY GRADIENTS\s*$", re.MULTILINE)
_ATOM = re.compile(r"^\s*\d+\s+([A-Za-z]+)\s+(.*)$")
_SAID = re.compile(r"-{60,}\s*\n\s*(\S.*?)\s*\n\s*-{60,}\s*\n\s*-{60,}\s*\n\s*current input line :\s*\n\s*(.*)")


class NwchemConfig(ProgramConfig):
    """Labels from NWChem."""

    app: Literal["nwchem"] = "nwchem"
    input: UserFile = Field(
        description="Your input of NWChem with one `task dft`, `scf` or `mp2`. The run writes each frame's atoms into "
        "its geometry, and lets the task give the gradient."
    )


def fill_input(config: RunConfig, files: Path) -> Fill:
    """What puts a frame into the user's input."""
    label = config.label
    assert isinstance(label, NwchemConfig)
    where = f"label.input ({label.input.name})"
    before, after = read_template(read_text(label.input, files, where), where)

    def fill(atoms: Atoms) -> dict[str, str]:
        rows = zip(atoms.get_chemical_symbols(), rows_of(atoms.positions), strict=True)
        geometry = [_GEOMETRY, *(f"  {symbol} {row}" for symbol, row in rows), "end"]
        return {INPUT: "\n".join([*before, *geometry, *after]) + "\n"}

    return fill


def read_template(text: str, where: str) -> tuple[list[str], list[str]]:
    """The lines of an input before and after its geometry."""
    lines = ["start label"]
    place, inside, task = None, False, ""
    # NWChem ends statements there also inside quotes.
    for statement in (part.strip() for line in text.splitlines() for part in line.split("#", 1)[0].split(";")):
        if statement.count('"') % 2:
            raise ConfigError(f"{where}: {statement}: the quote ends at ; or # or the end of the line; take it out")
        words = statement.lower().split()
        first = words[0] if words else ""
        if inside:
            inside = first != "end"
            if first in ("zmatrix", "zmat", "zcoord", "system", "symmetry"):
                raise ConfigError(f"{where}: {first} in the geometry: the run writes each frame's atoms; remove it")
        elif first == "geometry":
            place, inside = len(lines), True
        elif first == "restart":
            raise ConfigError(f"{where}: restart goes on with an old calculation; write `start`")
        elif first == "task":
            if task:
                raise ConfigError(f"{where}: it has more than one task; a label is one `task {words[1]} gradient`")
            task = statement
            place = len(lines) if place is None else place
            lines.append(_gradient(words, statement, where))
        elif first and first != "start":
            lines.append(statement)
    if inside:
        raise ConfigError(f"{where}: no `end` ends its geometry; add one")
    if not task or place is None:
        raise ConfigError(f"{where}: it has no task; write `task dft gradient`")
    return lines[:place], lines[place:]


def _gradient(words: list[str], statement: str, where: str) -> str:
    if len(words) < 2 or words[1] not in _THEORIES or words[2:] not in ([], ["energy"], ["gradient"]):
        theories = ", ".join(f"`task {theory} gradient`" for theory in _THEORIES)
        raise ConfigError(f"{where}: {statement}: labels can be had of {theories}")
    return f"task {words[1]} gradient"


def read(text: str, atoms: Atoms) -> Label:
    """The label of the frame that an output is of."""
    if "failed to converge" in text:
        raise Problem("scf_not_converged", "the calculation failed to converge: see `iterations` of the input")
    if message := said(text):
        raise Problem("aborted", message)
    if "Total times  cpu:" not in text:
        raise Problem("truncated", "the output has no total times: NWChem was stopped")
    tables = list(_GRADIENTS.finditer(text))
    if not tables:
        raise Problem("no_forces", "the output has no gradient")
    theory = _ENERGIES.get(tables[-1][1].upper())
    energies = re.findall(rf"^\s*Total {theory} energy\s+=?\s*(\S+)\s*$", text, re.MULTILINE)
    if not energies:
        raise Problem("unreadable", f"the output has no total energy of {tables[-1][1]}")
    lines = text[tables[-1].end() :].lstrip().splitlines()[2:]  # below the names of the columns
    found = [match for line in lines[: len(atoms) + 1] if (match := _ATOM.match(line))]
    same_atoms([match[1].capitalize() for match in found], atoms.get_chemical_symbols(), "the gradient")
    rows = [match[2].split() for match in found]
    same_positions(vectors([words[:3] for words in rows], "positions") * unit("bohr", "length"), atoms)
    gradient = vectors([words[3:] for words in rows], "forces")
    return Label(
        "ok", "", number(energies[-1], "energy") * unit("hartree", "energy"), -gradient * unit("hartree/bohr", "force")
    )


def said(text: str) -> str:
    """What NWChem wrote into the box where it stopped, and the line of the input."""
    found = _SAID.search(text)
    return f"{' '.join(found[1].split())}: input line {' '.join(found[2].split())}" if found else ""


PROGRAM = Program(
    name="nwchem",
    config=NwchemConfig,
    command="nwchem",
    call=f"COMMAND {INPUT} >{OUTPUT}",
    inputs=(INPUT,),
    output=OUTPUT,
    gave_up=GAVE_UP,
    fill=fill_input,
    read=read,
    said=said,
    probe=PROBE,
)
APP = PROGRAM.app()
