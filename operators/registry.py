"""Which software there is for each stage, and the run configuration with all of their options.

A further software is one file and one line here; third parties use the entry-point group `dpgen2_sm.apps`
(name `{stage}.{app}`, value `module:APP`).
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import entry_points
from typing import Annotated, Any, Union

from pydantic import Field, create_model

from conventions.config import RunConfig
from conventions.errors import ConfigError
from conventions.names import STAGES

from .core import App

APPS = {
    "label.ase": "operators.label.ase:APP",
    "label.cp2k": "operators.label.cp2k:APP",
    "train.deepmd": "operators.train.deepmd:APP",
    "explore.lammps": "operators.explore.lammps:APP",
    "select.model_devi": "operators.select.model_devi:APP",
}


@functools.cache
def known() -> dict[str, str]:
    """`{stage}.{app}` -> `module:attribute`, of ours and of third parties."""
    return {**{point.name: point.value for point in entry_points(group="dpgen2_sm.apps")}, **APPS}


@functools.cache
def app(stage: str, name: str) -> App:
    """The software `name` of a stage; its module is imported now and not before."""
    where = known().get(f"{stage}.{name}")
    if where is None:
        names = sorted(key.split(".", 1)[1] for key in known() if key.startswith(f"{stage}."))
        raise ConfigError(f"{stage}.app: there is no {name!r}; this installation has {', '.join(names)}")
    module, _, attribute = where.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, App) or (found.stage, found.name) != (stage, name):
        raise ConfigError(f"{where} is not the app {stage}.{name}")
    return found


@functools.cache
def config_model() -> type[RunConfig]:
    """`RunConfig` with the options of every known software, chosen by each stage's `app`."""
    fields: dict[str, Any] = {}
    for stage in STAGES:
        names = [key.split(".", 1)[1] for key in known() if key.startswith(f"{stage}.")]
        choices = tuple(app(stage, name).config for name in names)
        annotation = choices[0] if len(choices) == 1 else Annotated[Union[choices], Field(discriminator="app")]  # noqa: UP007
        fields[stage] = (annotation, ...)
    return create_model("RunConfig", __base__=RunConfig, **fields)


def load_config(data: bytes, where: str = "config.json") -> Any:
    """The configuration of an iteration, with the options of its apps."""
    return config_model().load(data, where)
