"""A campaign of a copper cluster without a cell, by the real engines: every stage leaves it without one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ase.io
import dpdata
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron

from tests.e2e.test_campaigns import CONFIG, EXHAUSTED, Campaign, copper

pytestmark = pytest.mark.engines
SETS = CONFIG[CONFIG.index("structures:") : CONFIG.index("init:")]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    found = copper(tmp_path_factory.mktemp("cluster"))
    atoms = Atoms(Icosahedron("Cu", 2))
    atoms.set_cell(None)
    ase.io.write(found.root / "cu13.xyz", atoms, format="xyz")
    sets = "structures:\n  start: {files: cu13.xyz, pert_numb: 6, pert_atom: 0.1}\n  grid: {files: cu13.xyz}\n"
    # Models of so few steps bring the atoms together: here also such frames are labelled.
    config = CONFIG.replace(SETS, sets).replace("model_devi_skip: 1", "model_devi_skip: 1, min_distance: 0.5")
    (found.root / "run.yaml").write_text(config)
    code, output = found.finish("run", "run.yaml")
    assert code == EXHAUSTED, output
    return found


def test_no_stage_gives_it_a_cell(campaign: Campaign) -> None:
    labels = [campaign.at(campaign.space.dataset_iter(iteration)) / "Cu13" for iteration in (0, 1)]
    for folder in labels:
        assert (folder / "nopbc").exists() and not (folder / "set.000/virial.npy").exists()
    dump = next(campaign.prefix.glob("explore/lammps/iter/000000/job/*/out/*/traj.lammpstrj")).read_text()
    assert "ff ff ff" in dump and "pp pp" not in dump
    chosen = ase.io.read(campaign.product("select", 0) / "frames.extxyz", ":")
    assert len(chosen) == 5 and not any(atoms.pbc.any() for atoms in chosen)
    data = dpdata.LabeledSystem(str(labels[1]), fmt="deepmd/npy")
    for atoms, energy, forces in zip(chosen, data["energies"], data["forces"], strict=True):
        free = Atoms(atoms.get_chemical_symbols(), atoms.positions, calculator=EMT())
        assert energy == pytest.approx(free.get_potential_energy(), abs=1e-6)
        assert np.allclose(forces, free.get_forces(), atol=1e-6)


def test_lammps_and_the_model_agree_without_a_cell(campaign: Campaign) -> None:
    """The energy of the first frame in LAMMPS's log is the one of the first model without a box."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from deepmd.infer import DeepPot

    out = next(campaign.prefix.glob("explore/lammps/iter/000000/job/*/out/*/log.lammps")).parent
    lines = (out / "log.lammps").read_text().splitlines()
    header = next(number for number, line in enumerate(lines) if line.split()[:1] == ["Step"])
    logged = float(lines[header + 1].split()[lines[header].split().index("PotEng")])
    first = ase.io.read(out / "traj.lammpstrj", 0, format="lammps-dump-text")
    model = DeepPot(str(campaign.product("train", 0) / "graph.000.pb"))
    energy, forces, _ = model.eval(first.positions[None], None, [0] * 13)[:3]
    assert logged == pytest.approx(float(energy[0, 0]), abs=1e-3)
    assert np.abs(forces).max() > 1e-3


def test_errors_of_the_models_are_told_for_it(campaign: Campaign, tmp_path: Path) -> None:
    data = campaign.at(campaign.space.dataset_iter(1)) / "Cu13"
    code, output = campaign.finish("test", "run.yaml", str(data), "--json")
    assert code == 0, output
    found, _ = json.JSONDecoder().raw_decode(output[output.index("{") :])
    assert found["data"][0]["frames"] == 5 and np.isfinite(found["data"][0]["mean"]["rmse_f"])
