"""Values as several dialects have them: elements, data, numbers of systems."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from conventions.errors import ConfigError

from .draft import Draft
from .source import Section

# dpdata's names for what ASE reads, too (and more of it).
FORMATS = {"vasp/poscar": "vasp", "poscar": "vasp", "vasp/contcar": "vasp", "contcar": "vasp"}


def basics(param: Section, draft: Draft) -> None:
    """type_map and mass_map."""
    type_map = param.need("type_map")
    if not isinstance(type_map, list) or not all(isinstance(element, str) for element in type_map):
        raise ConfigError(f"{param.at('type_map')}: a list of elements is expected")
    draft.put("type_map", type_map, "type_map")
    masses = param.of("mass_map", (list, str))
    if isinstance(masses, list):
        draft.put("mass_map", masses, "mass_map")
    if param.take("use_ele_temp", 0) != 0:
        param.lose("use_ele_temp", "electrons have the temperature that label's input says, and models do not know it")


def data_format(path: Path) -> str:
    """dpdata's name of the format of a DeePMD system, by what is there."""
    if path.suffix in (".h5", ".hdf5"):
        return "deepmd/hdf5"
    if next(path.rglob("real_atom_types.npy"), None):
        return "deepmd/npy/mixed"
    if next(path.rglob("type.raw"), None) and not next(path.rglob("set.*"), None):
        return "deepmd/raw"
    return "deepmd/npy"


def expand(given: Any, where: str) -> list[int]:
    """Numbers, and ranges as DP-GEN writes them: "0-10:2" is 0, 2, 4, 6, 8."""
    found: list[int] = []
    for item in given if isinstance(given, list) else [given]:
        match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?", item) if isinstance(item, str) else None
        if match:
            found += range(int(match[1]), int(match[2]), int(match[3] or 1))
        elif type(item) is int:
            found.append(item)
        else:
            raise ConfigError(f"{where}: numbers of systems, or ranges like '0-10:2', are expected, not {item!r}")
    if len(set(found)) != len(found) or not found:
        raise ConfigError(f"{where}: {'a system is named twice' if found else 'no system is named'}")
    return found


def numbers(section: Section, name: str) -> list[float]:
    """A list of numbers that must be there."""
    section.need(name)
    found = section.items(name)
    if not all(type(each) in (int, float) and math.isfinite(each) for each in found):
        raise ConfigError(f"{section.at(name)}: numbers are expected, not {found!r}")
    return [float(each) for each in found]


def whole(value: Any, where: str) -> int:
    if type(value) not in (int, float) or int(value) != value:
        raise ConfigError(f"{where}: a whole number is expected, not {value!r}")
    return int(value)


def run_name(text: str) -> str:
    """A name of a run that is like the folder's."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:20].rstrip("-")
    return name or "imported"


def by_element(source: Section, key: str, ours: str, draft: Draft) -> None:
    """A file of each element; of elements that the run has not, none is needed."""
    given = source.need(key)
    if not isinstance(given, dict) or not all(isinstance(file, str) for file in given.values()):
        raise ConfigError(f"{source.at(key)}: a path for each element is expected, not {given!r}")
    elements = draft.config["type_map"]
    found = {element: draft.path(file) for element, file in given.items() if element in elements}
    absent = [file for file in found.values() if not draft.there(file).exists()]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        draft.report.warn(
            f"label.{ours}: {absent[0]}{more}: not on this machine; `dpgen2-sm validate` says when all is there"
        )
    if lacking := [element for element in elements if element not in found]:
        draft.report.warn(
            f"label.{ours}: no file of {lacking[0]}{f' and {len(lacking) - 1} more' * (len(lacking) > 1)}: give one of "
            "each element of type_map, or leave the elements that no frame has out of type_map (and mass_map)"
        )
    if set(given) - set(found):
        source.change(key, f"without {', '.join(sorted(set(given) - set(found)))}, which type_map has not")
    draft.put(f"label.{ours}", found, source.at(key))
