"""Surfaces, random alloys and vacancies: what is made of a user's structures, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pydantic import ValidationError

from conventions.config import Structures
from conventions.errors import ConfigError, DataError
from operators.structures import check_structures, expand, load_structures
from operators.structures_made import counts
from tests.explore_run import ExploreRun

CU = bulk("Cu", "fcc", a=3.6, cubic=True)
SALT = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
SLAB = {"miller": [1, 1, 1], "layers": 4, "vacuum": 10.0}
GROUP = {"structures": ["set"], "ensemble": "nve", "temps": [300.0], "nsteps": 10}


def made(atoms: Atoms, seed: int = 1, **settings: Any) -> list[Atoms]:
    return list(expand(Structures(files=["x"], **settings), [atoms], seed))


def config(root: Path, atoms: Atoms, **settings: Any) -> tuple[Any, Path]:
    """A frozen configuration with one structure set, and the folder of its files."""
    root.mkdir(exist_ok=True)
    run = ExploreRun(root, {"set": [atoms]}, [[GROUP]], ["Cu", "Au", "Na", "K", "Cl"])
    run.config["structures"]["set"] |= settings
    return run.freeze(), root / run.space.files


def test_slab() -> None:
    (slab,) = made(CU, slab=SLAB)
    assert len(slab) == 16 and slab.pbc.all()
    heights = np.unique(slab.positions[:, 2].round(6))
    assert np.diff(heights) == pytest.approx([3.6 / np.sqrt(3)] * 3)
    assert slab.cell[2, 2] == pytest.approx(np.ptp(heights) + 20.0)
    assert slab.cell[2, :2] == pytest.approx([0, 0])


def test_order_is_slab_super_cell_scale() -> None:
    (slab,) = made(CU, slab={**SLAB, "miller": [1, 0, 0], "layers": 2}, super_cell=[3, 1, 1], scale=[1.1])
    assert len(slab) == 2 * 4 * 3
    assert slab.cell.lengths()[:2] == pytest.approx(np.array([3.6 * 3, 3.6]) * 1.1)


def test_composition_is_exact_and_sites_are_random() -> None:
    settings = {"super_cell": [2, 2, 2], "substitute": {"Cu": {"Cu": 0.5, "Au": 0.5}}, "pert_numb": 5}
    alloys = made(CU, **settings)
    assert [alloy.get_chemical_symbols().count("Au") for alloy in alloys] == [16] * 5
    assert len({alloy.get_chemical_formula("reduce") for alloy in alloys}) > 1
    for alloy in alloys:
        np.testing.assert_allclose(alloy.positions, CU.repeat(2).positions)


def test_only_the_named_element_is_replaced_and_all_at_once() -> None:
    (salt,) = made(SALT, substitute={"Na": {"K": 1.0}})
    assert salt.get_chemical_symbols() == ["K" if symbol == "Na" else symbol for symbol in SALT.get_chemical_symbols()]
    (swapped,) = made(SALT, substitute={"Na": {"Cl": 1.0}, "Cl": {"Na": 1.0}})
    assert swapped.get_chemical_symbols().count("Na") == 4
    assert swapped.symbols[0] == "Cl"


def test_vacancies() -> None:
    copies = made(CU, super_cell=[2, 1, 1], vacancies=2, pert_numb=6, pert_atom=0.01)
    assert [len(copy) for copy in copies] == [6] * 6
    (one,) = made(CU, vacancies=1)
    assert {tuple(place) for place in one.positions} < {tuple(place) for place in CU.positions}
    kept = {tuple((copy.positions / 1.8).round().astype(int).ravel()) for copy in copies}
    assert len(kept) > 1, "other atoms in each copy"


def test_vacancies_come_after_the_elements() -> None:
    (alloy,) = made(CU, super_cell=[2, 2, 2], substitute={"Cu": {"Cu": 0.5, "Au": 0.5}}, vacancies=1)
    assert sorted(np.unique(alloy.get_chemical_symbols(), return_counts=True)[1]) == [15, 16]


def test_same_seed_same_structures() -> None:
    settings: dict[str, Any] = {"vacancies": 1, "super_cell": [2, 2, 1], "pert_numb": 2, "pert_atom": 0.1}
    settings["substitute"] = {"Cu": {"Cu": 0.75, "Au": 0.25}}
    one, same, other = (made(CU, seed, **settings) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_without_these_keys_nothing_is_drawn() -> None:
    """The perturbations of a set do not depend on what it does not ask for."""
    (plain,) = made(CU, pert_numb=1, pert_atom=0.1)
    random = np.random.default_rng(1)
    random.uniform(0, 0, (3, 3))
    np.testing.assert_allclose(plain.positions, CU.positions + random.uniform(-0.1, 0.1, (4, 3)))


@pytest.mark.parametrize(
    ("total", "expected"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (3, [1, 1, 1]), (100, [34, 33, 33]), (10, [4, 3, 3])]
)
def test_largest_remainders(total: int, expected: list[int]) -> None:
    assert list(counts({"Cu": 0.34, "Au": 0.33, "Ag": 0.33}, total).values()) == expected


# --- checked before they are made -----------------------------------------------------------------------------------


def test_sizes_are_known_before(tmp_path: Path) -> None:
    settings = {"slab": SLAB, "super_cell": [2, 1, 1], "vacancies": 3, "pert_numb": 2, "scale": [1.0, 1.02]}
    frozen, files = config(tmp_path, CU, **settings)
    assert check_structures(frozen, "set", files) == 4
    assert [len(atoms) for atoms in load_structures(frozen, ["set"], files)] == [4 * 4 * 2 - 3] * 4
    large, files = config(tmp_path / "large", CU, slab={**SLAB, "layers": 1000}, super_cell=[100, 1, 1])
    with pytest.raises(ConfigError, match="400,000 atoms in one structure"):
        check_structures(large, "set", files)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vacancies": 4}, r"structures\.set: set\.extxyz: vacancies: 4 of 4 atoms would go; lower it"),
        ({"substitute": {"Au": {"Cu": 1.0}}}, r"substitute: it has no atom of Au; it has Cu$"),
    ],
)
def test_what_cannot_be_made_of_a_frame(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    frozen, files = config(tmp_path, CU, **settings)
    with pytest.raises(ConfigError, match=words):
        check_structures(frozen, "set", files)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"substitute": {"Cu": {"Au": 0.5}}}, "substitute.Cu: the fractions are 0.5 together; make them 1"),
        ({"substitute": {"Cu": {"Au": 1.5, "Cu": -0.5}}}, "less than or equal to 1"),
        ({"substitute": {"Cu": {}}}, "at least 1 item"),
        ({"substitute": {"Xx": {"Au": 1.0}}}, "'Xx' is not an element"),
        ({"slab": {**SLAB, "miller": [0, 0, 0]}}, "[0, 0, 0] is no plane"),
        ({"slab": {**SLAB, "miller": [1, 1]}}, "at least 3 items"),
        ({"slab": {**SLAB, "layers": 0}}, "greater than or equal to 1"),
        ({"slab": {"miller": [1, 1, 1], "layers": 2}}, "vacuum"),
        ({"vacancies": -1}, "greater than or equal to 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Structures.model_validate({"files": ["x"], **settings})
    assert words in str(caught.value)


def test_elements_of_an_alloy_are_in_type_map(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"structures\.set\.substitute: element Ag is not in type_map; add it"):
        config(tmp_path, CU, substitute={"Cu": {"Ag": 1.0}})
