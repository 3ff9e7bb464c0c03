"""`state.json` in a store: loading, and the compare-and-swap that knows whether it won."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from conventions.errors import CommandRefused, Conflict, NoRun, NotFound, StateError, StoreError, TooNew
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import State
from statemachine.store import Blob, Store

from .restore import last_good
from .trail import RESTORE_HINT, shortened, write

_SPACE = DataSpace({})
LONGEST = 2000  # characters of a reason


@dataclass(frozen=True)
class Loaded:
    """A state with the bytes and the tag that it was read with."""

    state: State
    data: bytes
    etag: str


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Record:
    """The one record of a run. Every change is one compare-and-swap; the history is kept under `event/`.

    `nonce` and `clock` are injected so that a test can make them deterministic.
    """

    def __init__(
        self,
        store: Store,
        nonce: Callable[[], str] = lambda: secrets.token_hex(8),
        clock: Callable[[], str] = utc_now,
    ) -> None:
        self.store, self.nonce, self.clock = store, nonce, clock
        self.writer = f"{socket.gethostname().partition('.')[0]}:{os.getpid()}"
        self._verified: bytes | None = None  # the last state that is known to be the newest of its history
        self._kept: bytes | None = None  # the last state that is known to be in the history
        self._parsed: Loaded | None = None  # the last state that was read

    def load(self, verify: bool = True) -> Loaded:
        """Read the state; with `verify` also compare it with the history (two more requests).

        Raises
        ------
        NoRun
            When there is no run here.
        StateError
            When it is damaged, not the last of its history, or missing although there is a history.
        """
        try:
            blob = self.store.get(_SPACE.state)
        except NotFound:
            blob = self._begun_just_now()
        loaded = self._parse(blob)
        if verify:
            self.verify(loaded)
        return loaded

    def _parse(self, blob: Blob) -> Loaded:
        """Most looks find the state unchanged: parsed once while its bytes are equal."""
        if self._parsed is None or self._parsed.data != blob.data:
            with self._hinting():
                self._parsed = Loaded(State.unseal(blob.data), blob.data, blob.etag)
            if blob.data != self._verified:
                self._verified = None  # it is not the newest any more: whoever comes back to it was rolled back
        return replace(self._parsed, etag=blob.etag)

    def _begun_just_now(self) -> Blob:
        """There was no state. A history without a state is damage, unless the run was created in between."""
        if next(iter(self.store.list(_SPACE.events + "/")), None) is None:
            raise NoRun(f"there is no run at {self.store.url}; begin one with `dpgen2-sm init CONFIG`")
        there = self._present()
        if there is None:
            raise StateError(
                f"{self.store.at(_SPACE.state)} is missing although the run has a history under "
                f"{_SPACE.events}/: {RESTORE_HINT}; nothing was changed"
            )
        return there

    def verify(self, loaded: Loaded) -> None:
        """Raise `StateError` when a state is not the last of its history; nobody may act on such a state."""
        if loaded.data != self._verified:
            with self._hinting():
                self._check_history(loaded)
            self._verified = loaded.data

    @contextlib.contextmanager
    def _hinting(self) -> Iterator[None]:
        """Add where the last good version is to the error."""
        try:
            yield
        except TooNew:
            raise
        except StateError as error:
            last = last_good(self.store)
            hint = f"; the last good version is {self.store.at(last)}: {RESTORE_HINT}" if last else ""
            raise StateError(f"{error}{hint}; nothing was changed") from None

    def _check_history(self, loaded: Loaded) -> None:
        """Refuse a state that was rolled back, or comes from another run: acting on it would repeat work."""
        version, key = loaded.state.version, _SPACE.event(loaded.state.version)
        try:
            if self.store.get(key).data != loaded.data:
                raise StateError(f"{_SPACE.state}: does not match {key} in this run's history")
            self._kept = loaded.data
        except NotFound:  # its writer was interrupted: the next commit repairs the history
            if version > 1 and not self._made_from(version - 1, loaded.state):
                if next(iter(self.store.list(_SPACE.events + "/")), None) is None:
                    raise StateError(
                        f"{_SPACE.state} is intact, but the run's history under {_SPACE.events}/ is gone: "
                        "`dpgen2-sm doctor RUN --restore` begins it anew with this version"
                    ) from None
                raise StateError(f"{_SPACE.state}: version {version} does not continue this run's history") from None
        later = self.store.head(_SPACE.event(version + 1)) is not None
        if later and self.store.get(_SPACE.state).etag == loaded.etag:  # and not written by another process just now
            raise StateError(f"{_SPACE.state}: version {version} is older than the run's history")

    def _made_from(self, version: int, state: State) -> bool:
        """Was it made from that version? Whoever commits keeps the version before first."""
        try:
            return sha256(self.store.get(_SPACE.event(version)).data) == state.previous_sha256
        except NotFound:
            return False

    def create(self, state: State) -> State:
        """Begin a run; raise `CommandRefused` when there is one already."""
        fresh = self._stamp(state, 1, "")
        data = fresh.seal()
        try:
            self.store.put(_SPACE.state, data, if_absent=True)
        except StoreError:
            there = self._present()
            if there is None:
                raise
            if there.data != data:
                raise CommandRefused(f"there is a run at {self.store.url} already") from None
        self._keep_later(1, data)
        return fresh

    def commit(self, before: Loaded, after: State) -> Loaded | None:
        """Swap the state; None when another process was first (reload, and never act on `before`)."""
        self.keep(before.state.version, before.data)
        after, moved = shortened(after, before.state)
        for past in moved:
            write(self.store, past)
        fresh = self._stamp(after, before.state.version + 1, sha256(before.data))
        data = fresh.seal()
        try:
            etag = self.store.put(_SPACE.state, data, if_match=before.etag)
        except StoreError:
            # Neither a refusal nor a lost answer says whether the write was applied: what is there does.
            there = self._present()
            if there is None or there.data == before.data:
                raise
            if there.data != data:
                return None
            etag = there.etag
        if not self._keep_later(fresh.version, data):
            # `before` was verified once, and later rolled back to: it is put back, and refused when it is read again.
            self._verified = None
            with contextlib.suppress(StoreError):
                self.store.put(_SPACE.state, before.data, if_match=etag)
            return None
        self._verified = data
        return Loaded(fresh, data, etag)

    def _stamp(self, state: State, version: int, previous: str) -> State:
        return state.model_copy(
            update={
                "version": version,
                "nonce": self.nonce(),
                "previous_sha256": previous,
                "writer": self.writer,
                # The text comes from an engine or a shell: whatever it is, the state must stay readable and small.
                "reason": state.reason[:LONGEST].encode("utf-8", "replace").decode(),
                "updated_at": self.clock(),
            }
        )

    def _present(self) -> Blob | None:
        try:
            return self.store.get(_SPACE.state)
        except NotFound:
            return None

    def keep(self, version: int, data: bytes) -> None:
        """Write a version into the history, once. Called before a version is acted on, replaced, or final.

        Raises
        ------
        StateError
            When the history has another version of this number: this one was lost with a damaged state.
        """
        if data == self._kept:
            return
        key = _SPACE.event(version)
        try:
            self.store.put(key, data, if_absent=True)
        except Conflict:
            if self.store.get(key).data != data:
                raise StateError(f"{_SPACE.state}: does not match {key} in this run's history") from None
        self._kept = data

    def _keep_later(self, version: int, data: bytes) -> bool:
        """The state is swapped already: an error of the store must not look like a failed swap.

        False when the history has another version of this number.
        """
        try:
            self.keep(version, data)
        except StoreError:
            pass
        except StateError:
            return False
        return True
