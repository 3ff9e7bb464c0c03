"""What of the present stage is not as it was written: the markers and outputs of its jobs, and its claims.

Of a stage that is done none of this is read again: a rewind begins an iteration with another number.

Damage is a marker that cannot be read, one of a job without such inputs, and one whose outputs are not those that it
records. No attempt counts such a job, and of the first two kinds the stage may never get rid: plan takes a job for
finished by its marker alone. Without the marker the job is run again, which is always safe; all_reduce takes back the
last kind by itself, at its end.

Normal are: a marker with failed tasks, whose job is repeated whatever its outputs are; a job without a marker; the
claim of any attempt, also of one that was given up, since claims stay for ever, and of one after the state's, which a
restore has gone back from.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from conventions.errors import DataError, TooNew
from conventions.space import DoneKey, StageSpace
from conventions.state import State
from operators.jobs import check_inputs, check_outputs, read_marker
from statemachine.store import Store

from .checks import Damage
from .poller import DONE

_OWNER = re.compile(rb"[A-Za-z0-9-]+")  # a workflow's uid, or that the attempt is revoked


def stage_damages(store: Store, state: State, read: Callable[[int], None]) -> Iterator[Damage]:
    """Look at the jobs and claims of the stage that a run is in; `read` is called with the bytes that were read."""
    if state.at in DONE:
        return
    yield from _claims(store, state)
    with tempfile.TemporaryDirectory() as scratch:
        yield from _markers(store, state.place, Path(scratch), read)


def _claims(store: Store, state: State) -> Iterator[Damage]:
    """None is ever changed or removed: whatever it holds, it keeps every other workflow from the attempt."""
    for entry in store.list(f"{state.place.claims}/"):
        attempt = state.place.attempt_of(entry.key)
        if attempt is None or _OWNER.fullmatch(store.get(entry.key).data):
            continue
        follows = "its attempt is over, and cannot begin again"
        if attempt >= state.attempt and not state.ended:
            follows = "its attempt goes on if it has begun; else it ends at once, and the next one follows"
        yield Damage(entry.key, f"it names no owner; {follows}: nothing has to be done")


def _markers(store: Store, place: StageSpace, scratch: Path, read: Callable[[int], None]) -> Iterator[Damage]:
    folder = store.fetch(place.done, scratch)
    for entry in store.list(f"{place.done}/") if folder else ():
        found = place.space.parse(entry.key)
        if not isinstance(found, DoneKey):
            yield Damage(entry.key, "only completion markers belong here, and this may stop the stage: move it away")
            continue
        path = Path(f"{folder}{entry.key.removeprefix(place.done)}")
        try:
            problem = _problem(store, place.job(found.job_id), path, scratch, read)
        except TooNew as error:
            yield Damage(entry.key, str(error))
            continue
        except FileNotFoundError:  # another process removed it just now
            continue
        if problem:
            what = f"{problem}; no attempt counts its job: --repair removes the marker, and the job is run again"
            yield Damage(entry.key, what, _remove(store, entry.key, path.read_bytes()))


def _problem(store: Store, at: StageSpace, path: Path, scratch: Path, read: Callable[[int], None]) -> str:
    """Why a job does not count in spite of its marker; empty where it does, or is repeated anyway."""
    try:
        marker = read_marker(path)
        if not marker.succeeded:
            return ""
        digest = store.fetch(at.job_digest, scratch)
        if digest is None:
            return "the stage has no such job, or its inputs were lost"
        check_inputs(marker, digest.parent)
    except TooNew:
        raise
    except (DataError, IsADirectoryError) as error:
        return str(error)
    read(sum(file.size for file in marker.files))
    try:
        return check_outputs(marker, store.fetch(at.job_out, scratch) or scratch / at.job_out)
    finally:
        shutil.rmtree(scratch / at.job_out, ignore_errors=True)  # of a store that is no folder here


def _remove(store: Store, key: str, data: bytes) -> Callable[[], str]:
    def remove() -> str:
        if store.get(key).data != data:  # its job has just ended, once more
            return "was replaced meanwhile: nothing was done"
        store.delete(key)
        return "was removed; the next attempt runs its job again"

    return remove
