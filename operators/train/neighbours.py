"""`sel` of a descriptor against the structures: neighbours for which it has no place are left out by dp, silently.

Forces then jump when an atom enters or leaves the list. `sel` is explained at
https://docs.deepmodeling.com/projects/deepmd/en/stable/model/sel.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.config import RunConfig
from operators.structures import load_structures

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

MOST = 20  # structures of a set that are looked at; they differ little


def short_sel(found: dict[str, Any], config: RunConfig, files: Path) -> list[str]:
    """What is too short in an input.json, in words.

    Parameters
    ----------
    found
        The input, read.
    files
        The folder of the user's files as the store holds them.
    """
    descriptors = list(_with_sel(found["model"].get("descriptor", {})))
    if not descriptors:
        return []
    sets = {name: load_structures(config, [name], files) for name in config.structures}
    problems = []
    for rcut, sel in descriptors:
        most: dict[str, tuple[int, str]] = {}
        for name, structures in sets.items():
            for atoms in structures[:: max(1, len(structures) // MOST)]:
                for kind, count in _neighbours(atoms, rcut, config.type_map, total=len(sel) == 1).items():
                    most[kind] = max(most.get(kind, (0, "")), (count, name))
        kinds = config.type_map if len(sel) > 1 else list(most)
        for kind, places in zip(kinds, sel, strict=False):
            count, name = most.get(kind, (0, ""))
            if count > places:
                problems.append(
                    f"train.input: descriptor.sel has {places} places, but an atom of structures.{name} has {count} "
                    f'neighbours ({kind}) within rcut {rcut}: give it at least {-(-count * 6 // 5)}, or "auto"'
                )
    return problems


def _with_sel(descriptor: Any) -> Iterator[tuple[float, list[int]]]:
    """(rcut, sel) of a descriptor, or of the members of a hybrid one; "auto" has no limit."""
    if not isinstance(descriptor, dict):
        return
    for member in descriptor.get("list", []):
        yield from _with_sel(member)
    rcut, sel = descriptor.get("rcut", 6.0), descriptor.get("sel")
    sel = [sel] if type(sel) is int else sel
    if isinstance(sel, list) and sel and all(type(places) is int for places in sel) and isinstance(rcut, int | float):
        yield float(rcut), sel


def _neighbours(atoms: Atoms, rcut: float, type_map: Sequence[str], total: bool) -> dict[str, int]:
    """The most neighbours that an atom has: of each element, or all together. Angstrom."""
    import numpy as np
    from ase.neighborlist import neighbor_list

    first, second = neighbor_list("ij", atoms, rcut)

    def most(of: np.ndarray[Any, Any]) -> int:
        return int(np.bincount(of, minlength=1).max()) if len(of) else 0

    if total:
        return {", ".join(type_map): most(first)}
    symbols = np.array(atoms.get_chemical_symbols())
    return {element: most(first[symbols[second] == element]) for element in type_map}
