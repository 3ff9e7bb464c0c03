"""Changing the configuration of a run: `dpgen2-sm patch CONFIG`.

The files and the document are put into the store first, by content; then the state is swapped. An interrupted patch
leaves objects that nothing names, and is simply repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conventions.config import RunConfig
from conventions.errors import CommandRefused
from conventions.names import sha256
from conventions.state import State
from operators.registry import app, load_config

from .beginning import check_structures, prepare
from .orders import Order
from .runs import configuration, open_poller

# What a run is made of: keys, models and data depend on it, or a workflow would be looked for in another place.
FIXED = ("run", "prefix", "type_map", "init")
FIXED_OF_ENGINE = ("type", "server", "namespace", "repository")


def patch(config: RunConfig, base: Path, reason: str) -> State:
    """Let a run go on by another configuration.

    Parameters
    ----------
    base
        Folder that the configuration's paths are relative to.

    Raises
    ------
    NoRun
        When there is none at the configuration's prefix.
    ConfigError
        When a file is missing or a structure cannot be used.
    CommandRefused
        When something differs that a run cannot change, or nothing does.
    """
    stored, objects = prepare(config, base)
    poller = open_poller(stored.prefix)
    state = poller.record.load().state
    before = load_config(configuration(poller.store, state, newest=True))
    if before == stored:
        raise CommandRefused("cannot patch: the run has this configuration already")
    if changed := [name for name, value in _fixed(stored).items() if _fixed(before).get(name) != value]:
        raise CommandRefused(
            f"cannot patch: {', '.join(changed)} of a run cannot be changed; begin another one, with another prefix"
        )
    check_structures(stored, objects)
    document = stored.dump()
    for key, data in {**objects, state.place.space.configuration(sha256(document)): document}.items():
        poller.store.put(key, data)
    policy = stored.policy(app("explore", stored.explore.app).explore_stages(stored.explore))
    return poller.tell(Order("patch", reason, config_sha256=sha256(document), policy=policy))


def _fixed(config: Any) -> dict[str, Any]:
    parts = {name: getattr(config, name) for name in FIXED}
    engine = {f"engine.{name}": getattr(config.engine, name, None) for name in FIXED_OF_ENGINE}
    return parts | engine | {f"{stage}.app": name for stage, name in config.apps.items()}
