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

if TYPE_CHECKING:
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
    """The engine of a run, as its configuration names it.

    Raises
    ------
    CommandRefused
        When this is a copy of a run: the engine would find the first one's workflows.
    """
    from conventions.cluster import engine_config

    # The apps' options are not looked at: `status` must not pay for importing the apps.
    found = parse_json(configuration(store, state), state.place.config)
    refuse_copy(found["prefix"], store.url)
    return open_engine(engine_config(found["engine"]), store, state.run_uid)


def open_poller(prefix: str, on_commit: Listener | None = None) -> Poller:
    """Everything that advances a run, from its prefix alone."""
    from .poller import Poller
    from .submission import Submission

    store = open_store(prefix)
    record = Record(store)
    loaded = record.load(verify=False)
    return Poller(record, engine_of(store, loaded.state), Submission(store), on_commit, loaded)
