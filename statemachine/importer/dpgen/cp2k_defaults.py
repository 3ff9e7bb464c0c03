"""CP2K's input as DP-GEN makes it of `user_fp_params`: its defaults, with what the user gives put over them."""

from __future__ import annotations

import copy
from typing import Any

# The values are DP-GEN's choice (dpgen 0.14); what a frame decides (CELL, COORD, MULTIPLICITY) is filled in elsewhere.
_DEFAULTS: dict[str, Any] = {
    "GLOBAL": {"PROJECT": "DPGEN"},
    "FORCE_EVAL": {
        "METHOD": "QS",
        "STRESS_TENSOR": "ANALYTICAL",
        "DFT": {
            "BASIS_SET_FILE_NAME": "./cp2k_basis_pp_file/BASIS_MOLOPT",
            "POTENTIAL_FILE_NAME": "./cp2k_basis_pp_file/GTH_POTENTIALS",
            "CHARGE": 0,
            "UKS": "F",
            "MGRID": {"CUTOFF": 400, "REL_CUTOFF": 50, "NGRIDS": 4},
            "QS": {"EPS_DEFAULT": "1.0E-12"},
            "SCF": {"SCF_GUESS": "ATOMIC", "EPS_SCF": "1.0E-6", "MAX_SCF": 50},
            "XC": {"XC_FUNCTIONAL": {"_": "PBE"}},
        },
        "SUBSYS": {
            "KIND": {
                "_": ["H", "C", "N"],
                "POTENTIAL": ["GTH-PBE-q1", "GTH-PBE-q4", "GTH-PBE-q5"],
                "BASIS_SET": ["DZVP-MOLOPT-GTH", "DZVP-MOLOPT-GTH", "DZVP-MOLOPT-GTH"],
            },
        },
        "PRINT": {"FORCES": {"_": "ON"}, "STRESS_TENSOR": {"_": "ON"}},
    },
}


def document(given: dict[str, Any]) -> str:
    """The input's text. In `given`, `_` is what stands behind a section's name, and a list repeats its section."""
    return "\n".join(_lines(_merged(copy.deepcopy(_DEFAULTS), given), "")) + "\n"


def _merged(ours: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What the user gives, over the defaults; names know no case."""
    for name, value in given.items():
        there = next((key for key in ours if key.upper() == name.upper()), name.upper())
        old = ours.get(there)
        ours[there] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return ours


def _lines(section: dict[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for name, value in section.items():
        if name == "_":
            continue
        if isinstance(value, dict):
            for each in _each(value):
                parameter = f" {each['_']}" if "_" in each else ""
                lines += [f"{indent}&{name}{parameter}", *_lines(each, f"{indent}  "), f"{indent}&END {name}"]
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            lines += [line for item in value for line in _lines({name: item}, indent)]
        else:
            lines += [f"{indent}{name} {item}" for item in (value if isinstance(value, list) else [value])]
    return lines


def _each(section: dict[str, Any]) -> list[dict[str, Any]]:
    """A section, or one for each of the names that its `_` lists (KIND: H, C, ...) with the values of that place."""
    names = section.get("_")
    if not isinstance(names, list):
        return [section]
    return [
        {
            key: value[place] if isinstance(value, list) and place < len(value) else value
            for key, value in section.items()
        }
        for place in range(len(names))
    ]
