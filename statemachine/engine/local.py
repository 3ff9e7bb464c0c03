"""The embedded engine: workflows as process groups on this machine.

A workflow is a folder. Renaming it into place reserves the name; its interpreter runs detached, so that it
survives the poller, and holds a lock for as long as it lives, so that its death is certain. A second lock is held by
all that it starts: where the interpreter died, and its jobs cannot be seen (another PID namespace), they are not
thought dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from conventions.errors import EngineError, NotFound
from conventions.names import GPU_STAGES, SPEC_HASH
from conventions.secrets import POLLERS, STORES
from statemachine.machine import Phase
from statemachine.store.locks import check_locks

from .base import LOCKS, LiveJob, Status, name_taken
from .local_jobs import LocalJobs

UID_VARIABLE = "DPGEN2_WORKFLOW_UID"
GRACE = 5.0  # seconds that processes get to end after SIGTERM
_UNSEEN = (
    "the process that ran the workflow died, but jobs of it still work where they cannot be ended from here: in "
    "another container or as another user; end them there"
)
# Our packages are where this process has them, nothing comes from the current folder, and no variable tells it: the
# jobs would inherit that.
_HOME = Path(__file__).parents[2]
_START = """\
import sys
home, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path = [home, *filter(None, sys.path)]
import importlib
sys.exit(importlib.import_module(module).main())
"""


class LocalEngine:
    """Runs workflows below `root`.

    Parameters
    ----------
    root
        Folder of the engine, on a local disk.
    store_url
        The store that the workflows' artifacts live in.
    slots
        Jobs at once; default: the machine's cores.
    gpus
        Devices of the jobs that use one each, as CUDA_VISIBLE_DEVICES names them; none: jobs see all.
    """

    interpreter = "statemachine.engine.interpreter"

    def __init__(self, root: Path, store_url: str, slots: int | None = None, gpus: Sequence[str] = ()) -> None:
        self.root, self.store_url, self.gpus = root, store_url, list(gpus)
        self.slots = slots or len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        )

    @property
    def home(self) -> str:
        """User, host and folder, and what tells the folder from another one in its place, such as a container's."""
        path = self.root / "id"
        with contextlib.suppress(OSError):
            if not path.exists():
                self.root.mkdir(parents=True, exist_ok=True)
                part = self.root / f".id-{uuid.uuid4().hex}"
                part.write_text(uuid.uuid4().hex[:12])
                with contextlib.suppress(FileExistsError):
                    os.link(part, path)  # of two at once one wins
                part.unlink()
        known = path.read_text("utf-8", "replace").strip() if path.is_file() else "not yet used"
        return f"{_user()}@{socket.gethostname()}:{self.root} ({known})"

    def finds(self, name: str) -> bool:
        return False  # the same folder may be seen from other hosts and containers, its processes may not

    def submit(self, manifest: dict[str, Any]) -> bool:
        name = manifest["metadata"]["name"]
        folder = self._folder(name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        (part / "manifest.json").write_text(json.dumps(manifest))
        settings = self.settings()
        (part / "settings.json").write_text(json.dumps(settings))
        with open(part / "lock", "wb") as lock, open(part / "members", "wb") as members:
            for each in (lock, members):
                fcntl.flock(each, fcntl.LOCK_EX)
            try:
                part.rename(folder)
            except OSError:
                shutil.rmtree(part)
                return self._exists(name, manifest)
            with open(folder / "interpreter.log", "wb") as log:
                subprocess.Popen(
                    python(self.interpreter, str(folder)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock.fileno(), members.fileno()],
                    start_new_session=True,
                    env={**_environment(), UID_VARIABLE: settings["uid"], LOCKS: f"{lock.fileno()} {members.fileno()}"},
                )
        return True

    def settings(self) -> dict[str, Any]:
        """What the interpreter is told beside the manifest."""
        return {
            "uid": uuid.uuid4().hex,
            "store": self.store_url,
            "slots": self.slots,
            "gpus": self.gpus,
            "work": str(self.root / "work"),
        }

    def status(self, name: str) -> Status:
        folder = self._folder(name)
        if not folder.is_dir():
            return Status(Phase.gone)
        alive = self._alive(folder)
        try:
            found = json.loads((folder / "status.json").read_bytes())
            status = Status(**{**found, "phase": Phase(found["phase"])})
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):  # not yet; or a power cut
            status = Status(Phase.running)
        if status.phase is Phase.running and not alive:
            self._kill(folder)
            if self._held(folder / "members"):
                return Status(Phase.running, message=_UNSEEN)
            return Status(Phase.gone, message="the process that ran the workflow died")
        return replace(status, phase=Phase.running) if alive else status

    def explain(self, name: str) -> str:
        return self.status(name).message

    def logs(self, name: str) -> Iterator[str]:
        if not self._folder(name).is_dir():
            raise NotFound(f"there is no workflow {name} any more")
        for path in sorted(self._folder(name).glob("*.log")):
            yield from (f"{path.stem}: {line}" for line in path.read_text("utf-8", "replace").splitlines())

    def job_logs(self, name: str, job_id: str, goes_on: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        return LocalJobs(self.root / "work", self._folder(name)).logs(job_id, goes_on)

    def running(self, name: str) -> list[LiveJob] | None:
        return LocalJobs(self.root / "work", self._folder(name)).running()

    def terminate(self, name: str) -> None:
        folder = self._folder(name)
        if folder.is_dir():
            self._kill(folder)

    def delete(self, name: str) -> None:
        folder = self._folder(name)
        if folder.is_dir() and not self._alive(folder):
            shutil.rmtree(folder, ignore_errors=True)

    def wait(self, name: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        folder = self._folder(name)
        while time.monotonic() < deadline and folder.is_dir() and self._alive(folder):
            time.sleep(0.05)

    def check(self) -> str:
        if not Path("/proc").is_dir():
            raise EngineError("local: needs Linux (it finds the processes of a workflow in /proc)")
        check_locks(self.root)
        gpus = f"; {' and '.join(GPU_STAGES)} jobs on GPU {', '.join(self.gpus)}, one each" if self.gpus else ""
        return f"local: up to {self.slots} jobs at once on this machine{gpus}"

    def _folder(self, name: str) -> Path:
        return self.root / "workflow" / name

    def _exists(self, name: str, manifest: dict[str, Any]) -> bool:
        try:
            there = _read(self._folder(name) / "manifest.json", "metadata", "annotations", SPEC_HASH)
        except FileNotFoundError:
            raise EngineError(f"the workflow {name} existed and was deleted meanwhile: try again") from None
        if there != manifest["metadata"]["annotations"][SPEC_HASH]:
            raise name_taken(name)
        return False

    def _alive(self, folder: Path) -> bool:
        """Does the interpreter hold its lock?"""
        return self._held(folder / "lock")

    def _held(self, path: Path) -> bool:
        """Does a process hold this lock? A lock outlives no process, so this cannot be wrong about death."""
        try:
            with open(path, "rb") as lock:
                try:  # shared: the file is not opened for writing, and NFS gives no other lock then
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        except FileNotFoundError:
            pass
        return False

    def _kill(self, folder: Path) -> None:
        """End every process of a workflow that is to be seen: all carry its uid in their environment."""
        try:
            uid = _read(folder / "settings.json", "uid")
        except FileNotFoundError:  # a rival has consumed the workflow, and deletes it now
            return
        for kind in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE
            while members := list(_members(uid)):
                for pid in members:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, kind)
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)


def python(module: str, *arguments: str) -> list[str]:
    """The command that calls `main` of one of our modules in a process of its own."""
    return [sys.executable, "-c", _START, str(_HOME), module, *arguments]


def _environment() -> dict[str, str]:
    """For the interpreter: it reaches the store, and needs no other secret of the poller."""
    return {name: value for name, value in os.environ.items() if name not in POLLERS - STORES}


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return str(os.getuid())


def _read(path: Path, *keys: str) -> Any:
    """A value of one of a workflow's files, which were written before it began; FileNotFoundError is for the caller."""
    data = path.read_bytes()
    try:
        found = json.loads(data)
        for key in keys:
            found = found[key]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise EngineError(f"{path} is damaged: delete the folder {path.parent}, and go on") from None
    return found


def _members(uid: str) -> Iterator[int]:
    """Processes whose environment carries the workflow's uid."""
    mark = f"{UID_VARIABLE}={uid}".encode("utf-8", "replace")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
                if state != b"Z" and mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)
            except OSError:
                continue
