"""A campaign that another program has left in a folder: whose it is, by what is there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.errors import ConfigError
from statemachine.run.earlier import FindEarlier

from .adoption import Adoption, Tell
from .dpgen import tree as dpgen_tree
from .dpgen.adopt import RunDirectory
from .dpgen2 import tree as dpgen2_tree
from .dpgen2.adopt import Downloads

ADOPTED = ("DP-GEN", "DPGEN2")


@dataclass(frozen=True)
class Campaign:
    """Whose it is, and what adopts it for a configuration."""

    dialect: str
    adoption: Callable[[Any, Path, Tell], Adoption]

    def adopt(self, tell: Tell) -> FindEarlier:
        """What finds in it what a run begins with; `tell` is given what a person should know."""
        return lambda config, scratch: self.adoption(config, scratch, tell).earlier()


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
    recorded = (root / dpgen_tree.RECORD).exists()
    if not recorded and (names := dpgen2_tree.workflows(root)):
        raise ConfigError(
            f"{folder}: it has the workflows of a bucket ({', '.join(names[:5])}); give the folder of one. What a "
            "resubmitted workflow did not run again is in the folder of the one before: put the iter-* of both into one"
        )
    if not recorded and dpgen2_tree.is_tree(root):
        return Campaign("DPGEN2", functools.partial(Downloads, dpgen2_tree.read_tree(root)))
    return Campaign("DP-GEN", functools.partial(RunDirectory, dpgen_tree.read_tree(root)))
