"""Structures that a user's configuration names: read by ASE, multiplied, scaled, perturbed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conventions.config import RunConfig, Structures
from conventions.errors import ConfigError
from conventions.names import derive_seed

from .sums import user_file

if TYPE_CHECKING:
    from ase import Atoms


def load_structures(config: RunConfig, names: Iterable[str], files: Path) -> list[Atoms]:
    """All structures of the named sets, in order; `info["structure"]` is the name of the set.

    Parameters
    ----------
    files
        The folder of the user's files as the store holds them (`config/file`).

    Raises
    ------
    ConfigError
        When a file cannot be read, has no cell, or holds an element outside type_map.
    """
    found = []
    for name in names:
        settings = config.structures[name]
        paths = [user_file(files, file.root) for file in settings.files]
        for atoms in expand(settings, paths, derive_seed(config.seed, name)):
            unknown = sorted(set(atoms.get_chemical_symbols()) - set(config.type_map))
            if unknown:
                raise ConfigError(
                    f"structures.{name}: element {unknown[0]} is not in type_map ({', '.join(config.type_map)})"
                )
            atoms.info = {"structure": name}
            found.append(atoms)
    return found


def expand(settings: Structures, paths: Iterable[Path], seed: int) -> Iterator[Atoms]:
    """Every frame of the files, as often as scale and pert_numb say. Angstrom."""
    import numpy as np

    random = np.random.default_rng(seed)
    for path in paths:
        for frame in _read(path, settings.format):
            cell = frame.repeat(settings.super_cell)
            for factor in settings.scale:
                scaled = cell.copy()
                scaled.set_cell(cell.cell * factor, scale_atoms=True)
                if not settings.pert_numb:
                    yield scaled
                for _ in range(settings.pert_numb):
                    perturbed = scaled.copy()
                    strain = random.uniform(-settings.pert_box, settings.pert_box, (3, 3))
                    strain = np.eye(3) + (strain + strain.T) / 2
                    perturbed.set_cell(scaled.cell @ strain, scale_atoms=True)
                    perturbed.positions += random.uniform(-settings.pert_atom, settings.pert_atom, (len(scaled), 3))
                    yield perturbed


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
    """Numbers of atoms that the file cannot hold: ASE would count on behind its end, perhaps for ever."""
    size = path.stat().st_size
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            word = line.strip().replace("_", "").lstrip("+")
            if word.isdecimal() and (len(word) > 18 or int(word) > size):
                raise ValueError(f"it says {word[:30]} atoms, and has {size} bytes")


def _read(path: Path, format: str | None) -> list[Atoms]:
    try:
        frames = read_file(path, format)
    except ValueError as error:
        hint = "" if format else "; if its name does not show the format, give `format`"
        raise ConfigError(f"{path.name}: {error}{hint}") from None
    for frame in frames:
        if frame.cell.rank < 3:
            raise ConfigError(
                f"{path.name}: it has no periodic cell in three directions; give it one, a molecule for instance a box "
                "with 10 Angstrom around it: atoms.center(vacuum=10) of ASE, then write a format with cells (extxyz)"
            )
        frame.calc = None
        frame.set_constraint()
        frame.pbc = True
    return frames
