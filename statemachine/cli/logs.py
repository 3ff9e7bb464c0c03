"""`dpgen2-sm logs`: of a workflow's steps, of a job that has ended, of one that runs."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from conventions.errors import ConfigError, NotFound
from conventions.names import STAGES, format_id
from conventions.space import DataSpace, JobFile, StageSpace
from conventions.state import State
from statemachine.engine import Engine, Phase
from statemachine.run.opening import engine_of
from statemachine.run.progress import is_of_attempt
from statemachine.run.record import Record
from statemachine.store import Store, open_store


def print_logs(
    prefix: str, stage: str | None, iteration: int | None, job: int | None, attempt: int | None, follow: bool
) -> None:
    """Logs of the workflow's steps, or of a job; with neither, also which jobs have logs."""
    store = open_store(prefix)
    state = Record(store).load().state
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"--stage {stage}: choose one of {', '.join(STAGES)}")
    if iteration is not None and iteration > state.iteration:
        raise ConfigError(
            f"--iter {iteration}: the run is at iteration {state.iteration}; choose 0 to {state.iteration}"
        )
    place = DataSpace(state.policy.apps).stage(
        stage or state.stage, state.iteration if iteration is None else iteration
    )
    if job is not None:
        _print_job(store, state, place, format_id(job), follow)
        return
    if follow:
        raise ConfigError("--follow: name the job with --job; `dpgen2-sm status --watch` follows the run")
    if _is_present(state, place):
        if attempt is not None and attempt > state.attempt:
            raise ConfigError(f"--attempt {attempt}: the stage is in attempt {state.attempt}")
        workflow = state.workflow_of(state.attempt if attempt is None else attempt)
        try:
            for line in engine_of(store, state).logs(workflow):
                print(line)
        except NotFound:
            print(f"the workflow {workflow} is gone, and the logs of its steps with it", file=sys.stderr)
    elif attempt is not None:
        raise ConfigError("--attempt: logs of attempts are kept until the next stage begins; leave it out")
    for entry in store.list(place.jobs + "/"):
        found = place.space.parse(entry.key)
        if isinstance(found, JobFile) and found.part == "log":
            print(f"job {int(found.job_id)}: {entry.key} ({entry.size} bytes)")


def _print_job(store: Store, state: State, place: StageSpace, job_id: str, follow: bool) -> None:
    """What a job's tasks have printed: as far as it is to be seen while it runs, and then as it was published."""
    at = place.job(job_id)
    shown: dict[str, int] = {}
    if _is_present(state, place) and not state.ended:
        for name, data in _running(store, engine_of(store, state), state, at, follow):
            sys.stdout.write(data.decode("utf-8", "replace"))
            sys.stdout.flush()
            shown[name] = shown.get(name, 0) + len(data)
        if shown and not follow:
            return
    keys = [entry.key for entry in store.list(at.job_log + "/")]
    if not keys and not shown:
        runs = _is_present(state, place) and not state.ended
        running = " (it does not run yet, or is published when it has ended)" if runs else ""
        raise ConfigError(f"--job {int(job_id)}: there is no log at {store.at(at.job_log)}{running}")
    with tempfile.TemporaryDirectory() as scratch:
        for key in keys:
            if path := store.fetch(key, Path(scratch)):
                _print_file(path, shown.get(key.rpartition("/")[2], 0))


def _running(store: Store, engine: Engine, state: State, at: StageSpace, follow: bool) -> Iterator[tuple[str, bytes]]:
    """The logs of a job that runs or is to run, by file; nothing of one that has ended in this attempt."""

    def has_ended() -> bool:
        return is_of_attempt(store, at, state.attempt, at.job_done)

    def goes_on() -> bool:
        return follow and not has_ended() and engine.status(state.workflow).phase is Phase.running

    if not has_ended():
        yield from engine.job_logs(state.workflow, at.job_id, goes_on)


def _print_file(path: Path, begin: int) -> None:
    """A file from a place on, in pieces: a log may be long."""
    with open(path, "rb") as stream:
        stream.seek(begin)
        while data := stream.read(1 << 20):
            sys.stdout.write(data.decode("utf-8", "replace"))


def _is_present(state: State, place: StageSpace) -> bool:
    return (place.stage, place.iteration) == (state.stage, state.iteration)
