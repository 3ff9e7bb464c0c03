"""A run works at one home: from elsewhere it is awaited, a copy is another run, and a person may take over."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from conventions.errors import CommandRefused
from conventions.state import State
from statemachine.engine import Phase, local
from statemachine.engine.local import LocalEngine
from statemachine.machine import Order, command
from statemachine.run.opening import open_poller
from statemachine.run.place import is_copy
from statemachine.run.poller import Poller
from tests.conftest import Cli
from tests.doubles import FakeEngine, MemoryStore, first_state, poller_of, run_to_end, without_costs
from tests.unit.test_orders import edit


def begun() -> tuple[MemoryStore, Poller, FakeEngine, Poller, FakeEngine]:
    """A run that works at home one, and a poller at home two."""
    store = MemoryStore()
    one, two = FakeEngine(store, home="one"), FakeEngine(store, home="two")
    here, there = poller_of(store, one), poller_of(store, two)
    here.record.create(first_state())
    assert here.step().at == "label.running"
    return store, here, one, there, two


# --- from elsewhere -----------------------------------------------------------------------------------------


def test_from_elsewhere_a_run_is_awaited() -> None:
    _, here, one, there, two = begun()
    state = there.step()
    assert (state.at, state.attempt, state.home, there.away) == ("label.running", 0, "one", "one")
    one.run()
    assert there.step().at == "label.running", "what has ended there is not seen from here"
    assert here.step().at == "train.running" and here.away == ""
    assert two.workflows == {}


def test_what_was_not_submitted_yet_is_not_submitted_elsewhere() -> None:
    store, here, _, there, two = begun()
    loaded = here.record.load()
    here.record.commit(loaded, loaded.state.model_copy(update={"at": "label.submitting"}))
    assert there.step().at == "label.submitting" and two.workflows == {} and there.away == "one"
    assert poller_of(store, FakeEngine(store, home="one")).step().at == "label.running"


def test_a_run_that_was_only_begun_works_where_it_is_first_advanced() -> None:
    store = MemoryStore()
    poller = poller_of(store, FakeEngine(store, home="two"))
    poller.record.create(first_state())
    assert poller.step().home == "two"


def test_a_cancel_from_elsewhere_waits_for_the_home() -> None:
    _, here, one, there, _ = begun()
    one.store.put(here.record.load().state.place.claim(0), b"begun")
    there.tell(Order("cancel", "x"))
    assert there.step().at == "cancelling" and there.away == "one"
    assert here.step().at == "cancelled"


def test_a_cancel_from_elsewhere_of_what_never_began_is_done_at_once() -> None:
    """Whoever has the claim decides: a workflow that comes later finds it taken, and does not work."""
    _, _, one, there, _ = begun()
    there.tell(Order("cancel", "x"))
    assert there.step().at == "cancelled"
    one.run()
    assert one.bodies == []


def test_who_takes_over_goes_on_and_the_lost_home_only_waits() -> None:
    _, here, one, there, two = begun()
    with pytest.raises(CommandRefused, match="cannot take over: the run does not work elsewhere"):
        here.take_over("x")
    there.take_over("its host burned down")
    assert run_to_end(there, two).at == "converged"
    assert {state.attempt for state in two.states.values() if state.iteration == 0 and state.stage == "label"} == {1}
    one.run()
    assert one.bodies == [], "the claim of the attempt that was given up is taken"


def test_a_workflow_that_is_found_through_another_address_is_the_one() -> None:
    class SameServer(FakeEngine):
        def finds(self, name: str) -> bool:
            return name in self.workflows

    store, here, one, _, _ = begun()
    alias = SameServer(store, home="the same server by another name", workflows=one.workflows, states=one.states)
    assert run_to_end(poller_of(store, alias), alias).at == "converged"
    assert here.record.load().state.home == alias.home


# --- the local engine's name of its home ----------------------------------------------------------------------


def test_the_home_of_the_local_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = LocalEngine(tmp_path / "a", "file:///x").home
    assert here == LocalEngine(tmp_path / "a", "file:///x").home and str(tmp_path / "a") in here
    assert here != LocalEngine(tmp_path / "b", "file:///x").home
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert here != LocalEngine(tmp_path / "a", "file:///x").home
    monkeypatch.undo()
    (tmp_path / "a" / "id").unlink()  # another container, with a folder of its own under this name
    assert here != LocalEngine(tmp_path / "a", "file:///x").home


# --- copies -------------------------------------------------------------------------------------------------


def test_what_is_a_copy(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "same").symlink_to("a")
    (tmp_path / "b").mkdir()
    url = f"file://{tmp_path}"
    assert not is_copy(f"{url}/a", f"{url}/a") and not is_copy(f"{url}/a", f"{url}/same")
    assert is_copy(f"{url}/a", f"{url}/b") and is_copy(f"{url}/gone", f"{url}/b")
    assert is_copy(f"{url}/a", "s3://bucket/a")
    assert not is_copy("s3://bucket/a?endpoint=http://minio:9000", "s3://bucket/a?endpoint=http://localhost:9000")
    assert is_copy("s3://bucket/a", "s3://bucket/b") and is_copy("s3://bucket/a", "s3://other/a")


def test_a_fork_goes_on_with_a_new_attempt() -> None:
    """Names and claims of the present one belong to the first run."""
    order = Order("fork", "a copy", run_uid="1" * 32, renamed={"a" * 64: "b" * 64})
    works = first_state(at="train.running", stage="train", attempt=2, stalled=1, home="one", config_sha256="a" * 64)
    forked = command(works, order)
    assert (forked.at, forked.attempt, forked.stalled, forked.home) == ("train.submitting", 3, 0, "")
    assert (forked.run_uid, forked.config_sha256, forked.reason) == ("1" * 32, "b" * 64, "a copy")
    ended = command(first_state(at="converged", attempt=2), order)
    assert (ended.at, ended.attempt, ended.run_uid) == ("converged", 2, "1" * 32)


def test_cp_r_out_backup_then_status_backup(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    """The original goes on working; the copy becomes a run of its own."""
    os.mkfifo(tmp_path / "fifo")
    edit(stub_run, label={"setup": [f"read never < {tmp_path}/fifo"]})
    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{tmp_path}/out")
    state = poller.step()
    assert state.at.endswith(".running")
    try:
        copy = shutil.copytree(tmp_path / "out", tmp_path / "backup")
        code, output, _ = cli("status", copy)
        assert code == 0 and "is a copy of the run at file://" in output and "`dpgen2-sm fork " in output
        for command in ("step", "resume", "pause", "cancel", "run", "prune"):
            code, _, errors = cli(command, copy)
            assert code == 2 and "is a copy of the run at" in errors
        code, output, _ = cli("fork", copy)
        assert code == 0 and f"{state.stage}.submitting" in output
        fork = State.unseal((copy / "state.json").read_bytes())
        assert fork.run_uid != state.run_uid and fork.attempt == 1 and fork.home == ""
        assert cli("cancel", copy)[0] == 0
        assert cli("fork", copy)[0] == 2
        code, output, _ = cli("doctor", copy)
        assert code == 0, output
        assert poller.engine.status(state.workflow).phase is Phase.running
    finally:
        poller.engine.terminate(state.workflow)


def test_a_moved_run_goes_on_to_the_same_end(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    assert cli("step", moved)[0] == 2
    assert cli("fork", moved)[0] == 0
    stub_run.write_text(stub_run.read_text().replace("prefix: out", "prefix: moved") + "max_iterations: 9\n")
    code, output, errors = cli("patch", stub_run)
    assert code == 0 and "max_iterations" in output, errors
    found = json.loads(cli("status", moved, "--json")[1])
    assert found["at"].endswith(".submitting") and found["home"] == ""


def test_a_damaged_fork_is_restored(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    assert cli("fork", tmp_path / "moved")[0] == 0
    assert cli("pause", tmp_path / "moved")[0] == 0
    good = (tmp_path / "moved" / "state.json").read_bytes()
    (tmp_path / "moved" / "state.json").write_bytes(b"")
    assert cli("doctor", tmp_path / "moved", "--restore")[0] == 0
    assert (tmp_path / "moved" / "state.json").read_bytes() == good


@pytest.mark.slow
def test_a_backup_of_a_paused_run_goes_on_to_the_same_end(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{tmp_path}/out")
    while (state := poller.step()).at != "explore.running":
        poller.engine.wait(state.workflow, 60)
    assert cli("pause", stub_run)[0] == 0
    while poller.step().at.endswith(".running"):
        poller.engine.wait(state.workflow, 60)
    backup = shutil.copytree(tmp_path / "out", tmp_path / "backup")
    assert cli("resume", stub_run)[0] == 0
    assert cli("fork", backup)[0] == 0
    assert cli("resume", backup)[0] == 0
    ends = [State.unseal((tmp_path / name / "state.json").read_bytes()) for name in ("out", "backup")]
    assert ends[0].at == ends[1].at == "converged" and without_costs(ends[0].trail) == without_costs(ends[1].trail)


# --- jobs that nobody here can see -----------------------------------------------------------------------------


def test_jobs_of_a_dead_interpreter_that_cannot_be_seen_are_not_thought_dead(
    cli: Cli, stub_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where `step` runs in another PID namespace: the interpreter was killed there, a job of it works on."""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "end")
    edit(stub_run, label={"setup": [f"echo > {tmp_path}/begun; read line < {tmp_path}/end; exit 3"]})
    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{tmp_path}/out")
    state = poller.step()
    folder = tmp_path / "out" / ".engine" / "workflow" / state.workflow
    uid = json.loads((folder / "settings.json").read_text())["uid"]
    (tmp_path / "begun").read_text()
    (interpreter,) = [pid for pid in local._members(uid) if os.getsid(pid) == pid]
    os.kill(interpreter, signal.SIGKILL)
    poller.engine.wait(state.workflow, 20)
    with monkeypatch.context() as blind:
        blind.setattr(local, "_members", lambda uid: iter(()))
        status = poller.engine.status(state.workflow)
        assert status.phase is Phase.running and "end them there" in status.message
        assert poller.step().attempt == 0
    assert poller.engine.status(state.workflow).phase is Phase.gone
    assert list(local._members(uid)) == []
