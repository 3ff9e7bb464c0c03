"""A run as people name it: by its configuration file or by its prefix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from conventions.documents import parse_json
from conventions.errors import ConfigError, NotFound, StateError
from conventions.names import sha256
from conventions.state import State

from .engine.base import Engine
from .record import Record
from .store import Store, open_store

if TYPE_CHECKING:
    from conventions.cluster import EngineConfig

    from .poller import Listener, Poller


PUT_BACK = "`dpgen2-sm patch CONFIG`, with that configuration, puts it back; nothing was changed"


def prefix_url(text: str, base: Path) -> str:
    """A prefix as a URL; a plain path is a folder, relative to `base`."""
    if "://" in text or ":" in text.partition("/")[0]:
        return open_store(text).url
    from .store.file import FileStore

    try:
        return FileStore.of(base / Path(text).expanduser()).url
    except (RuntimeError, OSError, ValueError) as error:  # no such user; a loop of links; no path at all
        raise ConfigError(f"prefix {text!r}: {error}") from None


def config_file(target: str) -> Path | None:
    """The configuration file that a target names; None where it is a prefix."""
    path = Path(target)
    try:
        named = path.suffix in (".yaml", ".yml", ".json") and not path.is_dir()
        return path if "://" not in target and (named or path.is_file()) else None
    except OSError:  # a name that no file can have
        return None


def find_prefix(target: str) -> str:
    """The prefix of a run given as a configuration file, a folder or a URL."""
    config = config_file(target)
    if config is None:
        return prefix_url(target, Path.cwd())
    from .configfile import read_prefix

    return read_prefix(config)


def engine_root(prefix: str, run_uid: str) -> Path:
    """Where the local engine keeps its workflows: beside the data when they are on this machine."""
    parts = urlsplit(prefix)
    if parts.scheme == "file":
        return Path(unquote(parts.path)) / ".engine"
    return Path.home() / ".cache" / "dpgen2-sm" / run_uid


def open_engine(settings: EngineConfig, store: Store, run_uid: str) -> Engine:
    if settings.type == "argo":
        from .engine.argo import ArgoEngine

        return ArgoEngine(settings, store.secrets)
    from .engine.local import LocalEngine

    return LocalEngine(engine_root(store.url, run_uid), store.url, settings.slots)


def engine_of(store: Store, state: State) -> Engine:
    """The engine of a run, as its configuration names it."""
    from conventions.cluster import engine_config

    # The apps' options are not looked at: `status` must not pay for importing the apps.
    settings = parse_json(configuration(store, state), state.place.config)["engine"]
    return open_engine(engine_config(settings), store, state.run_uid)


def configuration(store: Store, state: State, newest: bool = False) -> bytes:
    """The configuration of the present attempt, or the newest one, which may wait for the next iteration.

    Raises
    ------
    StateError
        When it is missing, or not the one that the state names.
    """
    wanted = (newest and state.next_config_sha256) or state.config_sha256
    space = state.place.space
    named = space.configuration(wanted)
    # The other two: of a run of an earlier version, or where it was deleted.
    for key in (named, space.config(state.iteration), space.config(0)):
        try:
            data = store.get(key).data
        except NotFound:
            continue
        if sha256(data) == wanted:
            return data
        if key == named:
            raise StateError(f"{store.at(key)} is not the configuration that the state names; {PUT_BACK}")
    raise StateError(f"{store.at(named)} is missing; {PUT_BACK}")


def open_poller(prefix: str, on_commit: Listener | None = None) -> Poller:
    """Everything that advances a run, from its prefix alone."""
    from .poller import Poller
    from .submission import Submission

    store = open_store(prefix)
    record = Record(store)
    loaded = record.load(verify=False)
    return Poller(record, engine_of(store, loaded.state), Submission(store), on_commit, loaded)
