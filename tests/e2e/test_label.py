"""The label apps with real engines: ASE's EMT, tblite, CP2K."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from operators.label.cp2k_output import abort_message
from tests.e2e.engines import need
from tests.label_run import LabelRun, add_file
from tests.stage_harness import record

pytestmark = pytest.mark.engines
GOLDEN = Path(__file__).parents[1] / "unit" / "golden" / "label"
ONE_THREAD = ["export OMP_NUM_THREADS=1"]
DISPLACEMENT, STRAIN = 0.005, 0.002  # Angstrom, 1


def waters(seed: int = 1) -> Atoms:
    """Two water molecules in a small oblique cell."""
    atoms = Atoms(cell=[[7.123456789, 0, 0], [0.5, 7, 0], [0, 0.3, 7.2]], pbc=True)
    for number, place in enumerate([(0, 0, 0), (3.1, 0.4, 0.2)]):
        one = molecule("H2O")
        one.rotate(40 * number, (1, 2, 3))
        one.translate(place)
        atoms += one
    atoms.rattle(0.05, seed=seed)
    return atoms


def moved(atoms: Atoms, atom: int, axis: int) -> list[Atoms]:
    """Two frames whose energies give a force by finite differences."""
    frames = [atoms.copy(), atoms.copy()]
    frames[0].positions[atom, axis] += DISPLACEMENT
    frames[1].positions[atom, axis] -= DISPLACEMENT
    return frames


def strained(atoms: Atoms, i: int, j: int) -> list[Atoms]:
    """Two frames whose energies give an element of the virial by finite differences."""
    frames = []
    for sign in (1, -1):
        strain = np.zeros((3, 3))
        strain[i, j] += sign * STRAIN / 2
        strain[j, i] += sign * STRAIN / 2
        frame = atoms.copy()
        frame.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        frames.append(frame)
    return frames


def check_derivatives(run: LabelRun, within: float) -> None:
    """Forces and virial of the first frame against energies of those that `differences` made."""
    data = dpdata.LabeledSystem(str(run.labels / "O2H4"), fmt="deepmd/npy").data
    steps = -(data["energies"][1::2] - data["energies"][2::2]) / 2
    assert steps[0] / DISPLACEMENT == pytest.approx(data["forces"][0, 1, 2], abs=within)
    assert steps[1] / STRAIN == pytest.approx(data["virials"][0, 0, 0], abs=within)
    assert steps[2] / STRAIN == pytest.approx(data["virials"][0, 0, 1], abs=within)
    assert abs(data["virials"][0, 0, 0]) > 1  # so that a wrong sign or unit would show
    assert abs(data["virials"][0, 0, 1]) > 1


def differences(atoms: Atoms) -> list[Atoms]:
    # Atom 3 is the second oxygen: atom 1 of the dataset, which is sorted by type.
    return [atoms, *moved(atoms, 3, 2), *strained(atoms, 0, 0), *strained(atoms, 0, 1)]


def test_emt(tmp_path: Path) -> None:
    frames = []
    for seed in range(4):
        atoms = bulk("Cu", a=3.59, cubic=True).repeat(2)
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    label = {"app": "ase", "calculator": "ase.calculators.emt:EMT", "command": sys.executable, "setup": ONE_THREAD}
    run = LabelRun(tmp_path, label, frames, ["Cu"], iteration=1)
    assert run.stage().summary == {"labelled": 4.0, "discarded": 0.0}
    data = dpdata.LabeledSystem(str(run.labels / "Cu32"), fmt="deepmd/npy").data
    for number, coords in enumerate(data["coords"]):
        atoms = Atoms("Cu32", coords, cell=data["cells"][number], pbc=True, calculator=EMT())
        assert data["energies"][number] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert np.allclose(data["forces"][number], atoms.get_forces(), rtol=0, atol=1e-9)
        virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
        assert np.allclose(data["virials"][number], virial, rtol=0, atol=1e-9)


def test_tblite(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    label = {
        "app": "ase",
        "calculator": "tblite.ase:TBLite",
        "kwargs": {"method": "GFN1-xTB", "verbosity": 0},
        "command": sys.executable,
        "setup": ONE_THREAD,
    }
    run = LabelRun(tmp_path, label, differences(waters()), ["O", "H"], iteration=1)
    assert run.stage().classes == {"ok": 7}
    check_derivatives(run, 0.005)


def cp2k(root: Path, template: str, frames: list[Atoms], **label: Any) -> LabelRun:
    need("cp2k.psmp")
    (root / "template.inp").write_text(template)
    settings = {"app": "cp2k", "input": add_file(root, root / "template.inp"), "setup": ONE_THREAD, **label}
    return LabelRun(root, settings, frames, ["O", "H"], iteration=1)


def test_cp2k_forces_and_virial_are_derivatives_of_its_energy(tmp_path: Path) -> None:
    template = (GOLDEN / "gfn1.inp").read_text().replace("EPS_SCF 1.0E-6", "EPS_SCF 1.0E-9")
    run = cp2k(tmp_path, template, differences(waters()), group_size=7)
    assert run.stage().classes == {"ok": 7}
    check_derivatives(run, 0.005)


def test_cp2k_dft(tmp_path: Path) -> None:
    run = cp2k(tmp_path, (GOLDEN / "pbe.inp").read_text(), [waters()])
    assert run.stage().classes == {"ok": 1}
    ours = dpdata.LabeledSystem(str(run.labels / "O2H4"), fmt="deepmd/npy").data
    output = tmp_path / run.place.jobs / "000000/out/task.000000/output.log"
    theirs = dpdata.LabeledSystem(str(output), fmt="cp2k/output").data  # an independent reader
    order = [0, 3, 1, 2, 4, 5]
    assert ours["energies"] == pytest.approx(theirs["energies"], abs=1e-6)
    assert np.allclose(ours["forces"][0], theirs["forces"][0][order], rtol=0, atol=1e-6)
    assert np.abs(ours["forces"]).max() > 1


def test_cp2k_that_does_not_converge_and_outputs_cut_off(tmp_path: Path) -> None:
    template = (GOLDEN / "gfn1.inp").read_text().replace("MAX_SCF 200", "MAX_SCF 14")
    near = waters(2)
    near.positions[3] = near.positions[0] + [0.05, 0, 0]  # two oxygens on one another
    run = cp2k(tmp_path, template, [waters(1), near, waters(3)])
    report = run.stage()
    assert report.complete
    assert [each["class"] for each in run.index] == ["ok", "scf_not_converged", "ok"]
    assert report.jobs.failed == 0  # it is a result: nothing to repeat
    output = tmp_path / run.place.jobs / "000002/out/task.000000/output.log"
    text = output.read_bytes()
    output.write_bytes(text[: text.index(b"PROGRAM ENDED")].ljust(len(text)))
    record(run.place, tmp_path, "000002")
    assert run.reduce(3).classes == {"ok": 1, "scf_not_converged": 1, "truncated": 1}


def test_a_bad_keyword_is_told(tmp_path: Path) -> None:
    run = cp2k(tmp_path, (GOLDEN / "gfn1.inp").read_text().replace("MAX_SCF", "MAX_SCFF"), [waters()])
    report = run.stage()
    assert not report.complete and report.jobs.failed == 1
    assert "found an unknown keyword MAX_SCFF in section SCF" in report.messages[1]
    output = tmp_path / run.place.jobs / "000000/out/task.000000/output.log"
    assert abort_message(output.read_text()) in report.messages[1]
