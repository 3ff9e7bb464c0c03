"""A campaign that another program has left in a folder: whose it is, by what is there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conventions.errors import ConfigError
from statemachine.run.earlier import FindEarlier

from .adoption import Tell
from .dpgen import adopt as dpgen
from .dpgen import tree as dpgen_tree
from .dpgen2 import adopt as dpgen2
from .dpgen2 import tree as dpgen2_tree

ADOPTED = ("DP-GEN", "DPGEN2")


@dataclass(frozen=True)
class Campaign:
    """Whose it is, and what finds in it what a run begins with."""

    dialect: str
    adopt: Callable[[Tell], FindEarlier]


def campaign(folder: Path) -> Campaign:
    """The campaign in a folder.

    Raises
    ------
    ConfigError
        When there is none, or it is damaged.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; give the one with record.dpgen, or with iter-000000")
    if not (root / dpgen_tree.RECORD).exists() and dpgen2_tree.is_tree(root):
        return Campaign("DPGEN2", functools.partial(dpgen2.adopt, dpgen2_tree.read_tree(root)))
    return Campaign("DP-GEN", functools.partial(dpgen.adopt, dpgen_tree.read_tree(root)))
