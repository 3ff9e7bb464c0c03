"""VASP's inputs: atoms by element, POTCARs in that order and nowhere else, refused INCARs; and its OUTCAR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from conventions.errors import ConfigError
from conventions.space import DataSpace
from operators.label.frames import judge
from operators.label.vasp import PROGRAM, poscar
from operators.registry import load_config
from tests.label_run import LabelRun
from tests.label_samples import GOLDEN, SAMPLES, given, text_of

SAMPLE = SAMPLES["vasp"]
INCAR = "ENCUT = 400 ; PREC = A # mine\nNSW = 0\nIBRION = -1\nKSPACING = 0.2 ! 1/A\n"
WATER = "vasp-5.4.4-water.OUTCAR"


def run(root: Path, frame: Atoms = SAMPLE.frame, **more: Any) -> LabelRun:
    """A run of one frame, the water of the sample; VASP copies what it was given to where we can see it."""
    (root / "fake.sh").write_text(f"cp POTCAR INCAR POSCAR '{root}'; ls KPOINTS; cp '{GOLDEN / WATER}' OUTCAR\n")
    settings = {**SAMPLE.settings(root), "command": f"sh {root}/fake.sh", **more}
    return LabelRun(root, {"app": "vasp", **settings}, [frame], ["H", "O"], iteration=1)


def test_poscar_has_every_digit_and_atoms_by_element() -> None:
    atoms = Atoms("OHO", [[1 / 3, 0, -2], [1, 0.5, 0.25], [2, 2, 2]], cell=[[5.1, 0, 0], [0.1, 6, 0], [0, 1e-9, 7]])
    assert poscar(atoms) == (
        "label\n1.0\n5.1 0.0 0.0\n0.1 6.0 0.0\n0.0 1e-09 7.0\nO H\n2 1\nCartesian\n"
        "0.3333333333333333 0.0 -2.0\n2.0 2.0 2.0\n1.0 0.5 0.25\n"
    )


def test_potcars_come_in_poscars_order_and_nowhere_else(tmp_path: Path) -> None:
    stage = run(tmp_path, incar=given(tmp_path, "INCAR", INCAR))
    assert stage.stage().classes == {"ok": 1}
    assert (tmp_path / "POSCAR").read_text().splitlines()[5:7] == ["O H", "2 4"]
    potcar = (tmp_path / "POTCAR").read_text()
    assert potcar.index("licensed-O") < potcar.index("licensed-H")
    assert (tmp_path / "INCAR").read_text() == INCAR
    places = {path for path in tmp_path.rglob("*") if path.is_file() and b"licensed" in path.read_bytes()}
    kept = (DataSpace.files, stage.place.files)
    expected = {path for folder in kept for path in (tmp_path / folder).rglob("POTCAR")}
    assert len(expected) == 4
    work = {path for path in places if "work" in path.relative_to(tmp_path).parts}
    assert places - work == {*expected, tmp_path / "POTCAR"}


def test_moments_by_element_are_written_in_poscars_order(tmp_path: Path) -> None:
    incar = given(tmp_path, "INCAR", INCAR + "ISPIN = 2")
    assert run(tmp_path, incar=incar, magmom={"H": 0.5}).stage().classes == {"ok": 1}
    assert (tmp_path / "POSCAR").read_text().splitlines()[5:7] == ["O H", "2 4"]
    assert (tmp_path / "INCAR").read_text() == INCAR + "ISPIN = 2\nMAGMOM = 2*1 4*0.5\n"


@pytest.mark.parametrize(
    ("more", "moments", "said"),
    [
        ("", {"H": 1}, "without ISPIN = 2 it would do nothing"),
        ("ISPIN = 2 ; MAGMOM = 6*0", {"H": 1}, "it has MAGMOM itself"),
        ("ISPIN = 2", {"Fe": 1}, "label.magmom: Fe is not in type_map"),
    ],
)
def test_moments_that_would_do_nothing(tmp_path: Path, more: str, moments: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(tmp_path, incar=given(tmp_path, "INCAR", INCAR + more), magmom=moments).plan()


def test_a_vasp_that_dies_within_its_potcars_tells_nothing_of_them(tmp_path: Path) -> None:
    """OUTCAR ends there: the log has what VASP said on stdout."""
    (tmp_path / "dies.sh").write_text("cat POTCAR >OUTCAR; echo 'forrtl: severe: no memory'; exit 1\n")
    stage = run(tmp_path, command=f"sh {tmp_path}/dies.sh")
    report = stage.stage()
    assert report.classes == {"lost": 1} and "forrtl: severe: no memory" in report.messages[1]
    told = [tmp_path / stage.place.report, *(tmp_path / stage.place.jobs / "000000/log").iterdir()]
    assert not any(b"licensed" in path.read_bytes() for path in told)


def test_forces_are_put_back_in_the_frames_order() -> None:
    label = PROGRAM.label(text_of(WATER), SAMPLE.frame)  # O H O H H H
    assert label.energy == -28.34083468
    assert label.forces is not None and label.virial is not None
    last = text_of(WATER).split("TOTAL-FORCE")[1].splitlines()[2:8]
    rows = [[float(word) for word in line.split()[3:]] for line in last]
    assert np.array_equal(label.forces[[0, 2, 1, 3, 4, 5]], rows)
    # As dpdata and ASE have it of the whole file.
    assert label.virial[0] == pytest.approx([-2.14969275, -1.27351127, 0.03104995], abs=1e-6)


def test_two_atoms_of_an_element_that_change_places_are_seen() -> None:
    other = SAMPLE.frame[[0, 3, 2, 1, 4, 5]]
    label = PROGRAM.label(text_of(WATER), other)
    assert label.kind == "wrong_atoms" and "Angstrom from where the frame has it" in label.message
    moved = SAMPLE.frame.copy()
    moved.positions += moved.cell.array[1]
    assert PROGRAM.label(text_of(WATER), moved).kind == "ok"


def test_an_incar_for_a_structure_set_and_a_kpoints_file(tmp_path: Path) -> None:
    frame = SAMPLE.frame.copy()
    frame.info["structure"] = "start"
    incar, kpoints = given(tmp_path, "INCAR.start", "ISPIN = 2\n"), given(tmp_path, "KPOINTS", "k\n0\nG\n2 2 2\n")
    more = {"incar": given(tmp_path, "INCAR", "ISPIN = 1\n"), "incar_by_set": {"start": incar}, "kpoints": kpoints}
    stage = run(tmp_path, frame, **more)
    assert stage.stage().classes == {"ok": 1}
    assert (tmp_path / "INCAR").read_text() == "ISPIN = 2\n"
    assert "KPOINTS" in (tmp_path / stage.place.jobs / "000000/log/task.000000.log").read_text()
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match=r"label\.incar_by_set: there is no structure set 'strat' .*start"):
        check(run(tmp_path / "x", incar_by_set={"strat": incar}))


def check(stage: LabelRun) -> None:
    stage.app.check_files(load_config((stage.root / stage.place.config).read_bytes()), stage.root / DataSpace.files)


@pytest.mark.parametrize(
    ("incar", "message"),
    [
        ("NSW = 10\nKSPACING=0.2\n", r"label\.incar \(INCAR\): NSW = 10: a label is a single point"),
        ("ENCUT=1; nsw=3\nKSPACING=0.2", "NSW = 3: a label is a single point"),
        ("IBRION = 6\nKSPACING=0.2\n", "IBRION = 6: a label is a single point"),
        ("ML_LMLFF = .TRUE.\nKSPACING=0.2\n", "ML_LMLFF: .* remove it"),
        ("# KSPACING = 0.2\n", r"give KSPACING in it or label\.kpoints"),
    ],
)
def test_incars_that_give_no_labels_are_refused(tmp_path: Path, incar: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(run(tmp_path, incar=given(tmp_path, "INCAR", incar)))
    (tmp_path / "good").mkdir()
    check(run(tmp_path / "good", incar=given(tmp_path / "good", "INCAR", INCAR)))


def test_kpoints_and_kspacing_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KPOINTS would hide KSPACING"):
        check(run(tmp_path, kpoints=given(tmp_path, "KPOINTS", "k\n0\nG\n1 1 1\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("VRHFIN =H: licensed", r"label\.potcar\.O: O\.pot is of H; give"),
        ("licensed", "is no POTCAR: it has no VRHFIN"),
    ],
)
def test_a_potcar_of_another_element_is_refused_and_not_shown(tmp_path: Path, text: str, message: str) -> None:
    potcar = {**SAMPLE.settings(tmp_path)["potcar"], "O": given(tmp_path, "O.pot", text)}
    with pytest.raises(ConfigError, match=message) as caught:
        check(run(tmp_path, potcar=potcar))
    assert str(caught.value).endswith("give the POTCAR of O") and "licensed" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("because EDIFF is reached", "EDIFF was not reached (unconverged)", "scf_not_converged"),
        ("because EDIFF is reached", "", "scf_not_converged"),
        ("NELM   =     60;", "NELM   =     37;", "scf_not_converged"),
        ("NELM   =     60;", "", "unreadable"),
        ("POSITION  ", "POSITIONS ", "no_forces"),
        ("TOTAL-FORCE (eV/Angst)", "TOTAL-FORCE (eV/Angst) (ML)", "no_forces"),
        ("free  energy   TOTEN", "free energy", "unreadable"),
        ("NIONS =      6", "NIONS =      7", "wrong_atoms"),
        ("ions per type =               2   4", "ions per type =               4   2", "wrong_atoms"),
        ("  in kB      -0.51025 ", "  in kB   ", "unreadable"),
        ("  in kB      -0.51025 ", "  in kB      ******** ", "unreadable"),
        ("      1.525263", " 123456.525263", "absurd"),
    ],
)  # fmt: skip
def test_damage_has_a_class(old: str, new: str, kind: str) -> None:
    text = text_of(WATER)
    assert old in text
    assert judge(PROGRAM.label(text.replace(old, new), SAMPLE.frame), 6).kind == kind


def test_what_vasp_6_says_in_its_box() -> None:
    box = (
        " " + "-" * 77 + "\n|     EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR      ###     ###     ###     |\n"
        "|     E        R     R  R     R  O     O  R     R     ###     ###     ###     |\n|" + " " * 77 + "|\n"
        "|     The number of electrons is odd.                                         |\n " + "-" * 77 + "\n"
    )
    label = PROGRAM.label(text_of(WATER).split("Iteration")[0] + box, SAMPLE.frame)
    assert (label.kind, label.message) == ("aborted", "The number of electrons is odd.")
