"""Test that a store honours conditional writes, judged by what is read back, never by its responses."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from conventions.errors import ConfigError, Conflict, StoreError
from conventions.space import DataSpace

from .locks import check_locks
from .opening import local_folder

if TYPE_CHECKING:
    from .base import Store


def prove(store: Store) -> str:
    """Create twice, swap with a wrong tag and with the right one; tell what was found.

    This shows that conditions are understood; whether they are atomic, only a race shows (`dpgen2-sm doctor --race`).
    In a folder they are as atomic as its locks.
    """
    found = f"{store.url}: conditional writes are honoured"
    if folder := local_folder(store.url):
        mount = check_locks(folder)
        found += f"; locks work ({mount.kind})"
    key = f"{DataSpace.probe}/{secrets.token_hex(8)}"
    try:
        tag = store.put(key, b"first", if_absent=True)
        _refuses(store, key, "overwrites an existing object despite If-None-Match", if_absent=True)
        _refuses(store, key, "overwrites a changed object despite If-Match", if_match="0" * 32)
        try:
            store.put(key, b"second", if_match=tag)
        except Conflict:
            raise _unfit(store, "refuses to replace an unchanged object with If-Match") from None
        if store.get(key).data != b"second":
            raise _unfit(store, "reports a write that it did not make")
    finally:
        with contextlib.suppress(StoreError):  # deleting may be forbidden
            store.delete(key)
    return found


def _refuses(store: Store, key: str, fault: str, *, if_absent: bool = False, if_match: str | None = None) -> None:
    with contextlib.suppress(Conflict):
        store.put(key, b"unwanted", if_absent=if_absent, if_match=if_match)
    if store.get(key).data != b"first":
        raise _unfit(store, fault)


def _unfit(store: Store, fault: str) -> ConfigError:
    return ConfigError(
        f"{store.url}: this store {fault}. A run needs conditional writes, or two processes would overwrite each "
        "other's state: use another store (docs/stores.md lists those that have them)"
    )
