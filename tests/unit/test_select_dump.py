"""Single frames out of LAMMPS dumps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ase.io
import numpy as np
import pytest

from operators.select import score
from operators.select.dump import CorruptFrame, DumpIndex, Frame, parse_frame, read_frames
from operators.select.extxyz import write_frames
from tests.select_run import dump, frame


def write(folder: Path, text: str) -> Path:
    path = folder / "traj.lammpstrj"
    path.write_text(text)
    return path


def read(folder: Path, text: str, steps: list[int]) -> list[tuple[int, Frame | CorruptFrame | None]]:
    path = write(folder, text)
    return list(read_frames(path, DumpIndex.of(path), steps, 2))


def one(box: str, columns: str, row: str) -> Frame:
    text = f"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS {box}\nITEM: ATOMS {columns}\n{row}\n"
    return parse_frame(text.encode(), 2)


def test_frames_by_step_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, dump(range(0, 1000, 10)), [990, 20, 25, 0])
    assert [step for step, _ in found] == [25, 0, 20, 990]  # what is not there comes first
    assert found[0][1] is None
    for step, got in found[1:]:
        assert isinstance(got, Frame)
        assert np.array_equal(got.positions, parse_frame(frame(step).encode(), 1).positions)


def test_ase_reads_the_same(tmp_path: Path) -> None:
    box = "xy xz yz pp pp pp\n-1.5 6 0.5\n2 7 -1\n0 4 0.25"
    path = write(tmp_path, frame(0, box=box))
    ours = parse_frame(path.read_bytes(), 1)
    theirs = ase.io.read(path, format="lammps-dump-text")
    assert np.allclose(ours.cell, theirs.cell[:], atol=1e-12)
    difference = theirs.get_scaled_positions(wrap=False) - ours.positions @ np.linalg.inv(ours.cell)
    assert np.allclose(difference, difference[0], atol=1e-9)  # ASE keeps the box's origin


def test_boxes() -> None:
    orthogonal = one("pp pp pp\n-1 3\n0 5\n2 8", "id type x y z", "1 2 0 1 3")
    assert np.array_equal(orthogonal.cell, np.diag([4, 5, 6]))
    assert np.array_equal(orthogonal.positions, [[1, 1, 1]])
    assert orthogonal.types.tolist() == [1]
    restricted = one("xy xz yz pp pp pp\n-1 4 1\n0 5 -1\n0 6 0", "id type x y z", "1 1 1 2 3")
    assert np.array_equal(restricted.cell, [[3, 0, 0], [1, 5, 0], [-1, 0, 6]])  # xlo = -1 + 1, xhi = 4 - 1
    assert np.array_equal(restricted.positions, [[1, 2, 3]])
    general = one("abc origin pp pp pp\n0 4 0 1\n0 0 5 1\n6 0 0 1", "id type x y z", "1 1 2 3 4")
    assert np.array_equal(general.cell, [[0, 4, 0], [0, 0, 5], [6, 0, 0]])
    assert np.array_equal(general.positions, [[1, 2, 3]])
    old = one("\n0 4\n0 5\n0 6", "id type x y z", "1 1 1 2 3")
    assert np.array_equal(old.cell, np.diag([4, 5, 6]))


@pytest.mark.parametrize("columns", ["xs ys zs", "xsu ysu zsu"])
def test_scaled_coordinates(columns: str) -> None:
    found = one("xy xz yz pp pp pp\n10 15 1\n0 4 0\n0 4 0", f"type {columns}", "1 0.5 0.25 0.5")
    assert np.allclose(found.positions, [[0.5 * 4 + 0.25 * 1, 1, 2]])


def test_unwrapped_coordinates_and_more_columns() -> None:
    found = one("pp pp pp\n1 5\n0 4\n0 4", "id element type xu yu zu fx", "1 Cu 1 9 2 3 0.5")
    assert np.array_equal(found.positions, [[8, 2, 3]])


def test_atoms_are_sorted_by_id() -> None:
    box = "ITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
    text = f"ITEM: NUMBER OF ATOMS\n2\n{box}ITEM: ATOMS id type x y z\n2 2 2 2 2\n1 1 1 1 1\n"
    found = parse_frame(text.encode(), 2)
    assert found.types.tolist() == [0, 1]
    assert found.positions[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\n4 1 ", "\n5 1 ", None),
        ("NUMBER OF ATOMS\n4", "NUMBER OF ATOMS\n3", "3 atoms, but 4"),
        ("NUMBER OF ATOMS\n4", "NUMBER OF ATOMS\nx", "number of atoms"),
        ("\n4 1 ", "\n4 3 ", "type_map"),
        ("\n4 1 ", "\n4 1.5 ", "type_map"),
        ("\n4 1 ", "\n4 nan ", "finite"),
        ("\n4 1 ", "\n4 1 7 ", "cut off or damaged"),
        ("\n4 1 ", "\n3 1 ", "twice"),
        ("\n2 1 ", "\n2 ?? ", "not a number"),
        ("0 4\n0 4\n0 4", "0 4\n0 4\n0 inf", "volume"),
        ("0 4\n0 4\n0 4", "0 4\n4 0\n0 4", "volume"),
        ("0 4\n0 4\n0 4", "0 4\n0 4", "box"),
        ("pp pp pp", "pp pp ff", "periodic"),
        ("id type x y z", "id mol x y z", "columns type x y z"),
    ],
)
def test_damaged_frames(tmp_path: Path, old: str, new: str, problem: str | None) -> None:
    damaged = frame(10).replace(old, new)
    assert damaged != frame(10)
    found = dict(read(tmp_path, frame(0) + damaged + frame(20), [0, 10, 20]))
    assert isinstance(found[0], Frame)
    assert isinstance(found[20], Frame)
    if problem is None:
        assert isinstance(found[10], Frame)
    else:
        assert isinstance(found[10], CorruptFrame)
        assert problem in str(found[10])


def test_a_dump_cut_at_any_byte_gives_whole_frames_or_none(tmp_path: Path) -> None:
    whole = frame(0) + frame(10)
    positions = parse_frame(frame(10).encode(), 1).positions
    for cut in range(1, len(frame(10))):
        found = dict(read(tmp_path, whole[:-cut], [0, 10]))
        assert isinstance(found[0], Frame)
        assert not isinstance(found[10], Frame)
    found = dict(read(tmp_path, whole, [0, 10]))
    assert isinstance(found[10], Frame)
    assert np.array_equal(found[10].positions, positions)


def test_a_step_that_appears_twice_is_ambiguous(tmp_path: Path) -> None:
    found = dict(read(tmp_path, frame(0) + frame(10) + frame(10, seed=1) + frame(20), [10, 20]))
    assert isinstance(found[10], CorruptFrame)
    assert isinstance(found[20], Frame)


def test_steps_that_cannot_be_read(tmp_path: Path) -> None:
    odd = frame(20).replace("TIMESTEP\n20\n", "TIMESTEP\n??\n")
    index = DumpIndex.of(write(tmp_path, frame(0) + odd + frame(10**12)))
    assert index.steps.tolist() == [0, -1, 10**12]


def test_an_empty_dump(tmp_path: Path) -> None:
    assert read(tmp_path, "", [0]) == [(0, None)]


def test_units_and_time_belong_to_no_frame(tmp_path: Path) -> None:
    text = "ITEM: UNITS\nmetal\n" + "".join(f"ITEM: TIME\n{step / 10}\n" + frame(step) for step in (0, 10, 20))
    assert all(isinstance(found, Frame) for _, found in read(tmp_path, text, [0, 10, 20]))


def test_frames_of_very_different_length(tmp_path: Path) -> None:
    # The first frame of a crystal is written with few digits; later ones are longer.
    short = frame(0)
    for old in [line for line in short.splitlines() if line[:2] in ("1 ", "2 ", "3 ", "4 ")]:
        short = short.replace(old, " ".join([*old.split()[:2], "1", "1", "1"]))
    index = DumpIndex.of(write(tmp_path, short + dump(range(10, 300, 10))))
    assert index.steps.tolist() == list(range(0, 300, 10))


def test_an_index_does_not_depend_on_where_the_file_is_cut_for_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, dump(range(0, 50, 10)) + "ITEM: TIMESTEP\n50\n")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    whole = DumpIndex.of(path, sha256)
    assert whole.steps.tolist() == list(range(0, 50, 10))  # the last one has not even a box
    for size in (1, 7, 40, 1000):
        monkeypatch.setattr(score, "_CHUNK", size)
        found = DumpIndex.of(path, sha256)
        assert np.array_equal(found.steps, whole.steps) and np.array_equal(found.starts, whole.starts)


@pytest.mark.parametrize("text", ["", "ITEM", dump([0, 10])])
def test_another_dump_than_the_recorded_one_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    DumpIndex.of(path, hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(ValueError, match="sha256 differs"):
        DumpIndex.of(path, hashlib.sha256(b"other").hexdigest())


@pytest.mark.parametrize("name", ["bulk", "007", "T", "nan", "1e5", "a-b.c"])
def test_extended_xyz_keeps_every_digit(tmp_path: Path, name: str) -> None:
    written = parse_frame(frame(3, box="xy xz yz pp pp pp\n0 5.123456789012 1.1\n0 4 0\n0 4 0").encode(), 1)
    write_frames(tmp_path / "frames.extxyz", [(name, 0.1 + 0.2, written)] * 2, ["Cu"])
    for atoms in ase.io.read(tmp_path / "frames.extxyz", ":"):
        assert np.array_equal(atoms.positions, written.positions)
        assert np.array_equal(atoms.cell[:], written.cell)
        assert atoms.info == {"structure": name, "max_devi_f": 0.1 + 0.2}
        assert "model_forces" not in atoms.arrays
        assert atoms.pbc.all()
        assert str(atoms.symbols) == "Cu4"


@pytest.mark.parametrize("columns", ["fx fy fz", "f_dpgen_force[1] f_dpgen_force[2] f_dpgen_force[3]"])
def test_the_models_forces_go_with_the_frame(tmp_path: Path, columns: str) -> None:
    text = "ITEM: NUMBER OF ATOMS\n2\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
    rows = "2 1 1 2 3 -0.5 0.25 1e-05\n1 1 4 5 6 0.1 0.2 0.3\n"
    found = parse_frame(f"{text}ITEM: ATOMS id type x y z {columns}\n{rows}".encode(), 1)
    assert found.forces is not None
    assert found.forces.tolist() == [[0.1, 0.2, 0.3], [-0.5, 0.25, 1e-05]]  # in the order of the atoms
    write_frames(tmp_path / "frames.extxyz", [("bulk", 0.2, found)], ["Cu"])
    (atoms,) = ase.io.read(tmp_path / "frames.extxyz", ":")
    assert np.array_equal(atoms.arrays["model_forces"], found.forces)
    assert np.array_equal(atoms.positions, found.positions)
    assert atoms.calc is None  # a prediction is no label
