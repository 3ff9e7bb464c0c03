"""An input of CP2K that prints no forces is imported as one that does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms

from operators.label.cp2k_input import fill, read_template
from statemachine.importer.cp2k import printed
from statemachine.importer.make import make
from statemachine.importer.report import Outcome
from tests.unit.test_import_ai2kit import INPUT
from tests.unit.test_import_dpgen import PARAM

PLAIN = """\
! of a group
&FORCE_EVAL
  METHOD QS
  STRESS_TENSOR ANALYTICAL
  &DFT
    &MGRID
      CUTOFF 400 ! Ry
    &END
  &END
&END
"""
WITH = PLAIN.replace("  METHOD QS", "  &print\n    &Forces on\n    &end\n  &end\n  METHOD QS")


def test_what_is_printed_is_added() -> None:
    text, added = printed(PLAIN)
    assert added == ["FORCES", "STRESS_TENSOR"]
    assert "! of a group" in text and "CUTOFF 400 ! Ry" in text
    atoms = Atoms("H", cell=[5, 5, 5], pbc=True)
    assert "&FORCES ON" in fill(read_template(text, {}, "label.input"), atoms), "and it can be labelled with"
    assert printed(text) == (text, [])


def test_what_is_there_stays() -> None:
    assert printed(WITH)[1] == ["STRESS_TENSOR"]
    text = WITH.replace("  STRESS_TENSOR ANALYTICAL\n", "")
    assert printed(text) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        "", "&FORCE_EVAL\n", "no input", f"{PLAIN}{PLAIN}",
        PLAIN.replace("  METHOD QS", "  @include print.inc"), f"@SET x 1\n{PLAIN}",
        PLAIN.replace("  METHOD QS", "  &PRINT\n  @IF x\n  &FORCES ON\n  &END\n  @ENDIF\n  &END"),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_left(text: str) -> None:
    assert printed(text) == (text, [])


def test_a_file_of_dpgen(tmp_path: Path) -> None:
    (tmp_path / "t.inp").write_text(PLAIN)
    param = {**PARAM, "fp_style": "cp2k", "external_input_path": "t.inp"}
    (tmp_path / "param.json").write_text(json.dumps(param))
    made = make([tmp_path / "param.json"])
    assert "input: cp2k.inp # param.json: external_input_path" in made.files["run.yaml"]
    assert "&FORCES ON" in made.files["cp2k.inp"]
    (row,) = (row for row in made.report if row.source.endswith("external_input_path"))
    assert (row.outcome, row.note) == (
        Outcome.CHANGED, "a copy of it prints FORCES and STRESS_TENSOR, which labels need"
    )  # fmt: skip
    (tmp_path / "t.inp").write_text(printed(PLAIN)[0])
    assert "cp2k.inp" not in make([tmp_path / "param.json"]).files, "the file itself can be used"


def test_a_template_of_ai2kit(tmp_path: Path) -> None:
    document = json.loads(json.dumps(INPUT))
    document["workflow"]["label"]["cp2k"]["input_template"] = PLAIN
    (tmp_path / "cll.yml").write_text(json.dumps(document))
    made = make([tmp_path / "cll.yml"])
    assert "&FORCES ON" in made.files["cp2k.inp"]
    assert any("it prints FORCES and STRESS_TENSOR" in row.note for row in made.report)
