"""pw.x's input format: the user's template, checked once and filled for each frame.

The format: https://www.quantum-espresso.org/Doc/INPUT_PW.html. Namelists (`&system ... /`) hold `key = value`, parted
by commas or ends of lines; cards (K_POINTS, ...) follow them. `!` begins a comment; names know no case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conventions.errors import ConfigError

from .frames import kpoints, rows_of

if TYPE_CHECKING:
    from ase import Atoms

_CARDS = (
    *("ATOMIC_SPECIES", "ATOMIC_POSITIONS", "K_POINTS", "ADDITIONAL_K_POINTS", "CELL_PARAMETERS", "CONSTRAINTS"),
    *("OCCUPATIONS", "ATOMIC_VELOCITIES", "ATOMIC_FORCES", "SOLVENTS", "HUBBARD"),
)
_OURS = ("ATOMIC_SPECIES", "ATOMIC_POSITIONS", "CELL_PARAMETERS", "CONSTRAINTS", "ATOMIC_VELOCITIES", "ATOMIC_FORCES")
_CODE = re.compile(r"(?:'[^']*'|\"[^\"]*\"|[^!'\"])*")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_KEY = re.compile(r"(?:^|(?<=[,\s]))([A-Za-z_]\w*(?:\([\d, ]+\))?)\s*=")
_CELL = re.compile(r"celldm\(\d\)|[abc]|cosab|cosac|cosbc|space_group|uniqueb|origin_choice|rhombohedral")


@dataclass(frozen=True)
class Template:
    """Namelists (name -> key -> value as it is written), and cards (name -> its lines)."""

    namelists: dict[str, dict[str, str]]
    cards: dict[str, list[str]]
    species: list[str]  # their lines, in the order that indices of keys such as Hubbard_U(1) mean


def read_template(
    text: str, type_map: Sequence[str], masses: Mapping[str, float], pseudo: Mapping[str, str],
    kspacing: float | None, where: str,
) -> Template:  # fmt: skip
    """The user's input, ready for `fill`.

    Parameters
    ----------
    masses, pseudo
        g/mol, and the name of the pseudopotential in the task's folder, by element.
    where
        What error messages call it.

    Raises
    ------
    ConfigError
        When it is no input of pw.x, or asks for something else than the forces of the run's frames.
    """
    namelists, cards = _parse(text, where)
    control, system = namelists.setdefault("control", {}), namelists.get("system")
    if system is None:
        raise ConfigError(f"{where}: it has no &system namelist; give your input of pw.x")
    calculation = control.get("calculation", "'scf'").strip("'\" ").lower()
    if calculation != "scf":
        raise ConfigError(f"{where}: calculation = {calculation!r}: a label is one scf; remove it, or write 'scf'")
    given = [key for key in system if _CELL.fullmatch(key)] + ["ibrav"] * (system.get("ibrav", "0") != "0")
    if given:
        raise ConfigError(f"{where}: {given[0]}: the run writes each frame's own cell; remove {', '.join(given)}")
    if ("K_POINTS" in cards) == (kspacing is not None):
        raise ConfigError(f"{where}: give K_POINTS in it or label.kspacing, one of the two")
    order = [line.split()[0] for line in cards.get("ATOMIC_SPECIES", [""])[1:]] or list(type_map)
    indexed = [key for key in system if "(" in key]
    if sorted(order) != sorted(type_map):
        if indexed:
            raise ConfigError(
                f"{where}: {indexed[0]} counts species: give ATOMIC_SPECIES with {', '.join(type_map)}, each once"
            )
        order = list(type_map)
    control.update({"calculation": "'scf'", "prefix": "'label'", "outdir": "'.'", "pseudo_dir": "'.'"})
    control.update({"tprnfor": ".true.", "tstress": control.get("tstress", ".true."), "restart_mode": "'from_scratch'"})
    system.update({"ibrav": "0", "ntyp": str(len(order))})
    kept = {name: namelists.get(name, {}) for name in ("control", "system", "electrons", *namelists)}
    return Template(
        {name: entries for name, entries in kept.items() if name not in ("ions", "cell")},
        {name: lines for name, lines in cards.items() if name not in _OURS},
        [f"{element} {masses[element]!r} {pseudo[element]}" for element in order],
    )


def fill(template: Template, atoms: Atoms, kspacing: float | None) -> str:
    """The input for one frame, with every digit of its cell and positions. Angstrom."""
    lines = []
    for name, entries in template.namelists.items():
        own = {**entries, "nat": str(len(atoms))} if name == "system" else entries
        lines += [f"&{name}", *(f"  {key} = {value}" for key, value in own.items()), "/"]
    lines += ["ATOMIC_SPECIES", *template.species, "CELL_PARAMETERS angstrom", *rows_of(atoms.cell.array)]
    positions = zip(atoms.get_chemical_symbols(), rows_of(atoms.positions), strict=True)
    lines += ["ATOMIC_POSITIONS angstrom", *(f"{symbol} {row}" for symbol, row in positions)]
    for card in template.cards.values():
        lines += card
    if kspacing is not None:
        lines += ["K_POINTS automatic", " ".join(map(str, (*kpoints(atoms, kspacing), 0, 0, 0)))]
    return "\n".join(lines) + "\n"


def _parse(text: str, where: str) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Namelists and cards by name; comments are left out."""
    namelists: dict[str, dict[str, str]] = {}
    cards: dict[str, list[str]] = {}
    name, body = "", ""
    card: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = _CODE.match(raw)[0].strip()  # type: ignore[index]
        if not name and line.startswith("&"):
            words = line[1:].split(None, 1)
            name, line, body = (words[0].lower() if words else "?"), " ".join(words[1:]), ""
            if name in namelists:
                raise ConfigError(f"{where}: line {number}: &{name} is given twice")
        if name:
            end = _masked(line).find("/")
            body += (line if end < 0 else line[:end]) + "\n"
            if end >= 0:
                namelists[name], name = _entries(body, f"{where}: &{name}"), ""
        elif line and (word := re.split(r"[\s({]", line)[0].upper()) in _CARDS:
            card = cards[word] = [line]
        elif line and not line.startswith("#"):
            if not card:
                raise ConfigError(f"{where}: line {number}: {line[:60]!r} belongs to no namelist and no card")
            card.append(line)
    if name:
        raise ConfigError(f"{where}: no / ends &{name}; add one")
    return namelists, cards


def _entries(body: str, where: str) -> dict[str, str]:
    """The values of a namelist by key, as they are written."""
    keys = list(_KEY.finditer(_masked(body)))
    ends = [key.start() for key in keys[1:]] + [len(body)]
    if unread := body[: keys[0].start() if keys else None].strip(", \n"):
        raise ConfigError(f"{where}: {unread[:60]!r} is no `key = value`")
    found = {}
    for key, end in zip(keys, ends, strict=False):
        value = body[key.end() : end].strip(", \t\n").replace("\n", " ")
        if not value:
            raise ConfigError(f"{where}: {key[1]} has no value")
        found[re.sub(r"\s", "", key[1]).lower()] = value
    return found


def _masked(text: str) -> str:
    """The text with what is quoted blotted out."""
    return _QUOTED.sub(lambda found: "~" * len(found[0]), text)
