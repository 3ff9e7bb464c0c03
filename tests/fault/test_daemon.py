"""The other two ways to run: the daemon and cron."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from operators.pod.hint import send
from statemachine.run.begin import begin
from statemachine.run.config_file import read_config
from statemachine.run.opening import open_poller
from statemachine.store.file import FileStore
from tests.conftest import STUBS
from tests.receiver import receiver

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
        begin(read_config(config.parent / f"{name}.yaml"), config.parent)
    return ["one", "two"]


def state_of(root: Path, name: str) -> str:
    return open_poller(FileStore.of(root / name).url).record.load().state.at


@pytest.mark.slow
def test_a_daemon_brings_several_runs_to_their_end_and_stops(stub_run: Path) -> None:
    names = two_runs(stub_run)
    daemon = start(stub_run.parent, "daemon", "--interval", "0.2", *names)
    output, _ = daemon.communicate()
    assert daemon.returncode == 0, output
    assert [state_of(stub_run.parent, name) for name in names] == ["converged", "converged"]
    assert "stub iteration 0 train.running" in output


@pytest.mark.slow
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


def wait_for_workflows(root: Path, names: list[str]) -> None:
    for name in names:
        poller = open_poller(FileStore.of(root / name).url)
        poller.engine.wait(poller.record.load().state.workflow, 60)


KEY = "0123456789abcdef" * 4


class Served:
    """A daemon that would look again tomorrow, so that only hints move it; its log is read line by line."""

    def __init__(self, root: Path, *names: str) -> None:
        self.names = {f"{FileStore.of(root / name).url}": name for name in names}
        options = ("--interval", "86400", "--listen", "127.0.0.1:0", "--log-format", "json")
        self.process = start(root, "daemon", *options, *names, DPGEN2_HOOK_KEY=KEY)
        self.text = ""
        self.url = self.until(event="listening")["message"].split(";")[0].removeprefix("listening on ")

    def until(self, **fields: str) -> dict[str, Any]:
        """Read on to a line with these fields."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.text += line
            found: dict[str, Any] = json.loads(line)
            found["name"] = self.names.get(found.get("prefix", ""))
            if fields.items() <= found.items():
                return found
        raise AssertionError(f"the daemon ended before {fields}:\n{self.text}")

    def hint(self, name: str = "") -> None:
        assert send(f"{self.url}/hook", KEY, name) == ""

    def get(self, path: str) -> str:
        with urlopen(self.url + path, timeout=20) as answer:
            return str(answer.read().decode())

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.until(event="stopped")["message"].startswith("stopped by SIGTERM")
        assert self.process.wait() == 0


def test_a_signed_hint_starts_the_next_stage_and_a_bad_run_holds_up_no_other(stub_run: Path) -> None:
    root = stub_run.parent
    names = two_runs(stub_run)
    daemon = Served(root, *names)
    for _ in names:
        daemon.until(at="label.running", event="state")
    assert daemon.get("/healthz") == "ok\n"
    state = root / "two" / "state.json"
    good = state.read_bytes()
    wait_for_workflows(root, names)
    state.write_bytes(good[:100])
    daemon.hint("stub")  # so are both called
    daemon.until(event="state", name="one", at="train.running")
    daemon.hint("stub")  # its error may have been told before that
    assert "state.json" in daemon.until(event="error", name="two")["message"]
    assert daemon.get("/readyz") == "ok\n"  # it had a good step
    samples = [s for family in text_string_to_metric_families(daemon.get("/metrics")) for s in family.samples]
    failures = {s.labels["run"]: s.value for s in samples if s.name == "dpgen2_step_failures_total"}
    assert {daemon.names[run]: value > 0 for run, value in failures.items()} == {"one": False, "two": True}

    state.write_bytes(good)
    daemon.hint()
    daemon.until(event="state", name="two", at="train.running")
    daemon.end()
    assert KEY not in daemon.text and "Traceback" not in daemon.text
    wait_for_workflows(root, names)


@pytest.mark.slow
def test_two_daemons_tell_once_and_a_third_one_nothing(stub_run: Path) -> None:
    (name, _) = two_runs(stub_run)
    with receiver() as there:
        told = {
            "DPGEN2_WEBHOOK_URL": there.url,
            "DPGEN2_WEBHOOK_KEY": KEY,
            "DPGEN2_NOTIFY_ON": "iteration,converged,failed,needs_person",
        }
        daemons = [start(stub_run.parent, "daemon", "--interval", "0.2", name, **told) for _ in range(2)]
        outputs = [daemon.communicate()[0] for daemon in daemons]
        assert [daemon.returncode for daemon in daemons] == [0, 0], outputs
        assert sorted(json.loads(body)["kind"] for body in there.all) == ["converged", "iteration"], outputs
        third = start(stub_run.parent, "daemon", name, **told)
        output, _ = third.communicate()
        assert third.returncode == 0 and len(there.all) == 2, output
    assert KEY not in "".join([*outputs, output])


@pytest.mark.slow
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
