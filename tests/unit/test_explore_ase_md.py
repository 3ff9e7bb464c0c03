"""The script of explore/ase, in this process: dynamics, deviations, frames, and how trajectories end."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator

from operators.explore import ase_md
from operators.explore.ase import judge
from operators.select.dump import DumpIndex, Frame, read_frames
from operators.select.score import read_deviations
from tests.pair_models import lennard_jones

SIGMA = 2.3
MODELS = [lennard_jones(0.4, SIGMA), lennard_jones(0.44, SIGMA), lennard_jones(0.4, 1.02 * SIGMA)]
CU = bulk("Cu", "fcc", a=1.56 * SIGMA, cubic=True)
CU.rattle(0.05, seed=1)
SOFT = [lennard_jones(0.04, SIGMA), lennard_jones(0.044, SIGMA)]  # bulk modulus 75 epsilon / sigma^3: 40 GPa
MASS = 63.546


def skewed(handed: int = 1) -> Atoms:
    """Two elements in a cell that is far from a lower triangle, atoms outside of it."""
    atoms = CU.repeat((2, 1, 1))
    atoms.set_cell(atoms.cell.array @ [[1, 0.1, 0], [-0.2, 1, 0.2], [0, 0.15, 1]], scale_atoms=True)
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    atoms.symbols[[0, 3, 5]] = "Al"
    atoms.positions += [7.0, -9.0, 0.5]
    if handed < 0:
        atoms.set_cell(atoms.cell.array * [[1], [1], [-1]])
    return atoms


def task(atoms: Atoms, method: str = "nvt", **more: Any) -> dict[str, Any]:
    return {
        "symbols": atoms.get_chemical_symbols(),
        "masses": [MASS] * len(atoms),
        "cell": atoms.cell.array.tolist(),
        "positions": atoms.positions.tolist(),
        "periodic": bool(atoms.pbc.all()),
        "type_map": ["Al", "Cu"],
        "method": method,
        "temp": 300.0,
        "press": None,
        "nsteps": 20,
        "dt": 0.002,
        "tau_t": 0.1,
        "tau_p": 0.5,
        "trj_freq": 5,
        "fmax": 0.05,
        "epsilon": None,
        "epsilon_v": None,
        "largest_volume_ratio": 4.0,
        "closest": 0.4,
        "seed": 7,
        **more,
    }


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(atoms: Atoms, method: str = "nvt", models: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return ase_md.run(task(atoms, method, **more), models or MODELS)


def frames(folder: Path) -> dict[int, Frame]:
    """What select reads."""
    path = folder / "traj.lammpstrj"
    index = DumpIndex.of(path)
    found = {}
    for step, frame in read_frames(path, index, index.steps.tolist(), 2):
        assert isinstance(frame, Frame)
        found[step] = frame
    return found


def steps_and_volumes(text: str) -> list[tuple[int, float, float, float]]:
    """Step, energy, temperature and volume of the printed table."""
    rows = [line.split() for line in text.splitlines() if line.split()[0].isdigit()]
    return [(int(step), float(pe), float(temp), float(volume)) for step, pe, temp, volume in rows]


def test_the_script_needs_ase_and_numpy_only() -> None:
    tree = ast.parse(Path(ase_md.__file__).read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"ase", "numpy"}


# --- frames and deviations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nve", "tri"])
@pytest.mark.parametrize("handed", [1, -1])
def test_the_frame_that_select_reads_is_the_one_that_was_evaluated(
    folder: Path, capsys: pytest.CaptureFixture[str], method: str, handed: int
) -> None:
    atoms = skewed(handed)
    assert run(atoms, method, press=1.0)["class"] == "ok"
    printed = steps_and_volumes(capsys.readouterr().out)
    found = frames(folder)
    assert list(found) == [0, 5, 10, 15, 20] == [row[0] for row in printed]
    first = Atoms(atoms.symbols, found[0].positions, cell=found[0].cell, pbc=True)
    assert [["Al", "Cu"][kind] for kind in found[0].types] == atoms.get_chemical_symbols()
    np.testing.assert_allclose(
        first.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-8, err_msg="another geometry"
    )
    table = read_deviations(folder / "model_devi.out", virial=True)
    for row, (step, energy, _, volume) in enumerate(printed):
        frame = found[step]
        assert np.linalg.det(frame.cell) == pytest.approx(volume, abs=1e-3)
        assert (frame.cell[np.triu_indices(3, 1)] == 0).all()
        inside = frame.positions @ np.linalg.inv(frame.cell)
        assert inside.min() > -1e-9 and inside.max() < 1 + 1e-9
        answers = [model(atoms.get_chemical_symbols(), frame.positions[None], frame.cell[None]) for model in MODELS]
        assert answers[0][0][0] == pytest.approx(energy, abs=1e-6)
        expected = ase_md.deviations(np.array([a[1][0] for a in answers]), np.array([a[2][0] for a in answers]))
        np.testing.assert_allclose(table[:, row], [step, expected[3], expected[4], expected[0]], rtol=2e-6)


@pytest.mark.parametrize("handed", [1, -1])
def test_a_frame_is_turned_and_not_mirrored(handed: int) -> None:
    cell = skewed(handed).cell.array
    turned, turn = ase_md.lower_triangle(cell)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(np.array([[1], [1], [handed]]) * cell @ turn, turned, atol=1e-12)


def test_rows_look_like_those_of_the_plugin(folder: Path) -> None:
    run(CU, "nve", nsteps=5)
    lines = (folder / "model_devi.out").read_text().splitlines()
    columns = ["max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f"]
    assert lines[0] == "#       step         " + "         ".join(columns)
    assert [len(line) for line in lines] == [126] * 3
    assert lines[1].startswith("           0 ")


def test_deviations() -> None:
    forces = np.zeros((2, 2, 3))
    forces[0, 0] = [3.0, 4.0, 0.0]  # atom 0: half of a distance of 5
    virials = np.zeros((2, 3, 3))
    virials[1, 0, 1] = 8.0  # half of that, by two atoms
    assert ase_md.deviations(forces, virials) == [2.0, 0.0, 2.0 / 3, 2.5, 0.0, 1.25]


def test_relative_deviations(folder: Path) -> None:
    forces = np.zeros((2, 2, 3))
    forces[0, 0] = [3.0, 4.0, 0.0]
    forces[:, 1] = [0.0, 0.0, 2.0]
    virials = np.zeros((2, 3, 3))
    virials[1, 0, 1] = 8.0
    assert ase_md.deviations(forces, virials, 0.5, 3.0) == pytest.approx([0.4, 0, 0.4 / 3, 2.5 / 3, 0, 2.5 / 6])
    assert ase_md.deviations(forces, virials, 0.5)[:3] == ase_md.deviations(forces, virials)[:3]
    run(CU, "nve", nsteps=5)
    plain = np.loadtxt(folder / "model_devi.out")
    run(CU, "nve", nsteps=5, epsilon=1.0, epsilon_v=1.0)
    relative = np.loadtxt(folder / "model_devi.out")
    assert (relative[:, [1, 4]] < plain[:, [1, 4]]).all()


def test_more_frames_than_a_batch_are_all_written(folder: Path) -> None:
    run(CU, "nve", nsteps=ase_md.BATCH + 3, trj_freq=1)
    assert list(frames(folder)) == list(range(ase_md.BATCH + 4))
    assert len(np.loadtxt(folder / "model_devi.out")) == ase_md.BATCH + 4


def test_same_input_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        run(CU, "langevin", seed=seed)
        found.append([(tmp_path / name / file).read_bytes() for file in (ase_md.ROWS, ase_md.DUMP)])
    assert found[0] == found[1] != found[2]


# --- dynamics -------------------------------------------------------------------------------------------------------


def test_velocities_have_the_temperature_and_no_momentum() -> None:
    atoms = skewed()
    ase_md.thermalise(atoms, 450.0, np.random.default_rng(3))
    assert ase_md.temperature(atoms) == pytest.approx(450.0)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-12)


def test_nve_keeps_the_energy(capsys: pytest.CaptureFixture[str]) -> None:
    run(CU, "nve", nsteps=60, dt=0.001)
    rows = steps_and_volumes(capsys.readouterr().out)
    totals = [pe + 1.5 * (len(CU) - 1) * units.kB * temp for _, pe, temp, _ in rows]
    moved = np.ptp([pe for _, pe, _, _ in rows])
    assert np.ptp(totals) < 0.05 * moved


@pytest.mark.parametrize("method", ["nvt", "langevin", "iso"])
def test_thermostats_keep_the_temperature(capsys: pytest.CaptureFixture[str], method: str) -> None:
    run(CU, method, nsteps=300, dt=0.004, tau_t=0.02, temp=200.0, press=0.0, trj_freq=2, models=MODELS[:2])
    rows = steps_and_volumes(capsys.readouterr().out)[50:]
    mean = np.mean([temp for _, _, temp, _ in rows])
    if method == "langevin":  # moves the centre of mass too: 3 N degrees of freedom
        mean *= (len(CU) - 1) / len(CU)
    assert mean == pytest.approx(200, rel=0.2)


@pytest.mark.parametrize("method", ["iso", "aniso", "tri"])
def test_pressure_makes_the_cell_smaller(capsys: pytest.CaptureFixture[str], method: str) -> None:
    volumes = []
    for press in (0.0, 3e4):  # bar
        end = run(CU, method, SOFT, press=press, nsteps=150, temp=100.0, tau_p=0.1, trj_freq=5)
        assert end["class"] == "ok"
        volumes.append(np.mean([row[3] for row in steps_and_volumes(capsys.readouterr().out)[-10:]]))
    assert volumes[1] < 0.97 * volumes[0]


def test_the_cell_relaxes_to_the_pressure_in_bar(folder: Path) -> None:
    end = run(CU, "relax_cell", SOFT, press=2e4, nsteps=100, fmax=0.005)
    assert end["step"] < 100
    last = list(frames(folder).values())[-1]
    _, _, virials = SOFT[0](CU.get_chemical_symbols(), last.positions[None], last.cell[None])
    pressure = np.trace(virials[0]) / 3 / np.linalg.det(last.cell)
    assert pressure / units.bar == pytest.approx(2e4, rel=0.05)


def test_a_relaxation_ends_with_its_minimum(folder: Path) -> None:
    end = run(CU, "relax", nsteps=500, trj_freq=5, fmax=0.02)
    assert end["class"] == "ok" and 0 < end["step"] < 500
    steps = list(frames(folder))
    assert steps[-1] == end["step"] and steps[:2] == [0, 5]
    assert end["step"] % 5, "else the last frame would be written anyway: take another trj_freq"
    last = frames(folder)[end["step"]]
    _, forces, _ = MODELS[0](CU.get_chemical_symbols(), last.positions[None], last.cell[None])
    assert np.linalg.norm(forces[0], axis=1).max() < 0.0201
    assert judge_here(folder, end) == ("ok", len(steps), end["step"])


# --- endings --------------------------------------------------------------------------------------------------------


def judge_here(folder: Path, end: dict[str, Any]) -> tuple[str, int, int]:
    (folder / "end.json").write_text(json.dumps(end))
    found = judge(folder)
    return found.kind, found.rows, found.last_step


def spoilt(after: int, what: str) -> Any:
    """A model with one number that is none after so many calls."""
    calls = 0

    def model(symbols: list[str], positions: Any, cells: Any) -> tuple[Any, Any, Any]:
        nonlocal calls
        calls += len(positions)
        answer = dict(zip(("energy", "forces", "virial"), MODELS[0](symbols, positions, cells), strict=True))
        if calls > after:
            answer[what].flat[0] = np.nan
        return answer["energy"], answer["forces"], answer["virial"]

    return model


@pytest.mark.parametrize("what", ["energy", "forces", "virial"])
def test_nan_of_the_model_that_drives(folder: Path, what: str) -> None:
    end = run(CU, "nvt", [spoilt(12, what), MODELS[1]])
    assert end == {"class": "nan", "step": 11, "why": "the model's energy, forces or virial are not finite numbers"}
    assert judge_here(folder, end) == ("nan", 3, 10)


def test_nan_of_another_model(folder: Path) -> None:
    end = run(CU, "nvt", [MODELS[0], spoilt(0, "forces")])
    assert judge_here(folder, end) == ("nan", 0, -1)


def test_cell_that_explodes(folder: Path) -> None:
    end = run(CU, "iso", SOFT, press=-1e5, nsteps=2000, tau_p=0.1)
    assert end["class"] == "box_blown" and "times its first volume" in end["why"]
    kind, rows, last = judge_here(folder, end)
    assert kind == "box_blown" and rows == last / 5 + 1 and 0 < last < 2000
    assert len(frames(folder)) == rows


def test_atoms_that_fly(folder: Path) -> None:
    end = run(CU, "nve", temp=1e8)
    assert end["class"] == "lost_atoms" and end["step"] == 0
    assert judge_here(folder, end) == ("lost_atoms", 0, -1)


def test_atoms_on_top_of_each_other_are_the_last_frame(folder: Path) -> None:
    atoms = CU.copy()
    atoms.positions[1] = atoms.positions[0] + [0.3, 0, 0]
    end = run(atoms, "nve", [lennard_jones(1e-9, 0.5), lennard_jones(2e-9, 0.5)])
    assert end == {"class": "collapsed", "step": 0, "why": "two atoms are 0.300 Angstrom apart"}
    assert judge_here(folder, end) == ("collapsed", 1, 0)


def test_an_error_of_the_model_is_no_result() -> None:
    def model(*_: Any) -> Any:
        raise OSError("no GPU")

    with pytest.raises(OSError, match="no GPU"):
        run(CU, "nvt", [model, model])


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ('{"class": "ok"}', "ok"),
        ('{"class": "lost_atoms"}', "lost_atoms"),
        ('{"class": "unheard"}', "truncated"),
        ('{"class": ["ok"]}', "truncated"),
        ('["ok"]', "truncated"),
        ('{"class": "o', "truncated"),
        ("\0\xff", "truncated"),
        ("", "truncated"),
        (None, "truncated"),
    ],
)
def test_what_the_job_says_of_its_end(folder: Path, end: str | None, kind: str) -> None:
    run(CU, "nve", nsteps=5)
    if end is not None:
        (folder / "end.json").write_text(end, encoding="latin-1")
    assert judge(folder).kind == kind


def test_a_dump_that_is_cut_off_is_seen(folder: Path) -> None:
    end = run(CU, "nve", nsteps=5)
    path = folder / "traj.lammpstrj"
    path.write_bytes(path.read_bytes()[:-5])
    assert judge_here(folder, end)[0] == "truncated"


# --- starting -------------------------------------------------------------------------------------------------------


def test_ase_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models", sys.modules["tests.pair_models"])
    monkeypatch.delattr("ase.md.nose_hoover_chain.MTKNPT")
    with pytest.raises(SystemExit, match=r"has no ase\.md\.nose_hoover_chain\.MTKNPT, .*pip install -U ase"):
        ase_md.main("probe", "tri")


def test_probe_finds_every_method(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models", sys.modules["tests.pair_models"])
    ase_md.main("probe", *ase_md.METHODS)
    assert capsys.readouterr().out.startswith("ASE 3.")


def test_committee_is_that_of_the_trainer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models", sys.modules["tests.pair_models"])
    (folder / "graph.001.pb").write_text('{"epsilon": 0.4, "sigma": 2.3}')
    assert len(ase_md.committee(folder, ["graph.001.pb"])) == 1
    with pytest.raises(SystemExit, match=r"error: the committee has no graph\.000\.pb"):
        ase_md.committee(folder, ["graph.000.pb", "graph.001.pb"])
    (folder / "graph.001.pb").write_text('{"error": "the models need a package"}')
    with pytest.raises(SystemExit, match="error: the models need a package"):
        ase_md.committee(folder, [])


def test_driver_is_a_calculator_of_ase() -> None:
    atoms = skewed()
    atoms.calc = ase_md.Driver(MODELS[0], atoms.get_volume(), 4.0)
    assert isinstance(atoms.calc, Calculator)
    stress = atoms.get_stress(voigt=False)
    numbers = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * 1e-5 * np.array([[1, 0, 0], [0] * 3, [0] * 3])), True)
        strained.calc = ase_md.Driver(MODELS[0], atoms.get_volume(), 4.0)
        numbers.append(strained.get_potential_energy())
    assert (numbers[0] - numbers[1]) / 2e-5 / atoms.get_volume() == pytest.approx(stress[0, 0], rel=1e-4)


def dimer(stretch: float = 1.0) -> Atoms:
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2 ** (1 / 6) * SIGMA * stretch]])
    atoms.center(vacuum=6)
    return atoms


def test_a_molecule_has_no_images(folder: Path) -> None:
    """Its models get no cell, its dump says that the box is not periodic, and its atoms are where they were."""
    cells = []

    def watched(symbols: list[str], positions: Any, given: Any) -> Any:
        cells.append(given)
        return MODELS[0](symbols, positions, given)

    assert run(dimer(1.05), "nve", [watched, MODELS[1]])["class"] == "ok"
    assert cells and all(cell is None for cell in cells)
    found = frames(folder)
    assert sorted(found) == [0, 5, 10, 15, 20] and not any(frame.periodic for frame in found.values())
    np.testing.assert_allclose(found[0].positions, dimer(1.05).positions, atol=1e-8)
    assert judge(folder).kind == "truncated", "end.json is written by main"


def test_a_molecule_that_breaks_is_lost(folder: Path) -> None:
    """Its atoms fly apart, until one is at the end of the box."""
    end = run(dimer(0.72), "nve", nsteps=4000, dt=0.004)
    assert end["class"] == "lost_atoms" and "left its box" in end["why"]
    assert max(frames(folder)) < 4000
