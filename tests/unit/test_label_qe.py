"""Inputs of pw.x: what the run changes in the user's template, and what it refuses; units of its output."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from conventions.errors import ConfigError
from operators.label.frames import judge, kpoints
from operators.label.qe import PROGRAM
from operators.label.qe_input import Template, fill, read_template
from tests.label_samples import SAMPLES, text_of

WHERE = "label.input (x.in)"
TEMPLATE = """\
! mine
&CONTROL
  calculation = 'scf' , prefix='a/b', outdir="/tmp/x"   ! not here
  pseudo_dir = './pseudo'
/
&system
  nat=4, ntyp=1, ecutwfc = 40
  occupations='smearing', degauss=1.0d-2,
  Hubbard_U(1) = 4.0, starting_magnetization( 2 )=0.5
/
&electrons
/
&ions
  ion_dynamics='bfgs'
/
ATOMIC_SPECIES
 O 16.0 old.UPF
 Al 27.0 old.UPF
CELL_PARAMETERS bohr
1 0 0
0 1 0
0 0 1
ATOMIC_POSITIONS {crystal}
Al 0 0 0
K_POINTS automatic
  2 2 2 0 0 0  ! a grid
HUBBARD {atomic}
U O-2p 1
"""
FILLED = """\
&control
  calculation = 'scf'
  prefix = 'label'
  outdir = '.'
  pseudo_dir = '.'
  tprnfor = .true.
  tstress = .true.
  restart_mode = 'from_scratch'
&system
  nat = 2
  ntyp = 2
  ecutwfc = 40
  occupations = 'smearing'
  degauss = 1.0d-2
  hubbard_u(1) = 4.0
  starting_magnetization(2) = 0.5
  ibrav = 0
&electrons
ATOMIC_SPECIES
O 15.999 O.UPF
Al 26.98 Al.upf
CELL_PARAMETERS angstrom
5.123456789012345 0.0 0.0
0.1 6.0 0.0
0.0 1e-09 7.0
ATOMIC_POSITIONS angstrom
Al 0.3333333333333333 0.0 -2.0
O 1.0 0.5 0.25
K_POINTS automatic
2 2 2 0 0 0
HUBBARD {atomic}
U O-2p 1
"""


def template(text: str = TEMPLATE, kspacing: float | None = None) -> Template:
    masses, pseudo = {"Al": 26.98, "O": 15.999}, {"Al": "Al.upf", "O": "O.UPF"}
    return read_template(text, ["Al", "O"], masses, pseudo, kspacing, WHERE)


def frame() -> Atoms:
    cell = [[5.123456789012345, 0, 0], [0.1, 6, 0], [0, 1e-9, 7]]
    return Atoms("AlO", [[1 / 3, 0, -2], [1, 0.5, 0.25]], cell=cell, pbc=True)


def test_cell_species_positions_and_task_are_ours_all_else_is_the_users() -> None:
    text = fill(template(), frame(), None)
    assert text.replace("/\n", "") == FILLED
    assert text.count("\n/\n") == 3


def test_a_template_without_species_takes_those_of_type_map() -> None:
    text = fill(template("&system\necutwfc=1\n/\nK_POINTS gamma\n"), frame(), None)
    assert "ntyp = 2\n" in text and "ATOMIC_SPECIES\nAl 26.98 Al.upf\nO 15.999 O.UPF\n" in text
    assert text.index("&control") < text.index("&system") < text.index("&electrons")


def test_a_namelist_on_one_line() -> None:
    found = template("&system\tecutwfc=1 nbnd=8, title='a / b ! c'/\nK_POINTS gamma\n").namelists["system"]
    assert found == {"ecutwfc": "1", "nbnd": "8", "title": "'a / b ! c'", "ibrav": "0", "ntyp": "2"}


def test_a_grid_of_k_points_by_kspacing() -> None:
    text = fill(template("&system\necutwfc=1\n/\n", 0.5), frame(), 0.5)
    assert text.endswith("K_POINTS automatic\n3 3 2 0 0 0\n")
    assert kpoints(frame(), 100) == (1, 1, 1)
    # Made by hand: |b| = 2 pi / 4.05 = 1.5514 of a cubic cell.
    assert kpoints(Atoms("Al", cell=[4.05] * 3), 0.2) == (8, 8, 8)


def test_no_stress_where_the_user_does_not_want_it() -> None:
    text = fill(template(TEMPLATE.replace("pseudo_dir", "tstress=.false., pseudo_dir")), frame(), None)
    assert "tstress = .false." in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'scf'", "'vc-relax'", "calculation = 'vc-relax': a label is one scf"),
        ("nat=4", "ibrav=2, celldm(1)=7", r"the run writes each frame's own cell; remove celldm\(1\), ibrav"),
        ("nat=4", "A=4.05", "a: the run writes each frame's own cell"),
        ("K_POINTS automatic\n  2 2 2 0 0 0  ! a grid\n", "", "give K_POINTS in it or label.kspacing"),
        ("&system", "&sistem", "it has no &system namelist"),
        ("&electrons", "&control", "line 11: &control is given twice"),
        ("&ions\n  ion_dynamics='bfgs'\n/", "&ions", "no / ends &ions"),
        ("ecutwfc = 40", "ecutwfc =", "&system: ecutwfc has no value"),
        ("&electrons\n", "&electrons\nfast\n", "&electrons: 'fast' is no `key = value`"),
        (" O 16.0 old.UPF\n", "", r"hubbard_u\(1\) counts species: give ATOMIC_SPECIES with Al, O, each once"),
        ("ATOMIC_SPECIES", "SPECIES", "line 16: 'SPECIES' belongs to no namelist and no card"),
    ],
)  # fmt: skip
def test_what_would_give_no_labels_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(ConfigError, match=message) as caught:
        template(TEMPLATE.replace(old, new))
    assert str(caught.value).startswith(WHERE)


def test_kspacing_and_a_card_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        template(kspacing=0.2)


def test_units_of_the_output() -> None:
    sample = SAMPLES["qe"]
    label = PROGRAM.label(text_of("qe-6.7-al3o.log"), sample.frame)
    rydberg, bohr = 27.211386245988 / 2, 0.529177210903
    assert label.energy == pytest.approx(-41.60423423 * rydberg, abs=1e-9)  # with -TS
    assert label.forces is not None and label.virial is not None
    assert label.forces[1] == pytest.approx(np.array([-0.11155809, -0.00636682, 0.10502652]) * rydberg / bohr)
    stress = np.array([-0.00256753, 0.00050763, 0.00044953])  # as a pressure: the sample pulls inwards
    assert label.virial[0] == pytest.approx(stress * rydberg / bohr**3 * sample.frame.get_volume())


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("-0.11155809", "        NaN", "nan"),
        ("-0.11155809", "***********", "unreadable"),
        ("convergence has been achieved", "the end", "scf_not_converged"),
        ("Forces acting on atoms", "Forces", "no_forces"),
        ("!    total energy ", "     total energy ", "unreadable"),
        ("atom    3 type", "atom    4 type", "unreadable"),
        ("total   stress", "partial stress", "unreadable"),
    ],
)
def test_damage_has_a_class(old: str, new: str, kind: str) -> None:
    sample = SAMPLES["qe"]
    text = text_of("qe-6.7-al3o.log")
    assert old in text
    assert judge(PROGRAM.label(text.replace(old, new), sample.frame), 4).kind == kind


def test_two_atoms_of_an_element_that_change_places_are_seen() -> None:
    moved = SAMPLES["qe"].frame.copy()
    moved.positions[[0, 2]] = moved.positions[[2, 0]]
    label = PROGRAM.label(text_of("qe-6.7-al3o.log"), moved)
    assert label.kind == "wrong_atoms" and "Angstrom from where the frame has it" in label.message
