"""Boxes filled with molecules (or atoms) at random, as `pack` of a structure set asks for.

Molecule by molecule a place and an orientation are drawn until it keeps its distance from those that are there already
(random sequential addition). What is random depends on the run's seed and the set's name only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conventions.config import Pack
from conventions.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.random import Generator
    from numpy.typing import NDArray

LARGEST = 5000  # atoms of a box: more cannot be labelled, and take minutes to place
TRIALS, BATCHES, BEGINNINGS = 100, 100, 3
DALTON = 1.66053906660  # g/cm3 of 1 g/mol in one Angstrom^3


def check_pack(frames: Sequence[Atoms], pack: Pack) -> str:
    """Why the frames of a set cannot be packed; empty if they may be."""
    if len(pack.molecules) != len(frames):
        return (
            f"pack.molecules: {len(pack.molecules)} numbers, and the files have {len(frames)} molecules: give one each"
        )
    if any(frame.pbc.any() for frame in frames):
        return "pack: a file has a cell; give molecules or single atoms without one, such as .xyz"
    atoms = atoms_of(frames, pack)
    if atoms > LARGEST:
        return f"pack.molecules: {atoms:,} atoms in a box; at most {LARGEST:,} can be packed"
    return ""


def atoms_of(frames: Sequence[Atoms], pack: Pack) -> int:
    """How many atoms a box has."""
    return sum(number * len(frame) for number, frame in zip(pack.molecules, frames, strict=True))


def packed(frames: Sequence[Atoms], pack: Pack, random: Generator, where: str) -> Atoms:
    """A cubic box of the density asked for, with its molecules at random. Angstrom.

    Raises
    ------
    ConfigError
        When no place was found for one of them.
    """
    import numpy as np
    from ase import Atoms

    molecules = [frame for number, frame in zip(pack.molecules, frames, strict=True) for _ in range(number)]
    molecules.sort(key=len, reverse=True)  # the small ones fit between the large ones
    mass = sum(float(molecule.get_masses().sum()) for molecule in molecules)
    length = (mass * DALTON / pack.density) ** (1 / 3)
    widest = max(float(np.ptp(molecule.positions, axis=0).max()) for molecule in molecules)
    if widest + pack.tolerance > length:
        raise ConfigError(
            f"{where}: pack: a molecule of {widest:.1f} Angstrom in a box of {length:.1f} would meet its own image; "
            "give more molecules"
        )
    placed = 0
    for _ in range(BEGINNINGS):
        positions = _place(molecules, length, pack.tolerance, random)
        if len(positions) == len(molecules):
            symbols = [symbol for molecule in molecules for symbol in molecule.get_chemical_symbols()]
            return Atoms(symbols, positions=np.concatenate(positions), cell=[length] * 3, pbc=True)
        placed = max(placed, len(positions))
    raise ConfigError(
        f"{where}: pack: {placed} of {len(molecules)} molecules found a place in a box of {length:.1f} Angstrom with "
        f"{pack.tolerance} Angstrom between their atoms; lower density or tolerance (MD at a pressure makes it dense)"
    )


def _place(molecules: Sequence[Atoms], length: float, tolerance: float, random: Generator) -> list[NDArray[Any]]:
    """Positions of the molecules' atoms, of as many as find a place."""
    import numpy as np
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]
    from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

    found: list[NDArray[Any]] = []
    for molecule in molecules:
        centred = molecule.positions - molecule.positions.mean(axis=0)
        tree = cKDTree(np.concatenate(found) % length, boxsize=length) if found else None
        for _ in range(BATCHES):
            turns = Rotation.from_quat(random.normal(size=(TRIALS, 4))).as_matrix()
            turned = np.einsum("trc,ac->tar", turns, centred)
            trials = turned + random.uniform(0, length, (TRIALS, 1, 3))
            if tree is None:
                free = np.ones(TRIALS, dtype=bool)
            else:  # farther than the bound is infinite
                free = np.isinf(tree.query(trials % length, distance_upper_bound=tolerance)[0]).all(axis=1)
            if free.any():
                found.append(trials[int(free.argmax())])
                break
        else:
            return found
    return found
