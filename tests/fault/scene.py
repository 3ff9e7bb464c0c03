"""A small campaign of stub apps whose whole world (data space, engine, ledger) can be saved, put back and compared."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import md5
from pathlib import Path
from typing import Any

import yaml

from conventions.names import STAGES, canonical_json, sha256
from conventions.space import DataSpace
from conventions.state import Past, State
from statemachine.engine.local import UID_VARIABLE
from statemachine.store import Store, open_store
from tests.conftest import CONFIG, STRUCTURE, STUBS
from tests.doubles import without_costs

INJECT = Path(__file__).parent / "inject"
COMMAND = [sys.executable, "-c", "from statemachine.cli import main; main()"]
_VOLATILE = {"nonce", "writer", "updated_at", "previous_sha256", "run_uid", "home"}
_RANDOM = re.compile(r"\.part-[0-9]+-[0-9]+-|(?<=\.new-)\w+|(?<=claim/\.[0-9]\.)[0-9]+")
_ELSEWHERE = {"report.json": ["attempt"], "config.json": ["engine", "prefix"]}
_CONFIGURATIONS = DataSpace({}).configuration("").removesuffix(".json")
_USED = re.compile(rb'"used":\{[^{}]*\}')  # in markers and reports: times, which differ
_OF_ATTEMPTS = {"version", "attempt", "stalled", "finished", "reason", "config_sha256"}


@dataclass(frozen=True)
class Seen:
    """What counts of a world: the state, the bytes of the data space, and how often each task ran."""

    state: dict[str, Any]
    data: dict[str, bytes]
    executions: dict[str, int]

    @property
    def at(self) -> tuple[str, bool]:
        """Where it is, and whether it is paused there."""
        return self.state["at"], self.state["hold"]

    def settled(self) -> Seen:
        """Without what tells how many attempts it took and where it ran, and without the ledger."""
        data = {}
        for key, value in self.data.items():
            by_content = key.startswith(_CONFIGURATIONS)
            leave = _ELSEWHERE.get("config.json" if by_content else key.rpartition("/")[2], [])
            document = json.loads(value) if leave else {}
            kept = canonical_json({k: v for k, v in document.items() if k not in leave}) if leave else value
            data[f"{_CONFIGURATIONS}{sha256(kept)}" if by_content else key] = kept
        state = {key: value for key, value in self.state.items() if key not in _OF_ATTEMPTS}
        return replace(self, state=state, data=data, executions={})


class Scene:
    """One run in a folder of its own.

    Parameters
    ----------
    root
        An empty folder.
    prefix
        An s3:// prefix; by default the run's data are in the folder.
    retries
        Attempts that may fail in a row.
    engine
        Where its workflows run; by default on this machine.
    """

    def __init__(self, root: Path, prefix: str = "", retries: int = 2, engine: dict[str, Any] | None = None) -> None:
        self.root, self.world, self.saved = root, root / "world", root / "saved"
        self.home = self.world  # of whoever runs it
        self.prefix = prefix or "world/out"
        for folder in ("out", "ledger", "tmp"):
            (self.world / folder).mkdir(parents=True)
        config = yaml.safe_load(CONFIG)
        config |= {"prefix": self.prefix, "engine": engine or {"type": "local", "slots": 1}}
        config["explore"]["tasks"], config["select"]["accurate_after"] = 2, 0
        for stage in STAGES:  # each run has its ledger, whoever starts its workflows
            config[stage] |= {"setup": [f"STUB_LEDGER={self.world}/ledger"], "retries": retries}
        (root / "run.yaml").write_text(yaml.safe_dump(config))
        (root / "cu.xyz").write_text(STRUCTURE)
        self.store: Store = open_store(prefix or f"file://{self.world / 'out'}")
        self.objects: dict[str, dict[str, bytes]] = {}

    def environment(self, **more: str) -> dict[str, str]:
        own = {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "TMPDIR": str(self.home / "tmp"),
            "PYTHONPATH": os.pathsep.join((str(INJECT), str(STUBS), str(INJECT.parents[2]))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {**os.environ, **own, **more}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """The command line in a fresh process."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.root,
            env=self.environment(**env),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def workflows(self) -> Iterator[tuple[Path, str]]:
        """Folder and uid of each of its workflows that there is."""
        own = (self.world / "out" / ".engine", self.world / "argo", *(self.home / ".cache" / "dpgen2-sm").glob("*"))
        for path in (path for root in own for path in root.glob("workflow/[!.]*/settings.json")):
            with contextlib.suppress(FileNotFoundError):
                found = json.loads(path.read_bytes())
                if self.world in path.parents or found["store"] == self.store.url:
                    yield path.parent, found["uid"]

    def wait(self) -> None:
        """Until no workflow of it is alive: each holds its lock for as long as it lives."""
        for folder, _ in self.workflows():
            with contextlib.suppress(FileNotFoundError), open(folder / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)

    def members(self) -> Iterator[int]:
        """The processes of its workflows."""
        marks = {f"{UID_VARIABLE}={uid}".encode() for _, uid in self.workflows()}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if marks & set(path.read_bytes().split(b"\0")):
                    yield int(path.parent.name)

    def kill_workflows(self) -> int:
        """SIGKILL to all of them at once; how many there were."""
        found = list(self.members())
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def save(self, name: str) -> None:
        shutil.copytree(self.world, self.saved / name, symlinks=True)
        if self.prefix.startswith("s3:"):
            self.objects[name] = self.contents()

    def restore(self, name: str) -> None:
        for path in [*self.world.glob("*"), *(self.world / "out").glob("*")]:
            if path != self.world / "out":  # it may be a disk of its own
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.saved / name, self.world, symlinks=True, dirs_exist_ok=True)
        if self.prefix.startswith("s3:"):
            now, then = {entry.key: entry.etag for entry in self.store.list("")}, self.objects[name]
            for key in now.keys() - then.keys():
                self.store.delete(key)
            for key in (key for key, data in then.items() if now.get(key) != md5(data).hexdigest()):
                self.store.put(key, then[key])

    def contents(self) -> dict[str, bytes]:
        return {entry.key: self.store.get(entry.key).data for entry in self.store.list("")}

    def fingerprint(self) -> str:
        """Equal for worlds that differ in nothing but names of processes, times and dice."""
        found = {}
        for path in (path for path in self.world.rglob("*") if not path.is_dir()):
            name = str(path.relative_to(self.world))
            if not name.startswith(("tmp/", "out/.lock")):
                found[_RANDOM.sub("", name)] = _essence(name, path.read_bytes)
        if self.prefix.startswith("s3:"):
            for entry in self.store.list(""):
                found[entry.key] = _essence(entry.key, lambda key=entry.key: self.store.get(key).data, entry.etag)
        return sha256(json.dumps(sorted(found.items())).encode())

    def state(self) -> State:
        return State.unseal(self.store.get(DataSpace.state).data)

    def look(self) -> Seen:
        """The world as it is, its history checked; raise when the run has none or it is not well-formed."""
        contents = self.contents()
        state = State.unseal(contents[DataSpace.state])
        check_history(contents, state)
        space = state.place.space
        data = {
            key: _USED.sub(b'"used":0', value.replace(str(self.root).encode(), b"ROOT"))
            for key, value in contents.items()
            if key != space.state and not key.startswith((space.events, space.probe)) and "/claim/" not in key
        }  # fmt: skip
        return Seen(
            _lasting(state),
            data,
            {path.name: len(path.read_text().split()) for path in (self.world / "ledger").iterdir()},
        )


def _essence(name: str, read: Callable[[], bytes], tag: str = "") -> str:
    """What counts of a file."""
    if _RANDOM.search(name) or name.endswith(("settings.json", "lock")) or "/claim/" in name or "/trust/" in name:
        return ""
    if name.endswith("state.json") or DataSpace({}).version(name.removeprefix("out/")) is not None:
        return repr(sorted(_lasting(State.unseal(read())).items()))
    if "/done/" in name or name.endswith("/report.json"):
        return sha256(_USED.sub(b"", read()))
    return tag or sha256(read())


def _lasting(state: State) -> dict[str, Any]:
    state = state.model_copy(update={"trail": without_costs(state.trail)})
    return {key: value for key, value in state.model_dump(mode="json").items() if key not in _VOLATILE}


def check_history(contents: dict[str, bytes], state: State) -> None:
    """Every version is there and names the one before; only the newest may be missing, until the next step."""
    space = DataSpace({})
    data = {number: value for key, value in contents.items() if (number := space.version(key)) is not None}
    if state.at not in ("converged", "exhausted"):
        data.setdefault(state.version, contents[space.state])
    assert sorted(data) == list(range(1, state.version + 1))
    assert data[state.version] == contents[space.state]
    for version, value in data.items():
        event = State.unseal(value)
        assert event.version == version and event.run_uid == state.run_uid
        assert event.previous_sha256 == (sha256(data[version - 1]) if version > 1 else "")
        earlier = event.earlier
        while earlier is not None:
            rows = contents[space.past(earlier.sha256)]
            assert sha256(rows) == earlier.sha256
            earlier = Past.load(rows).earlier
