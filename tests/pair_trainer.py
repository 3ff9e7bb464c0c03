"""train/pairs, for tests: a trainer other than DeePMD-kit, whose models are those of `tests/pair_models.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from conventions.config import StageConfig
from operators import registry
from operators.core import Committee
from tests.pair_models import models


class PairsConfig(StageConfig):
    app: Literal["pairs"] = "pairs"
    numb_models: int = 2


APP = replace(
    registry.app("train", "deepmd"),
    name="pairs",
    config=PairsConfig,
    committee=lambda train: Committee("mace", [f"graph.{number:03d}.pb" for number in range(train.numb_models)]),
    models=models,
)
