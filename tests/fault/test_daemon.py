"""The other two ways to run: the daemon and cron."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from statemachine.runs import open_poller
from statemachine.store.file import FileStore
from tests.conftest import STUBS

COMMAND = [sys.executable, "-c", "from statemachine.cli import main; main()"]


def start(folder: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(STUBS), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two_runs(config: Path) -> list[str]:
    """Two configurations beside each other, both begun."""
    text = config.read_text().replace("accurate_after: 1", "accurate_after: 0")
    for name in ("one", "two"):
        (config.parent / f"{name}.yaml").write_text(text.replace("prefix: out", f"prefix: {name}"))
        assert start(config.parent, "init", f"{name}.yaml").wait() == 0
    return ["one", "two"]


def state_of(root: Path, name: str) -> str:
    return open_poller(FileStore.of(root / name).url).record.load().state.at


def test_a_daemon_brings_several_runs_to_their_end_and_stops(stub_run: Path) -> None:
    names = two_runs(stub_run)
    daemon = start(stub_run.parent, "daemon", "--interval", "0.2", *names)
    output, _ = daemon.communicate()
    assert daemon.returncode == 0, output
    assert [state_of(stub_run.parent, name) for name in names] == ["converged", "converged"]
    assert "stub iteration 0 train.running" in output


def test_sigterm_ends_the_daemon_and_its_work_goes_on(stub_run: Path) -> None:
    root = stub_run.parent
    (name, _) = two_runs(stub_run)
    for fifo in ("entered", "go"):
        os.mkfifo(root / fifo)
    daemon = start(root, "daemon", "--interval", "0.2", name, STUB_GATE=str(root), STUB_GATE_AT="label-0-0")
    assert (root / "entered").read_text() == "entered\n"
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    (root / "go").write_text("go\n")
    assert start(root, "resume", name).wait() == 0


def test_steps_by_cron_bring_a_run_to_its_end(stub_run: Path) -> None:
    (name, _) = two_runs(stub_run)
    poller = open_poller(FileStore.of(stub_run.parent / name).url)
    steps = 0
    while state_of(stub_run.parent, name) != "converged":
        step = start(stub_run.parent, "step", "--json", name)
        assert step.wait() == 0
        poller.engine.wait(poller.record.load().state.workflow, 60)
        steps += 1
    assert 4 <= steps <= 6
