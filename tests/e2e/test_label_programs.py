"""Label apps with their real programs: labels are derivatives of energies, and what went wrong has its class."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import dpdata
import pytest
from ase import Atoms
from ase.build import bulk

from conventions.space import DataSpace
from operators.registry import load_config
from tests.e2e.engines import need
from tests.e2e.test_label import DISPLACEMENT, ONE_THREAD, STRAIN, moved, strained
from tests.label_run import LabelRun, add_file
from tests.train_run import TrainRun

pytestmark = pytest.mark.engines
GOLDEN = Path(__file__).parents[1] / "unit" / "golden" / "label"


def compare(run: LabelRun, atom: int, axis: int, within: float, virial: bool = True) -> None:
    """A force and two elements of the virial of the first frame against energies of the others."""
    (system,) = [path for path in run.labels.iterdir() if path.is_dir()]
    data = dpdata.LabeledSystem(str(system), fmt="deepmd/npy").data
    steps = -(data["energies"][1::2] - data["energies"][2::2]) / 2
    force = data["forces"][0, atom, axis]
    assert steps[0] / DISPLACEMENT == pytest.approx(force, abs=within)
    assert abs(force) > 0.2  # so that a wrong sign or unit would show
    if not virial:
        assert "virials" not in data
        return
    for step, (i, j) in zip(steps[1:], ((0, 0), (0, 1)), strict=True):
        assert step / STRAIN == pytest.approx(data["virials"][0, i, j], abs=within)
        assert abs(data["virials"][0, i, j]) > 0.2


def probed(run: LabelRun) -> str:
    """What `doctor` says of the program."""
    folder = run.root / "probe"
    folder.mkdir()
    config = load_config((run.root / run.place.config).read_bytes())
    for name, content in run.app.probe(config, run.root / DataSpace.files).items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    done = subprocess.run(["sh", "run.sh"], cwd=folder, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().splitlines()[-1]


# Quantum ESPRESSO -----------------------------------------------------------------------------------------------------


def aluminium() -> Atoms:
    atoms = bulk("Al", a=3.9).repeat((1, 1, 2))
    atoms.set_cell(atoms.cell.array @ [[1, 0.08, 0], [0.08, 1, 0.01], [0, 0.01, 1]], scale_atoms=True)
    atoms.rattle(0.1, seed=2)
    return atoms


def qe(root: Path, frames: list[Atoms], **label: Any) -> LabelRun:
    need("pw.x", "ld1.x")
    subprocess.run(["ld1.x", "-in", GOLDEN / "al.ld1"], cwd=root, stdout=subprocess.DEVNULL, check=True)
    settings = {
        "input": add_file(root, GOLDEN / "al.pw.in"),
        "pseudo": {"Al": add_file(root, root / "Al.UPF")},
        "setup": ONE_THREAD,
    }
    return LabelRun(root, {"app": "qe", **settings, **label}, frames, ["Al"], iteration=1)


def test_qe_forces_and_virial_are_derivatives_of_its_energy(tmp_path: Path) -> None:
    atoms = aluminium()
    frames = [atoms, *moved(atoms, 1, 2), *strained(atoms, 0, 0), *strained(atoms, 0, 1)]
    run = qe(tmp_path, frames, group_size=7)
    assert run.stage().classes == {"ok": 7}
    compare(run, 1, 2, 0.005)


def test_what_qe_cannot_label_and_what_it_cannot_read(tmp_path: Path) -> None:
    """No convergence, and atoms on one another, are results; a bad keyword is told."""
    text = (GOLDEN / "al.pw.in").read_text().replace("ecutwfc=40", "ecutwfc=12")
    (tmp_path / "few.in").write_text(text.replace("conv_thr=1e-10", "conv_thr=1e-12, electron_maxstep=2"))
    on_one_another = aluminium()
    on_one_another.positions[1] = on_one_another.positions[0] + on_one_another.cell.array[0]
    run = qe(tmp_path, [aluminium(), on_one_another], input=add_file(tmp_path, tmp_path / "few.in"))
    report = run.stage()
    assert report.classes == {"scf_not_converged": 1, "aborted": 1} and report.jobs.failed == 0
    assert any("aborted: Error in routine check_atoms (1): " in message for message in report.messages)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad.in").write_text(text.replace("conv_thr", "conv_th"))
    run = qe(tmp_path / "bad", [aluminium()], input=add_file(tmp_path / "bad", tmp_path / "bad.in"))
    report = run.stage()
    assert report.jobs.failed == 1 and "bad line in namelist &electrons" in report.messages[1]
    assert probed(run).startswith("PWSCF v")


# A teacher of DeePMD-kit ----------------------------------------------------------------------------------------------


def test_a_teachers_forces_and_virial_are_derivatives_of_its_energy(tmp_path: Path) -> None:
    need("dp")
    (tmp_path / "teacher").mkdir()
    teacher = TrainRun(
        tmp_path / "teacher", {"numb_models": 1, "numb_steps": 100, "skip_neighbor_stat": True}, tested=False
    )
    teacher.write_data()
    assert teacher.stage().complete
    atoms = bulk("Cu", a=3.5, cubic=True).repeat(2)
    atoms.set_cell(atoms.cell.array @ [[1, 0.03, 0], [0.03, 1, 0.01], [0, 0.01, 1]], scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    frames = [atoms, *moved(atoms, 1, 2), *strained(atoms, 0, 0), *strained(atoms, 0, 1)]
    settings = {"app": "deepmd", "teacher_model_path": add_file(tmp_path, teacher.product() / "graph.000.pb")}
    run = LabelRun(tmp_path, {**settings, "setup": ONE_THREAD}, frames, ["Cu"], iteration=1)
    assert run.stage().classes == {"ok": 7}
    compare(run, 1, 2, 0.01)
    assert probed(run).startswith("DeePMD-kit ")


# NWChem ---------------------------------------------------------------------------------------------------------------


def water() -> Atoms:
    return Atoms("OH2", [[0, 0, 0], [0.80, 0.586, 0.1], [-0.757, 0.590, 0]], cell=[9, 9, 9], pbc=True)


def nwchem(root: Path, frames: list[Atoms], text: str) -> LabelRun:
    need("nwchem")
    (root / "water.nw").write_text(text)
    settings = {"app": "nwchem", "input": add_file(root, root / "water.nw"), "setup": ONE_THREAD}
    return LabelRun(root, settings, frames, ["O", "H"], iteration=1)


def test_nwchem_forces_are_derivatives_of_its_energy(tmp_path: Path) -> None:
    """With dispersion, so that it is seen to be in the energy as in the forces."""
    run = nwchem(tmp_path, [water(), *moved(water(), 1, 0)], (GOLDEN / "water.nw").read_text())
    assert run.stage().classes == {"ok": 3}
    compare(run, 1, 0, 0.005, virial=False)
    assert probed(run).startswith("NWChem ")


@pytest.mark.parametrize("theory", ["scf", "mp2"])
def test_other_theories_of_nwchem(tmp_path: Path, theory: str) -> None:
    run = nwchem(tmp_path, [water(), *moved(water(), 1, 0)], f"basis\n* library 3-21g\nend\ntask {theory} gradient\n")
    assert run.stage().classes == {"ok": 3}
    compare(run, 1, 0, 0.005, virial=False)


def test_what_nwchem_cannot_label_and_what_it_cannot_read(tmp_path: Path) -> None:
    text = (GOLDEN / "water.nw").read_text().replace("grid fine", "iterations 2")
    near = water()
    near.positions[1] = near.positions[0] + [0.001, 0, 0]
    run = nwchem(tmp_path, [water(), near], text)
    report = run.stage()
    assert report.classes == {"scf_not_converged": 1, "aborted": 1} and report.jobs.failed == 0
    assert any("geom_verify_coords failed" in message for message in report.messages)
    (tmp_path / "bad").mkdir()
    report = nwchem(tmp_path / "bad", [water()], text.replace("xc", "xcc")).stage()
    assert report.jobs.failed == 1 and "dft_input: unknown directive" in report.messages[1]
    assert "xcc pbe0" in report.messages[1]
