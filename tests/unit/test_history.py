"""What the history tells: why an attempt is being repeated, seen where a user looks."""

from __future__ import annotations

import json
from pathlib import Path

from statemachine.machine.orders import Order
from statemachine.run.history import why_repeated
from tests.conftest import Cli
from tests.doubles import FakeEngine, MemoryStore, first_state, poller_of, run_to_end
from tests.unit.test_orders import edit


def test_why_a_stage_is_repeated() -> None:
    store = MemoryStore()
    engine = FakeEngine(store, spoil=lambda state: "incomplete" if state.attempt < 2 else "")
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    assert why_repeated(store, poller.step()) == ""
    for attempt in (1, 2):
        engine.run()
        state = poller.step()
        assert (state.at, state.attempt) == ("label.running", attempt)
        assert why_repeated(store, state) == f"attempt {attempt - 1} did not complete the stage: job 000000: it broke"
    for order in ("pause", "resume"):
        poller.tell(Order(order, "by a person"))
    state = poller.record.load().state
    assert state.reason == "by a person" and why_repeated(store, state).startswith("attempt 1 did not complete")
    store.delete("event/00000003.json")
    assert why_repeated(store, state).startswith("attempt 1"), "older versions are not needed"


def test_why_a_run_was_resumed() -> None:
    store = MemoryStore()
    broken = True
    engine = FakeEngine(store, spoil=lambda state: "dies" if broken else "")
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    state = run_to_end(poller, engine)
    assert state.at == "failed"
    poller.tell(Order("resume", "by a person"))
    broken = False
    assert why_repeated(store, poller.step()) == state.reason


def test_a_retry_is_told_in_run_and_in_status(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    """What was typed: `dpgen2-sm run run.yaml`, `dpgen2-sm status run.yaml`, `dpgen2-sm logs run.yaml --attempt 0`."""
    flag = tmp_path / "broken"
    flag.touch()
    edit(stub_run, train={"setup": [f"if [ -e {flag} ]; then echo 'no license' >&2; exit 9; fi"], "retries": 0})
    code, output, _ = cli("run", stub_run)
    assert code == 1
    told = [line for line in output.splitlines() if " did not complete the stage: " in line]
    assert [line[:10] for line in told] == ["attempt 0 ", "attempt 0 "], "the last is the status at the end"
    assert all("no license" in line and line.endswith("2 of 2 jobs are run again") for line in told)
    _, output, _ = cli("status", stub_run)
    assert told[-1] in output.splitlines() and "train of iteration 0 failed: " in output
    assert json.loads(cli("status", "--json", stub_run)[1])["why_repeated"] == told[-1]
    kept = sorted(path.name for path in (tmp_path / "out/.engine/workflow").glob("*-train-*"))
    assert [name[-2:] for name in kept] == ["a0", "a1"]
    for number, name in enumerate(kept):
        (tmp_path / "out/.engine/workflow" / name / "reduce.log").write_text(f"attempt {number} was here\n")
        assert f"reduce: attempt {number} was here" in cli("logs", stub_run, "--attempt", str(number))[1]
    code, _, errors = cli("logs", stub_run, "--attempt", "2")
    assert code == 2 and "--attempt 2: the stage is in attempt 1" in errors


def test_logs_of_an_attempt_of_another_stage(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    code, _, errors = cli("logs", stub_run, "--stage", "train", "--attempt", "0")
    assert code == 2 and "leave it out" in errors
