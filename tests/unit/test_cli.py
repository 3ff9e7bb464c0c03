"""The command line as people and scripts meet it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conventions.space import DataSpace
from operators.sums import write_sums
from statemachine.machine.orders import Order
from statemachine.run.opening import find_prefix, open_poller
from tests.conftest import CONFIG, STUBS, Cli

COMMAND = [sys.executable, "-c", "from statemachine.cli import main; main()"]
REWIND = "rewind --iter 0 --stage label"
ON_A_RUN = ("run", "resume", "step", "status", "pause", "cancel", REWIND, "logs", "plan", "doctor", "daemon")


def start(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(STUBS), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


TARGETS = {
    "no/such.yaml": "there is no such file",
    "nowhere": "there is no run at file:///.*/nowhere; begin one",
    "cu.xyz": "a mapping of keys is expected",
    "cu.xyz/below": "Not a directory",
    "": "there is no run",
    "x" * 5000: "too long",
    "a\0b": "null",
    "a\nb": "printed",
    "\udcff": "surrogate|encode",
    "/": "name a folder",
    "/dev/null": "this is a file",
    "ftp://bucket/run": "file:///",
    "http://169.254.169.254/": "file:///",
    "file://host/x": "file:///",
    "file://[::1/x": "URL",
    "~nosuchuser/x": "nosuchuser|home",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_no_run(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(stub_run.parent)
    before = sorted(stub_run.parent.rglob("*"))
    for command in ON_A_RUN:
        code, output, errors = cli(*command.split(), target)
        assert (code, output) == (2, ""), (command, errors)
        assert errors.startswith("error: ") and len(errors.splitlines()) == 1
        assert re.search(TARGETS[target], errors), errors
    assert sorted(stub_run.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("foo",), ("status",), ("status", "a", "b"), ("status", "--foo", "a"), ("daemon",),
        ("run", "--interval", "nan", "a"), ("run", "--interval", "0", "a"), ("daemon", "--interval", "1e308", "a"),
        ("run", "--interval", "x", "a"), ("logs", "--job", "-1", "a"), ("logs", "--iter", "-1", "a"),
        ("logs", "--job", "x", "a"), ("validate", "."), ("init", "nofile"), ("patch", "nofile"), ("rewind", "a"),
        ("rewind", "--iter", "-1", "--stage", "label", "a"), ("rewind", "--iter", "x", "--stage", "label", "a"),
    ],
)  # fmt: skip
def test_usage_errors(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--stage", "relax"), "--stage relax: choose one of label"),
        (("--iter", "5"), "--iter 5: the run is at iteration 0; choose 0 to 0"),
        (("--job", "3"), "--job 3: there is no log"),
        (("--job", "99999999"), "99999999"),
    ],
)
def test_logs_that_are_not_there(cli: Cli, stub_run: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert cli("init", stub_run)[0] == 0
    code, _, errors = cli("logs", stub_run, *arguments)
    assert code == 2 and expected in errors


def test_a_run_is_found_from_anywhere(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stub_run.parent
    assert cli("init", stub_run)[0] == 0
    (folder / "link").symlink_to(folder / "out")
    (folder / "elsewhere").mkdir()
    for here, targets in {
        folder: ("run.yaml", "out", "./out/", "link", f"file://{folder}/out/", f"file://{folder}/x/../out"),
        folder / "elsewhere": ("../run.yaml", "../out", stub_run),
    }.items():
        monkeypatch.chdir(here)
        for target in targets:
            code, output, _ = cli("status", target, "--json")
            assert code == 0 and json.loads(output)["at"] == "label.submitting"


def test_commands_that_do_not_fit(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    assert cli("pause", stub_run)[0] == 0
    code, _, errors = cli("pause", stub_run)
    assert (code, errors) == (2, "error: cannot pause: the run's state is label.submitting (paused)\n")
    assert cli("cancel", stub_run)[0] == 0
    for command in ("pause", "cancel"):
        assert cli(command, stub_run)[0] == 2


def test_a_cancel_that_was_interrupted_is_brought_to_its_end(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    assert cli("pause", stub_run)[0] == 0
    open_poller(find_prefix(str(stub_run))).tell(Order("cancel", "and then its process was killed"))
    assert "cancelling" in cli("status", stub_run)[1]
    code, output, _ = cli("cancel", stub_run)
    assert code == 0 and "cancelled" in output


@pytest.mark.parametrize("command", ["status", "step", "plan", "doctor"])
def test_json_is_json(cli: Cli, stub_run: Path, command: str) -> None:
    assert cli("init", stub_run)[0] == 0
    assert cli("pause", stub_run)[0] == 0
    code, output, _ = cli(command, "--json", stub_run)
    assert code == 0 and json.loads(output)
    assert output.isascii()


def test_nothing_is_imported_from_the_folder_it_is_called_in(
    cli: Cli, started: None, stub_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be somebody's data, with files of any name. The first operator imports ssl."""
    stub_run.write_text(CONFIG.replace("accurate_after: 1", "accurate_after: 0"))  # each operator once
    monkeypatch.chdir(stub_run.parent)
    (stub_run.parent / "ssl.py").write_text("open('mark', 'w').close()\n")
    assert cli("run", stub_run)[0] == 0
    assert not (stub_run.parent / "mark").exists()


@pytest.mark.slow
def test_a_run_with_20000_systems(cli: Cli, stub_run: Path) -> None:
    """Their names are longer than an environment variable may be."""
    text = stub_run.read_text().replace("accurate_after: 1", "accurate_after: 0")
    stub_run.write_text(text)
    assert cli("init", stub_run)[0] == 0
    folder = stub_run.parent / "out" / DataSpace.dataset / "init" / "many"
    for number in range(20_000):
        (folder / f"Cu{number}").mkdir(parents=True)
        (folder / f"Cu{number}" / "type.raw").touch()
    write_sums(folder)
    code, output, errors = cli("run", stub_run)
    assert code == 0, output + errors


def test_the_schema_is_json_and_knows_the_forms_of_names(cli: Cli) -> None:
    schema = json.loads(cli("schema")[1])
    assert schema["properties"]["run"]["pattern"].startswith("^[a-z]")


def test_a_store_that_cannot_be_written(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: one line, exit code 1, and the run goes on when there is room again."""
    assert cli("init", stub_run)[0] == 0
    state = stub_run.parent / "out" / "state.json"
    before = state.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for command in ("step", "pause", "cancel"):
            code, output, errors = cli(command, stub_run)
            assert (code, output) == (1, "") and len(errors.splitlines()) == 1
            assert errors.startswith("error: cannot write file:///") and "No space left" in errors
        assert state.read_bytes() == before
    assert cli("pause", stub_run)[0] == 0


def test_a_file_that_may_not_be_read(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    code, _, errors = cli("validate", stub_run)
    assert code == 2 and "structures.start.files: " in errors and "Permission denied" in errors


@pytest.mark.parametrize(
    ("command", "stop", "code"),
    [("run", signal.SIGINT, 130), ("run", signal.SIGTERM, 143), ("daemon", signal.SIGTERM, 0)],
)
def test_stopped_while_a_workflow_runs(cli: Cli, stub_run: Path, command: str, stop: int, code: int) -> None:
    folder = stub_run.parent
    stub_run.write_text(CONFIG.replace("slots: 2", "slots: 1").replace("accurate_after: 1", "accurate_after: 0"))
    assert cli("init", stub_run)[0] == 0
    (folder / "gate").mkdir()
    for name in ("entered", "go"):
        os.mkfifo(folder / "gate" / name)
    process = start(folder, command, "run.yaml", STUB_GATE=str(folder / "gate"), STUB_GATE_AT="label-0-1")
    assert (folder / "gate" / "entered").read_text() == "entered\n"
    try:
        process.send_signal(stop)
        output, errors = process.communicate()
        assert process.returncode == code
        assert "Traceback" not in output + errors and ("nothing is lost" in errors) == (command == "run")
        assert json.loads(cli("status", "--json", stub_run)[1])["at"] == "label.running"
    finally:  # the workflow waits at its gate: nothing else would end it
        assert cli("cancel", stub_run)[0] == 0


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"TERM": "dumb"}], ids=str)
def test_any_terminal(cli: Cli, stub_run: Path, settings: dict[str, str]) -> None:
    assert cli("init", stub_run)[0] == 0
    assert cli("pause", "--reason", "es läuft →", stub_run)[0] == 0
    process = start(stub_run.parent, "status", "out", **settings)
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "") and "es l" in output


def test_a_reader_that_goes_away(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    process = start(stub_run.parent, "status", "out")
    assert process.stdout and process.stderr
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() in (1, 141) and errors == ""
