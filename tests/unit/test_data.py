"""Initial data and structures in the formats of dpdata: what was typed, and what is seen."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
import pytest
from ase.build import bulk, molecule

from conventions.config import LabelledData
from conventions.errors import ConfigError
from conventions.space import DataSpace
from operators.registry import load_config
from operators.structures import load_structures
from statemachine.run.data import load_data, write_data
from tests.conftest import CONFIG, Cli

DATA = "init: {label: [start]}"
FILES = "{files: cu.xyz}"
SPACE = DataSpace({})


def system(frames: int = 2, atoms: int = 4, seed: int = 0, **more: Any) -> dpdata.LabeledSystem:
    """Copper, with or without virials, beside an element that it has no atom of."""
    random = np.random.default_rng(seed)
    data = {
        "atom_names": ["O", "Cu"],
        "atom_numbs": [0, atoms],
        "atom_types": np.ones(atoms, int),
        "orig": np.zeros(3),
        "cells": np.array([np.eye(3) * 3.6] * frames),
        "coords": random.uniform(0, 3.6, (frames, atoms, 3)),
        "energies": random.uniform(-1, 0, frames),
        "forces": random.uniform(-1, 1, (frames, atoms, 3)),
        **more,
    }
    return dpdata.LabeledSystem(data=data)


def with_virials(frames: int = 2, atoms: int = 4, seed: int = 1) -> dpdata.LabeledSystem:
    return system(frames, atoms, seed, virials=np.ones((frames, 3, 3)))


def test_data_with_and_without_virials_are_systems_of_their_own(tmp_path: Path) -> None:
    """`init.data: {mine: {path: data}}` was a traceback: this has virials, but system does not."""
    parts = {"a": with_virials(2), "b": system(3), "c": with_virials(1, seed=5), "d": system(1, atoms=2)}
    for name, part in parts.items():
        part.to("deepmd/npy", str(tmp_path / "data" / name))
    found = load_data(LabelledData(path="data"), tmp_path, "init.data.mine", ["Cu", "O"]).systems
    assert {name: len(each) for name, each in found.items()} == {"Cu4O0": 3, "Cu4O0.novirial": 3, "Cu2O0": 1}
    write_data(found, tmp_path / "out")
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/type.raw")) == sorted(found)
    for name, virials in (("Cu4O0", 3), ("Cu4O0.novirial", 0), ("Cu2O0", 0)):
        back = dpdata.LabeledSystem(str(tmp_path / "out" / name), fmt="deepmd/npy")
        assert len(back.data.get("virials", [])) == virials
        assert (tmp_path / "out" / name / "keys.v1.bin").is_file()
    back = dpdata.LabeledSystem(str(tmp_path / "out/Cu4O0.novirial"), fmt="deepmd/npy")
    assert np.array_equal(back["coords"], parts["b"]["coords"])


def test_molecules_stay_molecules_beside_crystals(tmp_path: Path) -> None:
    system(2).to("deepmd/npy", str(tmp_path / "data/a"))
    system(3, nopbc=True).to("deepmd/npy", str(tmp_path / "data/b"))
    found = load_data(LabelledData(path="data"), tmp_path, "init.data.x", ["Cu", "O"]).systems
    assert {name: each.nopbc for name, each in found.items()} == {"Cu4O0.novirial": False, "Cu4O0": True}


def test_a_run_begins_with_both(cli: Cli, stub_run: Path) -> None:
    for name, part in (("a", with_virials()), ("b", system())):
        part.to("deepmd/npy", str(stub_run.parent / "data" / name))
    stub_run.write_text(
        CONFIG.replace(DATA, "init: {data: {mine: {path: data}}}").replace("type_map: [Cu]", "type_map: [O, Cu]")
    )
    assert "init.data.mine: 4 labelled frames" in cli("validate", stub_run)[1]
    assert cli("init", stub_run)[0] == 0
    names = sorted(path.parent.name for path in (stub_run.parent / "out/dataset/deepmd/init/mine").glob("*/type.raw"))
    assert names == ["O0Cu4", "O0Cu4.novirial"]


@pytest.mark.parametrize("format", ["deepmd/npy", "deepmd/raw", "deepmd/npy/mixed", "deepmd/npy/mixed below"])
def test_labelled_formats(tmp_path: Path, format: str) -> None:
    format, _, below = format.partition(" ")
    write(tmp_path / "data" / below, format, [with_virials(), system(3, 2)])
    found = load_data(LabelledData(path="data", format=format), tmp_path, "init.data.x", ["Cu", "O"]).systems
    assert {name: (len(each), each.has_virial()) for name, each in found.items()} == {
        "Cu4O0": (2, True),
        "Cu2O0": (3, False),
    }


def write(path: Path, format: str, parts: list[dpdata.LabeledSystem]) -> None:
    if format.startswith("deepmd"):
        for number, part in enumerate(parts):
            if "mixed" in format:
                dpdata.MultiSystems(part).to(format, str(path / str(number)))
            else:
                part.to(format, str(path / str(number)))
    else:
        (part,) = parts
        part.to(format, str(path), frame_idx=0)


STRUCTURES = {
    "deepmd/npy": 5,
    "deepmd/raw": 5,
    "deepmd/npy/mixed": 5,
    "abacus/stru": 1,
    "stru": 1,
    "vasp/poscar": 1,
    "poscar": 1,
    "lammps/lmp": 1,
}


@pytest.mark.parametrize("format", STRUCTURES)
def test_structures_in_dpdatas_formats(cli: Cli, stub_run: Path, format: str) -> None:
    """`structures: {start: {files: data, format: deepmd/npy}}`: ASE does not know it, 8 of 14 inputs have such."""
    folder, several = stub_run.parent, STRUCTURES[format] > 1
    parts = [with_virials(), system(3, 2)] if several else [system(1)]
    if format == "lammps/lmp":
        parts[0].sort_atom_names(type_map=["Cu", "O"])
    write(folder / "data", format, parts)
    text = CONFIG.replace(FILES, f"{{files: data, format: {format}, super_cell: [2, 1, 1]}}")
    stub_run.write_text(text.replace("type_map: [Cu]", "type_map: [Cu, O]"))
    code, output, errors = cli("validate", stub_run)
    assert code == 0 and f"structures.start: {STRUCTURES[format]} structure" in output, errors
    assert cli("init", stub_run)[0] == 0
    shutil.rmtree(folder / "data", ignore_errors=True)  # the run has its own copy
    (folder / "data").unlink(missing_ok=True)
    config = load_config((folder / "out" / SPACE.config(0)).read_bytes())
    found = load_structures(config, ["start"], folder / "out" / SPACE.files)
    assert len(found) == STRUCTURES[format]
    first = parts[0]
    assert str(found[0].symbols) == f"Cu{2 * first.get_natoms()}" and found[0].pbc.all()
    # dpdata writes text formats with fewer digits.
    assert found[0].positions[: first.get_natoms()] == pytest.approx(first["coords"][0], abs=1e-5)
    assert found[0].cell.lengths() == pytest.approx([7.2, 3.6, 3.6])


def test_the_same_files_are_the_same_run(cli: Cli, stub_run: Path) -> None:
    write(stub_run.parent / "data", "deepmd/npy", [system()])
    text = CONFIG.replace(FILES, "{files: data/*, format: deepmd/npy}").replace("type_map: [Cu]", "type_map: [Cu, O]")
    stub_run.write_text(text)
    assert [cli("init", stub_run)[0] for _ in range(2)] == [0, 0]
    config = load_config((stub_run.parent / "out" / SPACE.config(0)).read_bytes())
    assert config.structures["start"].format == "extxyz"


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("structures {files: data, format: deepmd/nyp}", "start.format: neither .*'deepmd/nyp'; did .* 'deepmd/npy'"),
        ("structures {files: data, format: foo}", "has a format 'foo'; such as deepmd/npy, "),
        ("structures {files: data}", "structures.start.files: .*/data is not a file; of a folder .* deepmd/npy"),
        ("structures {files: no, format: deepmd/npy}", "structures.start.files: 'no': there is no such file"),
        ("structures {files: empty, format: deepmd/npy}", r"start: empty holds no DeePMD system \(no type.raw"),
        ("structures {files: empty, format: deepmd/npy/mixed}", "structures.start: empty has no frames"),
        ("structures {files: cu.xyz, format: vasp/poscar}", "start: dpdata cannot read cu.xyz as vasp/poscar: "),
        ("structures {files: unmapped, format: deepmd/npy}", "unmapped does not say which elements .* type_map.raw"),
        ("structures {files: gold, format: deepmd/npy}", r"start: element Au of gold is not in type_map \(Cu, O\)"),
        ("structures {files: molecule.xyz, super_cell: [2, 1, 1]}", r"molecule.xyz: it has no cell, so it is"),
        ("structures {files: free, format: deepmd/npy, scale: [2]}", r"free.extxyz: it has no cell, so it is"),
        ("structures {files: odd.foo}", "odd.foo: ASE cannot read it: .*; if its name .* give `format`"),
        ("data {path: data, format: deepmd/nyp}", "init.data.x.format: dpdata has no .* did you mean 'deepmd/npy'"),
        ("data {path: data, format: extxys}", "init.data.x.format: dpdata has no .* did you mean 'extxyz'"),
        ("data {path: unmapped}", "init.data.x: unmapped does not say which elements its types are"),
        ("data {path: gold}", r"init.data.x: element Au of gold is not in type_map \(Cu, O\)"),
        ("data {path: unlabelled}", "init.data.x: dpdata cannot read unlabelled as deepmd/npy: .*energ"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(cli: Cli, stub_run: Path, typed: str, seen: str) -> None:
    folder = stub_run.parent
    write(folder / "data", "deepmd/npy", [system()])
    write(folder / "unmapped", "deepmd/npy", [system()])
    (folder / "unmapped/0/type_map.raw").unlink()
    system(nopbc=True).to("deepmd/npy", str(folder / "free"))
    system(atom_names=["O", "Au"]).to("deepmd/npy", str(folder / "gold"))
    system().to("deepmd/npy", str(folder / "unlabelled"))
    (folder / "unlabelled/set.000/energy.npy").unlink()
    ase.io.write(folder / "molecule.xyz", molecule("O2"), format="xyz")
    (folder / "odd.foo").write_text("x\n")
    (folder / "empty").mkdir()
    kind, _, value = typed.partition(" ")
    text = (
        CONFIG.replace(FILES, value)
        if kind == "structures"
        else CONFIG.replace(DATA, f"init: {{data: {{x: {value}}}}}")
    )
    stub_run.write_text(text.replace("type_map: [Cu]", "type_map: [Cu, O]"))
    code, _, errors = cli("validate", stub_run)
    assert code == 2 and len(errors.splitlines()) == 1 and re.search(seen, errors), errors


def test_data_that_do_not_fit_each_other_are_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("this has fparam, but system does not")

    system().to("deepmd/npy", str(tmp_path / "data"))
    monkeypatch.setattr(dpdata.MultiSystems, "append", refuse)
    with pytest.raises(ConfigError, match=r"init.data.x: data does not fit .*: this has fparam"):
        load_data(LabelledData(path="data"), tmp_path, "init.data.x", ["Cu", "O"])


def test_atoms_that_ase_reads_are_as_before(tmp_path: Path, cli: Cli, stub_run: Path) -> None:
    ase.io.write(stub_run.parent / "POSCAR", bulk("Cu", cubic=True), format="vasp")
    for format in ("", ", format: vasp"):
        stub_run.write_text(CONFIG.replace(FILES, f"{{files: POSCAR{format}}}"))
        assert "structures.start: 1 structure\n" in cli("validate", stub_run)[1]
