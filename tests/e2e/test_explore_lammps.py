"""explore/lammps with real LAMMPS and a committee of two barely trained models of O and H."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from operators.sums import write_sums
from tests.explore_run import ExploreRun

pytestmark = pytest.mark.engines
BIN = Path(sys.executable).parent
THREADS = {"OMP_NUM_THREADS": "1", "DP_INTRA_OP_PARALLELISM_THREADS": "1", "DP_INTER_OP_PARALLELISM_THREADS": "1"}
MD: dict[str, Any] = {"structures": ["water"], "ensemble": "nvt", "temps": [300.0], "nsteps": 20, "dt": 0.0005}
TEMPLATE = """\
units metal
atom_style atomic
box tilt large
read_data anything.lmp
pair_style deepmd my.pb
pair_coeff * * H O
dump dpgen_dump
velocity all create V_TEMP V_SEED
fix 1 all nvt temp V_TEMP V_TEMP 0.1
timestep 0.0005
run 20
"""


def water(seed: int = 0) -> Atoms:
    """Four molecules in a small cubic cell."""
    random = np.random.default_rng(seed)
    cell = Atoms(cell=[6.0, 6.0, 6.0], pbc=True)
    for place in ((0, 0, 0), (3, 3, 0), (3, 0, 3), (0, 3, 3)):
        one = molecule("H2O")
        one.rotate(random.uniform(0, 360), random.normal(size=3))
        one.translate(np.array(place) + 1.5 - one.positions[0])
        cell += one
    return cell


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    frame, random = water(), np.random.default_rng(1)
    data = root / "data" / "set.000"
    data.mkdir(parents=True)
    (root / "data" / "type_map.raw").write_text("O\nH\n")
    (root / "data" / "type.raw").write_text(" ".join("0" if s == "O" else "1" for s in frame.symbols))
    np.save(data / "box.npy", frame.cell.array.reshape(1, 9))
    np.save(data / "coord.npy", frame.positions.reshape(1, -1))
    np.save(data / "energy.npy", np.array([-60.0]))
    np.save(data / "force.npy", random.normal(size=(1, 3 * len(frame))))
    jobs = []
    for number in range(2):
        seed = 10 * number
        descriptor = {
            "type": "se_e2_a",
            "sel": [20, 40],
            "rcut": 3.5,
            "rcut_smth": 0.5,
            "neuron": [5, 10],
            "seed": seed,
        }
        settings = {
            "model": {
                "type_map": ["O", "H"],
                "descriptor": {**descriptor, "axis_neuron": 4},
                "fitting_net": {"neuron": [10, 10], "seed": seed + 1},
            },
            "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 0.001, "decay_steps": 5},
            "loss": {"type": "ener"},
            "training": {
                "training_data": {"systems": [str(root / "data")], "batch_size": 1},
                "numb_steps": 10,
                "save_freq": 10,
                "disp_freq": 10,
                "seed": seed + 2,
            },
        }
        folder = root / f"train{number}"
        folder.mkdir()
        (folder / "input.json").write_text(json.dumps(settings))
        dp = f"{BIN / 'dp'}"
        script = f"{dp} train input.json --skip-neighbor-stat && {dp} freeze -o ../committee/graph.{number:03d}.pb"
        jobs.append(subprocess.Popen(["sh", "-c", script], cwd=folder, env={**os.environ, **THREADS}))
    (root / "committee").mkdir()
    assert [job.wait() for job in jobs] == [0, 0]
    write_sums(root / "committee")
    return root / "committee"


def explore(
    root: Path, models: Path, sets: dict[str, list[Atoms]], groups: list[dict[str, Any]], **more: Any
) -> ExploreRun:
    root.mkdir(exist_ok=True)
    run = ExploreRun(
        root,
        sets,
        [groups],
        more.pop("type_map", ["O", "H"]),
        {"in.lammps": TEMPLATE},
        {"command": str(BIN / "dpgen2-lmp"), "group_size": 10},
        **more,
    )
    run.config["train"]["numb_models"] = 2
    made = run.place.newest_product("train")
    assert made is not None
    product = root / made
    product.parent.mkdir(parents=True)
    product.symlink_to(models)
    return run


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in THREADS.items():
        monkeypatch.setenv(name, value)


def first_energy(folder: Path, column: str = "PotEng") -> float:
    """Potential energy of all atoms at step 0 in eV, from the log."""
    lines = (folder / "log.lammps").read_text().splitlines()
    header = next(number for number, line in enumerate(lines) if line.split()[:1] == ["Step"])
    return float(lines[header + 1].split()[lines[header].split().index(column)])


def test_every_ensemble_and_a_template(tmp_path: Path, models: Path) -> None:
    skewed = water(1)
    skewed.set_cell(skewed.cell.array @ [[1, 0.1, 0], [-0.4, 1, 0.2], [0, 0.3, 1]], scale_atoms=True)
    skewed.rotate(30, (1, 2, 3), rotate_cell=True)
    groups = [
        MD,
        {**MD, "ensemble": "nve"},
        {**MD, "ensemble": "npt-a", "press": [1.0]},
        {**MD, "structures": ["skewed"], "ensemble": "npt-t", "press": [1.0], "trj_freq": 7},
        {"structures": ["water"], "template": "@in.lammps", "revisions": {"V_TEMP": [400]}, "trj_freq": 5},
    ]
    run = explore(tmp_path, models, {"water": [water()], "skewed": [skewed]}, groups)
    report = run.run()
    assert (report.complete, report.next, report.classes) == (True, True, {"ok": 5})
    for one, steps in zip(run.trajectories(), [*[[0, 10, 20]] * 3, [0, 7, 14], [0, 5, 10, 15, 20]], strict=True):
        folder = tmp_path / run.place.jobs / one["job_id"] / "out" / one["task_id"]
        assert one["last_step"] == steps[-1]
        table = np.loadtxt(folder / "model_devi.out")
        assert table[:, 0].tolist() == steps
        assert (table[:, 4] > 0).all()
        dump = (folder / "traj.lammpstrj").read_text().splitlines()
        assert [int(dump[n + 1]) for n, line in enumerate(dump) if line == "ITEM: TIMESTEP"] == steps
        first = ase.io.read(folder / "traj.lammpstrj", index=0, format="lammps-dump-text")
        start = {"water": water(), "skewed": skewed}[one["structure"]]
        distances = first.get_all_distances(mic=True)
        np.testing.assert_allclose(distances, start.get_all_distances(mic=True), atol=1e-6)
        assert [line.split()[0] for line in dump[9:21]] == [str(number) for number in range(1, 13)]


def test_elements_do_not_depend_on_the_order_of_type_map(tmp_path: Path, models: Path) -> None:
    swapped = water()
    swapped.symbols = ["H" if symbol == "O" else "O" for symbol in swapped.symbols]
    template = {"structures": ["water"], "template": "@in.lammps", "revisions": {"V_TEMP": [300]}}
    same = explore(tmp_path / "same", models, {"water": [water()]}, [MD])
    other_order = explore(tmp_path / "order", models, {"water": [water()]}, [MD, template], type_map=["H", "O"])
    other_atoms = explore(tmp_path / "atoms", models, {"water": [swapped]}, [MD])
    assert [run.run().classes for run in (same, other_order, other_atoms)] == [{"ok": 1}, {"ok": 2}, {"ok": 1}]
    energy = first_energy(same.out(0))
    assert first_energy(other_order.out(0)) == pytest.approx(energy)
    assert first_energy(other_order.out(0, 1), "E_pair") == pytest.approx(energy)
    assert abs(first_energy(other_atoms.out(0)) - energy) > 1e-3


def test_explosions_are_results_of_their_own_class(tmp_path: Path, models: Path) -> None:
    same_place = water()
    same_place.positions[1] = same_place.positions[0]
    groups = [
        {**MD, "structures": ["same_place"]},
        {**MD, "ensemble": "nve", "temps": [5e7], "dt": 0.01, "nsteps": 100},
        MD,
    ]
    run = explore(tmp_path, models, {"water": [water()], "same_place": [same_place]}, groups)
    report = run.run()
    assert report.classes == {"nan": 1, "lost_atoms": 1, "ok": 1}
    assert report.complete
    assert report.next
    assert (run.trajectories()[0]["class"], run.trajectories()[0]["rows"]) == ("nan", 0)


def test_failure_that_is_not_physics_is_to_be_repeated(tmp_path: Path, models: Path) -> None:
    run = explore(tmp_path, models, {"water": [water()]}, [MD])
    run.config["train"]["numb_models"] = 3  # the committee has two
    report = run.run()
    assert not report.complete
    assert report.classes == {"lost": 1}
    assert "graph.002.pb" in report.messages[0]


def test_same_input_same_bytes(tmp_path: Path, models: Path) -> None:
    found = []
    for name in ("one", "two"):
        run = explore(tmp_path / name, models, {"water": [water()]}, [{**MD, "nsteps": 100}])
        run.run()
        found.append([(run.out(0) / file).read_bytes() for file in ("model_devi.out", "traj.lammpstrj")])
    assert found[0] == found[1]


COLVARS = """\
colvar {
  name stretch
  distance {
    group1 {
      atomNumbers 1
    }
    group2 {
      atomNumbers 2
    }
  }
}
harmonic {
  colvars stretch
  centers V_LENGTH
  forceConstant 50
}
"""


def test_a_collective_variable_pulls(tmp_path: Path, models: Path) -> None:
    """COLVARS of the wheel reads a file of its own beside the template: two bonds held at other lengths."""
    run = explore(tmp_path, models, {"water": [water()]}, [MD])
    lines = TEMPLATE.replace("box tilt", "atom_modify map yes\nbox tilt").splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("fix"))
    lines.insert(place, "fix pull all colvars pull.V_LENGTH.inp output pulled")
    groups = []
    for length in (0.9, 1.3):
        name = f"pull.{length}.inp"
        stored = {
            "in.lammps": run._store("in.lammps", "\n".join(lines).replace("V_LENGTH", str(length)).encode() + b"\n"),
            name: run._store(name, COLVARS.replace("V_LENGTH", str(length)).encode()),
        }
        group = {"structures": ["water"], "template": stored["in.lammps"], "files": [stored[name]], "trj_freq": 10}
        groups.append({**group, "revisions": {"V_TEMP": [100]}})
    run.config["explore"]["stages"] = [groups]
    report = run.run()
    assert (report.complete, report.classes) == (True, {"ok": 2}), report.messages
    lengths = []
    for one in run.trajectories():
        folder = tmp_path / run.place.jobs / one["job_id"] / "out" / one["task_id"]
        last = ase.io.read(folder / "traj.lammpstrj", index=-1, format="lammps-dump-text")
        lengths.append(last.get_distance(0, 1, mic=True))
    assert lengths[0] < lengths[1] - 0.1, lengths
