"""Labelled trajectories: which of their frames become data, in the formats of several programs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest

from conventions.config import LabelledData
from conventions.errors import ConfigError
from statemachine.run import data as reading
from statemachine.run import thinning
from statemachine.run.data import Loaded, load_data, write_data
from tests import trajectories
from tests.conftest import CONFIG, Cli
from tests.trajectories import cp_traj, extxyz, frames, outcar, system, vasprun

FORMATS: dict[str, tuple[str, Callable[[Path, list[dict[str, Any]]], None]]] = {
    "vasp/outcar": ("OUTCAR", outcar),
    "vasp/xml": ("vasprun.xml", vasprun),
    "qe/cp/traj": ("md.in", lambda path, found: cp_traj(path.parent, "md", found)),
    "extxyz": ("md.xyz", extxyz),
    "quip/gap/xyz": ("md.xyz", extxyz),
    "deepmd/npy": ("md", lambda path, found: system(found).to("deepmd/npy", str(path))),
    "deepmd/npy/mixed": (
        "md",
        lambda path, found: dpdata.MultiSystems(system(found)).to("deepmd/npy/mixed", str(path)),
    ),
}


CELL_VECTOR = np.array([trajectories.CELL, 0, 0])


def load(folder: Path, path: str, **more: Any) -> Loaded:
    return load_data(LabelledData(path=path, **more), folder, "init.data.x", ["Cu"])


def energies(loaded: Loaded) -> list[float]:
    """Frames have the energies -1, -2, ... in their order."""
    return [-round(float(energy), 3) for each in loaded.systems.values() for energy in each["energies"]]


@pytest.mark.parametrize("format", FORMATS)
def test_every_third_frame_of_a_trajectory(tmp_path: Path, format: str) -> None:
    name, write = FORMATS[format]
    found = frames(8)
    write(tmp_path / name, found)
    whole = load(tmp_path, name, format=format)
    assert energies(whole) == [1, 2, 3, 4, 5, 6, 7, 8]
    loaded = load(tmp_path, name, format=format, every=3)
    assert (energies(loaded), loaded.told) == ([1, 4, 7], "3 of 8 labelled frames")
    (one,) = loaded.systems.values()
    assert one["coords"] == pytest.approx(np.array([found[index]["coords"] for index in (0, 3, 6)]), abs=1e-6)
    assert one["forces"] == pytest.approx(np.array([found[index]["forces"] for index in (0, 3, 6)]), abs=1e-5)


def test_each_file_begins_with_its_first_frame(tmp_path: Path) -> None:
    for number in range(3):
        outcar(tmp_path / f"OUTCAR.{number}", frames(5, seed=number))
    assert energies(load(tmp_path, "OUTCAR.*", format="vasp/outcar", every=4)) == [1, 5] * 3


def test_frames_of_several_compositions_are_counted_in_the_order_of_their_file(tmp_path: Path) -> None:
    small, large = frames(6), frames(6, atoms=3)
    mixed = [one for pair in zip(small, large, strict=True) for one in pair]
    extxyz(tmp_path / "mixed.xyz", mixed)
    loaded = load(tmp_path, "mixed.xyz", format="extxyz", every=3)
    assert {name: -each["energies"].round(3) for name, each in loaded.systems.items()} == {
        "Cu2": pytest.approx([1, 4]),
        "Cu3": pytest.approx([2, 5]),
    }
    assert loaded.told == "4 of 12 labelled frames"


def test_an_extended_xyz_file_of_molecules_and_crystals(tmp_path: Path) -> None:
    """dpdata's `LabeledSystem` takes the first frame of such a file and drops the others."""
    for periodic in (True, False):
        extxyz(tmp_path / f"{periodic}.xyz", frames(3), periodic)
    both = (tmp_path / "True.xyz").read_text() + (tmp_path / "False.xyz").read_text()
    (tmp_path / "both.xyz").write_text(both)
    loaded = load(tmp_path, "both.xyz", format="extxyz")
    assert {(each.nopbc, len(each)) for each in loaded.systems.values()} == {(False, 3), (True, 3)}


def test_repeated_structures_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    found = frames(6)
    moved = {**found[1], "coords": found[1]["coords"][::-1] + CELL_VECTOR, "energy": -9.0}
    vasprun(tmp_path / "a.xml", [*found[:3], found[0], moved])
    vasprun(tmp_path / "b.xml", [found[2], *found[3:]])
    every = load(tmp_path, "*.xml", format="vasp/xml")
    assert (len(energies(every)), every.repeated) == (9, 0)
    loaded = load(tmp_path, "*.xml", format="vasp/xml", unique=True)
    assert energies(loaded) == [1, 2, 3, 4, 5, 6]
    assert loaded.told == "6 of 9 labelled frames; 3 more have the structure of an earlier one"


def test_many_atoms_are_compared_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "_ATOMS_AT_ONCE", 5)  # two frames of two atoms
    found = frames(5)
    extxyz(tmp_path / "md.xyz", [*found, *found[::-1], *frames(1, seed=7)])
    assert energies(load(tmp_path, "md.xyz", format="extxyz", unique=True)) == [1, 2, 3, 4, 5, 1]


def test_first_every_then_unique(tmp_path: Path) -> None:
    """A frame that `every` skips does not make a later one a repetition."""
    one, two, three = frames(3)
    extxyz(tmp_path / "md.xyz", [one, two, two, three, one])
    loaded = load(tmp_path, "md.xyz", format="extxyz", every=2, unique=True)
    assert (energies(loaded), loaded.repeated) == ([1, 2], 1)


@pytest.mark.parametrize("write", [outcar, vasprun])
def test_dpdata_leaves_out_what_did_not_converge(tmp_path: Path, write: Callable[..., None]) -> None:
    format = "vasp/outcar" if write is outcar else "vasp/xml"
    write(tmp_path / "md", frames(6), unconverged={1, 2})
    assert energies(load(tmp_path, "md", format=format)) == [1, 4, 5, 6]
    assert energies(load(tmp_path, "md", format=format, every=2)) == [1, 5]
    write(tmp_path / "md", frames(2), unconverged={0, 1})
    with pytest.raises(ConfigError, match=r"init.data.x: 'md' has no frames with labels; dpdata leaves out unconv"):
        load(tmp_path, "md", format=format)


def test_an_energy_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dpdata makes None of the energy of an output of pw.x whose SCF did not converge: it was a traceback."""
    broken = system(frames(1))
    broken.data["energies"] = np.array([None])
    monkeypatch.setattr(reading, "_read", lambda *_: [[broken]])
    (tmp_path / "pw.out").write_text("")
    with pytest.raises(ConfigError, match=r"init.data.x: pw.out has energies that are not finite numbers"):
        load(tmp_path, "pw.out", format="qe/pw/scf")


def test_virials_that_are_no_numbers(tmp_path: Path) -> None:
    broken = system(frames(2))
    broken.data["virials"] = np.full((2, 3, 3), np.nan)
    broken.to("deepmd/npy", str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"init.data.x: data has virials that are not finite numbers"):
        load(tmp_path, "data")


def test_a_cell_without_volume_cannot_be_compared(tmp_path: Path) -> None:
    flat = system(frames(2))
    flat.data["cells"][:] = 0
    flat.to("deepmd/npy", str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"init.data.x: data has a cell without volume, .*leave out `unique`"):
        load(tmp_path, "data", unique=True)


def test_a_trajectory_of_cp_is_named_by_its_input_or_its_prefix(tmp_path: Path) -> None:
    for number in range(2):
        cp_traj(tmp_path, f"md{number}", frames(3, seed=number))
    for path, count in {"md0": 3, "md0.in": 3, "md*": 6, "md*.in": 6}.items():
        assert len(energies(load(tmp_path, path, format="qe/cp/traj"))) == count
    with pytest.raises(ConfigError, match=r"init.data.x: 'md.in': there is no such file"):
        load(tmp_path, "md", format="qe/cp/traj")


def test_without_thinning_the_bytes_are_as_ever(tmp_path: Path) -> None:
    found = system(frames(4))
    found.to("deepmd/npy", str(tmp_path / "data"))
    write_data(load(tmp_path, "data", every=1, unique=True).systems, tmp_path / "out")
    for path in sorted((tmp_path / "data").rglob("*.npy")):
        assert path.read_bytes() == (tmp_path / "out/Cu2" / path.relative_to(tmp_path / "data")).read_bytes()


def test_validate_and_init(cli: Cli, stub_run: Path) -> None:
    folder = stub_run.parent
    outcar(folder / "OUTCAR", frames(9))
    extxyz(folder / "test.xyz", [*frames(2), *frames(2)])
    data = "data: {md: {path: OUTCAR, format: vasp/outcar, every: 4}}"
    init = f"{{{data}, test: {{md: {{path: test.xyz, format: extxyz, unique: true}}}}}}"
    stub_run.write_text(CONFIG.replace("init: {label: [start]}", f"init: {init}"))
    code, output, errors = cli("validate", stub_run)
    assert code == 0, errors
    assert "init.data.md: 3 of 9 labelled frames\n" in output
    assert "init.test.md: 2 of 4 labelled frames; 2 more have the structure of an earlier one\n" in output
    assert cli("init", stub_run)[0] == 0
    for kind, number in (("init", 3), ("test", 2)):
        back = dpdata.LabeledSystem(str(folder / f"out/dataset/deepmd/{kind}/md/Cu2"), fmt="deepmd/npy")
        assert len(back) == number
        assert (folder / f"out/dataset/deepmd/{kind}/md/Cu2/keys.v1.bin").stat().st_size == 16 * number


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("every: 0", r"init\.data\.x\.every: .*greater than or equal to 1 \(got 0\)"),
        ("every: 2.0", r"init\.data\.x\.every: .*integer.*2\.0"),
        ("every: '2'", r"init\.data\.x\.every: .*'2'"),
        ("unique: 1", r"init\.data\.x\.unique: .*1"),
        ("evry: 2", r"init\.data\.x\.evry: unknown key; did you mean 'every'"),
        ("skip: 2", r"init\.data\.x\.skip: unknown key; known: "),
    ],
)
def test_odd_values_are_refused(cli: Cli, stub_run: Path, typed: str, seen: str) -> None:
    stub_run.write_text(CONFIG.replace("init: {label: [start]}", f"init: {{data: {{x: {{path: data, {typed}}}}}}}"))
    code, _, errors = cli("validate", stub_run)
    assert code == 2 and len(errors.splitlines()) == 1 and re.search(seen, errors), errors
