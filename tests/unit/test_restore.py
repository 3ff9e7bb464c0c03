"""`dpgen2-sm doctor RUN --restore`: the last good version comes back, and the run goes on as if nothing had been."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import CommandRefused, Conflict, NoRun, StateError, StoreError, TooNew
from conventions.names import STAGES, canonical_json, sha256
from conventions.space import DataSpace
from conventions.state import State
from statemachine.machine.orders import Order
from statemachine.run.config_file import read_prefix
from statemachine.run.opening import open_poller
from statemachine.run.record import Record
from statemachine.run.restore import restore
from statemachine.store import Store, open_store
from tests.conftest import Cli
from tests.doubles import Crash, Crashing, FakeEngine, MemoryStore, first_state, poller_of, run_to_end
from tests.figures import Figures
from tests.servers import Server

SPACE = DataSpace({})
FIRST_CONFIG = b"{}"


def begun() -> tuple[MemoryStore, FakeEngine]:
    """A run in memory at its first version."""
    store = MemoryStore()
    store.put(SPACE.config(0), FIRST_CONFIG)
    state = first_state(config_sha256=sha256(FIRST_CONFIG))
    Record(store, nonce=lambda: "n", clock=lambda: "t").create(state)
    store.put(SPACE.told(f"{state.run_uid}-00000099-failed"), b"a marker, not a version")
    return store, FakeEngine(store)


def paused(versions: int) -> MemoryStore:
    """A run in memory that has come to a version, paused and released in turns."""
    store, engine = begun()
    poller = poller_of(store, engine)
    for number in range(versions - 1):
        poller.tell(Order("resume" if number % 2 else "pause", str(number)))
    return store


# --- at every point of a run ------------------------------------------------------------------------------


def lose(store: MemoryStore, depth: int) -> None:
    """Damage the state and the newest entries of its history: the first of them is gone as if it was never written."""
    newest = sorted(key for key in store.objects if SPACE.version(key) is not None)[1:][-depth:] if depth else []
    for number, key in enumerate(reversed(newest)):
        if number == 0:
            store.delete(key)
        else:
            store.objects[key] = store.objects[key][:-3]
    store.objects[SPACE.state] = b"<html>503</html>"


def undisturbed() -> tuple[State, list[str], int]:
    store, engine = begun()
    budget = [10**9]
    state = run_to_end(poller_of(Crashing(store, budget, False), Crashing(engine, budget, False)), engine)
    return state, engine.bodies, 10**9 - budget[0]


END, BODIES, CALLS = undisturbed()


@pytest.mark.parametrize(("depth", "every"), [(0, 2), (1, 2), (2, 7), (100, 9)])
def test_at_every_call_of_a_run_the_damage_changes_nothing(depth: int, every: int) -> None:
    """The poller dies at each of its calls, the state is lost and so many versions with it: all work is done once."""
    for point in range(1, CALLS + 1, every):
        store, engine = begun()
        budget = [point]
        with pytest.raises(Crash):
            run_to_end(poller_of(Crashing(store, budget, True), Crashing(engine, budget, True)), engine)
        lose(store, depth)
        restore(store)
        state = run_to_end(poller_of(store, engine), engine)
        assert engine.bodies == BODIES, f"call {point}"
        assert (state.at, state.iteration) == (END.at, END.iteration), f"call {point}"
        assert state.trail == END.trail, f"call {point}"


def test_restored_after_a_workflow_of_the_lost_version_was_submitted() -> None:
    """Version 2 comes back while the workflow that version 3 stands for is at work: it is found, not made again."""
    store, engine = begun()
    name = poller_of(store, engine).step().workflow
    lose(store, 1)
    restore(store)
    assert poller_of(store, engine).record.load().state.version == 2
    assert poller_of(store, engine).step().workflow == name
    assert run_to_end(poller_of(store, engine), engine).at == END.at
    assert engine.bodies == BODIES


# --- two at once ------------------------------------------------------------------------------------------


class Rival(MemoryStore):
    """Lets somebody else act just before the n-th write."""

    def __init__(self, inner: MemoryStore, before: int, act: Callable[[], Any]) -> None:
        super().__init__()
        self.objects, self.left, self.act = inner.objects, before, act

    def put(self, key: str, data: bytes, **conditions: Any) -> str:
        self.left -= 1
        if self.left == 0:
            self.act()
        return super().put(key, data, **conditions)


@pytest.mark.parametrize("missing", [True, False])
def test_two_restores_at_once(missing: bool) -> None:
    for before in (1, 2, 3):
        store = paused(4)
        good = store.objects[SPACE.state]
        store.objects[SPACE.state] = b""
        if missing:
            store.delete(SPACE.state)
        restore(Rival(store, before, functools.partial(restore, store)))
        assert store.objects[SPACE.state] == good


def test_a_rival_that_goes_on_is_not_overwritten() -> None:
    """Somebody restores and a poller commits the next version, while another one restores the same version."""
    for before in (1, 2, 3):
        store = paused(3)
        store.objects[SPACE.state] = b"x"

        def act(store: MemoryStore = store) -> None:
            restore(store)
            poller_of(store, FakeEngine(store)).tell(Order("cancel", "by a rival"))

        with pytest.raises(CommandRefused, match="was changed by another process"):
            restore(Rival(store, before, act))
        assert State.unseal(store.objects[SPACE.state]).version == 4
        assert Record(store).load().state.at == "cancelling"


def test_a_poller_that_knew_the_lost_version_loses_its_swap() -> None:
    store, engine = begun()
    poller = poller_of(store, engine)
    poller.tell(Order("pause", "x"))
    late = poller_of(store, engine)
    zombie = late.record.load(verify=False)
    lose(store, 1)
    restore(store)
    assert late.record.commit(zombie, zombie.state.model_copy(update={"hold": False})) is None
    assert State.unseal(store.objects[SPACE.state]).version == 1
    # It wrote its own version into the history: the newest one that is known again, and nobody acts on an older one.
    with pytest.raises(StateError, match="older than the run's history"):
        Record(store).load()
    restore(store)
    assert Record(store).load().state.hold


def test_a_poller_that_slept_before_it_kept_the_lost_version_submits_nothing() -> None:
    """Meanwhile the version before was restored, and a person cancelled the run: what it had decided is void."""
    store, engine = begun()
    poller_of(store, engine).step()
    engine.run()

    def act() -> None:
        lose(store, 0)
        restore(store)
        poller_of(store, engine).tell(Order("cancel", "by a person"))

    sleeper = poller_of(Rival(store, 2, act), engine)  # its first write is the swap
    assert sleeper.step().at == "cancelled"
    assert len(engine.states) == 1, "nothing but the label stage was submitted"


def test_a_good_version_that_took_the_place_of_a_damaged_one_is_not_removed() -> None:
    """Somebody restores and cancels while another one restores: its version would be lost with the next damage."""
    store = paused(3)
    store.objects[SPACE.state], store.objects[SPACE.event(4)] = b"x", b"cut"

    def act() -> None:
        restore(store)
        poller_of(store, FakeEngine(store)).tell(Order("cancel", "by a rival"))

    with pytest.raises(CommandRefused, match="was changed by another process"):
        restore(Rival(store, 1, act))
    assert store.objects[SPACE.event(4)] == store.objects[SPACE.state]
    assert Record(store).load().state.at == "cancelling"


@pytest.mark.parametrize("looked", [True, False])
def test_a_rollback_to_a_version_that_a_daemon_has_verified_is_refused(looked: bool) -> None:
    """It has read that version before, and need not verify it again; whether it saw the newer one or not."""
    store, engine = begun()
    daemon = poller_of(store, engine)
    daemon.step()
    old = store.objects[SPACE.state]
    paused = poller_of(store, engine).tell(Order("pause", "by a person"))
    if looked:
        assert daemon.step() == paused
    store.objects[SPACE.state] = old
    engine.run()
    before, workflows, told, swaps = dict(store.objects), dict(engine.workflows), list[State](), list[str]()
    daemon.on_commit, put = told.append, store.put
    store.put = lambda key, data, **more: (swaps.append(key), put(key, data, **more))[1]  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(StateError, match=r"older than the run's history.*nothing was changed"):
            daemon.step()
        assert (store.objects, engine.workflows, told) == (before, workflows, [])
    assert not (looked and swaps), "what it saw tells it that the version is old"
    restore(store)
    assert daemon.step().at == "train.submitting", "it is paused"


def test_an_answer_that_was_lost_is_no_failure() -> None:
    class Forgetful(MemoryStore):
        def put(self, key: str, data: bytes, **conditions: Any) -> str:
            super().put(key, data, **conditions)
            raise StoreError(key) if key == SPACE.state else Conflict(key)

    store = paused(3)
    good = store.objects[SPACE.state]
    store.objects[SPACE.state] = b"x"
    forgetful = Forgetful()
    forgetful.objects = store.objects
    restore(forgetful)
    assert store.objects[SPACE.state] == good


# --- what is chosen ---------------------------------------------------------------------------------------


def test_holes_in_the_history_are_skipped() -> None:
    store = paused(9)
    for number in (9, 8):
        store.objects[SPACE.event(number)] = b"\0"
    store.delete(SPACE.event(6))
    store.objects[SPACE.event(2)] = b""
    store.delete(SPACE.state)
    done = restore(store)
    assert len(done) == 3 and "event/00000008.json was damaged" in done[0] and "version 7 was restored" in done[2]
    assert Record(store).load().state.version == 7
    assert {store.objects[SPACE.damaged(sha256(b"\0"))]} == {b"\0"}
    poller_of(store, FakeEngine(store)).tell(Order("cancel", "x"))
    assert State.unseal(store.objects[SPACE.event(8)]).at == "cancelling"


def test_a_sound_state_takes_the_place_of_its_damaged_copy() -> None:
    store = paused(5)
    good = store.objects[SPACE.state]
    store.objects[SPACE.event(5)] = b"cut sh"
    store.objects[SPACE.event(6)] = b"cut"
    assert [line.partition(" ")[0] for line in restore(store)] == [SPACE.event(5), SPACE.event(6)]
    assert store.objects[SPACE.state] == good
    assert store.objects[SPACE.event(5)] == good
    poller_of(store, FakeEngine(store)).tell(Order("cancel", "x"))
    assert State.unseal(store.objects[SPACE.event(6)]).at == "cancelling"


def test_versions_that_are_not_of_this_run_are_not_chosen() -> None:
    store, other = paused(3), paused(6)
    state = State.unseal(other.objects[SPACE.event(4)]).model_copy(
        update={"run_uid": "f" * 32, "previous_sha256": "f" * 64}
    )
    store.objects[SPACE.event(4)] = state.seal()
    store.objects[SPACE.state] = state.seal()
    store.objects[SPACE.event(7)] = store.objects[SPACE.event(2)]  # of this run, but under another number
    restore(store)
    assert Record(store).load().state.version == 3
    forked = State.unseal(store.objects[SPACE.event(3)]).model_copy(update={"previous_sha256": "0" * 64, "version": 4})
    store.objects[SPACE.event(4)] = store.objects[SPACE.state] = forked.seal()
    restore(store)
    assert Record(store).load().state.version == 3


def test_a_state_of_a_newer_program_is_no_damage() -> None:
    store = paused(3)
    body = {**json.loads(store.objects[SPACE.state]), "schema_version": 5, "version": 4}
    del body["sha256"]
    newer = canonical_json({**body, "sha256": sha256(canonical_json(body))}) + b"\n"
    for key in (SPACE.state, SPACE.event(4)):
        store.put(key, newer)
        before = dict(store.objects)
        with pytest.raises(TooNew, match=r"newer dpgen2-sm .* upgrade this"):
            restore(store)
        assert store.objects == before
        store.put(SPACE.state, b"damaged")


@pytest.mark.parametrize("state", [b"x", None])
def test_nothing_whole_is_left(state: bytes | None) -> None:
    store = paused(1)
    store.objects[SPACE.event(1)] = b"x"
    store.objects[SPACE.state] = b"x"
    if state is None:
        store.delete(SPACE.state)
    before = dict(store.objects)
    with pytest.raises(StateError, match="no version of the state there is intact"):
        restore(store)
    assert store.objects == before


def test_a_state_is_restored_although_its_configuration_is_damaged_too() -> None:
    """`patch` puts that back, and needs a state."""
    store = paused(2)
    good = store.objects[SPACE.state]
    store.objects[SPACE.state], store.objects[SPACE.configuration(sha256(FIRST_CONFIG))] = b"x", b"y"
    assert "is not the configuration that the state names; `dpgen2-sm patch CONFIG`" in restore(store)[-1]
    assert store.objects[SPACE.state] == good


def test_no_run() -> None:
    with pytest.raises(NoRun):
        restore(MemoryStore())


# --- through the command line -----------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    **{
        f"truncated to {part}%": lambda data, old, part=part: data[: len(data) * part // 100]
        for part in (1, 30, 60, 99)
    },
    "without its last byte": lambda data, old: data[:-1],
    **{
        f"bit {bit} of byte {byte} flipped": lambda data, old, bit=bit, byte=byte: (
            data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]
        )
        for byte, bit in ((0, 0), (40, 7), (200, 3), (-2, 5))
    },
    "emptied": lambda data, old: b"",
    "deleted": lambda data, old: None,
    "an older version": lambda data, old: old,
    "another run's": lambda data, old: first_state(version=40).seal(),
    "a web page": lambda data, old: b"<!DOCTYPE html><title>502 Bad Gateway</title>",
    "compressed": lambda data, old: gzip.compress(data),
    "twice": lambda data, old: data + data,
    "zeros": lambda data, old: bytes(len(data)),
}  # fmt: skip


SOME = ("truncated to 60%", "emptied", "deleted", "an older version", "another run's")


def put(store: Store, key: str, data: bytes | None) -> None:
    if data is None:
        store.delete(key)
    else:
        store.put(key, data)


def spoil(store: Store, damage: str, history: str) -> list[bytes]:
    """Damage the state, and the history's newest entry if so asked; return the last two versions."""
    good = store.get(SPACE.state).data
    newest = State.unseal(good).version
    older = store.get(SPACE.event(max(newest - 1, 1))).data
    put(store, SPACE.state, DAMAGE[damage](good, older))
    if history != "whole" and newest > 1:
        put(store, SPACE.event(newest), None if history == "lost" else b"\xff")
    return [older, good]


def check_damages(cli: Cli, config: Path, kinds: Iterable[str]) -> int:
    """Damage one run in every way; each time the commands refuse it, and the last good version comes back."""
    assert cli("init", config)[0] == 0
    prefix = read_prefix(config)
    store, tried = open_store(prefix), 0
    for damage, history in itertools.product(kinds, ("whole", "damaged")):
        assert cli("pause", prefix)[0] == 0
        older, good = spoil(store, damage, history)
        code, output, errors = cli("status", config)
        assert (code, output) == (2, "") and "doctor RUN --restore" in errors, (damage, history)
        code, output, errors = cli("doctor", config, "--restore")
        assert (code, errors) == (0, ""), (damage, history, errors)
        assert store.get(SPACE.state).data == (good if history == "whole" else older), (damage, history)
        assert cli("doctor", prefix, "--restore")[1].endswith("there is nothing to restore\n")
        if history == "whole":
            open_poller(prefix).tell(Order("resume", "for the next pause"))
        tried += 1
    return tried


def check_run(cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged and restored before each of its steps, a run comes to its end, and does every task once."""
    ledger = config.parent / "ledger"
    ledger.mkdir()
    monkeypatch.setenv("STUB_LEDGER", str(ledger))
    config.write_text(config.read_text().replace("accurate_after: 1", "accurate_after: 0"))
    assert cli("init", config)[0] == 0
    prefix = read_prefix(config)
    store = open_store(prefix)
    for damage, history in itertools.cycle(zip(DAMAGE, itertools.cycle(("whole", "lost", "damaged")))):
        spoil(store, damage, history)
        assert cli("doctor", prefix, "--restore")[0] == 0
        assert cli("step", prefix)[0] == 0
        poller = open_poller(prefix)
        state = poller.record.load().state
        if state.ended:
            break
        poller.engine.wait(state.workflow, 60)
    assert (state.at, state.iteration) == ("converged", 0)
    tasks = {f"{stage}-0-{index}" for stage in STAGES for index in range(3 if stage == "explore" else 2)}
    assert {path.name: len(path.read_text().split()) for path in ledger.iterdir()} == dict.fromkeys(tasks, 1)


def on(server: Server, config: Path, path: str) -> Path:
    config.write_text(config.read_text().replace("prefix: out", f'prefix: "{server.prefix(path)}"'))
    return config


def test_damages_on_file(cli: Cli, stub_run: Path) -> None:
    assert check_damages(cli, stub_run, SOME) == 2 * len(SOME)


@pytest.mark.slow
def test_every_damage_on_file(cli: Cli, stub_run: Path, figure: Figures) -> None:
    figure("bad input: damaged states restored", check_damages(cli, stub_run, DAMAGE))


@pytest.mark.slow
def test_damages_on_s3(cli: Cli, stub_run: Path, s3: Server) -> None:
    assert check_damages(cli, on(s3, stub_run, "damage"), SOME) == 2 * len(SOME)


@pytest.mark.slow
def test_a_run_goes_on_on_file(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_run(cli, stub_run, monkeypatch)


@pytest.mark.slow
def test_a_run_goes_on_on_s3(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch, s3: Server) -> None:
    check_run(cli, on(s3, stub_run, "goes-on"), monkeypatch)


def test_the_command_line(cli: Cli, stub_run: Path) -> None:
    assert cli("doctor", "--restore")[0] == 2
    assert cli("doctor", stub_run, "--restore")[0] == 2
    assert cli("init", stub_run)[0] == 0
    prefix = stub_run.parent / "out"
    (prefix / "state.json").write_bytes(b"")
    code, output, _ = cli("doctor", prefix, "--restore", "--json")
    assert code == 0 and "version 1 was restored (label.submitting, iteration 0" in json.loads(output)[0]["detail"]
    assert cli("doctor", prefix, "--restore", "--race")[0] == 2
