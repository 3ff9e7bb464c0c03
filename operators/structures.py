"""Structures that a user's configuration names: read by ASE, checked, multiplied, scaled, perturbed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conventions.config import Pack, RunConfig, Structures
from conventions.errors import ConfigError
from conventions.names import derive_seed

from .structures_made import atoms_of, cut, occupy, unfit
from .structures_packed import check_pack, packed
from .sums import user_file

if TYPE_CHECKING:
    from ase import Atoms

NARROWEST = 0.5  # Angstrom between opposite faces of a cell, also of a scaled one
CLOSEST = 0.4  # Angstrom between two atoms; those of H2 have 0.74
MOST = {"structures": 10**5, "atoms in one structure": 10**5, "atoms in all": 10**7}


def load_structures(config: RunConfig, names: Iterable[str], files: Path) -> list[Atoms]:
    """All structures of the named sets, in order; `info["structure"]` is the name of the set.

    All have a cell: that of a molecule is a box around it, and its `pbc` is False.

    Parameters
    ----------
    files
        The folder of the user's files as the store holds them (`config/file`).

    Raises
    ------
    ConfigError
        When a file cannot be read, or holds an element outside type_map.
    """
    found = []
    for name in names:
        frames = (frame for _, frame in _frames(config, name, files))
        for atoms in expand(config.structures[name], frames, derive_seed(config.seed, name), f"structures.{name}"):
            atoms.info = {"structure": name}
            found.append(atoms)
    return found


def check_structures(config: RunConfig, name: str, files: Path) -> int:
    """How many structures a set has: its files are read and checked, its copies are not made.

    Raises
    ------
    ConfigError
        When a file cannot be read, when nothing could be computed of a structure, or when there are too many.
    """
    settings = config.structures[name]
    frames = list(_frames(config, name, files))
    if settings.pack:
        frames = _first_box(frames, settings.pack, derive_seed(config.seed, name), f"structures.{name}")
    for where, frame in frames:
        if problem := unfit(frame, settings, atoms_of(frame, settings) * math.prod(settings.super_cell)):
            raise ConfigError(f"{where}: {problem}")
    sizes = _sizes(settings, [frame for _, frame in frames])
    for what, count in sizes.items():
        if count > MOST[what]:
            raise ConfigError(
                f"structures.{name}: {count:,} {what}, with super_cell, scale and pert_numb; at most {MOST[what]:,} "
                "can be used: lower these, or name fewer files"
            )
    for where, frame in frames:
        if problem := _problem(frame, min(settings.scale)):
            raise ConfigError(f"{where}: {problem}")
    return sizes["structures"]


def _first_box(molecules: list[tuple[str, Atoms]], pack: Pack, seed: int, where: str) -> list[tuple[str, Atoms]]:
    """The first box of a set that is packed, in place of its frames: the others are like it."""
    import numpy as np

    frames = [frame for _, frame in molecules]
    problems = [(where, check_pack(frames, pack)), *((file, _problem(frame, 1.0)) for file, frame in molecules)]
    for place, problem in problems:
        if problem:
            raise ConfigError(f"{place}: {problem}")
    return [(where, packed(frames, pack, np.random.default_rng(seed), where))]


def has_molecules(config: RunConfig, name: str, files: Path) -> bool:
    """Has a set a structure without a cell?"""
    if config.structures[name].pack:
        return False
    return any(not frame.pbc.any() for _, frame in _frames(config, name, files))


def _frames(config: RunConfig, name: str, files: Path) -> Iterator[tuple[str, Atoms]]:
    """The frames of a set's files as they are, and what an error calls each."""
    settings = config.structures[name]
    for path in [user_file(files, file.root) for file in settings.files]:
        file = f"structures.{name}: {path.name}"
        for number, frame in enumerate(_read(path, settings.format, file)):
            unknown = sorted(set(frame.get_chemical_symbols()) - set(config.type_map))
            if unknown:
                raise ConfigError(f"{file}: element {unknown[0]} is not in type_map ({', '.join(config.type_map)})")
            where = f"{file}: frame {number}" if number else file
            fill_cell(frame, settings, where)
            yield where, frame


def fill_cell(frame: Atoms, settings: Structures, where: str) -> None:
    """Give a frame the cell vectors that it lacks, with vacuum along them.

    A frame without any is a molecule: its `pbc` is False in all directions, and the cell is a box around it, which
    the software that needs one is given. With one or two it is a chain or a slab, and periodic as other frames are.

    Raises
    ------
    ConfigError
        For a molecule with keys that make no sense for it.
    """
    missing = [axis for axis in range(3) if not frame.cell[axis].any()]
    frame.pbc = len(missing) < 3
    if not missing or not len(frame):
        return
    of_cells = settings.slab or settings.super_cell != [1, 1, 1] or settings.scale != [1.0] or settings.pert_box
    if not frame.pbc.any() and of_cells and not settings.pack:
        raise ConfigError(
            f"{where}: it has no cell, so it is a molecule: slab, super_cell, scale and pert_box are for periodic "
            "structures; remove them, or give the file its cell"
        )
    frame.center(vacuum=settings.vacuum, axis=missing)


def expand(settings: Structures, frames: Iterable[Atoms], seed: int, where: str = "structures") -> Iterator[Atoms]:
    """Every frame, as often as scale and pert_numb say, with what `structures_made` makes of it. Angstrom.

    Of a set that is packed, its boxes are the frames.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    if pack := settings.pack:
        molecules = list(frames)
        frames = (packed(molecules, pack, random, where) for _ in range(pack.boxes))
    for frame in frames:
        cell = cut(frame, settings).repeat(settings.super_cell)
        for factor in settings.scale:
            scaled = cell.copy()
            scaled.set_cell(cell.cell * factor, scale_atoms=True)
            if not settings.pert_numb:
                yield occupy(scaled, settings, random)
            for _ in range(settings.pert_numb):
                perturbed = occupy(scaled, settings, random).copy()
                strain = random.uniform(-settings.pert_box, settings.pert_box, (3, 3))
                strain = np.eye(3) + (strain + strain.T) / 2
                perturbed.set_cell(scaled.cell @ strain, scale_atoms=True)
                perturbed.positions += random.uniform(-settings.pert_atom, settings.pert_atom, (len(perturbed), 3))
                yield perturbed


def _sizes(settings: Structures, frames: list[Atoms]) -> dict[str, int]:
    """What `expand` would make of the frames."""
    copies = len(settings.scale) * max(1, settings.pert_numb) * (settings.pack.boxes if settings.pack else 1)
    whole = [atoms_of(frame, settings) * math.prod(settings.super_cell) for frame in frames]
    atoms = [count - settings.vacancies for count in whole]
    sizes = (len(atoms) * copies, max(atoms, default=0), sum(atoms) * copies)
    return dict(zip(MOST, sizes, strict=True))


def read_file(path: Path, format: str | None) -> list[Atoms]:
    """Every frame of a file, as ASE reads it. Angstrom.

    Raises
    ------
    ValueError
        When it cannot be read, or has numbers that are not finite.
    """
    import ase.io
    import numpy as np

    if (format or path.suffix.lstrip(".")) in ("xyz", "extxyz"):
        _check_counts(path)
    try:
        frames = list(ase.io.read(path, index=":", format=format))
    except Exception as error:  # ASE's readers raise whatever they meet
        raise ValueError(f"ASE cannot read it: {error or type(error).__name__}") from None
    for number, frame in enumerate(frames):
        if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell.array).all()):
            raise ValueError(f"frame {number} has a position or a cell that is not a finite number")
    return frames


def _check_counts(path: Path) -> None:
    """Numbers of atoms that the file cannot hold: ASE would count on behind its end, perhaps for ever.

    A first structure that is too large to be used is not read: that would take seconds.
    """
    size, most = path.stat().st_size, MOST["atoms in one structure"]
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines):
            word = line.strip().replace("_", "").lstrip("+")
            if word.isdecimal() and (len(word) > 18 or int(word) > size):
                raise ValueError(f"it says {word[:30]} atoms, and has {size} bytes")
            if number == 0 and word.isdecimal() and int(word) > most:
                raise ValueError(f"{int(word):,} atoms in one structure; at most {most:,} can be used")


def _read(path: Path, format: str | None, where: str) -> list[Atoms]:
    hint = "" if format else "; if its name does not show the format, give `format`"
    try:
        frames = read_file(path, format)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}{hint}") from None
    if not frames:
        raise ConfigError(f"{where}: it holds no structure{hint}")
    for frame in frames:
        frame.calc = None
        frame.set_constraint()
    return frames


def _problem(frame: Atoms, scale: float) -> str:
    """Why nothing can be computed of a structure, or of one that is scaled; empty if something can."""
    import numpy as np

    from .distances import closest

    if not len(frame):
        return "a structure without atoms"
    cell = frame.cell.array * scale
    with np.errstate(all="ignore"):
        largest = np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1).max()
        width = abs(np.linalg.det(cell)) / largest
    if not NARROWEST <= width < math.inf:
        scaled = f", with scale {scale}," if scale != 1 else ""
        return (
            f"its cell{scaled} is {width:.2g} Angstrom wide between two faces; {NARROWEST} is the least: give vectors "
            "in Angstrom that span a volume"
        )
    distance = closest(frame.cell.array, frame.positions, CLOSEST, bool(frame.pbc.all()))
    if distance < CLOSEST:
        return f"two of its atoms are {distance:.3f} Angstrom apart; {CLOSEST} is the least: correct the file"
    return ""


def masses(type_map: Sequence[str], mass_map: Sequence[float] | None) -> dict[str, float]:
    """Mass of each element of type_map in g/mol: those of mass_map in its order, or ASE's standard masses."""
    from ase.data import atomic_masses, atomic_numbers

    given = mass_map or [float(atomic_masses[atomic_numbers[element]]) for element in type_map]
    return dict(zip(type_map, given, strict=True))
