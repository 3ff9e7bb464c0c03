"""Inputs of NWChem: what the run changes in the user's template, and what it refuses; units of its output."""

from __future__ import annotations

import numpy as np
import pytest

from conventions.errors import ConfigError
from operators.label.nwchem import PROGRAM, read_template
from tests.label_samples import SAMPLES, text_of

WHERE = "label.input (x.nw)"
TEMPLATE = """\
title "water" # one molecule
start mine
charge -1
GEOMETRY noautoz
  O 0 0 0
end
basis; * library 6-31g*; end
dft
  xc pbe0
  mult 2
end
task dft energy
"""


def test_geometry_name_and_task_are_ours_all_else_is_the_users() -> None:
    before, after = read_template(TEMPLATE, WHERE)
    assert before == ["start label", 'title "water"', "charge -1"]
    assert after == ["basis", "* library 6-31g*", "end", "dft", "xc pbe0", "mult 2", "end", "task dft gradient"]


def test_a_template_without_geometry_gets_one_before_its_task() -> None:
    before, after = read_template("basis\n* library 3-21g\nend\nTASK SCF\n", WHERE)
    assert (before[-1], after) == ("end", ["task scf gradient"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task dft energy", "task dft optimize", "task dft optimize: labels can be had of `task dft gradient`"),
        ("task dft energy", "task ccsd gradient", "task ccsd gradient: labels can be had of"),
        ("task dft energy", "", "it has no task; write `task dft gradient`"),
        ("task dft energy", "task dft\ntask mp2", "more than one task; a label is one `task mp2 gradient`"),
        ("start mine", "restart mine", "restart goes on with an old calculation"),
        ("  O 0 0 0\nend", "  zmatrix\nO\nend\nend", "zmatrix in the geometry: .* remove it"),
        ('title "water" #', 'title "water #', 'title "water: the quote ends at ; or #'),
        ("end", "ende", "no `end` ends its geometry"),
    ],
)
def test_what_would_give_no_labels_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(ConfigError, match=message) as caught:
        read_template(TEMPLATE.replace(old, new), WHERE)
    assert str(caught.value).startswith(WHERE)


@pytest.mark.parametrize(
    ("name", "energy", "gradient"),
    [
        ("nwchem-7.0-dft.log", -76.323904807563, [-0.002292, 0.004711, 0.000249]),
        ("nwchem-7.0-mp2.log", -76.195453024618, [-0.002352, 0.009103, 0.000618]),
    ],
)
def test_units_of_the_output(name: str, energy: float, gradient: list[float]) -> None:
    label = PROGRAM.label(text_of(name), SAMPLES["nwchem"].frame)
    hartree, bohr = 27.211386245988, 0.529177210903
    assert label.energy == pytest.approx(energy * hartree, abs=1e-9)
    assert label.forces is not None and label.virial is None
    assert label.forces[0] == pytest.approx(-np.array(gradient) * hartree / bohr)


def test_rows_that_ran_together_are_unreadable() -> None:
    text = text_of("nwchem-7.0-dft.log")
    start = text.index("ENERGY GRADIENTS")
    row = next(line for line in text[start:].splitlines() if " 2 H " in line)
    joined = row[:-24] + row[-24:].replace(" ", "")
    assert PROGRAM.label(text.replace(row, joined), SAMPLES["nwchem"].frame).kind == "unreadable"
    stars = row[:-10] + "*" * 10
    assert "*****" in PROGRAM.label(text.replace(row, stars), SAMPLES["nwchem"].frame).message


def test_two_atoms_of_an_element_that_change_places_are_seen() -> None:
    moved = SAMPLES["nwchem"].frame.copy()
    moved.positions[[1, 2]] = moved.positions[[2, 1]]
    label = PROGRAM.label(text_of("nwchem-7.0-dft.log"), moved)
    assert label.kind == "wrong_atoms" and "Angstrom from where the frame has it" in label.message
