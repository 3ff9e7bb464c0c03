"""What was done of a campaign before it became a run: `begin` writes it, and the first state goes on from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conventions.config import RunConfig


@dataclass(frozen=True)
class Earlier:
    """Data, products and figures that a run begins with.

    Parameters
    ----------
    data
        Labelled systems (dpdata's, by name) by the key of their folder.
    folders
        Local folders by the key that they are published under; the folders are moved.
    state
        What is different in the first state: its stage, iteration, table.
    """

    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


# (configuration as the store keeps it, scratch folder) -> what was done before.
FindEarlier = Callable[[RunConfig, Path], Earlier]
