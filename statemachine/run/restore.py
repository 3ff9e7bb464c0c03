"""Bringing `state.json` back from the history: `dpgen2-sm doctor RUN --restore`.

Exactly the bytes of the newest good version are put back: then the state is the last of its history again. A version
that was committed but not kept, because its writer died, is lost with the damage. That is harmless: whoever reads the
version before it decides the same again, meets the same workflow under the same name, and a workflow that is made
anew meets the claim of the one that worked. Only a person's command may have to be given once more.
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
        """Is it of the same run, and where it is the very next version: was it made from the earlier one?"""
        next_one = self.number == earlier.number + 1
        made_from_it = self.state.previous_sha256 == sha256(earlier.data)
        return self.state.run_uid == earlier.state.run_uid and (made_from_it or not next_one)


def newest_good(numbers: Iterable[int], read: Callable[[int], bytes]) -> Version | None:
    """The newest version that is whole and follows the next older one that is whole; None where none is."""
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
    """Make `state.json` the newest good version again; return what was done, a line for each thing.

    May be repeated, also by two at once. What is in the way (a damaged state, damaged entries of the history) is kept
    under `event/damaged/`.

    Raises
    ------
    NoRun
        When there is neither a state nor a history.
    StateError
        When no version is whole, the run's configuration is damaged as well, or a newer program goes on with the run.
    CommandRefused
        When somebody else changed the state meanwhile.
    """
    from .configuration import configuration  # which opens records, and those know this module

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
            f"{store.at(_SPACE.events)}/: no version of the state there is whole; bring the folder back from a backup, "
            "or begin anew with another prefix; nothing was changed"
        )
    configuration(store, good.state)
    done = []
    for number in sorted(kept):
        if number >= good.number and (data := store.get(_SPACE.event(number)).data) != good.data:
            _put_aside(store, data, _SPACE.event(number))
            done.append(f"{_SPACE.event(number)} was damaged: put aside as {_SPACE.damaged(sha256(data))}")
    with contextlib.suppress(Conflict):  # it is there
        store.put(_SPACE.event(good.number), good.data, if_absent=True)
    if blob is None or blob.data != good.data:
        why = "was missing" if blob is None else f"was put aside as {_SPACE.damaged(sha256(blob.data))}"
        _swap(store, blob, good)
        done.append(
            f"{_SPACE.state} {why}; it is version {good.number} again ({good.state.at}, iteration "
            f"{good.state.iteration}, of {good.state.updated_at}). What a person commanded after that (pause, patch, "
            "rewind, ...) has to be commanded again"
        )
    return done or [f"{_SPACE.state} is sound: version {good.number}; there is nothing to restore"]


def _kept(store: Store) -> list[int]:
    """The versions that the history has, whole or not."""
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
    """Put the good version where the damaged one is, unless somebody was first."""
    try:
        if blob is None:
            store.put(_SPACE.state, good.data, if_absent=True)
        else:
            _put_aside(store, blob.data)
            store.put(_SPACE.state, good.data, if_match=blob.etag)
    except StoreError as error:
        # Refused, or an answer was lost: what is there now says which.
        now = _present(store)
        if now is None or now.data != good.data:
            if isinstance(error, Conflict):
                raise CommandRefused(
                    f"{store.at(_SPACE.state)} was changed by somebody else just now: look with `dpgen2-sm status RUN`"
                ) from None
            raise


def _put_aside(store: Store, data: bytes, key: str | None = None) -> None:
    """Keep damaged bytes for a person to look at, and take them from where they are in the way."""
    with contextlib.suppress(Conflict):  # kept already
        store.put(_SPACE.damaged(sha256(data)), data, if_absent=True)
    if key is not None:
        with contextlib.suppress(NotFound):
            if store.get(key).data == data:  # and not, meanwhile, a good one
                store.delete(key)
