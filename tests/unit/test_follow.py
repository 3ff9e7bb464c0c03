"""`run` and `resume` wait for a store or a server that is away, and say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from conventions.errors import EngineAway, EngineError, StoreAway, StoreError
from conventions.state import State
from statemachine.cli import follow
from statemachine.run.poller import Poller
from tests.conftest import Cli

AWAY = [StoreAway("no answer"), StoreAway("no answer"), EngineAway("503")]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(follow, "time", SimpleNamespace(sleep=found.append))
    return found


def failing(errors: list[StoreError | EngineError]) -> Callable[[Poller], State]:
    """Every step but the first meets one of the errors, as long as there are some."""
    real, steps = Poller.step, [0]

    def step(self: Poller, while_at: str = "") -> State:
        steps[0] += 1
        if steps[0] > 1 and errors:
            raise errors.pop(0)
        return real(self, while_at)

    return step


def test_it_waits_longer_and_longer_and_goes_on(
    stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(Poller, "step", failing([*AWAY]))
    code, output, errors = cli("run", stub_run)
    assert code == 0 and "converged" in output
    assert pauses == [2, 4, 8]
    assert errors.count("no answer; asked again in") == 2 and "503; asked again in 8 s (Ctrl-C leaves" in errors


def test_the_pauses_have_an_end_and_begin_anew(
    stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(Poller, "step", failing([StoreAway("no answer")] * 10))
    assert cli("run", stub_run)[0] == 0
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@pytest.mark.parametrize("error", [StoreError("access denied"), EngineError("403")])
def test_what_does_not_pass_by_itself_ends_it(
    stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, pauses: list[float], error: StoreError | EngineError
) -> None:
    monkeypatch.setattr(Poller, "step", failing([error]))
    code, _, errors = cli("run", stub_run)
    assert code == 1 and str(error) in errors and pauses == []
    assert cli("cancel", stub_run)[0] == 0
