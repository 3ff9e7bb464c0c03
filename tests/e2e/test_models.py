"""The models of a run: `dpgen2-sm test`, and the ways to use them that the documentation shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from tests.e2e.engines import need
from tests.e2e.test_campaigns import CONFIG, EXHAUSTED, Campaign, copper
from tests.unit.test_docs import ROOT, blocks

pytestmark = pytest.mark.engines
DP_TEST = {"rmse_e": "Energy RMSE/Natoms", "rmse_f": "Force  RMSE", "rmse_v": "Virial RMSE/Natoms"}
PAGE = ROOT / "docs/concurrent-learning.md"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A run of four models, hardly trained, with a test set of two compositions."""
    found, systems = copper(tmp_path_factory.mktemp("models")), dpdata.MultiSystems()
    for seed in range(6):
        atoms = bulk("Cu", cubic=True).repeat((2, 2, 2 + seed % 2))
        atoms.rattle(0.08, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        systems.append(dpdata.LabeledSystem(atoms, fmt="ase/structure"))
    systems.to("deepmd/npy", str(found.root / "test"))
    config = CONFIG.replace("init: {label: [start]}", "init: {label: [start], test: {hot: {path: test}}}")
    config = config.replace("numb_models: 2", "numb_models: 4").replace("numb_steps: [100, 600]", "numb_steps: 60")
    (found.root / "run.yaml").write_text(config)
    code, output = found.finish("run", "run.yaml")
    assert code == EXHAUSTED, output
    return found


def figures(campaign: Campaign, *arguments: str) -> dict[str, Any]:
    process = campaign.start("test", "run.yaml", *arguments, "--json")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return dict(json.loads(output[output.index("{\n") : output.rindex("\n}") + 2]))


@pytest.mark.parametrize("iteration", [0, 1])
def test_the_errors_are_those_of_the_runs_report(campaign: Campaign, iteration: int) -> None:
    found = figures(campaign, "test", "--iter", str(iteration))
    (one,) = found["data"]
    summary = campaign.report("train", iteration)["summary"]
    assert found["iteration"] == iteration
    assert (one["frames"], len(one["models"])) == (6, 4)
    for name in ("rmse_e", "rmse_f"):
        assert np.mean([row[name] for row in one["models"]]) == pytest.approx(summary[name], rel=1e-4)
        assert one["mean"][name] <= max(row[name] for row in one["models"])


def test_the_errors_are_those_of_dp_test(campaign: Campaign) -> None:
    found = figures(campaign, "test/Cu32", "test/Cu48")
    assert found["iteration"] == 1  # the newest
    for one in found["data"]:
        command = ["dp", "test", "-m", found["models"][0].removeprefix("file://"), "-n", "0", "-s", one["path"]]
        done = subprocess.run(command, capture_output=True, text=True, cwd=campaign.root, check=True)
        text = done.stdout + done.stderr
        for key, name in DP_TEST.items():
            value = re.findall(rf"{name}\s*:\s*(\S+)", text)[-1]
            assert one["models"][0][key] == pytest.approx(float(value), rel=1e-4)


def test_the_documented_ways_to_use_the_models(campaign: Campaign, tmp_path: Path) -> None:
    """ASE and LAMMPS, as the page says; both give one energy, and one deviation of the committee."""
    need("dpgen2-lmp")
    for path in campaign.product("train", 1).glob("graph.*.pb"):
        shutil.copy(path, tmp_path)
    frame = ase.io.read(campaign.root / "cu.vasp").repeat((2, 2, 2))
    frame.rattle(0.05, seed=1)
    ase.io.write(tmp_path / "POSCAR", frame, format="vasp")
    ase.io.write(tmp_path / "cu.lmp", frame, format="lammps-data", masses=True)
    (source,) = blocks(PAGE, "python")
    ran = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    energy, deviation = (float(line.split()[-2]) for line in ran.stdout.splitlines()[-2:])

    (style,) = (block for block in blocks(PAGE, "") if block.startswith("pair_style"))
    head = "units metal\natom_style atomic\nread_data cu.lmp\n"
    tail = 'thermo_style custom pe\nrun 0\nprint "energy $(pe:%.6f)"\n'
    (tmp_path / "in.lammps").write_text(head + style + tail)
    ran = subprocess.run(["dpgen2-lmp", "-in", "in.lammps"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = np.loadtxt(tmp_path / "model_devi.out", ndmin=2)
    assert float(re.findall(r"^energy (\S+)$", ran.stdout, re.M)[0]) == pytest.approx(energy, abs=1e-3)
    assert rows[0, 4] == pytest.approx(deviation, abs=1e-4)
