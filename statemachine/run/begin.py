"""Creating a run: copy the user's files into the store, import the initial data, create the first state.

The first configuration is written first, by a create-only write. Of two `init` at one prefix with different
configurations, the second is refused before it writes anything else; with the same configuration both write the same
objects. `state.json` is created last: an interrupted `init` leaves no run, and can be repeated.
"""

from __future__ import annotations

import functools
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from conventions.config import RunConfig, Structures, UserFile
from conventions.documents import Stage
from conventions.errors import CommandRefused, ConfigError, DataError, NotFound, StoreError
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import State
from operators.registry import app, config_model, load_config
from statemachine.store import Store, open_store
from statemachine.store.opening import prefix_url
from statemachine.store.probe import prove

from .configuration import configuration
from .data import as_extxyz, is_dpdatas, load_data, write_data
from .earlier import Earlier, FindEarlier
from .paths import matches
from .place import refuse_copy, refuse_nested
from .record import Record
from .trust import remember

# What is being done, its total bytes, and the bytes done since the last call; zeros where bytes are not counted.
Progress = Callable[[str, int, int], None]


def prepare(config: RunConfig, base: Path) -> tuple[RunConfig, dict[str, bytes]]:
    """The configuration as the store keeps it, and the user's files by key. Reads, writes nothing.

    Parameters
    ----------
    base
        Folder that the configuration's paths are relative to.

    Raises
    ------
    ConfigError
        When a file is missing or a structure cannot be used.
    """
    space = DataSpace(config.apps)
    objects: dict[str, bytes] = {}

    def store(path: Path, where: str) -> str:
        if not path.is_file():
            hint = "; of a folder of data give the format, such as deepmd/npy" if path.is_dir() else ""
            raise ConfigError(f"{where}: {path} is not a file{hint}")
        try:
            return keep(path.name, path.read_bytes(), where)
        except OSError as error:
            raise ConfigError(f"{where}: {path} cannot be read: {error.strerror}") from None

    def keep(name: str, data: bytes, where: str) -> str:
        try:
            key = space.file(sha256(data), _plain(name))
        except DataError:
            said = f"the name of {name[:40]}... has {len(name)} characters, too many for some stores; rename the file"
            raise ConfigError(f"{where}: {said}") from None
        objects[key] = data
        return key[len(space.files) + 1 :]

    def convert(value: Any, where: str) -> Any:
        if isinstance(value, UserFile):
            found = list(matches(base, value.root, where))
            if len(found) != 1:
                raise ConfigError(f"{where}: {value.root!r} matches {len(found)} files; one is expected")
            return store(found[0], where)
        if isinstance(value, Structures) and is_dpdatas(value.format, where):
            paths = [path for file in value.files for path in matches(base, file.root, f"{where}.files")]
            read = [as_extxyz(path, str(value.format), where, config.type_map) for path in paths]
            names = [keep(f"{path.name}.extxyz", data, where) for path, data in zip(paths, read, strict=True)]
            return {**value.model_dump(), "files": names, "format": "extxyz"}
        if isinstance(value, BaseModel):
            return {name: convert(getattr(value, name), f"{where}.{name}") for name in type(value).model_fields}
        if isinstance(value, list):
            if value and all(isinstance(item, UserFile) for item in value):
                return [store(path, where) for item in value for path in matches(base, item.root, where)]
            return [convert(item, f"{where}.{index}") for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: convert(item, f"{where}.{key}") for key, item in value.items()}
        return value

    document = {name: convert(getattr(config, name), name) for name in type(config).model_fields}
    document["prefix"] = prefix_url(config.prefix, base)
    return config_model(document).from_json(document, "configuration"), objects


def check_files(config: RunConfig, objects: dict[str, bytes]) -> dict[str, int]:
    """Read all files as the stages will; return how many structures each set has.

    Raises
    ------
    ConfigError
        When one cannot be used.
    """
    from operators.structures import check_structures

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        unpack(objects, files)
        problems = []
        for stage, name in config.apps.items():
            try:
                app(stage, name).check_files(config, files)
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))
        return {name: check_structures(config, name, files) for name in config.structures}


def unpack(objects: dict[str, bytes], files: Path) -> None:
    """Write the user's files into a folder as the store holds them below `config/file`."""
    for key, data in objects.items():
        path = files / key.removeprefix(f"{DataSpace.files}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def begin(
    config: RunConfig,
    base: Path,
    progress: Progress = lambda what, total, more: None,
    find_earlier: FindEarlier | None = None,
) -> State:
    """Begin a run, or return the one that was begun with the same configuration.

    Parameters
    ----------
    find_earlier
        Finds what was done before, where the run takes a campaign over.

    Raises
    ------
    CommandRefused
        When there is a run with another configuration at the prefix.
    """
    stored, objects = prepare(config, base)
    store = open_store(stored.prefix)
    record, space = Record(store), DataSpace(stored.apps)
    if (there := _begun(record, stored)) is not None:
        return there
    refuse_nested(store)
    progress("reading structures and data", 0, 0)
    check_files(stored, objects)
    named = [("data", space.dataset_init, stored.init.data), ("test", space.dataset_test, stored.init.test)]
    imports = {
        key(name): load_data(data, base, f"init.{kind}.{name}", stored.type_map).systems
        for kind, key, group in named
        for name, data in group.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        earlier = Earlier()
        if find_earlier:
            progress("reading what was done before", 0, 0)
            earlier = find_earlier(stored, Path(scratch))
        return _write(store, record, stored, objects, {**imports, **earlier.data}, earlier, progress)


def _write(
    store: Store,
    record: Record,
    stored: RunConfig,
    objects: dict[str, bytes],
    imports: dict[str, dict[str, Any]],
    earlier: Earlier,
    progress: Progress,
) -> State:
    """Write all that was read, the state last."""
    space = DataSpace(stored.apps)
    left = [entry.key for entry in store.list(space.dataset + "/")]
    if (there := _begun(record, stored)) is not None:  # while we read
        return there
    of_an_init = bool(left) and store.head(space.config(0)) is not None
    ours = tuple(f"{key}/" for key in imports)
    strange = [key for key in left if not (of_an_init and (space.is_imported(key) or key.startswith(ours)))]
    if strange:
        raise CommandRefused(
            f"{store.at(strange[0])} exists, but there is no run here: choose an empty folder as prefix"
        )
    prove(store)
    progress("writing the run's files", 0, 0)
    document = stored.dump()
    _claim(store, space.config(0), document)
    for key, data in {**objects, space.configuration(sha256(document)): document}.items():
        store.put(key, data)
    published: set[str] = set()

    def publish(made: Path, key: str) -> None:
        files = [path for path in made.rglob("*") if path.is_file()]
        published.update(f"{key}/{path.relative_to(made)}" for path in files)
        total = sum(path.stat().st_size for path in files)
        store.publish(made, key, functools.partial(progress, f"writing {key}", total))

    for key, systems in imports.items():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "data"
            write_data(systems, made)
            publish(made, key)
    for key, made in earlier.folders.items():
        publish(made, key)
    for key in left:  # of an interrupted init; never what a concurrent one with the same configuration has written
        if key not in published:
            store.delete(key)
    stage: Stage = "label" if stored.init.label else "train"
    fields: dict[str, Any] = {
        "run": stored.run,
        "run_uid": secrets.token_hex(16),
        "version": 1,
        "nonce": "",
        "previous_sha256": "",
        "writer": "",
        "updated_at": "",
        "at": f"{stage}.submitting",
        "iteration": 0,
        "stage": stage,
        "reason": "run created",
        "config_sha256": sha256(document),
        "policy": stored.policy(app("explore", stored.explore.app).explore_stages(stored.explore)),
    }
    first = State.model_validate({**fields, **earlier.state})
    remember(stored.prefix, stored.engine, first, first.config_sha256, begun=True)
    try:
        return record.create(first)
    except CommandRefused:  # another process created it meanwhile
        if (there := _begun(record, stored)) is None:
            raise
        return there


def _begun(record: Record, stored: RunConfig) -> State | None:
    """The run that is there already, if it was begun with this configuration; None where there is none."""
    try:
        state = record.load().state
    except NotFound:
        return None
    before = load_config(configuration(record.store, state, newest=True)).model_dump(mode="json")
    refuse_copy(before["prefix"], stored.prefix)
    after = stored.model_dump(mode="json")
    changed = sorted(key for key in after if before.get(key) != after[key])
    if changed:
        raise CommandRefused(
            f"{stored.prefix} holds a run with another configuration (differs in: {', '.join(changed)}); apply the "
            "new one with `dpgen2-sm patch`, continue with the old one by `dpgen2-sm resume`, or choose another prefix"
        )
    remember(stored.prefix, stored.engine, state, state.next_config_sha256 or state.config_sha256)
    return state


def _claim(store: Store, key: str, document: bytes) -> None:
    """Write the first configuration, unless another `init` with another one is running, or was interrupted, here."""
    try:
        store.put(key, document, if_absent=True)
    except StoreError as error:
        try:
            there = store.get(key).data
        except NotFound:
            raise error from None
        if there != document:
            raise CommandRefused(
                f"{store.at(key)} is another configuration: another `init` is running here, or was interrupted. "
                "Repeat that `init` with its configuration, choose another prefix, or empty this one"
            ) from None


def _plain(name: str) -> str:
    """A file name with only characters that a key may have; the content's hash keeps files apart."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name)
    return plain if plain[0].isalnum() else f"f{plain}"
