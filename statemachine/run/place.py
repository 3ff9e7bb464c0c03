"""Where a run is, was begun, and works: a copy of a run is another run, and must not touch the first one's work."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from conventions.documents import parse_json
from conventions.errors import CommandRefused, StateError, StoreError
from conventions.space import DataSpace
from conventions.state import State
from statemachine.engine import Engine
from statemachine.store import Store, open_store

from .configuration import configuration
from .discover import runs_below
from .record import Record


def begun_at(store: Store, state: State) -> str:
    """The prefix at which a run was begun, as its configuration has it."""
    return str(parse_json(configuration(store, state), state.place.config)["prefix"])


def is_copy(prefix: str, url: str) -> bool:
    """Is a run that was begun at `prefix` found at another place?

    Of a bucket the path counts, not the address of its server. Folders are the same where they are one folder under two
    names.
    """
    began, here = urlsplit(prefix), urlsplit(url)
    paths = [unquote(parts.path).rstrip("/") for parts in (began, here)]
    if (began.scheme, began.netloc) != (here.scheme, here.netloc):
        return True
    if paths[0] == paths[1]:
        return False
    try:
        return began.scheme != "file" or not Path(paths[0]).samefile(paths[1])
    except OSError:
        return True


def refuse_copy(prefix: str, url: str) -> None:
    """Raise `CommandRefused` for a copy, before anything is asked or ordered in the first run's name."""
    if is_copy(prefix, url):
        raise CommandRefused(
            f"{url} is a copy of the run at {prefix}, or was moved from there: `dpgen2-sm fork {url}` makes it a run "
            "of its own, which goes on from here; nothing was changed"
        )


def refuse_nested(store: Store) -> None:
    """Raise `CommandRefused` where a run would begin inside another one, or around one: they would share files.

    A `state.json` of another program, or a folder that may not be looked into, is no run.
    """
    place, mark, settings = store.url.partition("?")
    scheme, _, path = place.partition("://")
    parts = path.split("/")
    for end in range(len(parts) - 1, 1, -1):
        outer = open_store(f"{scheme}://{'/'.join(parts[:end])}{mark}{settings}")
        with contextlib.suppress(StoreError, StateError):
            if outer.head(DataSpace.state) is not None:
                name = Record(outer).load(verify=False).state.run
                raise CommandRefused(f"{store.url} is inside the run {name!r} at {outer.url}; choose another prefix")
    with contextlib.suppress(StoreError):
        for inner in runs_below(store, {}, depth=2):
            if inner != store.url:  # where another `init` has just begun it
                raise CommandRefused(f"there is a run below {store.url}, at {inner}; choose another prefix")


def elsewhere(state: State, home: str, engine: Engine) -> str:
    """Where a run works, when the engine here, whose home is given, knows nothing of it; "" when it is to be seen."""
    strange = not state.ended and state.home not in ("", home)
    return state.home if strange and not engine.finds(state.workflow) else ""


def works_elsewhere(home: str, here: str) -> str:
    """What a person is told of a run that this process may only wait for."""
    return (
        f"it works at {home}; this is {here}, from where that is not to be seen. It goes on when a poller runs there. "
        "If that place is lost for good: `dpgen2-sm resume RUN --take-over`"
    )
