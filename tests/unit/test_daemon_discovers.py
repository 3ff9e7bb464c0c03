"""`dpgen2-sm daemon --discover PREFIX`: runs below a prefix are taken up, and dropped, without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conventions.errors import NoRun, StateError, StoreError
from statemachine.daemon import daemon as daemon_module
from statemachine.daemon import run as module
from statemachine.daemon.daemon import Daemon
from statemachine.logs import Redactor
from tests.unit.test_daemon_runs import FakePoller, wait


def test_runs_below_a_prefix_are_taken_up_and_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`dpgen2-sm daemon --discover PREFIX`: no restart when a run is begun, or deleted, below it."""
    monkeypatch.setattr(daemon_module, "DISCOVERY", 0.05)
    found: dict[str, FakePoller] = {}

    def begin(name: str) -> FakePoller:
        found[f"file://{tmp_path}/{name}"] = poller = FakePoller()
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "state.json").touch()
        return poller

    def vanish() -> None:
        raise NoRun("there is no run")

    monkeypatch.setattr(module, "open_poller", lambda prefix, on_commit, named: found[prefix])
    first, second = begin("a"), begin("group/b")
    begin("a/inside")  # not looked for: a run's own folders are its own
    place = f"file://{tmp_path}"
    caplog.set_level("INFO")
    daemon = Daemon([f"{place}/a"], 0.01, Redactor(), discover=[place])
    daemon.open()
    daemon.start()
    wait(first)
    wait(second)
    third = begin("c")
    wait(third)
    assert sorted(run.prefix for run in daemon.runs) == [f"{place}/a", f"{place}/c", f"{place}/group/b"]
    (tmp_path / "c" / "state.json").unlink()
    third.orders = [vanish]
    with daemon._changed:
        assert daemon._changed.wait_for(lambda: len(daemon.runs) == 2, 20)
    first.orders = [vanish]
    wait(first, 3)
    assert f"{place}/a" in [run.prefix for run in daemon.runs], "one that was named stays, and is tried again"
    assert "c: a new run" in caplog.text and "c: the run is gone" in caplog.text
    assert daemon.stop() == [] and not daemon.all_ended.is_set()


def test_a_place_without_a_run_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`--discover` with a name that was mistyped."""
    place = f"file://{tmp_path}/rnus"
    daemon = untimed(monkeypatch, place)
    for _ in range(2):
        daemon._look_below(place)
    assert [record.getMessage() for record in caplog.records] == [f"{place}: no run is below it yet"]


def test_a_store_that_is_down_is_looked_below_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(daemon_module, "DISCOVERY", 0.01)
    poller = FakePoller()
    monkeypatch.setattr(module, "open_poller", lambda prefix, on_commit, named: poller)
    answers: list[Any] = [StoreError("down"), ["file:///x"]]

    def below(store: Any, missed: Any, known: Any) -> list[str]:
        answer = answers.pop(0) if answers else []
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr(daemon_module, "runs_below", below)
    daemon = Daemon([], 0.01, Redactor(), discover=[f"file://{tmp_path}"])
    daemon.open()
    daemon.start()
    wait(poller)
    assert daemon.stop() == []


def untimed(monkeypatch: pytest.MonkeyPatch, *places: str) -> Daemon:
    """A daemon whose looks the test makes itself."""
    daemon = Daemon([], 3600, Redactor(), discover=places)
    monkeypatch.setattr(daemon._scheduler, "add_job", lambda *args, **options: None)
    return daemon


def test_of_many_runs_each_is_taken_up_once_and_a_damaged_one_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Places may overlap. Two entries of a run would be two equal samples, which Prometheus refuses."""
    found: dict[str, FakePoller] = {}
    for number in range(120):
        folder = tmp_path / "group" / f"{number:03d}"
        folder.mkdir(parents=True)
        (folder / "state.json").touch()
        found[f"file://{folder}"] = FakePoller()

    def open_poller(prefix: str, on_commit: Any, named: bool) -> FakePoller:
        if prefix.endswith("/007"):
            raise StateError("damaged")
        return found[prefix]

    monkeypatch.setattr(module, "open_poller", open_poller)
    daemon = untimed(monkeypatch, f"file://{tmp_path}", f"file://{tmp_path}/group")
    for place in daemon.discover:
        daemon._look_below(place)
    assert sorted(run.prefix for run in daemon.runs) == sorted(found)
    for run in daemon.runs:
        daemon._look(run)
    assert "007: damaged; next try" in caplog.text
    assert sum(run.last_good is not None for run in daemon.runs) == 119
    assert daemon.not_ready() == "", "hints for the others go on"


def test_trouble_below_a_place_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter(["permission denied", "permission denied", "", "permission denied"])

    def below(store: Any, missed: dict[str, str], known: Any) -> list[str]:
        if why := next(answers):
            missed["file:///closed"] = why
        return []

    monkeypatch.setattr(daemon_module, "runs_below", below)
    daemon = untimed(monkeypatch, f"file://{tmp_path}")
    for lines in (1, 1, 1, 2):
        daemon._look_below(daemon.discover[0])
        assert caplog.text.count("file:///closed: permission denied; will be looked into again") == lines
