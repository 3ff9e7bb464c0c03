"""A run as people name it: by its configuration file or by its prefix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from conventions.config import EngineConfig
from conventions.documents import parse_json
from conventions.errors import ConfigError, NotFound
from conventions.space import DataSpace
from conventions.state import State

from .engine.base import Engine
from .record import Record
from .store import Store, open_store

if TYPE_CHECKING:
    from .poller import Listener, Poller


def prefix_url(text: str, base: Path) -> str:
    """A prefix as a URL; a plain path is a folder, relative to `base`."""
    if "://" in text:
        return text.rstrip("/")
    from .store.file import FileStore

    return FileStore.at(base / text).url


def find_prefix(target: str) -> str:
    """The prefix of a run given as a configuration file, a folder or a URL."""
    path = Path(target)
    if "://" not in target and path.is_file():
        from .configfile import read_prefix

        return read_prefix(path)
    if "://" not in target and path.suffix in (".yaml", ".yml", ".json") and not path.exists():
        raise ConfigError(f"{target}: there is no such file")
    return prefix_url(target, Path.cwd())


def engine_root(prefix: str, run_uid: str) -> Path:
    """Where the local engine keeps its workflows: beside the data when they are on this machine."""
    parts = urlsplit(prefix)
    if parts.scheme == "file":
        return Path(unquote(parts.path)) / ".engine"
    return Path.home() / ".cache" / "dpgen2-sm" / run_uid


def open_engine(settings: EngineConfig, prefix: str, run_uid: str) -> Engine:
    from .engine.local import LocalEngine

    return LocalEngine(engine_root(prefix, run_uid), prefix, settings.slots)


def engine_of(store: Store, state: State) -> Engine:
    """The engine of a run, as its configuration names it."""
    return open_engine(_engine_settings(store), store.url, state.run_uid)


def open_poller(prefix: str, on_commit: Listener | None = None) -> Poller:
    """Everything that advances a run, from its prefix alone."""
    from .poller import Poller
    from .submission import Submission

    store = open_store(prefix)
    record = Record(store)
    return Poller(record, engine_of(store, record.load().state), Submission(store), on_commit)


def _engine_settings(store: Store) -> EngineConfig:
    """The engine's settings as the run began with them; the options of the apps are not looked at."""
    key = DataSpace({}).config(0)
    try:
        found = parse_json(store.get(key).data, key)
    except NotFound:
        raise ConfigError(f"{store.url} has a state but no {key}") from None
    return EngineConfig.model_validate(found["engine"])
