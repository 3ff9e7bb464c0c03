"""ai2-kit's labelling: CP2K or VASP, and what the selection before it takes."""

from __future__ import annotations

import re
from typing import Any

from conventions.errors import ConfigError

from ..cp2k import printed
from ..draft import Draft
from ..source import Section
from ..values import by_element
from .artifacts import Artifacts
from .keys import CP2K, LABEL, MODEL_DEVI, SELECT, VASP

_COORDINATES = re.compile(r"^\s*@include\s+['\"]?coord_n_cell\.inc.*$", re.IGNORECASE | re.MULTILINE)
_ALL = 10**6  # ai2-kit's limit 0: as many as there are


def labels(workflow: Section, artifacts: Artifacts, draft: Draft) -> None:
    """The whole label stage, and how many frames it gets."""
    part = workflow.part("label", LABEL)
    kind = next((name for name in ("cp2k", "vasp") if part.take(name) is not None), None)
    if kind is None:
        raise ConfigError(f"{workflow.at('label')}: label.cp2k or label.vasp is required")
    draft.put("label.app", kind, part.at(kind))
    source = part.part(kind, CP2K if kind == "cp2k" else VASP)
    (_cp2k if kind == "cp2k" else _vasp)(source, draft)
    sets = artifacts.structures(source.items("init_system_files"), source.at("init_system_files"))
    if sets:
        draft.put("init.label", sets, source.at("init_system_files"))
    elif "init_system_files" in source:
        source.drop("init_system_files", "none")
    most = source.of("limit", int, 50)
    if most < 1:
        source.change("limit", "0 is no limit there")
    draft.put("select.fp_task_max", most if most > 0 else _ALL, source.origin("limit", "ai2-kit"))
    method = source.text("limit_method", "even")
    if method != "random":
        source.change("limit_method", f"{method}: candidates are drawn at random")
    failed = 1.0 if source.flag("ignore_error") else 0.0
    draft.put("label.ratio_failed", failed, source.origin("ignore_error", "ai2-kit"))
    source.finish()
    if kind == "cp2k" and part.take("vasp") is not None:
        part.lose("vasp", "with label.cp2k it is not read in ai2-kit either")
    part.finish()


def selection(workflow: Section, draft: Draft) -> None:
    """The trust levels."""
    draft.put("select.app", "model_devi", "")
    part = workflow.part("select", SELECT)
    source = part.part("model_devi", MODEL_DEVI)
    for key in ("f_trust_lo", "f_trust_hi"):
        draft.put(f"select.{key}", float(source.need_number(key)), source.at(key))
    draft.put("select.model_devi_skip", 0, "ai2-kit counts the start of a trajectory, too")
    most = source.of("max_decent_per_traj", int, -1)
    if most > 0:
        source.lose("max_decent_per_traj", "a trajectory gives as many frames as are drawn; trj_freq keeps them apart")
    else:
        source.drop("max_decent_per_traj", "no limit")
    source.finish()
    part.finish()


def _cp2k(source: Section, draft: Draft) -> None:
    text = source.text("input_template")
    if text is None:
        draft.report.warn("label.input: the source has no input_template of all frames: write one")
        return
    for name, value in source.of("template_vars", dict, {}).items():
        word = re.compile(rf"\$\$(?:{re.escape(name)}\b|\{{{re.escape(name)}\}})")
        text = str(value).join(word.split(text))
    left = sorted(set(re.findall(r"\$\$\{?(\w+)", text)))
    if left:
        draft.report.warn(f"label.input: cp2k.inp has {', '.join(f'$${name}' for name in left)}: write the values")
    text, added = printed(_COORDINATES.sub("", text))
    what = f"; it prints {' and '.join(added)}, which labels need" if added else ""
    source.change("input_template", f"without coord_n_cell.inc: the run writes cell and coordinates itself{what}")
    draft.put("label.input", draft.write("cp2k.inp", text), source.at("input_template"))


def _vasp(source: Section, draft: Draft) -> None:
    given = source.need("input_template")
    if isinstance(given, dict):
        given = "".join(f"{tag} = {_word(value)}\n" for tag, value in given.items() if not tag.startswith("_"))
    if not isinstance(given, str):
        raise ConfigError(f"{source.at('input_template')}: a text or a mapping of tags is expected, not {given!r}")
    draft.put("label.incar", _file(given, "INCAR", "=", draft), source.at("input_template"))
    points = source.take("kpoints_template")
    if isinstance(points, str):
        draft.put("label.kpoints", _file(points, "KPOINTS", "\n", draft), source.at("kpoints_template"))
    elif points is not None:
        source.lose("kpoints_template", "write a KPOINTS file, or KSPACING into the INCAR")
        draft.report.warn("label.kpoints: write a KPOINTS file, or KSPACING into the INCAR")
    if source.of("potcar_source", dict, {}):
        by_element(source, "potcar_source", "potcar", draft)
    else:
        draft.report.warn("label.potcar: give the POTCAR of each element")


def _file(text: str, name: str, mark: str, draft: Draft) -> str:
    """How run.yaml names a file: that of a path, or one that is written, where the text has the mark of contents."""
    if mark in text or "\n" in text:
        return draft.write(name, text)
    named = draft.path(text)
    draft.look(named, f"label: {name}")
    return named


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
