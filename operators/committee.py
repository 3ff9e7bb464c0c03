"""The committee that a run's trainer makes, and whether its explorer can drive it."""

from __future__ import annotations

from typing import Any

from conventions.config import RunConfig
from conventions.errors import ConfigError

from .core import Committee
from .registry import app, names


def committee_of(config: Any) -> Committee:
    """What the trainer of a configuration leaves.

    Raises
    ------
    ConfigError
        When the trainer does not say it.
    """
    trainer = app("train", config.train.app)
    if trainer.committee is None:
        raise ConfigError(f"train.app {trainer.name}: it does not say what models it makes (App.committee)")
    return trainer.committee(config.train)


def check_drives(config: RunConfig) -> list[str]:
    """Models that the explorer cannot drive, and the explorers that can."""
    trainer, explorer = app("train", config.apps["train"]), app("explore", config.apps["explore"])
    if trainer.committee is None or not explorer.drives:
        return []
    kind = trainer.committee(config.train).kind
    if kind in explorer.drives:
        return []
    able = [name for name in names("explore") if kind in app("explore", name).drives]
    return [
        f"explore.app: {explorer.name} cannot drive the models of train.app {trainer.name} ({kind}); "
        f"{' and '.join(able) or 'no app here'} can"
    ]
