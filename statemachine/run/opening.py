"""Opening a run, named by its configuration file or by its prefix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conventions.documents import parse_json
from conventions.state import State
from statemachine.engine import Engine, open_engine
from statemachine.store import Store, open_store, prefix_url

from .configuration import configuration
from .place import refuse_copy
from .record import Record
from .trust import authorise, reached

if TYPE_CHECKING:
    from conventions.cluster import ArgoConfig, LocalConfig

    from .poller import Listener, Poller


def config_file(target: str) -> Path | None:
    """The configuration file that a target names; None when the target is a prefix."""
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
    from .config_file import read_prefix

    return read_prefix(config)


def engine_of(store: Store, state: State) -> Engine:
    """The engine of a run, as its configuration names it and this process may reach it."""
    return open_engine(_settings(store, state), store, state.run_uid)


def _settings(store: Store, state: State) -> LocalConfig | ArgoConfig:
    """The settings of the engine.

    Raises
    ------
    CommandRefused
        When this is a copy of a run: the engine would find the first one's workflows.
    NotTrusted
        When only the prefix says that it is to be reached in this way.
    """
    from conventions.cluster import engine_config

    # The apps' options are not looked at: `status` must not pay for importing the apps.
    found = parse_json(configuration(store, state), state.place.config)
    refuse_copy(found["prefix"], store.url)
    return reached(store.url, engine_config(found["engine"]), state.run_uid)


def open_poller(prefix: str, on_commit: Listener | None = None, named: bool = True) -> Poller:
    """Everything that advances a run, from its prefix alone.

    Parameters
    ----------
    named
        Did a person name this run? Only then are its commands trusted at their first use.
    """
    from .poller import Poller
    from .submission import Submission

    store = open_store(prefix)
    record = Record(store)
    loaded = record.load(verify=False)
    settings = _settings(store, loaded.state)
    if settings.type == "local" and not named and not loaded.state.ended:
        authorise(store, loaded.state, first_use=False)  # before anything is stopped in its name
    engine = open_engine(settings, store, loaded.state.run_uid)

    def trusted(state: State) -> None:
        if settings.type == "local":  # elsewhere commands are run with the rights of pods
            authorise(store, state, first_use=named)

    return Poller(record, engine, Submission(store, trusted), on_commit, loaded)
