"""ABACUS's inputs: what the run changes in the user's INPUT, and STRU; units and damage of its output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from dpdata.formats.abacus.stru import get_frame_from_stru

from conventions.errors import ConfigError
from conventions.space import DataSpace
from operators.label.abacus import PROGRAM
from operators.label.frames import judge
from operators.registry import load_config
from tests.label_run import LabelRun
from tests.label_samples import SAMPLES, given, text_of

LOG = "abacus-2.1.0-methane.log"
SAMPLE = SAMPLES["abacus"]
INPUT = "INPUT_PARAMETERS # mine\nSuffix old\nntype 7\necutwfc 50 // Ry\nkspacing 0.14\n"


def frame() -> Atoms:
    cell = [[5.1, 0, 0], [0.1, 6, 0], [0, 1e-9, 7]]
    return Atoms("HCH", [[1 / 3, 0, -2], [1, 0.5, 0.25], [2, 2, 2]], cell=cell, pbc=True)


def written(root: Path, text: str = INPUT, **label: Any) -> dict[str, str]:
    """The inputs of a frame."""
    settings = {**SAMPLE.settings(root), "input": given(root, "INPUT", text), **label}
    run = LabelRun(root, {"app": "abacus", **settings}, [], ["H", "C"])
    config = load_config((root / run.place.config).read_bytes())
    return PROGRAM.fill(config, root / DataSpace.files)(frame())


def test_input_and_stru(tmp_path: Path) -> None:
    orbital = {"H": given(tmp_path, "h1.orb", "H"), "C": given(tmp_path, "c1.orb", "C")}
    found = written(tmp_path, INPUT + "basis_type lcao\n", orbital=orbital)
    assert set(found) == {"INPUT", "STRU"}
    assert dict(line.split() for line in found["INPUT"].splitlines()[1:]) == {
        "suffix": "ABACUS", "stru_file": "STRU", "kpoint_file": "KPT", "pseudo_dir": "./", "orbital_dir": "./",
        "ecutwfc": "50", "kspacing": "0.14", "basis_type": "lcao", "calculation": "scf", "cal_force": "1",
        "cal_stress": "1", "ntype": "2",
    }  # fmt: skip
    assert found["STRU"] == (
        "ATOMIC_SPECIES\nH 1.008 H.upf\nC 12.011 C.upf\nNUMERICAL_ORBITAL\nH.orb\nC.orb\n"
        "LATTICE_CONSTANT\n1.8897261246257702\nLATTICE_VECTORS\n5.1 0.0 0.0\n0.1 6.0 0.0\n0.0 1e-09 7.0\n"
        "ATOMIC_POSITIONS\nCartesian\nH\n0.0\n2\n0.3333333333333333 0.0 -2.0 1 1 1\n2.0 2.0 2.0 1 1 1\n"
        "C\n0.0\n1\n1.0 0.5 0.25 1 1 1\n"
    )


def test_dpdata_reads_stru_as_the_frame(tmp_path: Path) -> None:
    (tmp_path / "STRU").write_text(written(tmp_path)["STRU"])
    data = get_frame_from_stru(str(tmp_path / "STRU"))
    assert list(data["atom_names"]) == ["H", "C"] and list(data["atom_numbs"]) == [2, 1]
    assert np.allclose(data["cells"][0], frame().cell.array, atol=1e-8)
    assert np.allclose(data["coords"][0], frame().positions[[0, 2, 1]], atol=1e-8)


def test_a_kpt_file_and_no_stress(tmp_path: Path) -> None:
    kpt = given(tmp_path, "my.kpt", "K_POINTS\n0\nGamma\n2 2 2 0 0 0\n")
    found = written(tmp_path, "INPUT_PARAMETERS\ncal_stress 0\n", kpt=kpt)
    assert found["KPT"].startswith("K_POINTS") and "cal_stress 0\n" in found["INPUT"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ecutwfc", "calculation relax\necutwfc", r"label\.input \(INPUT\): calculation relax: a label is one scf"),
        ("kspacing 0.14\n", "", r"give kspacing \(or gamma_only 1\) in it or label\.kpt"),
        ("ecutwfc", "basis_type lcao\necutwfc", r"basis_type lcao needs orbitals; give label\.orbital"),
    ],
)  # fmt: skip
def test_inputs_that_give_no_labels_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in INPUT
    with pytest.raises(ConfigError, match=message):
        written(tmp_path, INPUT.replace(old, new))


def test_units_of_the_output() -> None:
    label = PROGRAM.label(text_of(LOG), SAMPLE.frame)
    assert label.energy == pytest.approx(-219.6499140427659142, abs=1e-12)
    assert label.forces is not None and label.virial is not None
    assert label.forces[0] == pytest.approx([-0.154995, -1.114764, 0.083421])
    stress = np.array([17.95102076, 5.24181029, -4.35918400]) / 1602.176634  # as a pressure
    assert label.virial[0] == pytest.approx(stress * SAMPLE.frame.get_volume())
    iron = SAMPLE.good["abacus-3.7.1-iron.log"]
    assert PROGRAM.label(text_of("abacus-3.7.1-iron.log"), iron).virial is None


def test_forces_are_put_back_in_the_frames_order() -> None:
    text, label = text_of(LOG), PROGRAM.label(text_of(LOG), SAMPLE.frame)
    assert label.forces is not None
    text = text.replace("       H4 ", "       C2 ").replace("       H1 ", "       H5 ")
    assert PROGRAM.label(text, SAMPLE.frame).kind == "wrong_atoms"
    mixed = Atoms("CHCH2", cell=SAMPLE.frame.cell, pbc=True)
    rows = [line for line in text.splitlines() if line.startswith("       C2 ")]
    text = text.replace(rows[-1] + "\n", "").replace("       H5 ", rows[-1] + "\n       H5 ")
    found = PROGRAM.label(text, mixed)
    assert found.forces is not None
    assert np.array_equal(found.forces, label.forces[[0, 1, 4, 2, 3]])


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("charge density convergence is achieved", "#SCF IS CONVERGED#", "ok"),
        ("charge density convergence is achieved", "the end", "scf_not_converged"),
        ("charge density convergence is achieved", "!! convergence has not been achieved", "scf_not_converged"),
        ("Version:", "!!SCF IS NOT CONVERGED!!", "scf_not_converged"),  # also where an earlier one had converged
        ("TOTAL-FORCE (eV/Angstrom)", "#TOTAL-FORCE (eV/Angstrom)#", "ok"),
        ("TOTAL-FORCE (eV/Angstrom)", "TOTAL-FORCE", "no_forces"),
        ("!FINAL_ETOT_IS", "FINAL", "unreadable"),
        ("+0.888630", "*********", "unreadable"),
        ("+0.888630", "      nan", "nan"),
        ("+0.888630", "8888630.0", "absurd"),
        ("   +13.26034469", " *************", "unreadable"),
        ("     +5.24181029   +13.26034469    +0.17341933\n", "", "unreadable"),
    ],
)
def test_damage_has_a_class(old: str, new: str, kind: str) -> None:
    text = text_of(LOG)
    assert old in text
    assert judge(PROGRAM.label(text.replace(old, new), SAMPLE.frame), 5).kind == kind
