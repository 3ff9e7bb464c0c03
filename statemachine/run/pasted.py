"""A patch whose configuration is a text, not a file: its files are those that the run keeps; none is read from here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from conventions.config import RunConfig, UserFile
from conventions.errors import CommandRefused, ConfigError, NotFound
from conventions.names import sha256
from conventions.state import State
from operators.registry import config_model, load_config
from statemachine.store import Store
from statemachine.store.opening import prefix_url

from .access import Access
from .begin import check_files
from .config_file import check_config, notes, parse_mapping
from .configuration import configuration, differences
from .patch import adopt, check
from .place import refuse_copy
from .record import Record

NAME = Path("the configuration")  # in errors
_KEPT = re.compile(r"[0-9a-f]{64}/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Pasted:
    """A checked configuration as the store keeps it, what differs in it, and what a person should know of it."""

    stored: RunConfig
    changes: list[str]
    notes: list[str]


def present(store: Store, state: State) -> str:
    """The newest configuration of a run as a text to change."""
    return json.dumps(json.loads(configuration(store, state, newest=True)), indent=1, ensure_ascii=False)


def read_pasted(store: Store, state: State, text: str) -> Pasted:
    """Check a configuration as `patch` does; nothing is written.

    A file is named as the run keeps it (`{sha256}/{name}`), or by the name of one that its newest configuration has. A
    relative prefix is that of the run.

    Raises
    ------
    ConfigError
        When it is not right, or names a file that the run does not keep.
    CommandRefused
        When the run cannot have it, or has it already.
    """
    before = load_config(configuration(store, state, newest=True))
    refuse_copy(before.prefix, store.url)
    config = check_config(parse_mapping(text.encode("utf-8", "surrogatepass"), NAME), NAME)
    known = sorted({file.root for file in _files(before) if file.stored})
    document = {name: _kept(getattr(config, name), name, known) for name in type(config).model_fields}
    relative = "://" not in config.prefix and not config.prefix.startswith(("/", "~"))
    document["prefix"] = before.prefix if relative else prefix_url(config.prefix, Path("/"))
    stored = config_model(document).from_json(document, str(NAME))
    if sha256(stored.dump()) == (state.next_config_sha256 or state.config_sha256):
        raise CommandRefused("cannot patch: the run has this configuration already")
    if Access.of(stored.engine) != Access.of(before.engine):
        raise CommandRefused("cannot patch: how the engine is reached is changed with `dpgen2-sm patch` only")
    check(store, state, stored)
    check_files(stored, dict(_contents(store, state, stored)))
    changes = list(differences(before.model_dump(mode="json"), stored.model_dump(mode="json")))
    return Pasted(stored, changes, notes(stored))


def patch_pasted(store: Store, text: str, reason: str) -> State:
    """Continue a run with such a configuration. It is trusted as far as the one before."""
    record = Record(store)
    state = record.load().state
    return adopt(record, state, read_pasted(store, state, text).stored, {}, reason)


def _files(value: Any) -> Iterator[UserFile]:
    """All files that a configuration names."""
    if isinstance(value, UserFile):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _files(getattr(value, name))
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _files(item)


def _kept(value: Any, where: str, known: list[str]) -> Any:
    """The value with each file as the run keeps it."""
    if isinstance(value, UserFile):
        if _KEPT.fullmatch(value.root):
            return value.root
        found = [root for root in known if root.partition("/")[2] == value.name]
        if len(found) != 1:
            kept = ", ".join(sorted({root.partition("/")[2] for root in known})) or "none"
            raise ConfigError(
                f"{where}: {value.root!r} is {'kept in several versions' if found else 'none of the files of this run'}"
                f" (they are: {kept}); no file is read here: name one as the present configuration does, or use "
                "`dpgen2-sm patch` where the file is"
            )
        return found[0]
    if isinstance(value, BaseModel):
        return {name: _kept(getattr(value, name), f"{where}.{name}", known) for name in type(value).model_fields}
    if isinstance(value, list):
        return [_kept(item, f"{where}.{index}", known) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _kept(item, f"{where}.{key}", known) for key, item in value.items()}
    return value


def _contents(store: Store, state: State, stored: RunConfig) -> Iterator[tuple[str, bytes]]:
    for root in sorted({file.root for file in _files(stored)}):
        digest, _, name = root.partition("/")
        key = state.place.space.file(digest, name)
        try:
            data = store.get(key).data
        except NotFound:
            raise ConfigError(f"{root}: the run keeps no such file") from None
        if sha256(data) != digest:
            raise ConfigError(f"{store.at(key)} is damaged: `dpgen2-sm patch CONFIG` with the file puts it back")
        yield key, data
