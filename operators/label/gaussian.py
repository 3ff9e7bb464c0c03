"""label/gaussian: energies and forces from Gaussian, for molecules.

The atoms of a frame are one molecule: its cell is not used, and there is no virial. Energy is `SCF Done`, so that
Hartree-Fock and density functionals (not double hybrids) can be used.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from conventions.cluster import Text
from conventions.config import RunConfig
from conventions.errors import ConfigError

from .frames import Label, rows_of
from .outputs import Problem, count, number, same_atoms, same_positions, unit, vectors
from .program import Fill, Program, ProgramConfig

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

INPUT, OUTPUT = "label.gjf", "label.log"

# What else stops Gaussian (memory, disk) may not stop it again.
GAVE_UP = "/Convergence failure|[Ss]mall interatomic distances/ { gave_up = 1 } END { exit !gave_up }"

_NOT_A_POINT = re.compile(r"(?<!\w)(opt|freq|scan|irc|bomd|admp|polar|td|cis|stable|link1)\b", re.IGNORECASE)
# Energies that `SCF Done` is not, although forces are of them.
_BEYOND = re.compile(r"\b(?:EUMP2|DE\(Corr\)|E2\(\w+\)|E\(CI\w*\)).*")
_ENERGY = re.compile(r"^\s*SCF Done:\s+E\(\w[^)]*\)\s*=\s*(\S+)\s+A\.U\.", re.MULTILINE)
_RULE = r"\s*-{60,}\s*\n"
_POSITIONS = re.compile(rf"^\s*Input orientation:\s*\n{_RULE}.*\n.*\n{_RULE}", re.MULTILINE)
_FORCES = re.compile(rf"^\s*Center\s+Atomic\s+Forces \(Hartrees/Bohr\)\s*\n.*\n{_RULE}", re.MULTILINE)
_STOPPED = re.compile(r"^\s*(\S.*)\n\s*Error termination.*$", re.MULTILINE)


class GaussianConfig(ProgramConfig):
    """Labels from Gaussian."""

    app: Literal["gaussian"] = "gaussian"
    keywords: Text = Field(description="The route section: b3lyp/6-31g** scf=xqc. The run adds force and nosymm.")
    charge: int = Field(0, ge=-100, le=100, description="The molecule's charge.")
    multiplicity: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        "auto", description="2S + 1. auto: of all molecules of the frame, O2 as triplet, as DP-GEN guesses it."
    )
    basis_set: str | None = Field(None, description="What follows the atoms, for the keywords gen and genecp.")
    nproc: int = Field(1, ge=1, le=10**4, description="%nproc: cores that Gaussian uses.")


def fill_input(config: RunConfig, files: Path) -> Fill:
    """What writes the input of a frame."""
    label = config.label
    assert isinstance(label, GaussianConfig)
    route = " ".join(label.keywords.split()).lstrip("#").strip()
    if found := _NOT_A_POINT.search(route):
        raise ConfigError(f"label.keywords: {found[1]}: a label is one energy with forces; remove it")
    for word in ("force", "nosymm"):
        if not re.search(rf"(?<!\w){word}\b", route, re.IGNORECASE):
            route += f" {word}"
    head = f"%nproc={label.nproc}\n#{route}\n\nlabel\n\n"
    tail = f"\n{label.basis_set.strip()}\n\n" if label.basis_set else "\n"

    def fill(atoms: Atoms) -> dict[str, str]:
        multiplicity = guessed(atoms, label.charge) if label.multiplicity == "auto" else label.multiplicity
        rows = zip(atoms.get_chemical_symbols(), rows_of(atoms.positions), strict=True)
        body = "".join(f"{symbol} {row}\n" for symbol, row in rows)
        return {INPUT: f"{head}{label.charge} {multiplicity}\n{body}{tail}"}

    return fill


def guessed(atoms: Atoms, charge: int) -> int:
    """The multiplicity of molecules whose unpaired electrons are parallel: one of each odd molecule, two of each O2.

    Of a charged frame nobody knows which molecule has the charge: electrons are paired as far as possible.
    """
    if charge:
        return (int(atoms.numbers.sum()) - charge) % 2 + 1
    unpaired = [2 if sorted(numbers) == [8, 8] else sum(numbers) % 2 for numbers in molecules(atoms)]
    return 1 + sum(unpaired)


def molecules(atoms: Atoms) -> Iterator[list[int]]:
    """Atomic numbers of each set of atoms that bonds hold together, without periodic images."""
    import numpy as np
    from ase.data import covalent_radii
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    radii = covalent_radii[atoms.numbers]
    distances = np.linalg.norm(atoms.positions[:, None] - atoms.positions, axis=-1)
    bonded = distances < 1.25 * (radii[:, None] + radii)
    total, which = connected_components(bonded, directed=False)
    return (atoms.numbers[which == molecule].tolist() for molecule in range(total))


def read(text: str, atoms: Atoms) -> Label:
    """The label of the frame that an output is of."""
    if "Convergence failure" in text or _gave_up_last(text):
        raise Problem("scf_not_converged", "Convergence failure: see scf=xqc, or maxcycle")
    if message := said(text):
        raise Problem("aborted", message)
    if "Normal termination of Gaussian" not in text:
        raise Problem("truncated", "the output has no Normal termination: Gaussian was stopped")
    if found := _BEYOND.search(text):
        raise Problem("unreadable", f"{found[0].strip()[:60]}: only energies of SCF are read; use HF or a functional")
    energies = _ENERGY.findall(text)
    if not energies:
        raise Problem("unreadable", "the output has no SCF Done")
    if (tables := len(_FORCES.findall(text))) != 1:
        raise Problem("unreadable" if tables else "no_forces", f"the output has {tables} tables of forces")
    numbers, forces = _table(text, _FORCES, 2)
    same_atoms([_symbol(word) for word in numbers], atoms.get_chemical_symbols(), "the table of forces")
    numbers, positions = _table(text, _POSITIONS, 3)
    if not len(positions):
        raise Problem("unreadable", "the output has no Input orientation, which nosymm keeps")
    same_atoms([_symbol(word) for word in numbers], atoms.get_chemical_symbols(), "the input orientation")
    same_positions(positions, atoms)
    return Label(
        "ok", "", number(energies[-1], "energy") * unit("hartree", "energy"), forces * unit("hartree/bohr", "force")
    )


def _gave_up_last(text: str) -> bool:
    """Before the last energy Gaussian says that it is not converged. One before that (scf=xqc) does not count."""
    last = text.rfind("SCF Done")
    return "Convergence criterion not met" in text[max(0, text.rfind("SCF Done", 0, max(last, 0))) : max(last, 0)]


def said(text: str) -> str:
    """What Gaussian wrote before its Error termination."""
    found = _STOPPED.findall(text)
    return " ".join(found[-1].split()) if found else "Error termination" if "Error termination" in text else ""


def _table(text: str, head: re.Pattern[str], first: int) -> tuple[list[str], NDArray[np.float64]]:
    """Atomic numbers and vectors of the last such table, whose vectors begin in column `first`."""
    tables = list(head.finditer(text))
    lines = text[tables[-1].end() :].splitlines() if tables else []
    rows = [line.split() for line in itertools.takewhile(lambda line: not line.lstrip().startswith("---"), lines)]
    for row, words in enumerate(rows, 1):
        if words[:1] != [str(row)] or len(words) != first + 3:
            raise Problem("unreadable", f"a table has a broken row for atom {row}")
    return [words[1] for words in rows], vectors([words[first:] for words in rows], "forces")


def _symbol(word: str) -> str:
    from ase.data import chemical_symbols

    element = count(word, "atomic numbers")
    return chemical_symbols[element] if element < len(chemical_symbols) else word


PROGRAM = Program(
    name="gaussian",
    config=GaussianConfig,
    command="g16",
    call=f"COMMAND <{INPUT} >{OUTPUT}",
    inputs=(INPUT,),
    output=OUTPUT,
    gave_up=GAVE_UP,
    fill=fill_input,
    read=read,
    said=said,
)
APP = PROGRAM.app()
