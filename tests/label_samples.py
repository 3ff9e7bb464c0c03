"""Recorded outputs of the programs that label, and what each is of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from operators.label.abacus import PROGRAM as ABACUS
from operators.label.gaussian import PROGRAM as GAUSSIAN
from operators.label.nwchem import PROGRAM as NWCHEM
from operators.label.program import Program
from operators.label.qe import PROGRAM as QE
from operators.label.vasp import PROGRAM as VASP
from tests.label_run import add_file

GOLDEN = Path(__file__).parent / "unit" / "golden" / "label"


@dataclass(frozen=True)
class Sample:
    """A program, its good outputs of a frame, and its bad ones with exit code and class.

    `good` has the frame of each output; `lost` outputs of tasks that are to be repeated, and what is said of them.
    """

    program: Program
    good: dict[str, Atoms]
    bad: dict[str, tuple[int, str]]
    lost: dict[str, str]
    end: str  # what an output is not whole without
    settings: Callable[[Path], dict[str, Any]]
    type_map: list[str] = field(default_factory=list)

    @property
    def frame(self) -> Atoms:
        return next(iter(self.good.values()))


def text_of(name: str) -> str:
    return (GOLDEN / name).read_text()


def given(root: Path, name: str, text: str) -> str:
    """A file of the user's with that text."""
    (root / name).write_text(text)
    return add_file(root, root / name)


AL3O = Atoms(
    "AlOAl2",
    [[0.1, 0, 0], [1.9, 2.1, 0.2], [1.8, 0.1, 1.9], [0.0, 2.2, 2.1]],
    cell=[[4, 0, 0], [0.3, 4.2, 0], [0, 0.2, 3.9]],
    pbc=True,
)
VDW_CELL = [[2.840235575, 0.0, 0.0], [-0.298112781, 4.308438439, 0.0], [0.359829438, -2.014875495, 13.998895935]]
WATER = Atoms("OH2", [[0, 0, 0], [0.757, 0.586, 0.1], [-0.757, 0.590, 0]], cell=[9, 9, 9], pbc=True)


def frame_of(outcar: str, symbols: str, cell: list[Any], order: list[int]) -> Atoms:
    """The frame of an OUTCAR: atom i of it is atom `order[i]` of the frame."""
    rows = re.split(r"TOTAL-FORCE .*\n.*\n", text_of(outcar))[-1].splitlines()
    atoms = Atoms(symbols, cell=cell, pbc=True)
    for row, atom in zip(rows, order, strict=False):
        atoms.positions[atom] = [float(word) for word in row.split()[:3]]
    return atoms


METHANE = Atoms(
    "CH4",
    [[1.07422, -0.06034, 0.02917], [2.16642, -0.06034, 0.02917], [0.71015, -0.92887, -0.52401],
     [0.71015, 0.85299, -0.44641], [0.71015, -0.10514, 1.05793]],
    cell=[9, 9, 9], pbc=True,
)  # fmt: skip
BENT = Atoms(
    "OH2", [[0.259516, 0.103806, 0], [1.219516, 0.103806, 0], [-0.060939, 1.008742, 0]], cell=[9, 9, 9], pbc=True
)

SAMPLES = {
    "qe": Sample(
        QE,
        {"qe-6.7-al3o.log": AL3O},
        {"qe-6.7-not-converged.log": (2, "scf_not_converged"), "qe-6.7-overlap.log": (1, "aborted")},
        {"qe-6.7-bad-keyword.log": "bad line in namelist &electrons"},
        "JOB DONE",
        lambda root: {
            "input": given(root, "al.in", "&system\necutwfc=20\n/\nK_POINTS gamma\n"),
            "pseudo": {"O": given(root, "o.UPF", "pseudo O"), "Al": given(root, "al.upf", "pseudo Al")},
        },
        ["O", "Al"],
    ),
    "vasp": Sample(
        VASP,
        {
            "vasp-5.4.4-water.OUTCAR": frame_of(
                "vasp-5.4.4-water.OUTCAR", "OHOH3", [30, 15, 15], [0, 2, 1, 3, 4, 5]
            ),
            "vasp-5.4.4-vdw.OUTCAR": frame_of("vasp-5.4.4-vdw.OUTCAR", "Ge8", VDW_CELL, list(range(8))),
            "vasp-6.3.0-alloy.OUTCAR": frame_of(
                "vasp-6.3.0-alloy.OUTCAR", "Cr3Mn5Fe3CoNi4Cu4Zn2Y5Zr4Nb5Mo2Rh2Pd2W2Ir2Pt2",
                [8.03271705, 8.03271705, 12.049075575], list(range(48)),
            ),
        },
        {
            "vasp-5.4.4-nelm-1.OUTCAR": (0, "scf_not_converged"),
            "vasp-5.4.4-unconverged.OUTCAR": (0, "scf_not_converged"),
            "vasp-5.4.4-md.OUTCAR": (0, "unreadable"),
        },
        {},
        "General timing and accounting",
        lambda root: {
            "incar": given(root, "INCAR", "ENCUT = 400\nKSPACING = 0.2\n"),
            "potcar": {
                "H": given(root, "POTCAR", "PAW_PBE H\n VRHFIN =H: ultrasoft test\n licensed-H\n"),
                "O": given(root, "POTCAR", "PAW_PBE O\n VRHFIN =O: s2p4\n licensed-O\n"),
            },
        },
        ["H", "O"],
    ),
    "abacus": Sample(
        ABACUS,
        {
            "abacus-2.1.0-methane.log": Atoms("CH4", METHANE.positions, cell=[5.29177] * 3, pbc=True),
            "abacus-3.7.1-iron.log": Atoms("Fe2", [[0.1, 0.3, 0.4], [1.4, 1.4, 1.4]], cell=[2.8133] * 3, pbc=True),
        },
        {"abacus-2.1.0-not-converged.log": (0, "scf_not_converged")},
        {},
        "Total  Time",
        lambda root: {
            "input": given(root, "INPUT", "INPUT_PARAMETERS\necutwfc 50\nkspacing 0.14\n"),
            "pseudo": {"H": given(root, "h.upf", "pseudo H"), "C": given(root, "c.upf", "pseudo C")},
        },
        ["H", "C"],
    ),
    "gaussian": Sample(
        GAUSSIAN,
        {"gaussian-16-a03-methane.log": METHANE, "gaussian-16-b01-water.log": BENT},
        {
            "gaussian-16-a03-not-converged.log": (1, "scf_not_converged"),
            "gaussian-16-a03-no-orientation.log": (0, "unreadable"),
        },
        {},
        "Normal termination of Gaussian",
        lambda root: {"keywords": "b3lyp/6-31g**"},
        ["H", "C"],
    ),
    "nwchem": Sample(
        NWCHEM,
        {"nwchem-7.0-dft.log": WATER, "nwchem-7.0-mp2.log": WATER},
        {
            "nwchem-7.0-not-converged.log": (255, "scf_not_converged"),
            "nwchem-7.0-overlap.log": (143, "aborted"),
        },
        {"nwchem-7.0-bad-keyword.log": "dft_input: unknown directive 0: input line 11: xcc pbe0"},
        "Total times  cpu:",
        lambda root: {"input": given(root, "water.nw", text_of("water.nw"))},
        ["H", "O"],
    ),
}  # fmt: skip
