"""CP2K inputs: what the run changes in the user's template, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from conventions.errors import ConfigError
from operators.label.cp2k_input import fill, parse, read_template

WHERE = "label.input (x.inp)"
TEMPLATE = """\
@SET CUTOFF 300
&GLOBAL
  PROJECT water
  run_type MD
  PRINT_LEVEL LOW
&END GLOBAL
! a comment with a &sign
&force_eval
  METHOD Quickstep  ! and one here
  STRESS_TENSOR ANALYTICAL
  &DFT
    &MGRID
      CUTOFF ${CUTOFF}
    &END
  &END DFT
  &SUBSYS
    &CELL ! mine
      ABC 10.0 10.0 10.0
      alpha_beta_gamma 90 90 90
      PERIODIC XY
      &CELL_REF
        ABC 12 12 12
      &END CELL_REF
    &END CELL
    &COORD
      SCALED
      @INCLUDE 'coord.xyz'
    &END COORD
    &TOPOLOGY
      COORD_FILE_NAME old.xyz
      COORD_FILE_FORMAT XYZ
      CONN_FILE_FORMAT OFF
    &END TOPOLOGY
    &KIND H
      BASIS_SET SZV-MOLOPT-SR-GTH
    &END KIND
  &END SUBSYS
  &PRINT
    &FORCES ON
    &END FORCES
    &STRESS_TENSOR
    &END
  &END PRINT
&END FORCE_EVAL
"""
FILLED = """\
@SET CUTOFF 300
&GLOBAL
  PROJECT water
  PRINT_LEVEL LOW
  RUN_TYPE ENERGY_FORCE
&END GLOBAL
! a comment with a &sign
&force_eval
  METHOD Quickstep  ! and one here
  STRESS_TENSOR ANALYTICAL
  &DFT
    &MGRID
      CUTOFF ${CUTOFF}
    &END MGRID
  &END DFT
  &SUBSYS
    &CELL ! mine
      A 5.123456789012345 0.0 0.0
      B 0.1 6.0 0.0
      C 0.0 1e-09 7.0
      PERIODIC XY
      &CELL_REF
        ABC 12 12 12
      &END CELL_REF
    &END CELL
    &TOPOLOGY
      CONN_FILE_FORMAT OFF
    &END TOPOLOGY
    &KIND H
      BASIS_SET SZV-MOLOPT-SR-GTH
    &END KIND
    &COORD
      O 0.3333333333333333 0.0 -2.0
      H 1.0 0.5 0.25
    &END COORD
  &END SUBSYS
  &PRINT
    &FORCES ON
    &END FORCES
    &STRESS_TENSOR
    &END STRESS_TENSOR
  &END PRINT
&END FORCE_EVAL
"""
MINIMAL = "&FORCE_EVAL\n&PRINT\n&FORCES\n&END\n&END\n&END"


def frame() -> Atoms:
    cell = [[5.123456789012345, 0, 0], [0.1, 6, 0], [0, 1e-9, 7]]
    return Atoms("OH", [[1 / 3, 0, -2], [1, 0.5, 0.25]], cell=cell, pbc=True)


def test_cell_coordinates_and_run_type_are_ours_all_else_is_the_users() -> None:
    template = read_template(TEMPLATE, {}, WHERE)
    assert fill(template, frame()) == FILLED
    assert fill(template, frame()) == FILLED  # filling leaves the template as it was


def test_every_bit_of_cell_and_positions_arrives() -> None:
    random = np.random.default_rng(1)
    atoms = Atoms("OHHO", random.normal(0, 10, (4, 3)), cell=random.normal(0, 10, (3, 3)), pbc=True)
    system = parse(fill(read_template(TEMPLATE, {}, WHERE), atoms), "").section("FORCE_EVAL", "SUBSYS")
    assert system is not None
    coord, cell = system.section("COORD"), system.section("CELL")
    assert coord is not None and cell is not None
    rows = [str(line).split() for line in coord.items]
    assert [row[0] for row in rows] == list("OHHO")
    assert np.array_equal([[float(word) for word in row[1:]] for row in rows], atoms.positions)
    assert np.array_equal([[float(word) for word in cell.keyword(name) or []] for name in "ABC"], atoms.cell.array)


def test_missing_sections_are_made() -> None:
    root = parse(fill(read_template(MINIMAL, {}, WHERE), frame()), "")
    setup = root.section("GLOBAL")
    assert setup is not None and setup.keyword("RUN_TYPE") == ["ENERGY_FORCE"]
    coord = root.section("FORCE_EVAL", "SUBSYS", "COORD")
    assert coord is not None and len(coord.items) == 2


def test_a_second_cell_or_coord_section_goes() -> None:
    twice = (
        "&SUBSYS\n&CELL\nPERIODIC XYZ\n&END\n&CELL\nABC 1 1 1\n&END\n&COORD\nH 0 0 0\n&END\n&COORD\nH 1 1 1\n&END\n&END"
    )
    text = fill(read_template(MINIMAL.replace("&PRINT", f"{twice}\n&PRINT", 1), {}, WHERE), frame())
    assert text.count("&CELL\n") == text.count("&COORD\n") == 1
    assert "ABC" not in text and "PERIODIC XYZ" in text and "H 1 1 1" not in text


def test_includes_of_the_users_files_are_expanded() -> None:
    template = MINIMAL.replace("&PRINT", '@include "sub.inc"  ! mine\n&PRINT', 1)
    sub = "&SUBSYS\n&CELL\nABC 1 1 1\n&END\n@INCLUDE kinds.inc\n&END"
    text = fill(read_template(template, {"sub.inc": sub, "kinds.inc": "&KIND H\n&END"}, WHERE), frame())
    assert "&KIND H" in text and "@" not in text and "ABC" not in text
    with pytest.raises(ConfigError, match=r"@INCLUDE kinds\.inc.* not among label\.files"):
        read_template(template, {"sub.inc": sub}, WHERE)
    with pytest.raises(ConfigError, match="circle"):
        read_template(template, {"sub.inc": "@INCLUDE sub.inc"}, WHERE)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    &FORCES ON\n    &END FORCES\n", "", "does not print FORCES"),
        ("&FORCES ON", "&FORCES OFF", "&FORCES OFF prints nothing"),
        ("&FORCES ON", "&FORCES medium", "&FORCES MEDIUM prints nothing at PRINT_LEVEL LOW"),
        ("&FORCES ON", "&FORCES ON\nFILENAME =forces.xyz", "FILENAME =forces.xyz in &FORCES"),
        ("    &STRESS_TENSOR\n    &END\n", "", "does not print STRESS_TENSOR, and STRESS_TENSOR ANALYTICAL asks"),
        ("STRESS_TENSOR ANALYTICAL", "STRESS_TENSOR diagonal_analytical", "lacks elements of the virial"),
        ("&GLOBAL\n", "&EXT_RESTART\n&END\n&GLOBAL\n", "&EXT_RESTART would replace"),
        ("&END FORCE_EVAL\n", "&END FORCE_EVAL\n&FORCE_EVAL\n&END", "it has 2 &FORCE_EVAL sections"),
        ("&END FORCE_EVAL\n", "", "&FORCE_EVAL has no &END FORCE_EVAL"),
        ("&END SUBSYS", "&END SUBSYSTEM", "'&END SUBSYSTEM', but &SUBSYS is open"),
        ("@SET CUTOFF 300", "&END", "line 1: '&END', but no section is open"),
    ],
)
def test_what_would_give_no_labels_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(ConfigError) as caught:
        read_template(TEMPLATE.replace(old, new), {}, WHERE)
    assert str(caught.value).startswith(WHERE)
    assert message in str(caught.value)


def test_an_input_without_stress_needs_no_print_of_it() -> None:
    text = TEMPLATE.replace("  STRESS_TENSOR ANALYTICAL\n", "").replace("    &STRESS_TENSOR\n    &END\n", "")
    assert "STRESS" not in fill(read_template(text, {}, WHERE), frame())
    with pytest.raises(ConfigError, match="0 &FORCE_EVAL"):
        read_template("hello", {}, WHERE)
