"""The local engine: the contract, and what only it promises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conventions.errors import EngineError
from statemachine.engine import Phase
from statemachine.engine.local import UID_VARIABLE, LocalEngine
from statemachine.store import Store
from statemachine.store.file import FileStore

from .engine_contract import WRITE, EngineContract, ended, manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FileStore.of(tmp_path / "store")


@pytest.fixture
def engine(tmp_path: Path, store: Store) -> LocalEngine:
    return LocalEngine(tmp_path / "engine", store.url, slots=2)


class TestLocalEngine(EngineContract):
    pass


def blocked_by(fifo: Path) -> str:
    """A job that opens a fifo for writing, so that a test knows when it runs, and then never ends."""
    return f"echo running >{fifo}; sleep 600"


def members(engine: LocalEngine, name: str) -> list[int]:
    uid = json.loads((engine.root / "workflow" / name / "settings.json").read_text())["uid"]
    mark = f"{UID_VARIABLE}={uid}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_nothing_is_imported_from_the_current_folder(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("conventions", "importlib", "json", "operators", "runpy", "statemachine"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} comes from the current folder')\n")
    monkeypatch.chdir(tmp_path)
    engine.submit(manifest("w-a0", "true"))
    assert ended(engine, "w-a0").phase is Phase.succeeded, list(engine.logs("w-a0"))


def test_a_killed_interpreter_is_gone_and_its_jobs_are_ended(engine: LocalEngine, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    engine.submit(manifest("w-a0", blocked_by(fifo), items='["000000"]'))
    assert fifo.read_text() == "running\n"
    interpreter = min(members(engine, "w-a0"))
    assert len(members(engine, "w-a0")) > 1
    os.kill(interpreter, signal.SIGKILL)
    engine.wait("w-a0", 60)
    assert engine.status("w-a0").phase is Phase.gone
    assert members(engine, "w-a0") == []


def test_a_living_workflow_is_not_deleted(engine: LocalEngine, tmp_path: Path) -> None:
    """Without its folder nobody would know of it any more, and the same name could be started beside it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    engine.submit(manifest("w-a0", blocked_by(fifo), items='["000000"]'))
    assert fifo.read_text() == "running\n"
    engine.delete("w-a0")
    assert engine.status("w-a0").phase is Phase.running
    assert not engine.submit(manifest("w-a0", blocked_by(fifo), items='["000000"]'))
    engine.terminate("w-a0")
    engine.delete("w-a0")
    assert engine.status("w-a0").phase is Phase.gone


def test_a_job_that_does_not_heed_sigterm_is_ended(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a cancelled run would keep the machine busy, and write beside the attempt after it."""
    monkeypatch.setattr("statemachine.engine.local.GRACE", 0.1)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    engine.submit(manifest("w-a0", f"trap '' TERM; {blocked_by(fifo)}", items='["000000"]'))
    assert fifo.read_text() == "running\n"
    try:
        engine.terminate("w-a0")
        assert members(engine, "w-a0") == []
        assert engine.status("w-a0").phase is Phase.gone
    finally:
        for pid in members(engine, "w-a0"):
            os.kill(pid, signal.SIGKILL)


def test_it_survives_the_process_that_submitted_it(engine: LocalEngine, store: Store, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(manifest("w-a0", WRITE)))
    script = (
        "import json, os, pathlib, signal, sys; from statemachine.engine.local import LocalEngine;"
        "LocalEngine(pathlib.Path(sys.argv[1]), sys.argv[2], 1).submit(json.load(open(sys.argv[3])));"
        "os.killpg(0, signal.SIGKILL)"
    )
    arguments = [sys.executable, "-c", script, str(engine.root), store.url, str(tmp_path / "m.json")]
    assert subprocess.run(arguments, start_new_session=True).returncode == -signal.SIGKILL
    assert ended(engine, "w-a0").phase is Phase.succeeded


def test_of_two_submitters_one_creates(engine: LocalEngine) -> None:
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(engine.submit(manifest("w-a0", WRITE)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]
    ended(engine, "w-a0")


def test_a_slot_for_each_core_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch job or a container has fewer than the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6} if pid == 0 else {0})
    assert LocalEngine(tmp_path, "file:///x").slots == 3
    assert LocalEngine(tmp_path, "file:///x", slots=2).slots == 2


def test_no_more_jobs_at_once_than_slots(engine: LocalEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    script = f"echo + >>{ledger}; {WRITE}; echo - >>{ledger}"
    items = json.dumps([f"{n:06d}" for n in range(12)])
    engine.submit(manifest("w-a0", script, items=items))
    ended(engine, "w-a0")
    running = most = 0
    for line in ledger.read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert running == 0 and most <= 2


def test_a_job_that_the_store_refuses_fails_alone(engine: LocalEngine, store: Store) -> None:
    engine.submit(manifest("w-a0", WRITE, items='[".", "000001"]'))
    status = ended(engine, "w-a0")
    assert status.phase is Phase.succeeded, "jobs may fail; what reduce finds decides"
    assert status.finished == 2 and "not a usable key" in status.message
    assert [entry.key for entry in store.list("job/")] == ["job/000001/out/result"]


def test_a_job_that_leaves_folders_without_end_fails_alone(engine: LocalEngine, store: Store) -> None:
    """Python gives up on them with an error that is no error of the system."""
    deep = "import os, sys\nos.chdir(os.environ['OUT'])\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\n"
    script = f'mkdir -p $OUT; case $JOB_ID in 000000) python3 -c "{deep}";; esac; echo $JOB_ID >$OUT/result'
    try:
        engine.submit(manifest("w-a0", script, items=json.dumps([f"{n:06d}" for n in range(4)])))
        status = ended(engine, "w-a0")
        assert status.phase is Phase.succeeded and status.finished == 4
        found = {entry.key for number in (1, 2, 3) for entry in store.list(f"job/{number:06d}/")}
        assert found == {f"job/{number:06d}/out/result" for number in (1, 2, 3)}
    finally:
        subprocess.run(["rm", "-rf", str(engine.root.parent)], check=True)  # pytest could not


def test_ignored_signals_of_the_caller_are_not_the_workflows(engine: LocalEngine) -> None:
    """Where SIGCHLD is ignored, what failed looks like what ended well."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        engine.submit(manifest("w-a0", WRITE, reduce="exit 3"))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert ended(engine, "w-a0").phase is Phase.failed


def test_what_a_killed_step_left_is_not_published_by_the_next_attempt(engine: LocalEngine, store: Store) -> None:
    left = engine.root / "work" / "w-reduce" / "out" / "labels"
    left.mkdir(parents=True)
    (left / "half").write_text("of a file")
    write = "mkdir {{outputs.artifacts.labels.path}}; echo 1 >{{outputs.artifacts.labels.path}}/new"
    found = manifest("w-a1", WRITE, reduce=write)
    reduce = found["spec"]["templates"][-1]
    reduce["outputs"]["artifacts"] = [{"name": "labels", "path": "/dpgen2/labels", "s3": {"key": "labels"}}]
    engine.submit(found)
    assert ended(engine, "w-a1").phase is Phase.succeeded
    assert [entry.key for entry in store.list("labels/")] == ["labels/new"]


@pytest.mark.parametrize("left", [["manifest.json"], ["lock"], []])
def test_a_workflow_that_a_rival_deletes_right_now_is_gone(engine: LocalEngine, left: list[str]) -> None:
    """What consumed it may be half-way, or have been killed there: a poller that is behind must not stumble."""
    found = manifest("w-a0", WRITE)
    engine.submit(found)
    ended(engine, "w-a0")
    for path in (engine.root / "workflow" / "w-a0").iterdir():
        if path.name not in left:
            path.unlink()
    assert engine.status("w-a0").phase is Phase.gone
    engine.terminate("w-a0")
    if left == ["lock"]:
        with pytest.raises(EngineError, match="deleted meanwhile"):
            engine.submit(found)
