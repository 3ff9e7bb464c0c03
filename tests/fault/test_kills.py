"""The real command line under kill -9, in every stage: nothing is lost and no finished job runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conventions.names import STAGES
from statemachine.engine.local import UID_VARIABLE
from statemachine.run.opening import open_poller
from statemachine.store.file import FileStore
from tests.conftest import STUBS

COMMAND = [sys.executable, "-c", "from statemachine.cli import main; main()"]


class Campaign:
    """A stub run whose jobs keep a ledger, with a gate that holds one task."""

    def __init__(self, config: Path) -> None:
        text = config.read_text().replace("slots: 2", "slots: 1").replace("accurate_after: 1", "accurate_after: 0")
        config.write_text(text)
        self.config, self.root = config, config.parent
        self.gate, self.ledger = self.root / "gate", self.root / "ledger"
        self.gate.mkdir()
        self.ledger.mkdir()
        for name in ("entered", "go"):
            os.mkfifo(self.gate / name)

    def start(self, *arguments: str, gate_at: str = "") -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(STUBS), "STUB_LEDGER": str(self.ledger), "STUB_GATE": str(self.gate)}
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env={**env, "STUB_GATE_AT": gate_at},
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def executions(self) -> dict[str, int]:
        return {path.name: len(path.read_text().split()) for path in self.ledger.iterdir()}

    def kill_workflows(self) -> None:
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                data = path.read_bytes()
            except OSError:
                continue
            if UID_VARIABLE.encode() in data and str(self.root).encode() in data:
                os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.fixture
def campaign(stub_run: Path) -> Campaign:
    return Campaign(stub_run)


ALL_TASKS = {f"{stage}-0-{index}" for stage in STAGES for index in range(3 if stage == "explore" else 2)}


# Each takes many processes: one is quick enough for every change, the others are for CI.
CASES = [
    pytest.param(stage, everything, marks=() if everything and stage == "train" else pytest.mark.slow)
    for stage in STAGES
    for everything in (False, True)
]


@pytest.mark.parametrize(("stage", "everything"), CASES)
def test_kill_in_a_stage_then_resume(campaign: Campaign, stage: str, everything: bool) -> None:
    process = campaign.start("run", str(campaign.config), gate_at=f"{stage}-0-1")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    if everything:
        campaign.kill_workflows()
    else:
        (campaign.gate / "go").write_text("go\n")
    resumed = campaign.start("resume", "out")
    output, _ = resumed.communicate()
    assert resumed.returncode == 0, output
    expected = {name: 2 if everything and name == f"{stage}-0-1" else 1 for name in ALL_TASKS}
    assert campaign.executions() == expected


@pytest.mark.slow
def test_two_runs_at_once_on_one_prefix(campaign: Campaign) -> None:
    processes = [campaign.start("run", str(campaign.config)) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert campaign.executions() == dict.fromkeys(ALL_TASKS, 1)


@pytest.mark.slow
def test_a_failing_job_ends_the_run_with_its_log_and_resume_repairs_it(campaign: Campaign) -> None:
    flag = campaign.root / "broken"
    flag.touch()
    os.environ["STUB_FAIL"] = str(flag)
    try:
        text = campaign.config.read_text().replace("train: {app: stub}", "train: {app: stub, retries: 0}")
        campaign.config.write_text(text.replace("label: {app: stub}", "label: {app: stub, retries: 0}"))
        failed = campaign.start("run", str(campaign.config))
        output = failed.communicate()[0]
    finally:
        del os.environ["STUB_FAIL"]
    assert failed.returncode == 1, output
    assert "label of iteration 0 failed" in output and "job 000000 task.000000" in output
    assert campaign.start("resume", "out").wait() == 0


@pytest.mark.slow
def test_cancel_ends_the_jobs_and_resume_goes_on(campaign: Campaign) -> None:
    process = campaign.start("run", str(campaign.config), gate_at="train-0-1")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    cancelled = campaign.start("cancel", "out")
    assert "cancelled" in cancelled.communicate()[0]
    assert process.wait() == 4
    assert open_poller(FileStore.of(campaign.root / "out").url).record.load().state.at == "cancelled"
    resumed = campaign.start("resume", "out")
    output, _ = resumed.communicate()
    assert resumed.returncode == 0, output
    assert campaign.executions() == {name: 2 if name == "train-0-1" else 1 for name in ALL_TASKS}
