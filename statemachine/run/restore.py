"""Restoring `state.json` from the history: `dpgen2-sm doctor RUN --restore`.

Exactly the bytes of the newest good version are written: then the state is the last of its history again. A version
that was committed but not kept, because its writer died, is lost with the damage. That is harmless: a poller that reads
the version before it makes the same decision and finds the same workflow under the same name; a workflow that is
created again finds the claim of the one that worked. Only a user's command may have to be given again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from conventions.errors import CommandRefused, Conflict, NoRun, NotFound, StateError, StoreError, TooNew
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import State
from statemachine.store import Blob, Store

from .trail import restored

_SPACE = DataSpace({})


@dataclass(frozen=True)
class Version:
    """A version of the state, and its bytes."""

    state: State
    data: bytes

    @property
    def number(self) -> int:
        return self.state.version

    def follows(self, earlier: Version) -> bool:
        """Is it made from the earlier one or, where those between them are lost, of the same run?"""
        if self.number == earlier.number + 1:  # a fork has another uid than what it was made from
            return self.state.previous_sha256 == sha256(earlier.data)
        return self.state.run_uid == earlier.state.run_uid


def newest_good(numbers: Iterable[int], read: Callable[[int], bytes]) -> Version | None:
    """The newest intact version that follows the next older intact one; None when no version is intact."""
    later = None
    for number in sorted(numbers, reverse=True):
        found = _whole(read(number), number)
        if found is not None:
            if later is not None and later.follows(found):
                return later
            later = found
    return later


def last_good(store: Store) -> str | None:
    """Key of the newest good version in the history."""
    found = newest_good(_kept(store), lambda number: store.get(_SPACE.event(number)).data)
    return _SPACE.event(found.number) if found else None


def restore(store: Store) -> list[str]:
    """Make `state.json` the newest good version again; return one line for each change.

    May be repeated, also by two processes at once. A damaged state and damaged entries of the history are kept under
    `event/damaged/`.

    Raises
    ------
    NoRun
        When there is neither a state nor a history.
    StateError
        When no version is intact, or a newer dpgen2-sm has written the run.
    CommandRefused
        When another process changed the state meanwhile.
    """
    from .configuration import configuration  # here: `record` imports this module

    kept = _kept(store)  # before the state, which is written first: it cannot be older than what is kept
    blob = _present(store)
    there = _whole(blob.data) if blob else None
    if blob is None and not kept:
        raise NoRun(f"there is no run at {store.url}; begin one with `dpgen2-sm init CONFIG`")

    def read(number: int) -> bytes:
        data = store.get(_SPACE.event(number)).data if number in kept else b""
        if there and there.number == number and _whole(data, number) is None:
            return there.data  # a state that its writer could not keep any more
        return data

    good = newest_good({*kept, there.number} if there else kept, read)
    if good is None:
        raise StateError(
            f"{store.at(_SPACE.events)}/: no version of the state there is intact; restore the folder from a backup, "
            "or start a new run with another prefix; nothing was changed"
        )
    done = []
    for number in sorted(kept):
        if number >= good.number and (data := store.get(_SPACE.event(number)).data) != good.data:
            _quarantine(store, data, _SPACE.event(number))
            done.append(f"{_SPACE.event(number)} was damaged: moved to {_SPACE.damaged(sha256(data))}")
    with contextlib.suppress(Conflict):  # it is there
        store.put(_SPACE.event(good.number), good.data, if_absent=True)
    if blob is None or blob.data != good.data:
        why = "was missing" if blob is None else f"was moved to {_SPACE.damaged(sha256(blob.data))}"
        _swap(store, blob, good)
        done.append(
            f"{_SPACE.state} {why}; version {good.number} was restored ({good.state.at}, iteration "
            f"{good.state.iteration}, of {good.state.updated_at}). Commands given after that (pause, patch, rewind, "
            "...) must be given again"
        )
    versions = (_whole(read(number), number) for number in sorted(kept, reverse=True))
    done += restored(store, good.state, (version.state for version in versions if version))
    try:
        configuration(store, good.state)
    except StateError as error:  # `patch` can mend that, now that there is a state
        done.append(str(error))
    return done or [f"{_SPACE.state} is intact: version {good.number}; there is nothing to restore"]


def _kept(store: Store) -> list[int]:
    """The versions that the history has, intact or not."""
    found = (_SPACE.version(entry.key) for entry in store.list(_SPACE.events + "/"))
    return [number for number in found if number is not None]


def _whole(data: bytes, number: int | None = None) -> Version | None:
    try:
        state = State.unseal(data)
    except TooNew:
        raise
    except StateError:
        return None
    return Version(state, data) if number in (None, state.version) else None


def _present(store: Store) -> Blob | None:
    try:
        return store.get(_SPACE.state)
    except NotFound:
        return None


def _swap(store: Store, blob: Blob | None, good: Version) -> None:
    """Replace the damaged state by the good version, unless another process has changed it."""
    try:
        if blob is None:
            store.put(_SPACE.state, good.data, if_absent=True)
        else:
            _quarantine(store, blob.data)
            store.put(_SPACE.state, good.data, if_match=blob.etag)
    except StoreError as error:
        # Refused, or an answer was lost: what is there now says which.
        now = _present(store)
        if now is None or now.data != good.data:
            if isinstance(error, Conflict):
                raise CommandRefused(
                    f"{store.at(_SPACE.state)} was changed by another process just now: see `dpgen2-sm status RUN`"
                ) from None
            raise


def _quarantine(store: Store, data: bytes, key: str | None = None) -> None:
    """Keep damaged bytes for inspection, and remove them from their place in the history."""
    with contextlib.suppress(Conflict):  # kept already
        store.put(_SPACE.damaged(sha256(data)), data, if_absent=True)
    if key is not None:
        with contextlib.suppress(NotFound):
            if store.get(key).data == data:  # not a good one by now
                store.delete(key)
