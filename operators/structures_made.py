"""Structures that are made of a user's own: surfaces, random alloys, vacancies.

The order is: `slab` cuts a surface out of the frame, `super_cell` and `scale` follow, and of each copy that `pert_numb`
asks for (or of the one there is) `substitute` draws the elements, then `vacancies` the atoms that go. What is random
depends on the run's seed, the set's name and the place in the set only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from conventions.config import Structures

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.random import Generator


def cut(frame: Atoms, settings: Structures) -> Atoms:
    """The slab of a crystal, or the frame where none is asked for. Angstrom."""
    if settings.slab is None:
        return frame
    from ase.build import surface

    slab: Atoms = surface(frame, settings.slab.miller, settings.slab.layers, settings.slab.vacuum, periodic=True)
    return slab


def occupy(frame: Atoms, settings: Structures, random: Generator) -> Atoms:
    """The frame with its elements and vacancies drawn; draws nothing where neither is asked for."""
    if not settings.substitute and not settings.vacancies:
        return frame
    made: Atoms = frame.copy()
    before = made.get_chemical_symbols()
    symbols = list(before)
    for element, fractions in settings.substitute.items():
        sites = [place for place, symbol in enumerate(before) if symbol == element]
        chosen = [one for one, count in counts(fractions, len(sites)).items() for _ in range(count)]
        for place, one in zip(random.permutation(sites).tolist(), chosen, strict=True):
            symbols[place] = one
    made.symbols = symbols
    if settings.vacancies:
        del made[random.choice(len(made), settings.vacancies, replace=False)]
    return made


def counts(fractions: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers closest to the fractions of a total, by largest remainders.

    >>> counts({"Cu": 0.5, "Au": 0.25, "Ag": 0.25}, 6)
    {'Cu': 3, 'Au': 2, 'Ag': 1}
    """
    found = {element: int(fraction * total + 1e-9) for element, fraction in fractions.items()}
    rest = sorted(fractions, key=lambda element: found[element] - fractions[element] * total)
    for element in rest[: total - sum(found.values())]:
        found[element] += 1
    return found


def atoms_of(frame: Atoms, settings: Structures) -> int:
    """How many atoms `cut` would leave of a frame."""
    return len(frame) * (settings.slab.layers if settings.slab else 1)


def unfit(frame: Atoms, settings: Structures, atoms: int) -> str:
    """Why a frame cannot be made into what is asked for, when it has so many atoms then; empty if it can."""
    if settings.vacancies and settings.vacancies >= atoms:
        return f"vacancies: {settings.vacancies} of {atoms} atoms would go; lower it, or raise super_cell"
    for element in settings.substitute:
        if element not in frame.get_chemical_symbols():
            return f"substitute: it has no atom of {element}; it has {', '.join(sorted(set(frame.symbols)))}"
    return ""
