"""Changing the configuration of a run: `dpgen2-sm patch CONFIG`.

The files and the document are put into the store first, by content; then the state is swapped. An interrupted patch
leaves only unreferenced objects, and can be repeated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conventions.config import RunConfig
from conventions.errors import CommandRefused, NotFound, StateError
from conventions.names import sha256
from conventions.state import Policy, State
from operators.registry import app, load_config
from statemachine.machine.orders import Order, patch_error
from statemachine.store import Store, open_store

from .begin import check_files, prepare
from .configuration import configuration, differences
from .place import refuse_copy
from .poller import tell
from .record import Record
from .trust import inherit, remember

# Fixed for a run: keys, models and data depend on them, or a workflow would be looked for in another place.
FIXED = ("run", "prefix", "type_map", "init")
FIXED_OF_ENGINE = ("type", "server", "namespace", "repository")


def patch(config: RunConfig, base: Path, reason: str) -> tuple[State, list[str]]:
    """Continue a run with another configuration; return also what is different in it.

    A configuration that the state names already, but that was deleted or damaged in the store, is written again, and so
    are its files.

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
    digest = sha256(stored.dump())
    store = open_store(stored.prefix)
    record = Record(store)
    state = record.load().state
    if _is_whole(store, state, digest) and digest == (state.next_config_sha256 or state.config_sha256):
        if mended := list(_put_back(store, objects)):
            return state, mended
        raise CommandRefused("cannot patch: the run has this configuration already")
    changes: list[str] = []
    with contextlib.suppress(StateError):  # the one before is lost, and this one replaces it
        before = load_config(configuration(store, state, newest=True))
        refuse_copy(before.prefix, stored.prefix)
        changes = list(differences(before.model_dump(mode="json"), stored.model_dump(mode="json")))
    return adopt(record, state, stored, objects, reason, own=True), changes


def adopt(
    record: Record, state: State, stored: RunConfig, objects: dict[str, bytes], reason: str, own: bool = False
) -> State:
    """Put a configuration and its files into the store, and order the patch.

    Parameters
    ----------
    objects
        The files that are new, by key.
    own
        Is it a person's own file, and so his word? What was made of the newest configuration is trusted as that one is.
    """
    store, document = record.store, stored.dump()
    digest = sha256(document)
    before, policy = check(store, state, stored)  # before anything is written for it
    if own:
        check_files(stored, objects)
        remember(store.url, stored.engine, state, digest)
    else:
        inherit(store.url, state, state.next_config_sha256 or state.config_sha256, digest)
    for key, data in {**objects, state.place.space.configuration(digest): document}.items():
        store.put(key, data)
    keeps = state.config_sha256 if stored.work() == before.work() else ""
    return tell(record, Order("patch", reason, config_sha256=digest, keeps_sha256=keeps, policy=policy))[1]


def check(store: Store, state: State, stored: RunConfig) -> tuple[RunConfig, Policy]:
    """The present configuration, and the rules of a patched one; `CommandRefused` where the run cannot have it."""
    whole = sha256(stored.dump()) == state.config_sha256
    before = stored if whole else load_config(configuration(store, state))
    if changed := [name for name, value in _fixed(stored).items() if _fixed(before).get(name) != value]:
        raise CommandRefused(
            f"cannot patch: {', '.join(changed)} cannot be changed in a run; start a new run with another prefix"
        )
    policy = stored.policy(app("explore", stored.explore.app).explore_stages(stored.explore))
    if why := patch_error(state, policy):
        raise CommandRefused(f"cannot patch: {why}")
    return before, policy


def _put_back(store: Store, objects: dict[str, bytes]) -> Iterator[str]:
    """Write the user's files again where they are missing or damaged in the store."""
    for key, data in objects.items():
        try:
            damaged = store.get(key).data != data
        except NotFound:
            damaged = True
        if damaged:
            store.put(key, data)
            yield f"{key}: was missing or damaged, and is put back"


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
