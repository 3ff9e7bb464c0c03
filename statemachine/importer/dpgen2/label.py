"""DPGEN2's `fp`: what labels the frames, and its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable

from conventions.errors import ConfigError

from .. import cp2k
from ..draft import Draft
from ..source import Section, Table
from ..values import by_element
from .commands import put_command
from .keys import ABACUS, CP2K, GAUSSIAN, RUN_CONFIG, VASP

_OURS = {"vasp": "vasp", "gaussian": "gaussian", "deepmd": "deepmd", "fpop_abacus": "abacus", "fpop_cp2k": "cp2k"}


def labels(fp: Section, draft: Draft) -> None:
    """The whole label stage."""
    kind = str(fp.need("type"))
    draft.put("label.app", _OURS.get(kind, kind), "fp.type")
    if not fp.take("extra_output_files"):
        fp.drop("extra_output_files", "none")
    if kind not in _OURS:
        fp.lose("type", f"there is no label/{kind}: write this stage by hand")
        for key in ("inputs_config", "run_config"):
            fp.lose(key, f"it is of {kind}")
        draft.report.warn(f"label: the source labels with {kind}; write this stage by hand")
        return
    table, read = _KINDS[kind]
    inputs = fp.part("inputs_config", table)
    read(inputs, draft)
    inputs.finish()
    run = fp.part("run_config", RUN_CONFIG)
    put_command(run, "label", draft)
    teacher = run.text("teacher_model_path")
    if kind == "deepmd":
        named = draft.path(str(run.need("teacher_model_path")))
        draft.put("label.teacher_model_path", named, run.at("teacher_model_path"))
        draft.look(named, "label.teacher_model_path")
    elif teacher:
        run.drop("teacher_model_path", f"fp of type {kind} does not read it")
    if not run.take("post_command"):
        run.drop("post_command", "none")
    run.finish()


def _vasp(source: Section, draft: Draft) -> None:
    named = draft.path(str(source.need("incar")))
    by_element(source, "pp_files", "potcar", draft)
    tags: dict[str, str] = {}
    if "kspacing" in source:  # the older form has it in the INCAR
        gamma = source.take("kgamma", True)
        tags = {"KSPACING": str(source.number("kspacing")), "KGAMMA": "T" if gamma else "F"}
    try:
        text = draft.there(named).read_text("utf-8", "replace")
    except OSError:
        draft.look(named, "label.incar")
        if tags:
            told = ", ".join(f"{tag} = {value}" for tag, value in tags.items())
            draft.report.warn(f"label.incar: write {told} into {named}: the source has them outside of it")
        draft.put("label.incar", named, source.at("incar"))
        return
    if not tags:
        draft.put("label.incar", named, source.at("incar"))
        return
    source.change("incar", "a copy, with KSPACING and KGAMMA")
    draft.put("label.incar", draft.write("INCAR", with_tags(text, tags)), source.at("incar, kspacing, kgamma"))


def with_tags(text: str, tags: dict[str, str]) -> str:
    """An INCAR in which these tags have these values, and are given once.

    >>> with_tags("ENCUT = 500; KSPACING = 0.5", {"KSPACING": "0.2"})
    'ENCUT = 500\\nKSPACING = 0.2\\n'
    """
    known = re.compile(rf"\s*({'|'.join(tags)})\s*=", re.IGNORECASE)
    lines = []
    for line in text.splitlines():
        before, mark, comment = re.match(r"([^#!]*)([#!]?)(.*)", line).groups()  # type: ignore[union-attr]
        parts = before.split(";")
        kept = [part for part in parts if not known.match(part)]
        if len(kept) == len(parts):
            lines.append(line)
        elif any(part.strip() for part in kept) or mark:
            lines.append(";".join(kept) + mark + comment)
    return "\n".join([*lines, *(f"{tag} = {value}" for tag, value in tags.items())]) + "\n"


def _gaussian(source: Section, draft: Draft) -> None:
    words = source.need("keywords")
    if isinstance(words, list) and len(words) > 1:
        source.change("keywords", "the first of several is used; Gaussian is not run again with the next ones")
    first = words[0] if isinstance(words, list) and words else words
    if not isinstance(first, str):
        raise ConfigError(f"{source.at('keywords')}: a text is expected, not {first!r}")
    draft.put("label.keywords", first, source.at("keywords"))
    for name in ("multiplicity", "charge", "basis_set", "nproc"):
        value = source.take(name)
        if value is not None:
            draft.put(f"label.{name}", value, source.at(name))
    for name in ("keywords_high_multiplicity", "fragment_guesses"):
        if not source.take(name):
            source.drop(name, "off")


def _abacus(source: Section, draft: Draft) -> None:
    for key, ours in (("input_file", "input"), ("kpt_file", "kpt")):
        given = source.need(key) if key == "input_file" else source.text(key)
        if given is not None:
            draft.put(f"label.{ours}", draft.path(str(given)), source.at(key))
            draft.look(draft.config["label"][ours], f"label.{ours}")
    by_element(source, "pp_files", "pseudo", draft)
    if source.take("orb_files") is not None:
        by_element(source, "orb_files", "orbital", draft)
    for name in ("deepks_descriptor", "deepks_model"):
        if source.take(name) is None:
            source.drop(name, "not given")


def _cp2k(source: Section, draft: Draft) -> None:
    cp2k.put_file(source, "inp_file", draft)


def _deepmd(source: Section, draft: Draft) -> None:
    """All is in run_config."""


_KINDS: dict[str, tuple[Table, Callable[[Section, Draft], None]]] = {
    "vasp": (VASP, _vasp), "gaussian": (GAUSSIAN, _gaussian), "deepmd": ((), _deepmd),
    "fpop_abacus": (ABACUS, _abacus), "fpop_cp2k": (CP2K, _cp2k),
}  # fmt: skip
