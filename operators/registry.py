"""Which software there is for each stage, and the run configuration with all of their options.

A further software is one file and one line here; third parties use the entry-point group `dpgen2_sm.apps`
(name `{stage}.{app}`, value `module:APP`).
"""

from __future__ import annotations

import functools
import importlib
import json
import os
from importlib.metadata import entry_points
from typing import Annotated, Any, Union

from pydantic import Field, create_model

from conventions.config import RunConfig
from conventions.documents import parse_json
from conventions.errors import ConfigError
from conventions.names import STAGES

from .core import App

APPS = {
    "label.abacus": "operators.label.abacus:APP",
    "label.ase": "operators.label.ase:APP",
    "label.cp2k": "operators.label.cp2k:APP",
    "label.deepmd": "operators.label.deepmd:APP",
    "label.gaussian": "operators.label.gaussian:APP",
    "label.nwchem": "operators.label.nwchem:APP",
    "label.qe": "operators.label.qe:APP",
    "label.vasp": "operators.label.vasp:APP",
    "train.deepmd": "operators.train.deepmd:APP",
    "train.mace": "operators.train.mace:APP",
    "explore.ase": "operators.explore.ase:APP",
    "explore.lammps": "operators.explore.lammps:APP",
    "select.model_devi": "operators.select.model_devi:APP",
}

THIRD_PARTY = "DPGEN2_APPS"  # further apps, for shipped code: a pod has no entry points


@functools.cache
def known() -> dict[str, str]:
    """`{stage}.{app}` -> `module:attribute`, of ours and of third parties."""
    installed = {point.name: point.value for point in entry_points(group="dpgen2_sm.apps")}
    return {**installed, **json.loads(os.environ.get(THIRD_PARTY, "{}")), **APPS}


@functools.cache
def app(stage: str, name: str) -> App:
    """The software `name` of a stage; its module is imported now and not before."""
    where = known().get(f"{stage}.{name}")
    if where is None:
        raise ConfigError(f"{stage}.app: there is no {name!r}; this installation has {', '.join(names(stage))}")
    module, _, attribute = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{stage}.app: {name!r} is installed as {where}, which cannot be used: {error}") from None
    if not isinstance(found, App) or (found.stage, found.name) != (stage, name):
        raise ConfigError(f"{where} is not the app {stage}.{name}")
    return found


def config_model(document: Any) -> type[RunConfig]:
    """`RunConfig` with the options of the software that a configuration names (and of no other)."""
    chosen = []
    for stage in STAGES:
        part = document.get(stage) if isinstance(document, dict) else None
        name = part.get("app") if isinstance(part, dict) else None
        if not isinstance(name, str):
            software = ", ".join(names(stage))
            raise ConfigError(f"{stage}.app: this key is required: which software does this stage? One of {software}")
        chosen.append((stage, name))
    return _model(tuple(chosen))


def full_model() -> type[RunConfig]:
    """`RunConfig` with the options of every known software, chosen by each stage's `app`: for the JSON Schema."""
    fields: dict[str, Any] = {}
    for stage in STAGES:
        choices = tuple(app(stage, name).config for name in names(stage))
        annotation = Annotated[Union[choices], Field(discriminator="app")] if len(choices) > 1 else choices[0]  # noqa: UP007
        fields[stage] = (annotation, ...)
    return create_model("RunConfig", __base__=RunConfig, **fields)


def load_config(data: bytes, where: str = "config.json") -> Any:
    """The configuration of an iteration, with the options of its apps."""
    document = parse_json(data, where)
    try:
        model = config_model(document)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return model.from_json(document, where)


@functools.cache
def _model(chosen: tuple[tuple[str, str], ...]) -> type[RunConfig]:
    fields: dict[str, Any] = {stage: (app(stage, name).config, ...) for stage, name in chosen}
    return create_model("RunConfig", __base__=RunConfig, **fields)


def names(stage: str) -> list[str]:
    """The software that there is for a stage."""
    return sorted(key.split(".", 1)[1] for key in known() if key.startswith(f"{stage}."))
