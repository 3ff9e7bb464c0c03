"""Changing the configuration of a run: `dpgen2-sm patch CONFIG`.

The files and the document are put into the store first, by content; then the state is swapped. An interrupted patch
leaves only unreferenced objects, and can be repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conventions.config import RunConfig
from conventions.errors import CommandRefused, StateError
from conventions.names import sha256
from conventions.state import State
from operators.registry import app, load_config
from statemachine.machine.orders import Order, patch_error
from statemachine.store import Store, open_store

from .begin import check_structures, prepare
from .configuration import configuration
from .poller import tell
from .record import Record

# Fixed for a run: keys, models and data depend on them, or a workflow would be looked for in another place.
FIXED = ("run", "prefix", "type_map", "init")
FIXED_OF_ENGINE = ("type", "server", "namespace", "repository")


def patch(config: RunConfig, base: Path, reason: str) -> State:
    """Continue a run with another configuration.

    A configuration that the state names already, but that was deleted or damaged in the store, is written again.

    Parameters
    ----------
    base
        Folder that the configuration's paths are relative to.

    Raises
    ------
    NoRun
        When there is no run at the configuration's prefix.
    ConfigError
        When a file is missing or a structure cannot be used.
    CommandRefused
        When a key differs that cannot be changed, or when nothing differs.
    """
    stored, objects = prepare(config, base)
    document = stored.dump()
    digest = sha256(document)
    store = open_store(stored.prefix)
    record = Record(store)
    state = record.load().state
    whole = _is_whole(store, state, digest)
    if whole and digest == (state.next_config_sha256 or state.config_sha256):
        raise CommandRefused("cannot patch: the run has this configuration already")
    before = stored if digest == state.config_sha256 else load_config(configuration(store, state))
    if changed := [name for name, value in _fixed(stored).items() if _fixed(before).get(name) != value]:
        raise CommandRefused(
            f"cannot patch: {', '.join(changed)} cannot be changed in a run; start a new run with another prefix"
        )
    policy = stored.policy(app("explore", stored.explore.app).explore_stages(stored.explore))
    if why := patch_error(state, policy):  # before anything is written for it
        raise CommandRefused(f"cannot patch: {why}")
    check_structures(stored, objects)
    for key, data in {**objects, state.place.space.configuration(digest): document}.items():
        store.put(key, data)
    keeps = state.config_sha256 if stored.work() == before.work() else ""
    return tell(record, Order("patch", reason, config_sha256=digest, keeps_sha256=keeps, policy=policy))[1]


def _is_whole(store: Store, state: State, digest: str) -> bool:
    """Is the configuration in the store, where the state names it?"""
    named = state.model_copy(update={"config_sha256": digest})
    try:
        return digest in (state.config_sha256, state.next_config_sha256) and bool(configuration(store, named))
    except StateError:
        return False


def _fixed(config: Any) -> dict[str, Any]:
    parts = {name: getattr(config, name) for name in FIXED}
    engine = {f"engine.{name}": getattr(config.engine, name, None) for name in FIXED_OF_ENGINE}
    return parts | engine | {f"{stage}.app": name for stage, name in config.apps.items()}
