"""Boxes that are packed with molecules at random, and what cannot be packed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from pydantic import ValidationError

from conventions.config import Structures
from conventions.errors import ConfigError
from operators.structures import check_structures, expand, has_molecules, load_structures
from tests.explore_run import ExploreRun

WATER, METHANOL = molecule("H2O"), molecule("CH3OH")
GROUP = {"structures": ["set"], "ensemble": "nve", "temps": [300.0], "nsteps": 10}
PACK = {"molecules": [20, 3], "density": 0.8}


def made(molecules: list[Atoms], pack: dict[str, Any], seed: int = 1, **settings: Any) -> list[Atoms]:
    return list(expand(Structures(files=["x"], pack=pack, **settings), molecules, seed))


def config(root: Path, molecules: list[Atoms], **settings: Any) -> tuple[Any, Path]:
    """A frozen configuration with one structure set, and the folder of its files."""
    run = ExploreRun(root, {"set": molecules}, [[GROUP]], ["C", "H", "O", "Cu"])
    run.config["structures"]["set"] |= settings
    return run.freeze(), root / run.space.files


def test_density_composition_and_distances() -> None:
    (box,) = made([WATER, METHANOL], PACK)
    assert box.get_chemical_symbols().count("O") == 23 and box.get_chemical_symbols().count("C") == 3
    assert box.pbc.all() and box.cell.angles() == pytest.approx([90] * 3)
    mass = 20 * 18.015 + 3 * 32.042  # g/mol
    assert box.get_volume() == pytest.approx(mass / 0.8 / 0.602214076, rel=1e-4)
    owner = np.repeat(np.arange(23), [6] * 3 + [3] * 20)  # the large ones are placed first
    between = box.get_all_distances(mic=True)[owner[:, None] != owner[None]]
    assert between.min() >= 1.8


def test_molecules_keep_their_shape_and_turn() -> None:
    (box,) = made([WATER], {"molecules": [16], "density": 0.9})
    bonds = np.diff(box.positions.reshape(16, 3, 3), axis=1)
    lengths = np.linalg.norm(np.diff(WATER.positions, axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(bonds, axis=2), np.tile(lengths, (16, 1)))
    assert len({tuple(bond.round(3).ravel()) for bond in bonds}) == 16


def test_boxes_differ_and_follow_from_the_seed() -> None:
    first, second = made([WATER], {"molecules": [8], "density": 0.7, "boxes": 2})
    assert not np.allclose(first.positions, second.positions)
    again = made([WATER], {"molecules": [8], "density": 0.7, "boxes": 2})
    assert np.array_equal(again[1].positions, second.positions)
    (other,) = made([WATER], {"molecules": [8], "density": 0.7}, seed=2)
    assert not np.allclose(other.positions, first.positions)


def test_boxes_are_perturbed_and_their_elements_drawn_as_other_structures() -> None:
    copper = Atoms("Cu", [[0, 0, 0]])
    pack = {"molecules": [16], "density": 6.0, "tolerance": 2.0, "boxes": 2}
    copies = made([copper], pack, pert_numb=3, pert_box=0.05, vacancies=1, substitute={"Cu": {"O": 0.5, "Cu": 0.5}})
    assert [len(copy) for copy in copies] == [15] * 6
    assert len({round(copy.get_volume(), 3) for copy in copies}) == 6


def test_a_set_is_counted_checked_and_loaded(tmp_path: Path) -> None:
    frozen, files = config(tmp_path, [WATER, METHANOL], pack={**PACK, "boxes": 3}, pert_numb=2, pert_box=0.01)
    assert check_structures(frozen, "set", files) == 6
    loaded = load_structures(frozen, ["set"], files)
    assert [len(atoms) for atoms in loaded] == [78] * 6 and not has_molecules(frozen, "set", files)


def wrong_number(pack: dict[str, Any]) -> list[Atoms]:
    pack["molecules"] = [3]
    return [WATER, METHANOL]


def a_crystal(pack: dict[str, Any]) -> list[Atoms]:
    return [WATER, bulk("Cu", cubic=True)]


def too_dense(pack: dict[str, Any]) -> list[Atoms]:
    pack["density"] = 3.0
    return [WATER, METHANOL]


def too_many(pack: dict[str, Any]) -> list[Atoms]:
    pack["molecules"] = [1000, 1000]
    return [WATER, METHANOL]


def too_long(pack: dict[str, Any]) -> list[Atoms]:
    pack |= {"molecules": [0, 1], "tolerance": 3.0}
    return [WATER, METHANOL]


def at_one_place(pack: dict[str, Any]) -> list[Atoms]:
    return [Atoms("OH", [[0, 0, 0], [0, 0, 0.1]]), METHANOL]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_number, "1 numbers, and the files have 2 molecules"),
        (a_crystal, "a file has a cell"),
        (too_dense, "molecules found a place in a box of"),
        (too_many, "9,000 atoms in a box; at most 5,000"),
        (too_long, "would meet its own image; give more molecules"),
        (at_one_place, "two of its atoms are 0.100 Angstrom apart"),
    ],
)
def test_what_cannot_be_packed(tmp_path: Path, spoil: Callable[[dict[str, Any]], list[Atoms]], said: str) -> None:
    pack = dict(PACK)
    frozen, files = config(tmp_path, spoil(pack), pack=pack)
    with pytest.raises(ConfigError, match=said):
        check_structures(frozen, "set", files)


@pytest.mark.parametrize("key", [{"slab": {"miller": [1, 1, 1], "layers": 2, "vacuum": 5}}, {"scale": [0.9]}])
def test_pack_makes_the_box(key: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="pack makes the box"):
        Structures(files=["x"], pack=PACK, **key)


def test_nothing_to_pack() -> None:
    with pytest.raises(ValidationError, match="all are 0"):
        Structures(files=["x"], pack={"molecules": [0], "density": 1})
