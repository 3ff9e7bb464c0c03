"""Structures without a cell, from the user's file to the dataset; and those that lack one or two of its vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT

from conventions.config import Structures
from conventions.errors import ConfigError
from operators.explore.lammps_input import for_molecule
from operators.frame_keys import dataset_keys, keys, write_keys
from operators.select.dump import CorruptFrame, Frame, parse_frame
from operators.select.extxyz import write_frames
from operators.select.filters import rejection
from operators.structures import check_structures, fill_cell
from operators.sums import write_sums
from tests.explore_run import ExploreRun
from tests.label_run import LabelRun

NVT = {"structures": ["co"], "ensemble": "nvt", "temps": [300], "nsteps": 20, "trj_freq": 10}


def settings(**more: Any) -> Structures:
    return Structures.model_validate({"files": ["x"], **more})


def filled(atoms: Atoms, **more: Any) -> Atoms:
    fill_cell(atoms, settings(**more), "file.xyz")
    return atoms


def test_a_molecule_gets_a_box_around_it() -> None:
    atoms = filled(molecule("CO"))
    assert not atoms.pbc.any()
    lengths = np.ptp(molecule("CO").positions, axis=0) + 20
    assert np.allclose(atoms.cell.array, np.diag(lengths))
    assert np.allclose(atoms.positions.min(axis=0), 10)
    assert atoms.get_distance(0, 1) == pytest.approx(molecule("CO").get_distance(0, 1))
    assert np.allclose(filled(molecule("CO"), vacuum=6).positions.min(axis=0), 6)


def test_a_slab_without_its_third_vector_is_periodic_with_vacuum() -> None:
    slab = fcc111("Cu", (2, 2, 3))
    assert not slab.cell[2].any()
    atoms = filled(slab.copy(), vacuum=8)
    assert atoms.pbc.all()
    assert np.array_equal(atoms.cell[:2], slab.cell[:2])
    assert atoms.cell[2, 2] == pytest.approx(np.ptp(slab.positions[:, 2]) + 16)


def test_a_whole_cell_is_periodic_whatever_the_file_says_of_it() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = False
    assert filled(atoms).pbc.all()
    assert np.array_equal(atoms.cell.array, bulk("Cu", cubic=True).cell.array)


@pytest.mark.parametrize("key", [{"super_cell": [2, 1, 1]}, {"scale": [1.0, 1.1]}, {"pert_numb": 2, "pert_box": 0.1}])
def test_what_is_for_cells_is_refused_for_a_molecule(key: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"file\.xyz: it has no cell, so it is a molecule: slab, super_cell, scale and"
    ):
        filled(molecule("CO"), **key)


def test_atoms_of_a_molecule_have_no_images(tmp_path: Path) -> None:
    """On opposite faces of the box, and one molecule with two atoms at one place."""
    types, box = np.zeros(2, np.int64), np.diag([10.0, 10, 10])
    apart = np.array([[0.1, 5, 5], [9.9, 5, 5]])
    assert rejection(Frame(box, types, apart, periodic=False), np.full((9, 9), 0.5), 1.0, 1.0) == ""
    assert rejection(Frame(box, types, apart), np.full((9, 9), 0.5), None, None) == "too_close"
    long = Frame(np.diag([10.0, 10, 30]), types, apart, periodic=False)
    assert rejection(long, np.full((9, 9), 0.5), 2.0, None) == "", "its box is no cell"
    assert rejection(Frame(box, types, apart * 1e-3, periodic=False), np.full((9, 9), 0.5), None, None) == "too_close"
    run = ExploreRun(tmp_path, {"co": [Atoms("CO", [[0, 0, 0], [0, 0, 0.1]])]}, [[NVT]], ["C", "O"])
    with pytest.raises(ConfigError, match=r"two of its atoms are 0\.100 Angstrom apart"):
        check_structures(run.freeze(), "co", tmp_path / "config/file")


def test_lammps_explores_a_molecule_in_a_box_that_is_not_periodic(tmp_path: Path) -> None:
    run = ExploreRun(tmp_path, {"co": [molecule("CO")], "cu": [bulk("Cu")]}, [[NVT]], ["C", "O", "Cu"])
    run.plan()
    text = (run.task(0) / "in.lammps").read_text()
    assert "boundary f f f\n" in text and "mom yes rot yes" in text
    atoms = ase.io.read(run.task(0) / "conf.lmp", format="lammps-data", atom_style="atomic")
    assert np.allclose(atoms.positions.min(axis=0), 10)
    run.config["explore"]["stages"][0][0] |= {"ensemble": "npt", "press": [1.0]}
    with pytest.raises(ConfigError, match=r"stages\.0\.0: npt needs a cell, .* structures\.co has molecules"):
        run.app.check_files(run.freeze(), tmp_path / "config/file")
    run.config["explore"]["stages"][0][0] |= {"structures": ["cu"]}
    run.app.check_files(run.freeze(), tmp_path / "config/file")


def test_a_template_gets_the_boundaries_of_a_molecule() -> None:
    text = "units metal\n  boundary p p p # all\nread_data conf.lmp\n"
    assert for_molecule(text) == "boundary f f f\nunits metal\nread_data conf.lmp\n"
    assert for_molecule("units metal\n") == "boundary f f f\nunits metal\n"


def frame_of(flags: str) -> Frame:
    text = f"ITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS {flags}\n0 9\n0 9\n0 9\nITEM: ATOMS id type x y z\n1 1 1 2 3\n"
    return parse_frame(text.encode(), 1)


def test_a_dump_says_whether_it_is_of_a_molecule(tmp_path: Path) -> None:
    assert frame_of("pp pp pp").periodic and not frame_of("ff ff ff").periodic and not frame_of("ss fm ff").periodic
    with pytest.raises(CorruptFrame, match="periodic in some directions only"):
        frame_of("pp pp ff")
    write_frames(
        tmp_path / "frames.extxyz", [("co", 0.2, frame_of("ff ff ff")), ("co", 0.2, frame_of("pp pp pp"))], ["C"]
    )
    free, periodic = ase.io.read(tmp_path / "frames.extxyz", ":")
    assert not free.pbc.any() and periodic.pbc.all()
    assert np.array_equal(free.cell.array, np.diag([9, 9, 9]))


def test_a_molecule_that_was_moved_is_the_same_one() -> None:
    atoms = molecule("H2O")
    places = np.array([atoms.positions, atoms.positions + np.array([3.3, -2, 0.7]), atoms.positions * 1.01])
    here, moved, stretched = keys(atoms.numbers.astype(np.int64), None, places)
    assert here == moved != stretched
    (crystal,) = keys(atoms.numbers.astype(np.int64), np.eye(3)[None] * 16, places[:1])
    assert crystal != here


def test_labels_of_molecules_are_systems_without_cells(tmp_path: Path) -> None:
    """Copper dimers, two without a cell and one in a crystal, by EMT."""
    free = [Atoms("Cu2", [[0, 0, 0], [0, 0, length]]) for length in (2.2, 2.4)]
    crystal = bulk("Cu", a=3.7).repeat((2, 1, 1))
    run = LabelRun(tmp_path, {"app": "ase", "calculator": "ase.calculators.emt:EMT"}, [*free, crystal], ["Cu"])
    report = run.stage()
    assert (report.complete, report.classes) == (True, {"ok": 3})
    assert [(each["system"], each["index"]) for each in run.index] == [("Cu2.nopbc", 0), ("Cu2.nopbc", 1), ("Cu2", 0)]
    assert (run.labels / "Cu2.nopbc/nopbc").exists() and not (run.labels / "Cu2/nopbc").exists()
    assert not (run.labels / "Cu2.nopbc/set.000/virial.npy").exists()
    data = dpdata.LabeledSystem(str(run.labels / "Cu2.nopbc"), fmt="deepmd/npy")
    assert data.nopbc
    for number, atoms in enumerate(free):
        atoms.calc = EMT()
        assert data["energies"][number] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert np.allclose(data["forces"][number], atoms.get_forces(), atol=1e-6)
    known, unreadable = dataset_keys(run.labels, ["Cu2.nopbc", "Cu2"])
    assert len(known) == 3 and not unreadable


def test_molecules_alone_have_the_plain_name(tmp_path: Path) -> None:
    run = LabelRun(tmp_path, {"app": "ase", "calculator": "ase.calculators.emt:EMT"}, [Atoms("Cu")], ["Cu"])
    run.stage()
    assert (run.labels / "Cu1/nopbc").exists()


def test_a_selected_molecule_is_labelled_as_one(tmp_path: Path) -> None:
    atoms = Atoms("Cu2", [[9, 9, 9], [9, 9, 11.3]], cell=[20, 20, 20], pbc=False)
    run = LabelRun(tmp_path, {"app": "ase", "calculator": "ase.calculators.emt:EMT"}, [atoms], ["Cu"], iteration=1)
    assert run.stage().complete
    assert (run.labels / "Cu2/nopbc").exists()


def test_keys_of_imported_data_without_cells(tmp_path: Path) -> None:
    """dpdata writes no boxes that could be used, and their frames are compared with what is chosen."""
    atoms = molecule("H2O")
    data = dpdata.LabeledSystem(
        data={
            "atom_names": ["H", "O"],
            "atom_numbs": [2, 1],
            "atom_types": np.array([0, 0, 1]),
            "orig": np.zeros(3),
            "cells": np.zeros((1, 3, 3)),
            "coords": atoms.positions[None, [1, 2, 0]],
            "energies": np.zeros(1),
            "forces": np.zeros((1, 3, 3)),
            "nopbc": True,
        }
    )
    data.to("deepmd/npy", str(tmp_path / "init/water"))
    write_keys(tmp_path / "init/water")
    write_sums(tmp_path / "init")
    expected = set(keys(atoms.numbers.astype(np.int64), None, atoms.positions[None]))
    assert dataset_keys(tmp_path, ["init/water"]) == (expected, [])
    (tmp_path / "init/water/keys.v1.bin").unlink()
    assert dataset_keys(tmp_path, ["init/water"]) == (expected, [])
