"""The parser of CP2K's output.

`golden/label/cp2k-2023.1-*.log` are real outputs of CP2K 2023.1 (two water molecules, GFN1-xTB or PBE), cut to the
lines that matter, with the date replaced. `cp2k-*-layout.log` hold the numbers of `cp2k-2023.1-gfn1.log` in the
layouts of an older and a newer release, made after public samples, not by running them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from operators.label.cp2k_output import abort_message, read_output
from operators.label.frames import judge

GOLDEN = Path(__file__).parent / "golden" / "label"
WATERS = list("OHHOHH")
HARTREE, BOHR, GPA = 27.211386245988, 0.529177210903, 1 / 160.2176634  # eV, Angstrom, eV/Angstrom^3 (CODATA 2018)
VOLUME = 300.0


def golden(name: str) -> str:
    return (GOLDEN / f"cp2k-{name}.log").read_text()


@pytest.mark.parametrize(("name", "digits"), [("2023.1-gfn1", 1e-11), ("2025-layout", 1e-10), ("7.1-layout", 1e-8)])
def test_every_layout_gives_the_same_label(name: str, digits: float) -> None:
    label = read_output(golden(name), WATERS, VOLUME)
    assert (label.kind, label.message) == ("ok", "")
    assert label.energy == pytest.approx(-11.516905494316202 * HARTREE, abs=1e-9)
    assert label.forces is not None and label.forces.shape == (6, 3)
    assert label.forces[0] * BOHR / HARTREE == pytest.approx([-0.00760539, 0.07152890, -0.04536927], abs=1e-12)
    assert label.forces[5] * BOHR / HARTREE == pytest.approx([-0.00533422, 0.01341506, 0.01041858], abs=1e-12)
    stress = [
        [1.27406007193, -1.01893492392, 0.332061174655],
        [-1.01893492392, -0.0942228216986, 0.532651005250],
        [0.332061174655, 0.532651005250, -0.810849095977],
    ]
    assert label.virial is not None
    assert np.allclose(label.virial / VOLUME / GPA, stress, rtol=0, atol=digits * 1e2)


@pytest.mark.parametrize("name", ["2023.1-pbe", "2023.1-numerical-stress", "2023.1-outer-scf"])
def test_real_outputs_that_are_good(name: str) -> None:
    assert judge(read_output(golden(name), WATERS, VOLUME), 6).kind == "ok"


def test_the_last_energy_counts_where_there_are_several() -> None:
    text = golden("2023.1-numerical-stress")
    assert text.count("ENERGY| Total FORCE_EVAL") == 2
    label = read_output(text, WATERS, VOLUME)
    assert label.energy == pytest.approx(-11.516905495420367 * HARTREE, abs=1e-9)
    assert label.virial is not None
    assert label.virial[0, 1] == pytest.approx(-1.01893492392 * GPA * VOLUME, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("2023.1-not-converged", "scf_not_converged", "SCF run NOT converged"),
        ("2023.1-outer-scf-not-converged", "scf_not_converged", "SCF run NOT converged"),
        ("2023.1-no-forces", "no_forces", "&FORCES ON"),
        ("2023.1-stars", "unreadable", "*****"),
        ("2023.1-aborted", "aborted", "Cholesky decompose failed: the matrix is not positive definite or ill-cond"),
        ("2023.1-bad-keyword", "aborted", "found an unknown keyword MAX_SCFF in section SCF"),
    ],
)
def test_real_outputs_that_are_bad(name: str, kind: str, message: str) -> None:
    label = read_output(golden(name), WATERS, VOLUME)
    assert label.kind == kind
    assert message in label.message
    assert label.forces is None


@pytest.mark.parametrize("name", ["2023.1-gfn1", "2025-layout", "7.1-layout"])
def test_an_output_cut_off_anywhere_is_never_good(name: str) -> None:
    text = golden(name)
    for length in range(text.index("PROGRAM ENDED AT")):
        assert read_output(text[:length], WATERS, VOLUME).kind == "truncated"


@pytest.mark.parametrize("name", ["2023.1-gfn1", "2025-layout", "7.1-layout"])
def test_lost_lines_are_never_good(name: str) -> None:
    """Any one line with numbers lost: another class, except for lines that are not read."""
    lines = golden(name).splitlines()
    whole = read_output("\n".join(lines), WATERS, VOLUME)
    for number, line in enumerate(lines):
        label = read_output("\n".join(lines[:number] + lines[number + 1 :]), WATERS, VOLUME)
        if label.kind == "ok":
            assert label.energy == whole.energy and np.array_equal(label.forces, whole.forces), line
            assert label.virial is None or np.array_equal(label.virial, whole.virial), line


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("-0.00760539", "        NaN", "nan"),
        ("-0.00760539", " 1.0000-101", "ok"),  # Fortran leaves out the E
        ("-0.00760539", "-0.0x760539", "unreadable"),
        ("-0.00760539", "-99.0000000", "absurd"),
        ("-11.516905494316202", "***", "unreadable"),
        ("-11.516905494316202", "NaN", "nan"),
        ("  1.27406007193E+00", "  ****************", "unreadable"),
        ("  1.27406007193E+00", "                  ", "unreadable"),
        ("  1.27406007193E+00", "           Infinity", "nan"),
        ("stress tensor [GPa]", "stress tensor [psi]", "unreadable"),
        ("FORCES in [a.u.]", "FORCES in [mRy/bohr]", "unreadable"),
        ("ENERGY| Total", "ENERGY| Whole", "unreadable"),
        ("      2      2      H", "      2      2      C", "wrong_atoms"),
        ("      2      2      H", "      3      2      H", "unreadable"),
    ],
)
def test_damage_has_a_class(old: str, new: str, kind: str) -> None:
    text = golden("2023.1-gfn1")
    assert old in text
    assert judge(read_output(text.replace(old, new), WATERS, VOLUME), 6).kind == kind


def test_another_number_or_order_of_atoms_is_refused() -> None:
    text = golden("2023.1-gfn1")
    assert read_output(text, WATERS[:-1], VOLUME).kind == "wrong_atoms"
    assert read_output(text, list("OOHHHH"), VOLUME).kind == "wrong_atoms"
    assert read_output(golden("2025-layout"), [*WATERS, "H"], VOLUME).kind == "wrong_atoms"


def test_without_stress_there_is_no_virial() -> None:
    lines = [line for line in golden("2023.1-gfn1").splitlines() if "STRESS|" not in line]
    label = read_output("\n".join(lines), WATERS, VOLUME)
    assert label.kind == "ok" and label.virial is None


def test_abort_message() -> None:
    assert abort_message(golden("2023.1-gfn1")) == ""
    assert abort_message("* [ABORT]") == ""
    said = abort_message(golden("2023.1-bad-keyword"))
    assert said == "found an unknown keyword MAX_SCFF in section SCF input/input_parsing.F:246"
