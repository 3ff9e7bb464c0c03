"""Can each stage's software be used where the stage will run? Asked before anything is paid for, by `doctor RUN`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conventions.errors import Dpgen2Error
from conventions.secrets import without_pollers
from operators.registry import app

from .checks import Check

PATIENCE = 120  # seconds for a program to say its version
_TRY = "`doctor --try` runs one tiny job there"


def check_stages(config: Any, files: Path) -> Iterator[Check]:
    """The software of all stages, the batch systems, and what only the structures show.

    Parameters
    ----------
    config
        The run's configuration, as the store keeps it.
    files
        The folder of the user's files (`config/file`).
    """
    machines: list[dict[str, Any]] = []
    for stage, settings in config.stages.items():
        what = f"{stage}/{settings.app}"
        if config.engine.type == "argo":
            yield Check(what, None, f"not tried: it runs in pods; {_TRY}")
        elif not settings.routes:
            software = app(stage, settings.app)
            found = [check_program(name, what, not settings.setup) for name in software.executables(settings)]
            yield from found
            if all(check.good for check in found):
                yield from _probe(what, software.probe, config, files)
        for hpc in settings.routes if config.engine.type != "argo" else []:
            where = hpc.machine.remote_profile.hostname or "this machine's batch system"
            yield Check(what, None, f"not tried: it runs on {hpc.machine.batch_type} of {where}; {_TRY}")
            asked = hpc.model_dump(include={"machine": True, "resources": {"queue_name"}})
            if asked not in machines:
                machines.append(asked)
                yield from _batch(what, hpc)
    for stage, settings in config.stages.items():
        try:
            for problem in app(stage, settings.app).misfits(config, files):
                yield Check(f"{stage}/{settings.app}", False, problem)
        except Dpgen2Error as error:
            yield Check(f"{stage}/{settings.app}", False, str(error))


def check_program(program: str, what: str, needed: bool) -> Check:
    """Is a program on PATH, or beside this Python?"""
    path = shutil.which(os.path.expanduser(program), path=_path())  # noqa: PTH111
    if path is None:
        hint = "not found on PATH" if needed else "not found on PATH (fine if another machine, image or `setup` has it)"
        return Check(program, not needed, f"{what}: {hint}")
    return Check(program, True, f"{what}: {path}")


def _path() -> str:
    """PATH as the local engine's jobs have it."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _probe(what: str, probe: Any, config: Any, files: Path) -> Iterator[Check]:
    """Run an app's probe as the local engine would run a job: its setup, and the programs beside this Python."""
    try:
        contents = probe(config, files)
    except Dpgen2Error as error:
        yield Check(what, False, str(error))
        return
    if not contents:
        return
    environ = without_pollers(os.environ) | {"PATH": _path()}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content.encode() if isinstance(content, str) else content)
        try:
            done = subprocess.run(
                ["sh", "run.sh"],
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            yield Check(what, False, f"no answer in {PATIENCE} s")
            return
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
    yield Check(what, done.returncode == 0, lines[-1])


def _batch(what: str, hpc: Any) -> Iterator[Check]:
    from statemachine.engine.batch_check import check_batch

    for found in check_batch(hpc):
        yield Check(f"{what}: {found.what}", found.good, found.detail)
