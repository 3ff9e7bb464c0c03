"""DPGEN2's `inputs`: elements, initial data, and test data."""

from __future__ import annotations

from typing import Any

from conventions.errors import ConfigError

from ..draft import Draft
from ..source import Section
from ..values import basics, data_format

_URIS = ("init_data_uri", "valid_data_uri", "multi_init_data_uri", "multi_valid_data_uri")


class Heads:
    """What training needs to know of `inputs`.

    Parameters
    ----------
    head
        The head to explore with; None where the model has one head only.
    others
        The folders of data of each other head, absolute.
    finetune
        Are the models of iteration 0 fine-tuned?
    """

    def __init__(self, head: str | None, others: dict[str, list[str]], finetune: bool) -> None:
        self.head, self.others, self.finetune = head, others, finetune


def inputs(source: Section, draft: Draft) -> Heads:
    """type_map, mass_map and init."""
    basics(source, draft)
    multitask = source.flag("multitask")
    head = source.text("head")
    if multitask and not head:
        raise ConfigError(f"{source.at('head')}: this key is required with multitask")
    others: dict[str, list[str]] = {}
    for name, key, plain in (("data", "multi_init_data", "init_data"), ("test", "multi_valid_data", "valid_data")):
        if multitask:
            found = _of_heads(source, key, draft)
            _put(name, found.pop(str(head), []), f"{key}.{head}", draft)
            if name == "data":
                others = found
            for unused in (f"{plain}_sys", f"{plain}_prefix"):
                if source.take(unused) is not None:
                    source.drop(unused, f"with multitask {key} counts, in DPGEN2 too")
        else:
            systems = [_text(each, source.at(f"{plain}_sys")) for each in source.items(f"{plain}_sys")]
            prefix = source.text(f"{plain}_prefix")
            _put(name, [draft.path(system, prefix) for system in systems], f"inputs.{plain}_sys", draft)
            if source.take(key) is not None:
                source.drop(key, "without multitask DPGEN2 does not read it either")
    if not multitask and head:
        source.drop("head", "without multitask DPGEN2 does not read it either")
    for key in _URIS:
        if source.take(key) is None:
            source.drop(key, "not given")
        else:
            draft.report.warn(f"inputs.{key}: download these data, and name them in init.data or init.test")
    if "data" not in draft.config.get("init", {}):
        draft.report.warn("init: give labelled data (init.data), or structures to label first (init.label)")
    if others:
        source.change("multi_init_data", "those of the other heads stand in the input of training")
    finetune = source.flag("do_finetune")
    if not finetune:
        source.drop("do_finetune", "off")
    return Heads(head if multitask else None, others, finetune)


def _put(name: str, paths: list[str], origin: str, draft: Draft) -> None:
    found: dict[str, Any] = {}
    kind = "init" if name == "data" else "test"
    for number, path in enumerate(paths):
        draft.look(path, f"init.{name}.{kind}{number:03d}")
        found[f"{kind}{number:03d}"] = {"path": path, "format": data_format(draft.there(path))}
    if found:
        draft.put(f"init.{name}", found, origin)


def _of_heads(source: Section, key: str, draft: Draft) -> dict[str, list[str]]:
    """The folders of each head; those that are not of the run's head are absolute, since jobs find them by that."""
    found = {}
    for head, part in source.of(key, dict, {}).items():
        if head.startswith("_"):
            continue
        where = f"{source.at(key)}.{head}"
        if not isinstance(part, dict) or part.get("sys") is None:
            raise ConfigError(f"{where}: a mapping with sys, and perhaps a prefix, is expected")
        systems = part["sys"] if isinstance(part["sys"], list) else [part["sys"]]
        paths = [draft.path(_text(system, f"{where}.sys"), part.get("prefix")) for system in systems]
        mine = head == source.take("head")
        found[head] = paths if mine else [str(draft.there(path).absolute()) for path in paths]
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: a path is expected, not {value!r}")
    return value
