"""An input of CP2K as another program has it, which prints the forces that labels need."""

from __future__ import annotations

from conventions.errors import ConfigError
from operators.label.cp2k_input import Section as Part
from operators.label.cp2k_input import parse

from .draft import Draft
from .source import Section


def put_file(source: Section, key: str, draft: Draft) -> None:
    """label.input of a file: that file itself, or a copy of it that prints what it did not."""
    named = draft.path(str(source.need(key)))
    draft.look(named, "label.input")
    try:
        text = draft.there(named).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    printing, added = printed(text)
    if added:
        source.change(key, f"a copy of it prints {' and '.join(added)}, which labels need")
        named = draft.write("cp2k.inp", printing)
    draft.put("label.input", named, source.at(key))


def printed(text: str) -> tuple[str, list[str]]:
    """The text with the sections that print forces and, where it asks for one, the stress; and which were added.

    What cannot be read is left as it is: `dpgen2-sm validate` says what is wrong with it. So are inputs that take
    parts from other files, where the sections may be.
    """
    try:
        root = parse(text, "")
    except ConfigError:
        return text, []
    evals = root.sections("FORCE_EVAL")
    if len(evals) != 1 or any(_includes(part) for part in (root, evals[0], *evals[0].sections("PRINT"))):
        return text, []
    stress = (evals[0].keyword("STRESS_TENSOR") or ["NONE"])[0].upper()
    wanted = ["FORCES", *(["STRESS_TENSOR"] if stress != "NONE" else [])]
    added = [name for name in wanted if evals[0].section("PRINT", name) is None]
    for name in added:
        evals[0].make("PRINT").items.append(Part(name, f"&{name} ON"))
    return ("\n".join(root.lines()) + "\n" if added else text), added


def _includes(part: Part) -> bool:
    """Does it take lines from another file, or under a condition?"""
    return any(isinstance(item, str) and item.lstrip().startswith("@") for item in part.items)
