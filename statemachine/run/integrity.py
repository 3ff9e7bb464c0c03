"""What of a run is not as it was written: for `doctor RUN`, and what `doctor --repair` can do about it.

Everything that is named by its hash is read, and everything that a later stage will use: the training data and the
newest product of each stage, by their SHA256SUMS, and what the jobs of the present stage have left. Products that were
used up are not read again.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conventions.errors import NotFound, StateError
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import State
from operators.pod.s3 import THREADS
from operators.sums import SUMS, parse
from statemachine.engine.opening import engine_root
from statemachine.store import Store, local_folder

from .checks import Damage
from .systems import was_complete
from .unfinished import stage_damages

_SPACE = DataSpace({})
_NAMED = re.compile(r"/([0-9a-f]{64})(?:\.\w+|/[^/]+)$")
_ABANDONED = 3600.0  # seconds after which what was begun is not gone on with
_AT_ONCE = 500  # versions in memory, of at most 10 kB each


def damages(store: Store, state: State, read: Callable[[int], None] = lambda size: None) -> Iterator[Damage]:
    """Look at all of a run; `read` is called with the bytes that were read."""
    yield from _named(store, state, read)
    yield from _history(store, state)
    yield from _recorded(store, state, read)
    yield from stage_damages(store, state, read)
    yield from _left(store, state)


def _named(store: Store, state: State, read: Callable[[int], None]) -> Iterator[Damage]:
    """Objects with their hash in their names: configurations, the user's files, code, older rows of the table."""
    for folder in (_SPACE.configurations, _SPACE.code, _SPACE.trail):
        for entry in store.list(f"{folder}/"):
            named = _NAMED.search(entry.key)
            if named is None:
                continue
            try:
                data = store.get(entry.key).data
            except NotFound:  # another process deleted it just now
                continue
            read(len(data))
            if sha256(data) != named[1]:
                yield _unlike(store, state, entry.key, named[1])


def _unlike(store: Store, state: State, key: str, digest: str) -> Damage:
    what = "its content is not what its name says"
    if key.startswith(_SPACE.code):

        def ship_again() -> str:
            store.delete(key)
            return "was deleted; the next submission ships it again"

        return Damage(key, f"{what}: --repair lets it be shipped again", ship_again)
    if key == _SPACE.configuration(digest):
        for number in range(state.iteration, -1, -1):
            try:
                data = store.get(_SPACE.config(number)).data
            except NotFound:
                continue
            if sha256(data) == digest:
                return Damage(key, f"{what}: --repair takes it from {_SPACE.config(number)}", _put(store, key, data))
    if key.startswith(_SPACE.events):
        return Damage(key, f"{what}: `dpgen2-sm doctor RUN --restore` writes it again from the history")
    return Damage(key, f"{what}: `dpgen2-sm patch CONFIG` with the same configuration puts it back")


def _put(store: Store, key: str, data: bytes) -> Callable[[], str]:
    def put() -> str:
        store.put(key, data)
        return "was written again"

    return put


def _history(store: Store, state: State) -> Iterator[Damage]:
    """Versions that are missing or damaged: nothing needs them but a restore."""
    before = ""
    for number, data in _versions(store, state.version):
        key = _SPACE.event(number)
        try:
            version = State.unseal(data) if data is not None else None
        except StateError as error:
            yield Damage(key, f"{error}; the run goes on without it")
            before = ""
            continue
        if version is None:
            yield Damage(key, "missing; the run goes on without it")
        elif version.version != number or (before and version.previous_sha256 != before):
            yield Damage(key, "it is not made from the version before it; the run goes on without it")
        before = sha256(data) if data is not None else ""


def _versions(store: Store, end: int) -> Iterator[tuple[int, bytes | None]]:
    """The bytes of each version before one, many read at a time; None for one that is missing."""

    def read(number: int) -> bytes | None:
        try:
            return store.get(_SPACE.event(number)).data
        except NotFound:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(1, end, _AT_ONCE):
            numbers = range(first, min(end, first + _AT_ONCE))
            yield from zip(numbers, pool.map(read, numbers), strict=True)


def _recorded(store: Store, state: State, read: Callable[[int], None]) -> Iterator[Damage]:
    """The training data, and the newest products, against their lists."""
    places = [found for stage in state.newest if (found := state.place.of(stage))]
    products = [f"{place.product}/{SUMS}" for place in places]
    for key in [*_lists(store, state), *products]:
        folder = key.removesuffix(SUMS)
        try:
            recorded = parse(store.get(key).data)
        except NotFound:
            yield Damage(key, f"missing; {_advice(folder)}")
            continue
        for name, digest in recorded.items():
            try:
                data = store.get(f"{folder}{name}").data
            except NotFound:
                yield Damage(f"{folder}{name}", f"missing; {_advice(folder)}")
                continue
            read(len(data))
            if sha256(data) != digest:
                yield Damage(f"{folder}{name}", f"its content is not what {SUMS} recorded; {_advice(folder)}")


def _lists(store: Store, state: State) -> list[str]:
    """The lists of all folders of the dataset, also of training data that have lost theirs."""
    keys = {entry.key for entry in store.list(_SPACE.dataset + "/")}
    systems = [system for key in keys if (system := _SPACE.training_system(key))]
    folders = {system.rpartition("/")[0] for system in systems}
    without = [folder for folder in folders if _SPACE.sums(folder) not in keys]
    lost = [_SPACE.sums(folder) for folder in without if was_complete(store, state, folder)]
    return sorted([*lost, *(key for key in keys if key.endswith(f"/{SUMS}"))])


def _advice(folder: str) -> str:
    stage, _, iteration = folder.rstrip("/").removesuffix("/product").partition("/")
    if stage == "dataset":
        number = folder.rstrip("/").rpartition("/")[2]
        again = f", or `dpgen2-sm rewind RUN --iter {int(number)} --stage label`" if number.isdecimal() else ""
        return f"take it from a backup{again}"
    return f"`dpgen2-sm rewind RUN --iter {int(iteration.rpartition('/')[2])} --stage {stage}` makes it again"


def _left(store: Store, state: State) -> Iterator[Damage]:
    """What a process that was killed has left in folders of this machine."""
    places = [(engine_root(store.url, state.run_uid) / "workflow", ".new-*")]
    if data := local_folder(store.url):
        places.append((data, "**/.part-*"))
    for root, pattern in places:
        for path in root.glob(pattern):
            if time.time() - path.stat().st_mtime < _ABANDONED:
                continue

            def remove(path: Path = path) -> str:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                return "was removed"

            yield Damage(str(path), "left by a process that was killed: --repair removes it", remove)
