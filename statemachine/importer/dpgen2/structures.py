"""DPGEN2's `configurations` as named sets of structures; the lattices of alloys are written as files."""

from __future__ import annotations

import io
import math
from typing import Any

from conventions.errors import ConfigError

from ..draft import Draft
from ..source import Section
from ..values import FORMATS
from .explore_keys import ALLOY, FILE

_LATTICES = ("fcc", "bcc", "sc", "hcp", "diamond")


class Configurations:
    """The sets of each configuration; a set is put into the draft where a task group names it first."""

    def __init__(self, explore: Section, draft: Draft) -> None:
        self._draft = draft
        self._sets: list[dict[str, dict[str, Any]]] = []
        where = explore.at(explore.name_of("configurations"))
        for number, given in enumerate(explore.items("configurations")):
            kind = given.get("type") if isinstance(given, dict) else None
            name = f"conf{number:03d}"
            if kind == "file":
                self._sets.append({name: _files(Section(given, (FILE,), explore.report, f"{where}[]"), draft)})
            elif kind == "alloy":
                self._sets.append(_alloys(Section(given, (ALLOY,), explore.report, f"{where}[]"), name, draft))
            else:
                raise ConfigError(f"{where}[{number}].type: {kind!r}; DPGEN2 has alloy and file")

    def names(self, indices: list[int], where: str) -> list[str]:
        """The sets of these configurations, in order."""
        found: list[str] = []
        structures = self._draft.config.setdefault("structures", {})
        for index in indices:
            if not 0 <= index < len(self._sets):
                raise ConfigError(
                    f"{where}: there is no configurations[{index}]; there are {len(self._sets)} configurations"
                )
            for name, made in self._sets[index].items():
                found.append(name)
                if name not in structures:
                    structures[name] = made
                    self._draft.origin("structures", of="explore.configurations")
                    self._draft.origin("structures", name, of=f"explore.configurations[{index}]")
        return found


def _files(source: Section, draft: Draft) -> dict[str, Any]:
    source.take("type")
    files = source.items("files")
    if not files or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"{source.at('files')}: paths are expected")
    prefix = source.text("prefix")
    named = [draft.path(file, prefix) for file in files]
    for file in named:
        draft.look(file, "structures")
    made: dict[str, Any] = {"files": named}
    format = str(source.text("fmt", "auto")).lower()
    if format == "auto":
        source.drop("fmt", "auto: the files show it")
    else:
        made["format"] = FORMATS.get(format, format)
    if source.flag("remove_pbc"):
        source.change("remove_pbc", "files without a cell are molecules; a cell in a file makes it periodic")
        draft.report.warn("remove_pbc: give files without a cell (xyz), so that structures are molecules")
    else:
        source.drop("remove_pbc", "off")
    source.finish()
    return made


def _alloys(source: Section, name: str, draft: Draft) -> dict[str, dict[str, Any]]:
    """A set for each composition; DPGEN2 draws one of them for each structure."""
    source.take("type")
    elements = draft.config["type_map"]
    concentrations = _concentrations(source, elements)
    made, replaced = _lattice(source, name, draft)
    numb = source.of("numb_confs", int, 1)
    each = math.ceil(numb / len(concentrations))
    if len(concentrations) > 1:
        source.change("concentration", "a set for each, of equally many structures; DPGEN2 draws which one it takes")
    replicate = source.take("replicate")
    if replicate is not None:
        made["super_cell"] = [replicate] * 3 if isinstance(replicate, int) else replicate
    strain, shift = (float(source.number(key, 0.0)) for key in ("cell_pert_frac", "atom_pert_dist"))
    if strain:
        made["pert_box"] = strain
    if shift:
        made["pert_atom"] = shift
    sets = {}
    for number, fractions in enumerate(concentrations):
        own = dict(made)
        shares = {element: share for element, share in zip(elements, fractions, strict=True) if share}
        if shares != {elements[0]: 1.0} or replaced != elements[:1]:
            own["substitute"] = dict.fromkeys(replaced, shares)
        if len(shares) > 1 or strain or shift:
            own["pert_numb"] = each
        else:
            source.change("numb_confs", "one structure where nothing is drawn at random; n_replica repeats it")
        sets[name if len(concentrations) == 1 else f"{name}.{number}"] = own
    source.finish()
    return sets


def _concentrations(source: Section, elements: list[str]) -> list[list[float]]:
    """Of each composition the share of each element; together 1."""
    given = source.of("concentration", list)
    rows = [[1.0] * len(elements)] if not given else given if isinstance(given[0], list) else [given]
    where = source.at("concentration")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(elements):
            raise ConfigError(
                f"{where}: {row!r}: a number for each of {len(elements)} elements of type_map is expected"
            )
        if not all(type(share) in (int, float) and share >= 0 for share in row) or not sum(row):
            raise ConfigError(f"{where}: {row!r}: numbers that are not negative, and not all 0, are expected")
    return [[round(share / sum(row), 10) for share in row] for row in rows]


def _lattice(source: Section, name: str, draft: Draft) -> tuple[dict[str, Any], list[str]]:
    """The set's files, and the elements in them that others take the places of."""
    lattice = source.need("lattice")
    where = source.at("lattice")
    if not isinstance(lattice, list) or len(lattice) != 2 or not isinstance(lattice[0], str):
        raise ConfigError(f"{where}: [name, constant] or [path, format] is expected, not {lattice!r}")
    kind, constant = lattice
    elements = draft.config["type_map"]
    if isinstance(constant, str):
        file = draft.path(kind)
        draft.look(file, f"structures.{name}")
        source.change("lattice", "atoms of every element in the file take part")
        return {"files": [file], "format": FORMATS.get(constant.lower(), constant)}, elements
    if kind not in _LATTICES:
        raise ConfigError(f"{where}: {kind!r} is not known; DPGEN2 has {', '.join(_LATTICES)}")
    if type(constant) not in (int, float) or not constant > 0:
        raise ConfigError(f"{where}: a lattice constant above 0 is expected, not {constant!r}")
    file = draft.write(f"{name}.{kind}.poscar", _poscar(kind, float(constant), elements[0]))
    return {"files": [file], "format": "vasp"}, elements[:1]


def _poscar(kind: str, constant: float, element: str) -> str:
    """DPGEN2's cell of a lattice, all of one element; `constant` in Angstrom is what DPGEN2 takes for it.

    Of hcp it is that of the fcc crystal with the same distances, of diamond half the edge of its cube.
    """
    from ase.build import bulk
    from ase.io import write

    if kind == "hcp":
        edge = constant / math.sqrt(2)
        atoms = bulk(element, "hcp", a=edge, c=edge * math.sqrt(8 / 3))
    elif kind == "diamond":
        atoms = bulk(element, "diamond", a=2 * constant)
    else:
        atoms = bulk(element, kind, a=constant, cubic=True)
    text = io.StringIO()
    write(text, atoms, format="vasp", direct=True)
    return text.getvalue()
