"""A run moves to another store: `dpgen2-sm migrate RUN TARGET`.

All objects are copied, the first configuration first, by a create-only write, as `init` does; the history and then
the state last. So a half copy is no run, is known as one of this run, and is gone on with. At the end the copy is
forked: it has an identity of its own and names its new prefix, and the run at the old one is as it was.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import md5
from pathlib import Path

from conventions.documents import parse_json
from conventions.errors import CommandRefused, Conflict, DataError, NotFound, StoreError
from conventions.names import canonical_json, sha256
from conventions.space import DataSpace
from conventions.state import State
from operators.registry import load_config
from operators.sums import SUMS, parse, sha256_of
from statemachine.store import Entry, Store, local_folder
from statemachine.store.probe import prove
from statemachine.store.transfer import is_md5, is_there, parallel

from .configuration import configuration
from .fork import fork
from .place import begun_at, is_copy, refuse_copy, refuse_nested
from .poller import REVOKED
from .record import Loaded, Record
from .systems import was_complete

Progress = Callable[[int, int], None]  # of bytes: all, and more since the last call
_SPACE = DataSpace({})
_AT_ONCE = 500  # objects that wait for a thread
_WHOLE = 8 << 20  # bytes of an object that goes through memory


@dataclass
class Moved:
    """What `migrate` did.

    Parameters
    ----------
    state
        Of the run at its new place.
    objects, bytes
        Of the run.
    copied
        Objects that were copied now; the others were there.
    """

    state: State
    objects: int
    bytes: int
    copied: int


def migrate(source: Store, target: Store, reason: str, progress: Progress = lambda total, more: None) -> Moved:
    """Copy a run that rests to another prefix, and make the copy a run of its own; may be repeated.

    Raises
    ------
    CommandRefused
        When the run may be working or changes meanwhile, or something else is at the target.
    DataError
        When what a later stage will use is not what was recorded.
    StoreError
        When a store does not do what it is asked; what was copied stays, and is used when this is repeated.
    """
    loaded = Record(source).load()
    state = loaded.state
    if not is_copy(source.url, target.url):
        raise CommandRefused(
            f"{target.url} is the prefix of the run itself; name another one (of a bucket the path counts, not the "
            "address of its server)"
        )
    refuse_copy(begun_at(source, state), source.url)
    if (there := _arrived(target, loaded, reason)) is not None:
        return Moved(there, 0, 0, 0)
    if problem := works(source, state):
        raise CommandRefused(f"cannot migrate: {problem}")
    _fits(source, state, target.url)
    refuse_nested(target)
    wanted = _listing(source)
    copying = _Copying(source, target, wanted, _listing(target), _recorded(source, state, wanted))
    copying.refuse_strange()
    prove(target)
    total = sum(entry.size for entry in wanted.values())
    progress(total, 0)
    for group in _in_order(list(wanted.values())):
        copying.copy(group, partial(progress, total))
    copying.check()
    if source.get(_SPACE.state).etag != loaded.etag:
        raise CommandRefused(f"the run at {source.url} went on meanwhile: `dpgen2-sm pause` it, then repeat this")
    _finish(target, loaded)
    return Moved(fork(target, reason), len(wanted) + 1, total, len(copying.copied) + 1)


def works(store: Store, state: State) -> str:
    """Why a run is not at rest; "" when it is.

    Of a paused run whose next workflow has a name, that may exist: it works once it has the attempt's claim.
    """
    if state.ended:
        return ""
    if state.at.endswith(".submitting") and state.hold:
        try:
            claimed = store.get(state.place.claim(state.attempt)).data not in (REVOKED, b"")
        except NotFound:
            claimed = False
        if not claimed:
            return ""
        return f"the workflow {state.workflow} has begun: `dpgen2-sm resume` follows it; pause the run once it is known"
    what = "it is being stopped" if state.at == "cancelling" else f"its state is {state.at}"
    paused = "wait until `dpgen2-sm status` shows that it submits nothing" if state.hold else "`dpgen2-sm pause` it"
    return f"{what}, so a workflow may be running; {paused}, or `dpgen2-sm cancel` it, and repeat this"


def _fits(source: Store, state: State, url: str) -> None:
    """Raise `ConfigError` where a configuration of the run cannot have that prefix, as Argo needs one on S3."""
    for newest in (False, True):
        document = parse_json(configuration(source, state, newest), state.place.config)
        load_config(canonical_json({**document, "prefix": url}))


def _arrived(target: Store, loaded: Loaded, reason: str) -> State | None:
    """The state of this very run at the target, which is forked where that was not done; None where there is no run."""
    record = Record(target)
    if target.head(_SPACE.state) is None:
        return None
    there = record.load().state
    try:
        same = target.get(_SPACE.event(loaded.state.version)).data == loaded.data
    except NotFound:
        same = False
    if not same:
        raise CommandRefused(f"{target.url} holds another run, {there.run!r}; name a prefix with nothing in it")
    begun = begun_at(target, there)
    return fork(target, reason) if is_copy(begun, target.url) else there


def _listing(store: Store) -> dict[str, Entry]:
    """All objects of a run but the state, and what a test of the store left."""
    entries = {entry.key: entry for entry in store.list("")}
    return {
        key: entry
        for key, entry in entries.items()
        if key != _SPACE.state and not key.startswith(f"{_SPACE.probe}/") and not _is_leftover(key)
    }


def _is_leftover(key: str) -> bool:
    """Files that the local engine or store keeps for itself; the listing of a bucket may have some of a plain copy."""
    return any(part in (".engine", ".lock") or part.startswith((".part-", ".nfs")) for part in key.split("/"))


def _recorded(source: Store, state: State, wanted: dict[str, Entry]) -> dict[str, str]:
    """SHA-256 of the files that later stages will use, from their lists: the dataset and the newest products."""
    places = [found for stage in state.newest if (found := state.place.of(stage))]
    lists = [f"{place.product}/{SUMS}" for place in places]
    data = [key for key in wanted if key.startswith(f"{_SPACE.dataset}/") and key.endswith(f"/{SUMS}")]
    lists += [key for key in data if was_complete(source, state, key[len(_SPACE.dataset) + 1 : -len(SUMS) - 1])]
    recorded = {}
    for key in lists:
        if key in wanted:
            folder = key.removesuffix(SUMS)
            recorded.update({f"{folder}{name}": digest for name, digest in parse(source.get(key).data).items()})
    missing = sorted(recorded.keys() - wanted.keys())
    if missing:
        raise DataError(f"{source.at(missing[0])} is missing: `dpgen2-sm doctor RUN` says what to do")
    return recorded


def _in_order(entries: Sequence[Entry]) -> list[list[Entry]]:
    """What is copied first, and what last: the first configuration, everything, the history."""
    first = _SPACE.config(0)
    history = f"{_SPACE.events}/"
    groups = [
        [entry for entry in entries if entry.key == first],
        [entry for entry in entries if entry.key != first and not entry.key.startswith(history)],
        [entry for entry in entries if entry.key.startswith(history)],
    ]
    return [group[start : start + _AT_ONCE] for group in groups for start in range(0, len(group), _AT_ONCE)]


@dataclass
class _Copying:
    """Objects on their way from one store to the other.

    Parameters
    ----------
    wanted, there
        The listings of the two.
    recorded
        SHA-256 by key, where it is known.
    """

    source: Store
    target: Store
    wanted: dict[str, Entry]
    there: dict[str, Entry]
    recorded: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)  # of what was written in one piece
    copied: list[str] = field(default_factory=list)

    def refuse_strange(self) -> None:
        """Raise `CommandRefused` unless the target is empty or holds a part of this run, and nothing else."""
        strange = sorted(self.there.keys() - self.wanted.keys())
        first = _SPACE.config(0)
        if first not in self.wanted:
            raise DataError(f"{self.source.at(first)} is missing: `dpgen2-sm doctor RUN` says what to do")
        if not strange and self.there:
            begun = first in self.there and self.target.get(first).data == self.source.get(first).data
            strange = [] if begun else sorted(self.there)
        if strange:
            raise CommandRefused(
                f"{self.target.at(strange[0])} exists, and is not of this run as it is now; name a prefix with nothing "
                "in it"
            )

    def copy(self, entries: Sequence[Entry], arrived: Callable[[int], None]) -> None:
        """Copy what is not there yet."""

        def one(entry: Entry) -> None:
            if not self._is_there(entry):
                self._copy(entry)
                self.copied.append(entry.key)
            arrived(entry.size)

        parallel(one, entries)

    def _is_there(self, entry: Entry) -> bool:
        """Does the target have an object of equal size and checksum?"""
        found = self.there.get(entry.key)
        if found is None or found.size != entry.size:
            return False
        here, place = (_path(store, entry.key) for store in (self.source, self.target))
        if here and place:
            return filecmp.cmp(here, place, shallow=False)
        if here:
            return is_there(here, found.size, found.etag)
        return is_there(place, entry.size, entry.etag) if place else found.etag == entry.etag

    def _copy(self, entry: Entry) -> None:
        if entry.size <= _WHOLE:
            data = self.source.get(entry.key).data
            if len(data) == entry.size and (not is_md5(entry.etag) or _md5(data) == entry.etag):
                self._check(entry, sha256(data))
                self.tags[entry.key] = self._put(entry.key, data)
                return
        with tempfile.TemporaryDirectory() as scratch:  # large; or an ETag that is no MD5, as of an encrypted object
            path = self.source.fetch(entry.key, Path(scratch, "from"))
            if path is None:
                raise StoreError(f"{self.source.at(entry.key)} was deleted meanwhile; repeat this")
            self._check(entry, sha256_of(path))
            if not path.is_relative_to(scratch):  # the source's own file: what is published is moved
                path = Path(shutil.copyfile(path, Path(scratch, "file")))
            self.target.publish(path, entry.key)

    def _put(self, key: str, data: bytes) -> str:
        try:
            return self.target.put(key, data, if_absent=key == _SPACE.config(0))
        except Conflict:  # somebody begins something there just now
            there = self.target.get(key)
            if there.data != data:
                raise CommandRefused(f"{self.target.url} holds another run; name a prefix with nothing in it") from None
            return there.etag

    def _check(self, entry: Entry, digest: str) -> None:
        if self.recorded.get(entry.key, digest) != digest:
            raise DataError(
                f"{self.source.at(entry.key)}: its content is not what {SUMS} recorded: `dpgen2-sm doctor RUN` says "
                "what to do"
            )

    def check(self) -> None:
        """Raise `StoreError` unless a new listing of the target has all, in the right sizes, as it was written."""
        now = _listing(self.target)
        for key, entry in self.wanted.items():
            found = now.get(key)
            tag = self.tags.get(key, found.etag if found else "")
            if found is None or found.size != entry.size or (found.etag and found.etag != tag):
                raise StoreError(f"{self.target.at(key)} is not there as it was written; repeat this")
        if now.keys() != self.wanted.keys():
            strange = min(now.keys() - self.wanted.keys())
            raise CommandRefused(f"{self.target.at(strange)} was written by somebody else meanwhile; nothing was begun")


def _path(store: Store, key: str) -> Path | None:
    folder = local_folder(store.url)
    return folder / key if folder else None


def _md5(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()


def _finish(target: Store, loaded: Loaded) -> None:
    """Write the state, which makes the copy a run."""
    if local_folder(target.url):
        os.sync()  # after a power cut there is no state without the files that it depends on
    try:
        target.put(_SPACE.state, loaded.data, if_absent=True)
    except StoreError:  # an answer may have been lost
        if target.head(_SPACE.state) is None or target.get(_SPACE.state).data != loaded.data:
            raise
