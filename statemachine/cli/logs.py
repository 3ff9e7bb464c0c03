"""`dpgen2-sm logs`: of a workflow's steps, of a job that has ended, of one that runs."""

from __future__ import annotations

import sys
import time

from conventions.errors import ConfigError, NotFound
from conventions.names import STAGES, format_id
from conventions.space import DataSpace, JobFile, StageSpace
from conventions.state import State
from statemachine.engine import Engine, Phase
from statemachine.run.opening import engine_of
from statemachine.run.record import Record
from statemachine.store import Store, open_store

PAUSE = 0.5  # seconds between two looks at a log that grows


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
    """What a job's tasks have printed: as it was published, or as far as it is."""
    at = place.job(job_id)
    if _is_present(state, place) and _print_running(engine_of(store, state), state.workflow, job_id, follow):
        return
    keys = [entry.key for entry in store.list(at.job_log + "/")]
    if not keys:
        runs = _is_present(state, place) and not state.ended
        running = " (it is published when the job has ended)" if runs else ""
        raise ConfigError(f"--job {int(job_id)}: there is no log at {store.at(at.job_log)}{running}")
    for key in keys:
        sys.stdout.write(store.get(key).data.decode("utf-8", "replace"))


def _print_running(engine: Engine, workflow: str, job_id: str, follow: bool) -> bool:
    """Print the logs of a job that runs, to its end with `follow`; False when it does not run, or cannot be seen."""
    shown: dict[str, int] = {}
    while found := engine.job_logs(workflow, job_id):
        for name, data in found.items():
            sys.stdout.write(data[shown.get(name, 0) :].decode("utf-8", "replace"))
            shown[name] = len(data)
        sys.stdout.flush()
        if not follow or engine.status(workflow).phase is not Phase.running:
            return True
        time.sleep(PAUSE)
    return bool(shown)


def _is_present(state: State, place: StageSpace) -> bool:
    return (place.stage, place.iteration) == (state.stage, state.iteration)
