"""Inputs of Gaussian: the route, the guessed multiplicity; what of its output is no label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from pydantic import ValidationError

from conventions.errors import ConfigError
from conventions.space import DataSpace
from operators.label.frames import judge
from operators.label.gaussian import PROGRAM, GaussianConfig, guessed
from operators.registry import load_config
from tests.label_run import LabelRun
from tests.label_samples import BENT, METHANE, text_of

METHANE_LOG, WATER_LOG = "gaussian-16-a03-methane.log", "gaussian-16-b01-water.log"


def written(root: Path, atoms: Atoms = BENT, **label: Any) -> str:
    """The input of a frame."""
    root.mkdir(exist_ok=True)
    run = LabelRun(root, {"app": "gaussian", "keywords": "b3lyp/6-31g**", **label}, [], ["O", "H", "C"])
    config = load_config((root / run.place.config).read_bytes())
    return PROGRAM.fill(config, root / DataSpace.files)(atoms)["label.gjf"]


def test_the_whole_input(tmp_path: Path) -> None:
    assert written(tmp_path, nproc=4, basis_set="O H 0\n6-31G\n****\n") == (
        "%nproc=4\n#b3lyp/6-31g** force nosymm\n\nlabel\n\n0 1\nO 0.259516 0.103806 0.0\nH 1.219516 0.103806 0.0\n"
        "H -0.060939 1.008742 0.0\n\nO H 0\n6-31G\n****\n\n"
    )


@pytest.mark.parametrize(
    ("keywords", "route"),
    [
        ("#p Force  mn15/6-31g**\n scf=xqc NoSymm", "#p Force mn15/6-31g** scf=xqc NoSymm"),
        ("force=noraman hf/3-21g", "#force=noraman hf/3-21g nosymm"),
    ],
)
def test_force_and_nosymm_are_added_once(tmp_path: Path, keywords: str, route: str) -> None:
    assert written(tmp_path, keywords=keywords).splitlines()[1] == route


@pytest.mark.parametrize("word", ["opt", "Freq=noraman", "td(nstates=3)", "scan", "stable=opt"])
def test_what_is_no_single_point_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=r"label\.keywords: .*: a label is one energy with forces; remove it"):
        written(tmp_path, keywords=f"b3lyp/6-31g {word}")


def together(*names: str) -> Atoms:
    found = Atoms(cell=[50, 50, 50], pbc=True)
    for number, name in enumerate(names):
        one = molecule(name)
        one.translate([6.0 * number, 0, 0])
        found += one
    return found


@pytest.mark.parametrize(
    ("names", "multiplicity"),
    [(["H2O"], 1), (["O2"], 3), (["CH3"], 2), (["O2", "CH4"], 3), (["O2", "OH"], 4), (["CH3", "CH3"], 3), (["H2"], 1)],
)
def test_the_multiplicity_of_all_molecules(names: list[str], multiplicity: int) -> None:
    assert guessed(together(*names), 0) == multiplicity


def test_a_charged_frame_is_paired_as_far_as_possible(tmp_path: Path) -> None:
    assert guessed(together("CH3", "O2"), 1) == 1 and guessed(together("H2O"), -1) == 2
    assert "\n-1 2\n" in written(tmp_path / "a", charge=-1)
    assert "\n0 5\n" in written(tmp_path / "b", multiplicity=5)
    with pytest.raises(ValidationError):
        GaussianConfig(keywords="hf", multiplicity=0)


def test_units_of_the_output() -> None:
    label = PROGRAM.label(text_of(WATER_LOG), BENT)
    hartree, bohr = 27.211386245988, 0.529177210903
    assert label.energy == pytest.approx(-76.4080197062 * hartree, abs=1e-9)
    assert label.forces is not None and label.virial is None
    assert label.forces[0] == pytest.approx(np.array([-0.012127815, -0.017160737, 0]) * hartree / bohr)


def test_atoms_at_other_places_are_seen() -> None:
    moved = METHANE.copy()
    moved.positions[[1, 2]] = moved.positions[[2, 1]]
    label = PROGRAM.label(text_of(METHANE_LOG), moved)
    assert label.kind == "wrong_atoms" and "Angstrom from where the frame has it" in label.message


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (" Normal termination of", " Error termination via Lnk1e of", "aborted"),
        (" SCF Done:", " E2 =    -0.1 EUMP2 =    -0.2\n SCF Done:", "unreadable"),
        (" SCF Done:", " E2(B2PLYPD3) =  -0.1 E(B2PLYPD3) = -0.2\n SCF Done:", "unreadable"),
        (" SCF Done:", " Done:", "unreadable"),
        ("Forces (Hartrees/Bohr)", "Forces", "no_forces"),
        ("   -0.000215948", "   **************", "unreadable"),
        ("   -0.000215948", "              NaN", "nan"),
        ("      3        1           0.000072325", "      4        1           0.000072325", "unreadable"),
        ("Input orientation:", "Z-Matrix orientation:", "unreadable"),
    ],
)
def test_damage_has_a_class(old: str, new: str, kind: str) -> None:
    text = text_of(METHANE_LOG)
    assert old in text
    assert judge(PROGRAM.label(text.replace(old, new), METHANE), 5).kind == kind


def test_only_the_last_scf_must_converge() -> None:
    """With scf=xqc a first one may end without; a single point may even end normally so."""
    text, failed = text_of(METHANE_LOG), " >>>>>>>>>> Convergence criterion not met.\n"
    done = next(line for line in text.splitlines(keepends=True) if "SCF Done" in line)
    again = text.replace(done, failed + done.replace("-40.5", "-39.1") + done)
    assert PROGRAM.label(again, METHANE).energy == PROGRAM.label(text, METHANE).energy
    for bad in (text.replace(done, failed + done), text.replace(done, done + failed + done)):
        assert PROGRAM.label(bad, METHANE).kind == "scf_not_converged"


def test_an_output_of_several_steps_is_refused() -> None:
    text = text_of(METHANE_LOG)
    label = PROGRAM.label(text + text, METHANE)
    assert (label.kind, label.message) == ("unreadable", "the output has 2 tables of forces")


def test_what_gaussian_says_before_its_error() -> None:
    text = " Small interatomic distances encountered:\n Problem with the distance matrix.\n Error termination via x\n"
    label = PROGRAM.label(text, METHANE)
    assert (label.kind, label.message) == ("aborted", "Problem with the distance matrix.")
