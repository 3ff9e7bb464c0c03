"""Rules: keys of `select` that differ from what the run did."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.config import HOW
from conventions.errors import ConfigError
from statemachine.run.config_file import check_config, read_mapping

AS_IT_WAS = "as-it-was"


@dataclass(frozen=True)
class Rule:
    """A name, and the keys of `select` that it sets; `null` takes a key out."""

    name: str
    keys: Mapping[str, Any]

    def configuration(self, document: bytes) -> Any:
        """The configuration of an iteration with this rule.

        How the run's jobs were run is left out: what a prefix says must not run commands here, and scoring needs none.

        Raises
        ------
        ConfigError
            When it would be refused.
        """
        found = json.loads(document)
        merged = {**{key: value for key, value in found["select"].items() if key not in HOW}, **self.keys}
        found["select"] = {key: value for key, value in merged.items() if value is not None or key not in self.keys}
        return check_config(found, f"the rule {self.name!r}")


def read_rule(path: Path) -> Rule:
    """A file with keys of `select`, or with a whole `select` section; its name is that of the file.

    Raises
    ------
    ConfigError
        When it cannot be read, or is something else.
    """
    found = read_mapping(path)
    keys = found.get("select", found)
    if not isinstance(keys, dict) or not keys or not all(isinstance(key, str) for key in keys):
        raise ConfigError(f"{path}: give keys of `select`, such as `f_trust_lo: 0.08`")
    if path.stem == AS_IT_WAS or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.stem):
        raise ConfigError(f"{path}: the name of a rule is that of its file: use letters, digits, `.`, `_` and `-`")
    for key in sorted({"app", *HOW} & set(keys)):
        raise ConfigError(f"{path}: {key}: the run's app chooses, and nothing else is run; a rule gives it other keys")
    return Rule(path.stem, keys)
