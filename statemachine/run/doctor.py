"""Checks whether the software, the store and the engine can be used on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.errors import Dpgen2Error, NoRun
from operators.registry import app, known
from statemachine.engine.opening import open_engine
from statemachine.store import Store, open_store
from statemachine.store.probe import prove
from statemachine.store.race import Progress, race

from .configuration import configuration
from .opening import config_file, find_prefix
from .record import Record
from .restore import restore
from .trail import rows

DEFAULT_PROGRAMS = {"dp": "train/deepmd", "lmp": "explore/lammps", "cp2k.psmp": "label/cp2k"}


@dataclass(frozen=True)
class Check:
    what: str
    good: bool
    detail: str


def examine(target: str | None) -> Iterator[Check]:
    """Check this installation, and a run's own needs when one is named."""
    yield Check("python", True, f"{sys.version.split()[0]} at {sys.executable}")
    yield Check("apps", True, ", ".join(sorted(known())))
    if target is None:
        for program, what in DEFAULT_PROGRAMS.items():
            yield _program(program, what, needed=False)
        return
    config, store = _run(target)
    if config.engine.type == "local":  # otherwise the programs are in the jobs' images
        for stage, settings in config.stages.items():
            for program in app(stage, settings.app).executables(settings):
                needed = not settings.setup and settings.hpc is None
                yield _program(program, f"{stage}/{settings.app}", needed)
    yield _tried("store", lambda: prove(store))
    with contextlib.suppress(NoRun):
        state = Record(store).load().state
        yield _tried("configuration", lambda: f"{len(configuration(store, state, newest=True)):,} bytes")
        yield _tried("iterations", lambda: f"{len(rows(store, state))} in the table")
    yield _tried("engine", lambda: open_engine(config.engine, store, "doctor").check())


def _run(target: str) -> tuple[Any, Store]:
    """Configuration and store of a run, which need not exist yet."""
    store = open_store(find_prefix(target))
    path = config_file(target)
    if path is not None:
        from .config_file import read_config

        return read_config(path), store
    from operators.registry import load_config

    return load_config(configuration(store, Record(store).load().state)), store


def _tried(what: str, call: Callable[[], str]) -> Check:
    try:
        return Check(what, True, call())
    except (Dpgen2Error, OSError) as error:
        return Check(what, False, str(error))


def _program(program: str, what: str, needed: bool) -> Check:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    path = shutil.which(os.path.expanduser(program), path=places)  # noqa: PTH111
    if path is None:
        hint = "not found on PATH" if needed else "not found on PATH (fine if another machine, image or `setup` has it)"
        return Check(program, not needed, f"{what}: {hint}")
    return Check(program, True, f"{what}: {path}")


def race_check(target: str, progress: Progress) -> Check:
    """Test a run's store with concurrent writers."""
    store = open_store(find_prefix(target))
    proved = _tried("race", lambda: prove(store))
    if not proved.good:  # where every swap is refused, the race would never end
        return proved
    verdict = race(store, progress)
    advice = "" if verdict.atomic else "; it is not atomic: only one process may advance a run there; use another store"
    return Check("race", verdict.atomic, f"{verdict}{advice}")


def restore_state(target: str) -> list[Check]:
    """Restore the last good version of a run's state, and the rows of its table."""
    store = open_store(find_prefix(target))
    done = restore(store)
    Record(store).load()
    return [Check("state", True, line) for line in done]
