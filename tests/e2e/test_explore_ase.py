"""explore/ase with a real committee of DeePMD-kit, beside the real LAMMPS plugin."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.explore.lammps_input import write_conf
from tests.e2e.test_explore_lammps import BIN, models, one_thread, water
from tests.explore_run import ExploreRun

pytestmark = pytest.mark.engines
__all__ = ["models", "one_thread"]  # fixtures
MD: dict[str, Any] = {"structures": ["water"], "ensemble": "nvt", "temps": [200.0], "nsteps": 20, "dt": 0.00025}
RERUN = """\
units metal
atom_style atomic
box tilt large
read_data conf.lmp
change_box all triclinic
pair_style deepmd graph.000.pb graph.001.pb out_freq 1 out_file lmp.out OPTIONS
pair_coeff * * H O
thermo 1
thermo_style custom step pe
rerun traj.lammpstrj dump x y z box yes
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, models: Path) -> ExploreRun:
    """A stage of four trajectories; type_map is not in the order of the models'."""
    root = tmp_path_factory.mktemp("ase")
    skewed = water(1)
    skewed.set_cell(skewed.cell.array @ [[1, 0.1, 0], [-0.4, 1, 0.2], [0, 0.3, 1]], scale_atoms=True)
    skewed.rotate(30, (1, 2, 3), rotate_cell=True)
    groups = [
        MD,
        {
            **MD,
            "structures": ["skewed"],
            "ensemble": "npt-t",
            "press": [1.0],
            "trj_freq": 5,
            "epsilon": 1.0,
            "epsilon_v": 0.5,
        },
        {**MD, "structures": ["skewed"], "ensemble": "nve", "temps": [1e9]},
        {"structures": ["water"], "ensemble": "relax", "relax_cell": True, "nsteps": 6, "trj_freq": 4},
    ]
    run = ExploreRun(
        root,
        {"water": [water()], "skewed": [skewed]},
        [groups],
        ["H", "O"],
        explore={"app": "ase", "command": sys.executable, "group_size": 2},
    )
    run.config["train"]["numb_models"] = 2
    product = run.place.newest_product("train")
    assert product is not None
    (root / product).parent.mkdir(parents=True)
    (root / product).symlink_to(models)
    run.report = run.run()  # type: ignore[attr-defined]
    return run


def test_every_ending(finished: ExploreRun) -> None:
    report = finished.report  # type: ignore[attr-defined]
    assert (report.complete, report.classes) == (True, {"ok": 3, "lost_atoms": 1}), report.messages
    assert [one["last_step"] for one in finished.trajectories()] == [20, 20, -1, 6]


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 1)])
def test_deviations_and_energies_are_those_of_lammps(
    finished: ExploreRun, models: Path, tmp_path: Path, place: tuple[int, int]
) -> None:
    """The plugin reads our frames, and finds what we have written of them."""
    out, given = finished.out(*place), json.loads((finished.task(*place) / "md.json").read_bytes())
    from ase import Atoms

    atoms = Atoms(given["symbols"], given["positions"], cell=given["cell"], pbc=True)
    (tmp_path / "conf.lmp").write_text(write_conf(atoms, ["H", "O"], None))
    options = "relative 1.0 relative_v 0.5" if given["epsilon"] else ""
    (tmp_path / "in.lammps").write_text(RERUN.replace("OPTIONS", options))
    for path in [out / "traj.lammpstrj", *models.glob("graph.*.pb")]:
        (tmp_path / path.name).symlink_to(path)
    command = [str(BIN / "dpgen2-lmp"), "-in", "in.lammps"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = np.loadtxt(out / "model_devi.out"), np.loadtxt(tmp_path / "lmp.out")
    assert ours.shape == theirs.shape and len(ours) >= 3
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)
    log = finished.root / finished.place.jobs / f"{place[0]:06d}" / "log" / f"task.{place[1]:06d}.log"
    words = [line.split() for line in log.read_text().splitlines()]
    energies = [float(row[1]) for row in words if len(row) == 4 and row[0].isdigit()]
    printed = [float(energy) for energy in re.findall(r"^ +\d+ +(-?\d+\.?\d*) *$", done.stdout, re.MULTILINE)]
    np.testing.assert_allclose(energies, printed, atol=1e-5)
