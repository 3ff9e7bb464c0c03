"""What a run no longer needs: `dpgen2-sm prune RUN`.

The files of jobs whose stage is done, of iterations before the newest exploration. Kept are labels, models, what a
stage handed on, reports, completion markers, logs, configurations and the history. First the state is told how far was
pruned, so that nobody goes back to what is being deleted; an interrupted prune can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from conventions.names import STAGES
from conventions.space import DataSpace, JobFile
from conventions.state import State
from statemachine.machine.orders import Order, needed_from
from statemachine.store import Entry, Store

from .place import begun_at, refuse_copy
from .poller import tell
from .record import Record

PARTS = ("in", "out")  # of a job; its log is kept
AT_ONCE = 1000  # keys that are deleted together


@dataclass
class Prunable:
    """Files of one stage that may go.

    Parameters
    ----------
    stage
        Their stage.
    iterations, files, bytes
        How many.
    """

    stage: str
    iterations: int
    files: int
    bytes: int


def prunable(store: Store, keep_last: int, outputs_of_label: bool) -> tuple[int, list[Prunable], list[str]]:
    """What `prune` would delete: the first iteration that stays whole, the sums of each stage, and the keys.

    Parameters
    ----------
    keep_last
        Iterations that are kept whole before the newest that explored.
    outputs_of_label
        Also what labelling left: the outputs of the code, whose labels are in the dataset.
    """
    state = Record(store).load().state
    refuse_copy(begun_at(store, state), store.url)
    until = max(0, needed_from(state) - keep_last)
    sums, keys = [], []
    for stage in STAGES:
        if stage == "label" and not outputs_of_label:
            continue
        found = list(_files(store, state, stage, until))
        if found:
            numbers = {file.iteration for _, file in found}
            sums.append(Prunable(stage, len(numbers), len(found), sum(entry.size for entry, _ in found)))
            keys += [entry.key for entry, _ in found]
    return until, sums, keys


def prune(store: Store, until: int, keys: list[str], gone: Callable[[int], None]) -> None:
    """Delete what `prunable` has found; `gone` is called with how many more files were deleted.

    Raises
    ------
    CommandRefused
        When a rewind needs it meanwhile.
    """
    tell(Record(store), Order("prune", iteration=until))
    for first in range(0, len(keys), AT_ONCE):
        part = keys[first : first + AT_ONCE]
        store.delete_all(part)
        gone(len(part))


def _files(store: Store, state: State, stage: str, until: int) -> Iterator[tuple[Entry, JobFile]]:
    space = DataSpace(state.policy.apps)
    for iteration in range(until):
        for entry in store.list(f"{space.stage(stage, iteration).jobs}/"):
            file = space.parse(entry.key)
            if isinstance(file, JobFile) and file.part in PARTS:
                yield entry, file
