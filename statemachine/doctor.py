"""Can the software, the store and the engine be used from here?"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conventions.errors import Dpgen2Error
from operators.registry import app, known

from .race import Progress, race
from .record import Record
from .runs import config_file, find_prefix, first_config
from .store import Store, open_store

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
    path = config_file(target)
    if path is not None:
        from .configfile import read_config

        config = read_config(path)
    else:
        from operators.registry import load_config

        store = open_store(find_prefix(target))
        config = load_config(first_config(store, Record(store).load().state))
    for stage, settings in config.stages.items():
        for program in app(stage, settings.app).executables(settings):
            yield _program(program, f"{stage}/{settings.app}", needed=not settings.setup)
    prefix = find_prefix(target)
    try:
        yield _store(open_store(prefix))
    except (Dpgen2Error, OSError) as error:
        yield Check("store", False, str(error))
    yield Check(
        "engine",
        Path("/proc").is_dir(),
        "local: jobs run on this machine" if Path("/proc").is_dir() else "local: needs Linux",
    )


def _program(program: str, what: str, needed: bool) -> Check:
    path = shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        hint = "not found on PATH" if needed else "not found on PATH (fine if another machine, image or `setup` has it)"
        return Check(program, not needed, f"{what}: {hint}")
    return Check(program, True, f"{what}: {path}")


def _store(store: Store) -> Check:
    store.prove()
    return Check("store", True, f"{store.url}: conditional writes are honoured")


def race_check(target: str, progress: Progress) -> Check:
    """Let writers race in a run's store."""
    verdict = race(open_store(find_prefix(target)), progress)
    advice = "" if verdict.atomic else "; it is not atomic: no two processes may advance a run there, use another store"
    return Check("race", verdict.atomic, f"{verdict}{advice}")
