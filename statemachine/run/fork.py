"""A copy of a run becomes a run of its own: `dpgen2-sm fork RUN`."""

from __future__ import annotations

import secrets

from conventions.errors import CommandRefused
from conventions.names import sha256
from conventions.state import State
from operators.registry import load_config
from statemachine.machine.orders import Order
from statemachine.store import Store

from .configuration import configuration
from .place import begun_at, is_copy
from .poller import tell
from .record import Record
from .trust import inherit


def fork(store: Store, reason: str) -> State:
    """Give a copied or moved run a new uid, and configurations that name the place where it is.

    The configurations are written first, by content: an interrupted fork leaves nothing but unreferenced objects, and
    can be repeated.

    Raises
    ------
    CommandRefused
        When the run is where it was begun.
    """
    record = Record(store)
    state = record.load().state
    begun = begun_at(store, state)
    if not is_copy(begun, store.url):
        raise CommandRefused(
            f"cannot fork: {store.url} is where this run was begun; copy it to another prefix, and fork that"
        )
    renamed: dict[str, str] = {}
    run_uid = secrets.token_hex(16)
    for before in filter(None, (state.config_sha256, state.next_config_sha256)):
        config = load_config(configuration(store, state.model_copy(update={"config_sha256": before})))
        document = config.model_copy(update={"prefix": store.url}).dump()
        renamed[before] = sha256(document)
        store.put(state.place.space.configuration(renamed[before]), document)
        inherit(store.url, state, before, renamed[before], forked=(begun, run_uid))
    return tell(record, Order("fork", reason, run_uid=run_uid, renamed=renamed))[1]
