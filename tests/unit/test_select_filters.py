"""Filters and the recognition of duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import primitive_neighbor_list

from operators.distances import closest, too_close
from operators.frame_keys import KEYS, dataset_keys, keys, write_keys
from operators.select.dump import Frame
from operators.select.filters import distance_limits, rejection, tilt_angle
from operators.sums import SUMS, write_sums
from statemachine.run.data import write_data


def as_frame(atoms: Atoms) -> Frame:
    return Frame(atoms.cell[:], np.zeros(len(atoms), np.int64), atoms.positions)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("reach", [0.5, 2.0, 5.0])
def test_closest_agrees_with_ase(seed: int, reach: float) -> None:
    random = np.random.default_rng(seed)
    cell = np.diag(random.uniform(2, 8, 3)) + np.tril(random.uniform(-3, 3, (3, 3)), -1)
    positions = random.uniform(-10, 20, (random.integers(1, 30), 3))
    distances = primitive_neighbor_list("d", [True] * 3, cell, positions, reach)
    found = closest(cell, positions, reach)
    if len(distances):
        assert found == pytest.approx(distances.min()) or found == 0.0  # 0: too dense for any arrangement
    else:
        assert found >= reach


def test_atoms_that_are_close_across_the_boundary() -> None:
    atoms = Atoms("Cu2", positions=[[0.1, 1, 1], [9.9, 1, 1]], cell=[10, 10, 10], pbc=True)
    assert closest(atoms.cell[:], atoms.positions, 0.5) == pytest.approx(0.2)
    assert rejection(as_frame(atoms), np.full((1, 1), 0.5), None, None) == "too_close"
    assert rejection(as_frame(atoms), np.full((1, 1), 0.1), None, None) == ""
    assert rejection(as_frame(atoms), None, None, None) == ""


@pytest.mark.parametrize("seed", range(30))
def test_pairs_that_are_too_close_agree_with_ase(seed: int) -> None:
    random = np.random.default_rng(seed)
    cell = np.diag(random.uniform(4, 9, 3)) + np.tril(random.uniform(-2, 2, (3, 3)), -1)
    count = random.integers(1, 12)
    positions, types = random.uniform(-10, 20, (count, 3)), random.integers(0, 3, count)
    limits = random.uniform(0.1, 2.5, (3, 3))
    limits = np.maximum(limits, limits.T)
    for periodic in (True, False):
        first, second, distance = primitive_neighbor_list("ijd", [periodic] * 3, cell, positions, 2.5)
        wanted = bool((distance < limits[types[first], types[second]]).any())
        assert too_close(cell, types, positions, limits, periodic) == wanted


def test_two_atoms_at_one_place_are_too_close() -> None:
    limits = np.array([[0.5, 0.6], [0.6, 0.7]])
    places = np.array([[1.0, 1, 1], [1, 1, 1], [5, 5, 5]])
    assert too_close(np.eye(3) * 10, np.array([0, 1, 0]), places, limits)
    assert too_close(np.eye(3) * 10, np.array([0, 1, 0]), places, limits, periodic=False)
    assert not too_close(np.eye(3) * 10, np.array([0, 1]), places[1:], limits)


def test_limits_are_a_fraction_of_the_covalent_radii() -> None:
    limits = distance_limits(["H", "O"], None, 0.65)
    assert limits is not None
    assert limits.tolist() == [
        [pytest.approx(0.65 * 0.62), pytest.approx(0.65 * 0.97)],
        [limits[0, 1], pytest.approx(0.65 * 1.32)],
    ]
    assert distance_limits(["H"], 0.5, 0.65) == np.array([[0.5]])
    by_pair = distance_limits(["H", "O"], {"O-H": 0.9}, 0.65)
    assert by_pair is not None and by_pair[0, 1] == by_pair[1, 0] == 0.9 and by_pair[0, 0] == limits[0, 0]
    assert distance_limits(["H", "O"], None, None) is None
    only = distance_limits(["H", "O"], {"H-H": 0.4}, None)
    assert only is not None and only.tolist() == [[0.4, 0], [0, 0]]


@pytest.mark.parametrize("name", ["H2", "H2O", "CH4", "C2H2", "N2", "CO", "LiF"])
def test_molecules_at_rest_are_not_too_close(name: str) -> None:
    atoms = molecule(name)
    elements = sorted(set(atoms.get_chemical_symbols()))
    types = np.array([elements.index(symbol) for symbol in atoms.get_chemical_symbols()])
    limits = distance_limits(elements, None, 0.65)
    assert limits is not None and not too_close(np.eye(3) * 20, types, atoms.positions, limits, periodic=False)


def test_an_atom_and_its_own_image() -> None:
    assert rejection(as_frame(Atoms("Cu", cell=[0.4, 9, 9], pbc=True)), np.full((1, 1), 0.5), None, None) == "too_close"
    assert rejection(as_frame(Atoms("Cu", cell=[9, 9, 9], pbc=True)), np.full((1, 1), 0.5), None, None) == ""


def test_a_collapsed_box_ends_quickly() -> None:
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [5, 5, 0]], cell=[10, 10, 1e-7], pbc=True)
    assert rejection(as_frame(atoms), np.full((1, 1), 0.5), None, None) == "too_close"


def test_box_filters() -> None:
    slab = as_frame(Atoms("Cu", cell=[3, 3, 30], pbc=True))
    assert rejection(slab, None, 9.9, None) == "bad_box"
    assert rejection(slab, None, 10.0, None) == ""
    skewed = Atoms("Cu", cell=[[4, 0, 0], [4, 4, 0], [0, 0, 4]], pbc=True)
    assert tilt_angle(skewed.cell[:]) == pytest.approx(45)
    assert rejection(as_frame(skewed), None, None, 45.1) == ""
    assert rejection(as_frame(skewed), None, None, 44.9) == "bad_box"
    turned = skewed.copy()
    turned.rotate(77, (1, 2, 3), rotate_cell=True)
    assert tilt_angle(turned.cell[:]) == pytest.approx(45)


def water() -> Atoms:
    atoms = molecule("H2O", cell=[5, 6, 7], pbc=True).repeat([2, 1, 1])
    atoms.rattle(0.05, seed=1)
    return atoms


def key(atoms: Atoms) -> bytes:
    return keys(atoms.numbers.astype(np.int64), atoms.cell[:][None], atoms.positions[None])[0]


@pytest.mark.parametrize("change", ["wrap", "rotate", "permute", "far", "noise"])
def test_the_same_structure_has_the_same_key(change: str) -> None:
    atoms = water()
    other: Any = atoms.copy()
    if change == "wrap":
        other.wrap()
    elif change == "rotate":
        other.rotate(33, (1, 2, 3), rotate_cell=True)
    elif change == "permute":
        other = other[np.random.default_rng(0).permutation(len(other))]
    elif change == "far":
        other.positions += np.arange(len(other))[:, None] * (other.cell[0] - other.cell[2])
    else:
        other.positions += 1e-10
    assert key(other) == key(atoms)


@pytest.mark.parametrize("change", ["move", "element", "strain"])
def test_another_structure_has_another_key(change: str) -> None:
    atoms = water()
    other = atoms.copy()
    if change == "move":
        other.positions[0, 0] += 0.002
    elif change == "element":
        other.symbols[0] = "S"
    else:
        other.set_cell(other.cell * 1.001, scale_atoms=True)
    assert key(other) != key(atoms)


@pytest.mark.parametrize("cells", [(3, 3, 3), (4, 4, 4), (5, 3, 2)])
def test_lattice_sites_do_not_flip_when_written_with_ten_digits(cells: tuple[int, int, int]) -> None:
    atoms = bulk("Cu", a=3.615, cubic=True).repeat(cells)
    written = atoms.copy()
    written.positions = [[float(f"{x:.10g}") for x in row] for row in atoms.positions + 1e-10]
    assert key(written) == key(atoms)


def test_keys_of_a_dataset(tmp_path: Path) -> None:
    frames = []
    for seed in range(7):
        frames.append(water())
        frames[-1].rattle(0.1, seed=seed)
    system = dpdata.MultiSystems(*[dpdata.System(atoms, fmt="ase/structure") for atoms in frames], type_map=["O", "H"])
    system.to_deepmd_npy(str(tmp_path / "iter/000000"), set_size=3)
    (name,) = [path.parent.relative_to(tmp_path) for path in tmp_path.rglob("type.raw")]
    known, unreadable = dataset_keys(tmp_path, [str(name), "init/missing/H2O"])
    assert known == {key(atoms) for atoms in frames}
    assert len(known) == 7
    assert [text.partition(":")[0] for text in unreadable] == ["init/missing/H2O"]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A system of 7 frames in 3 sets, with its keys, all recorded; below iter/000000 of `tmp_path`."""
    frames = [water() for _ in range(7)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    system = dpdata.MultiSystems(*[dpdata.System(atoms, fmt="ase/structure") for atoms in frames], type_map=["O", "H"])
    system.to_deepmd_npy(str(tmp_path / "iter/000000"), set_size=3)
    (raw,) = tmp_path.rglob("type.raw")
    write_keys(raw.parent)
    write_sums(raw.parent.parent)
    assert (raw.parent / KEYS).stat().st_size == 7 * 16
    return raw.parent


def known_keys(system: Path) -> set[bytes]:
    found, unreadable = dataset_keys(system.parents[2], [str(system.relative_to(system.parents[2]))])
    assert unreadable == []
    return found


def test_keys_beside_a_system_are_those_of_its_frames(kept: Path) -> None:
    found = known_keys(kept)
    assert len(found) == 7
    (kept / KEYS).unlink()
    assert known_keys(kept) == found


def test_frames_are_not_read_where_their_keys_are(kept: Path) -> None:
    found = known_keys(kept)
    (kept / "type.raw").unlink()
    for path in kept.glob("set.*/coord.npy"):
        path.write_bytes(path.read_bytes()[:128])  # its header, which says how many they are
    assert known_keys(kept) == found


@pytest.mark.parametrize("damage", ["other", "short", "another frame", "not listed", "no list"])
def test_keys_that_do_not_fit_are_not_used(kept: Path, damage: str) -> None:
    found = known_keys(kept)
    data = (kept / KEYS).read_bytes()
    if damage == "other":
        (kept / KEYS).write_bytes(bytes(16) + data[16:])
    elif damage == "short":  # and recorded so
        (kept / KEYS).write_bytes(data[16:])
        write_sums(kept.parent)
    elif damage == "another frame":
        (kept / KEYS).write_bytes(bytes(16) + data)
        write_sums(kept.parent)
    elif damage == "not listed":
        (kept / KEYS).write_bytes(bytes(len(data)))
        lines = (kept.parent / SUMS).read_text().splitlines(keepends=True)
        (kept.parent / SUMS).write_text("".join(line for line in lines if KEYS not in line))
    else:
        (kept / KEYS).write_bytes(bytes(len(data)))
        (kept.parent / SUMS).unlink()
    assert known_keys(kept) == found


def test_a_cell_without_volume_has_no_key(kept: Path) -> None:
    (kept / KEYS).unlink()
    box = next(kept.glob("set.*")) / "box.npy"
    np.save(box, np.zeros_like(np.load(box)))
    write_keys(kept)
    assert not (kept / KEYS).exists()


def test_initial_data_have_their_keys(tmp_path: Path) -> None:
    """What `init` imports is compared with in each iteration."""
    atoms = bulk("Cu", cubic=True)
    system = dpdata.System(atoms, fmt="ase/structure").data
    labels = {"energies": np.zeros(1), "forces": np.zeros((1, 4, 3))}
    write_data({"Cu4": dpdata.LabeledSystem(data={**system, **labels})}, tmp_path / "init")
    (name,) = (path.name for path in (tmp_path / "init").iterdir() if path.is_dir())
    kept = (tmp_path / "init" / name / KEYS).read_bytes()
    assert [kept] == keys(atoms.numbers[None], atoms.cell[:][None], atoms.positions[None])
    assert f"{name}/{KEYS}" in (tmp_path / "init" / SUMS).read_text()
