"""DP-GEN's `fp_style` and its parameters: inputs that DP-GEN would make are made here once, as files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conventions.errors import ConfigError

from .. import cp2k
from ..draft import Draft
from ..report import Outcome
from ..source import Section
from . import cp2k_defaults
from .keys import LABEL

OURS = {"vasp": "vasp", "pwscf": "qe", "cp2k": "cp2k", "abacus": "abacus", "gaussian": "gaussian"}
_MAPPED = [key.name for key in LABEL if key.outcome in (Outcome.MAPPED, Outcome.CHANGED)]
_OF_CLUSTERS = ("use_clusters", "cluster_cutoff", "cluster_cutoff_hard", "cluster_minify")


def labels(param: Section, draft: Draft) -> None:
    """The whole label stage."""
    style = str(param.need("fp_style"))
    app = OURS.get(style, style)
    draft.put("label.app", app, "fp_style")
    if style not in OURS:
        param.lose("fp_style", f"there is no label/{style}: write this stage by hand")
        param.lose_rest(LABEL, f"it is of {style}")
        draft.report.warn(f"label: the source labels with {style}; write this stage by hand")
        return
    default = 0.10 if style == "cp2k" else 0.05
    given = param.number("ratio_failed")
    draft.put(
        "label.ratio_failed", float(default if given is None else given),
        "DP-GEN's default" if given is None else "ratio_failed",
    )  # fmt: skip
    for key in _OF_CLUSTERS:
        if key in param and not param.take("use_clusters"):
            param.drop(key, "off")
    _STYLES[style](param, draft)
    for key in _MAPPED:
        if key in param and param.untaken(key):
            param.drop(key, f"fp_style {style} does not need it, or another key counts before it, in DP-GEN too")


def _vasp(param: Section, draft: Draft) -> None:
    _by_element(param, draft, "potcar")
    if "fp_incar" in param:
        draft.put("label.incar", draft.path(param.text("fp_incar")), "fp_incar")
        draft.look(draft.config["label"]["incar"], "label.incar")
        return
    if "user_fp_params" in param:
        tags = {str(key).upper(): value for key, value in _params(param, "user_fp_params").items()}
        draft.put("label.incar", draft.write("INCAR", _incar(tags)), "user_fp_params")
    else:
        draft.put("label.incar", draft.write("INCAR", _incar(_vasp_tags(param))), "fp_params")


def _vasp_tags(param: Section) -> dict[str, Any]:
    """The INCAR that DP-GEN makes of `fp_params`: those tags are its own choice."""
    given = _params(param, "fp_params")
    where = param.at("fp_params")
    tags: dict[str, Any] = {
        "PREC": "A", "ENCUT": _of(given, "ecut", where), "ISYM": 0, "ALGO": "Fast", "EDIFF": _of(given, "ediff", where),
        "LREAL": "A", "NPAR": given.get("npar", 1), "KPAR": given.get("kpar", 1), "NELMIN": 4, "ISIF": 2,
    }  # fmt: skip
    smearing, _, order = str(given.get("smearing", "")).lower().partition(":")
    if smearing:
        kinds = {"mp": int(order) if order.isdecimal() else 1, "gauss": 0, "fd": -1}
        if smearing not in kinds or (order and not order.isdecimal()):
            raise ConfigError(f"{where}.smearing: {smearing!r} is not known; DP-GEN has gauss, mp:N and fd")
        tags["ISMEAR"] = kinds[smearing]
    if "sigma" in given:
        tags["SIGMA"] = given["sigma"]
    tags |= {"IBRION": -1, "NSW": 0, "LWAVE": False, "LCHARG": False, "PSTRESS": 0}
    tags |= {"KSPACING": _of(given, "kspacing", where), "KGAMMA": False}
    if given.get("metagga") not in (None, "NONE"):
        tags |= {"LASPH": True, "METAGGA": given["metagga"]}
    return tags | {str(key).upper(): value for key, value in _part(given, "user_vasp_params", where).items()}


def _incar(tags: dict[str, Any]) -> str:
    words = {True: "T", False: "F"}
    return "".join(f"{tag} = {words[value] if isinstance(value, bool) else value}\n" for tag, value in tags.items())


def _pwscf(param: Section, draft: Draft) -> None:
    _by_element(param, draft, "pseudo")
    key = "user_fp_params" if "user_fp_params" in param else "fp_params"
    given = _params(param, key)
    where = param.at(key)
    if key == "user_fp_params":
        lists = {name: _part(given, name, where) for name in ("control", "system", "electrons")}
        for name in ("nat", "ntyp", "ibrav"):
            lists["system"].pop(name, None)
        lists["control"].pop("pseudo_dir", None)
    else:
        system: dict[str, Any] = {"vdw_corr": "TS", "ecutwfc": _of(given, "ecut", where)}
        system |= {"ts_vdw_econv_thr": _of(given, "ediff", where), "nosym": True}
        if "sigma" in given:
            system["degauss"] = given["sigma"]
        if "smearing" in given:
            system["smearing"] = str(given["smearing"]).lower().partition(":")[0]
        lists = {"control": {"disk_io": "none"}, "system": system, "electrons": {"conv_thr": given["ediff"]}}
        if system.get("smearing"):
            system["occupations"] = "smearing"
            param.change(key, "occupations='smearing' is written, too: without it pw.x would not smear")
    draft.put("label.input", draft.write("pw.in", _namelists(lists)), key)
    spacing = _of(given, "kspacing", where)
    if type(spacing) not in (int, float):
        raise ConfigError(f"{where}.kspacing: a number is expected, not {str(spacing)[:60]!r}")
    draft.put("label.kspacing", float(spacing), f"{key}.kspacing")


def _namelists(lists: dict[str, dict[str, Any]]) -> str:
    lines: list[str] = []
    for name, entries in lists.items():
        lines += [f"&{name}", *(f"  {key} = {_fortran(value)}" for key, value in entries.items()), "/"]
    return "\n".join(lines) + "\n"


def _fortran(value: Any) -> str:
    if isinstance(value, bool):
        return ".true." if value else ".false."
    return f"'{value}'" if isinstance(value, str) else str(value)


def _cp2k(param: Section, draft: Draft) -> None:
    if "fp_pp_files" in param:
        prefix = param.text("fp_pp_path")
        files = [draft.path(str(file), prefix) for file in param.items("fp_pp_files")]
        for file in files:
            draft.look(file, "label.files")
        draft.put("label.files", files, "fp_pp_files")
        param.change("fp_pp_files", "label.files: CP2K reads them by their own names")
    param.take("fp_pp_path")
    if "user_fp_params" not in param and "external_input_path" in param:
        cp2k.put_file(param, "external_input_path", draft)
        return
    key = "user_fp_params" if "user_fp_params" in param else "fp_params"
    text = cp2k_defaults.document(_params(param, key))
    draft.put("label.input", draft.write("cp2k.inp", text), key)
    if "UKS" not in text.upper() or not re.search(r"UKS\s+(T|\.TRUE\.)", text, re.IGNORECASE):
        param.change(key, "MULTIPLICITY is CP2K's own; DP-GEN counts the electrons of each frame")


def _abacus(param: Section, draft: Draft) -> None:
    _by_element(param, draft, "pseudo")
    keys: dict[str, Any]
    if "user_fp_params" in param:
        keys = _params(param, "user_fp_params")
        draft.put("label.input", draft.write("INPUT", _abacus_input(keys)), "user_fp_params")
    else:
        named = draft.path(str(param.need("fp_incar")))
        draft.put("label.input", named, "fp_incar")
        draft.look(named, "label.input")
        keys = _abacus_keys(draft.there(named))
    if "fp_orb_files" in param:
        _by_element(param, draft, "orbital", "fp_orb_files")
    points = param.of("k_points", list)
    if "kspacing" in keys or str(keys.get("gamma_only", "0")).lower() in ("1", "true"):
        for key in ("k_points", "fp_kpt_file"):
            if key in param:
                param.drop(key, "the INPUT has kspacing or gamma_only, which counts in DP-GEN too")
    elif points or "fp_kpt_file" not in param:
        numbers = " ".join(str(number) for number in points or [1, 1, 1, 0, 0, 0])
        text = f"K_POINTS\n0\nGamma\n{numbers}\n"
        draft.put("label.kpt", draft.write("KPT", text), "k_points" if points else "DP-GEN's default: gamma")
    else:
        draft.put("label.kpt", draft.path(param.text("fp_kpt_file")), "fp_kpt_file")
        draft.look(draft.config["label"]["kpt"], "label.kpt")


def _abacus_input(keys: dict[str, Any]) -> str:
    def value(given: Any) -> str:
        if isinstance(given, bool):
            return str(int(given))
        return " ".join(map(str, given)) if isinstance(given, list) else str(given)

    left_out = ("calculation", "ntype", "pseudo_dir", "orbital_dir")
    lines = [f"{key} {value(given)}" for key, given in keys.items() if key not in left_out]
    return "\n".join(["INPUT_PARAMETERS", *lines]) + "\n"


def _abacus_keys(path: Path) -> dict[str, Any]:
    """The keys of an INPUT file; none where it is not there yet."""
    try:
        lines = [line.split() for line in path.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return {}
    return {words[0].lower(): words[1] for words in lines if len(words) > 1}


def _gaussian(param: Section, draft: Draft) -> None:
    key = "user_fp_params" if "user_fp_params" in param else "fp_params"
    given = _params(param, key)
    words = _of(given, "keywords", param.at(key))
    if words in ("", []):
        raise ConfigError(f"{param.at(key)}.keywords: Gaussian's keywords are expected, such as 'force b3lyp/6-31g(d)'")
    if isinstance(words, list) and len(words) > 1:
        param.change(key, "the first of several keywords is used; Gaussian is not run again with the next ones")
    draft.put("label.keywords", str(words[0] if isinstance(words, list) else words), f"{key}.keywords")
    for name in ("charge", "multiplicity", "basis_set", "nproc"):
        if name in given:
            draft.put(f"label.{name}", given[name], f"{key}.{name}")
    lacking = [name for name in ("keywords_high_multiplicity", "fragment_guesses") if given.get(name)]
    if lacking:
        param.lose(key, f"{', '.join(lacking)}: every frame has the same keywords and an own guess of Gaussian")


_STYLES: dict[str, Callable[[Section, Draft], None]] = {
    "vasp": _vasp, "pwscf": _pwscf, "cp2k": _cp2k, "abacus": _abacus, "gaussian": _gaussian,
}  # fmt: skip


def _by_element(param: Section, draft: Draft, ours: str, key: str = "fp_pp_files") -> None:
    """Files in the order of type_map, as a file for each element."""
    files, prefix = param.items(key), param.text("fp_pp_path")
    elements = draft.config["type_map"]
    if ours == "potcar" and len(files) == 1 < len(elements) and (parts := _potcars(draft, str(files[0]), prefix)):
        draft.put("label.potcar", parts, f"the parts of {key}, which is one file")
        param.change(key, "the file was taken apart: one POTCAR for each element")
        return
    if len(files) != len(elements):
        param.change(key, f"{len(files)} files for {len(elements)} elements of type_map")
        draft.report.warn(f"label.{ours}: give a file for each of {', '.join(elements)}; {key} has {len(files)}")
    found = {element: draft.path(str(file), prefix) for element, file in zip(elements, files, strict=False)}
    for file in found.values():
        draft.look(file, f"label.{ours}")
    draft.put(f"label.{ours}", found, f"fp_pp_path, {key}")


def _potcars(draft: Draft, file: str, prefix: str | None) -> dict[str, str]:
    """A POTCAR of several elements taken apart; nothing where the file is not here."""
    try:
        text = draft.there(draft.path(file, prefix)).read_text("latin-1")
    except OSError:
        return {}
    parts = [part for part in re.split(r"(?<=End of Dataset)\s*\n", text) if part.strip()]
    named = {found[1]: part for part in parts if (found := re.search(r"VRHFIN\s*=\s*([A-Za-z]+)\s*:", part))}
    if set(named) != set(draft.config["type_map"]):
        return {}
    return {element: draft.write(f"POTCAR.{element}", named[element]) for element in draft.config["type_map"]}


def _params(param: Section, key: str) -> dict[str, Any]:
    """A mapping of parameters, without its comments."""
    found = param.of(key, dict)
    if found is None:
        raise ConfigError(f"{param.at(key)}: this key is required for fp_style {param.take('fp_style')}")
    return {name: value for name, value in found.items() if not name.startswith("_")}


def _part(given: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """A mapping inside of parameters; empty where it is absent."""
    found = given.get(name) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{where}.{name}: a mapping of keys is expected, not {str(found)[:60]!r}")
    return dict(found)


def _of(given: dict[str, Any], name: str, where: str) -> Any:
    if given.get(name) is None:
        raise ConfigError(f"{where}.{name}: this key is required")
    return given[name]
