"""Recorded outputs of the programs that label, and what each is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from operators.label.nwchem import PROGRAM as NWCHEM
from operators.label.program import Program
from operators.label.qe import PROGRAM as QE
from tests.label_run import add_file

GOLDEN = Path(__file__).parent / "unit" / "golden" / "label"


@dataclass(frozen=True)
class Sample:
    """A program, its good outputs of a frame, and its bad ones with exit code and class.

    `lost`: outputs of tasks that are to be repeated, with a part of what is said of them.
    """

    program: Program
    frame: Atoms
    good: list[str]
    bad: dict[str, tuple[int, str]]
    lost: dict[str, str]
    end: str  # what an output is not whole without
    settings: Callable[[Path], dict[str, Any]]
    type_map: list[str] = field(default_factory=list)


def text_of(name: str) -> str:
    return (GOLDEN / name).read_text()


def given(root: Path, name: str, text: str) -> str:
    """A file of the user's with that text."""
    (root / name).write_text(text)
    return add_file(root, root / name)


SAMPLES = {
    "qe": Sample(
        QE,
        Atoms("AlOAl2", [[0.1, 0, 0], [1.9, 2.1, 0.2], [1.8, 0.1, 1.9], [0.0, 2.2, 2.1]],
              cell=[[4, 0, 0], [0.3, 4.2, 0], [0, 0.2, 3.9]], pbc=True),
        ["qe-6.7-al3o.log"],
        {"qe-6.7-not-converged.log": (2, "scf_not_converged"), "qe-6.7-overlap.log": (1, "aborted")},
        {"qe-6.7-bad-keyword.log": "bad line in namelist &electrons"},
        "JOB DONE",
        lambda root: {
            "input": given(root, "al.in", "&system\necutwfc=20\n/\nK_POINTS gamma\n"),
            "pseudo": {"O": given(root, "o.UPF", "pseudo O"), "Al": given(root, "al.upf", "pseudo Al")},
        },
        ["O", "Al"],
    ),
    "nwchem": Sample(
        NWCHEM,
        Atoms("OH2", [[0, 0, 0], [0.757, 0.586, 0.1], [-0.757, 0.590, 0]], cell=[9, 9, 9], pbc=True),
        ["nwchem-7.0-dft.log", "nwchem-7.0-mp2.log"],
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
