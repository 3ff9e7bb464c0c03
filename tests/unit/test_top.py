"""`top`: many runs in one table; and `status --watch`, completion, help with examples."""

from __future__ import annotations

import shlex
from datetime import datetime, timezone
from pathlib import Path

import pytest
import typer
from rich.console import Console

from statemachine.cli.app import app
from statemachine.cli.examples import EXAMPLES
from statemachine.cli.top import look, row_of, table_of
from statemachine.store import open_store
from statemachine.store.file import FileStore
from tests.conftest import Cli
from tests.report_run import campaign


def runs(folder: Path) -> dict[str, str]:
    """A run that goes on, one that has failed with hostile words, one that is paused, one that has converged."""
    endings = {
        "going": {},
        "failed": {"at": "failed", "reason": "\x1b[2Jno [red]luck[/red]"},
        "paused": {"hold": True, "attempt": 2},
        "done": {"at": "converged"},
    }
    for name, ending in endings.items():
        campaign(open_store(f"file://{folder}/{name}"), 2, folder, **ending)
    return {name: f"file://{folder}/{name}" for name in endings}


def shown(rows: list[dict[str, object]]) -> str:
    console = Console(width=300, file=None, record=True, force_terminal=False)
    with console.capture() as text:
        console.print(table_of(rows))
    return text.get()


def test_those_that_need_a_person_come_first(tmp_path: Path) -> None:
    urls = runs(tmp_path)
    rows = look([*urls.values(), f"file://{tmp_path}/nothing"], [])
    assert [row["prefix"].rpartition("/")[2] for row in rows] == ["failed", "nothing", "going", "paused", "done"]
    lines = shown(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["run", "cu", "?", "cu", "cu", "cu"]
    assert "\x1b" not in lines[1] and "no [red]luck[/red]" in lines[1]
    assert "unreadable" in lines[2] and f"file://{tmp_path}/nothing" in lines[2]
    assert lines[3].split()[1:5] == ["2", "label.running", "80.0%", "0.1"]
    assert "label.running (paused) attempt 2" in lines[4]


def test_runs_below_a_place(tmp_path: Path) -> None:
    urls = runs(tmp_path)
    assert {row["prefix"] for row in look([], [f"file://{tmp_path}"])} == set(urls.values())
    assert len(look([urls["done"]], [f"file://{tmp_path}"])) == len(urls)  # each once


def test_how_long_ago(tmp_path: Path) -> None:
    campaign(open_store(f"file://{tmp_path}/run"), 1, tmp_path)
    row = row_of(f"file://{tmp_path}/run", lambda: datetime(2026, 1, 1, 2, 4, tzinfo=timezone.utc))
    assert row["age"] == 2 * 3600


@pytest.mark.parametrize("changed", ["", "yesterday"])
def test_a_time_that_is_none(tmp_path: Path, changed: str) -> None:
    campaign(open_store(f"file://{tmp_path}/run"), 1, tmp_path, updated_at=changed)
    assert row_of(f"file://{tmp_path}/run")["age"] is None


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    runs(tmp_path)
    code, out, _ = cli("top", tmp_path / "going", "--discover", tmp_path)
    assert (code, len(out.splitlines())) == (0, 5)
    code, _, error = cli("top")
    assert code == 2 and "name a run" in error


def test_each_command_has_examples_that_it_takes() -> None:
    """Options of the examples exist; nothing is run."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(commands) == set(EXAMPLES)
    for name, command in commands.items():
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for line in EXAMPLES[name]:
            words = shlex.split(line)
            assert words[0] == name
            assert {word for word in words if word.startswith("-")} <= options, line


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_help_ends_with_examples(cli: Cli, command: str) -> None:
    code, out, _ = cli(command, "--help")
    assert code == 0 and f"  dpgen2-sm {command} " in out.partition("Examples:")[2]


def test_completion_can_be_installed(cli: Cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0 and "--install-completion" in out


def test_watching_reads_the_state_once_a_look(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("run", stub_run)[0] == 0
    read: list[str] = []
    usual = FileStore.get
    monkeypatch.setattr(FileStore, "get", lambda self, key: (read.append(key), usual(self, key))[1])
    assert cli("status", "--watch", stub_run)[0] == 0
    assert read.count("state.json") == 1


def test_watching_a_run_that_has_ended(cli: Cli, stub_run: Path) -> None:
    assert cli("run", stub_run, "--interval", "0.1")[0] == 0
    code, out, _ = cli("status", "--watch", stub_run)
    assert code == 0 and "converged" in out
