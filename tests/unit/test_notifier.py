"""Each event is told once, whoever sees it, and nobody waits for that. Stores in memory; waits are for events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from conventions.errors import Conflict, NotTrusted, StateError, StoreError
from conventions.space import DataSpace
from conventions.state import State
from statemachine.logs import Redactor
from statemachine.machine.orders import Order
from statemachine.notify import KINDS, Message, Notifier, Watch
from statemachine.notify import notifier as module
from statemachine.run.history import versions
from statemachine.run.poller import Poller
from statemachine.run.record import Record
from tests.doubles import FakeEngine, FakeSubmission, MemoryStore, first_state, run_to_end

ALL = frozenset(KINDS)
SPACE = DataSpace({})


class Chat:
    """Where messages arrive; it may be made to wait or to fail."""

    name = "chat"

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.wrong: str | Exception = ""
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def send(self, message: Message, pause: Callable[[float], object]) -> str:
        self.entered.set()
        self.go.wait()
        self.messages.append(message)
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return self.wrong

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.messages]


class World:
    """A run in memory, and as many watching processes as a test wants."""

    def __init__(self) -> None:
        self.store, self.redactor = MemoryStore(), Redactor(["hunter2/hunter2"])
        self.engine = FakeEngine(self.store)
        self.days = 0.0  # that have gone by
        self.state = self.record().create(first_state())

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + timedelta(days=self.days)

    def record(self) -> Record:
        return Record(self.store, clock=lambda: self.now().isoformat(timespec="seconds"))

    def notifier(self, chat: Chat, kinds: frozenset[str] = ALL) -> Notifier:
        found = Notifier([chat], kinds, self.redactor, lambda: self.now().timestamp(), lambda prefix: self.store)
        found.over = NoPauses()
        return found

    def poller(self, *watches: Watch) -> Poller:
        def committed(state: State) -> None:
            for watch in watches:
                watch.saw(state)

        return Poller(self.record(), self.engine, FakeSubmission(), committed)  # type: ignore[arg-type]

    def watched(self, chat: Chat, act: Callable[[Watch], object], kinds: frozenset[str] = ALL) -> Notifier:
        """What one process sees of the run, from its start to its end."""
        notifier = self.notifier(chat, kinds)
        act(Watch(notifier, "memory://run"))
        notifier.close(20)
        return notifier

    def look(self, watch: Watch) -> None:
        """See the state as it is."""
        watch.saw(self.record().load().state)

    def markers(self) -> set[str]:
        return {key for key in self.store.objects if key.startswith("event/told/")}


class NoPauses(threading.Event):
    """Pauses between tries take no time."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


@pytest.fixture
def world() -> World:
    return World()


def to_the_end(world: World, *watches: Watch) -> State:
    poller = world.poller(*watches)
    for watch in watches:
        watch.saw(poller.record.load().state)
    return run_to_end(poller, world.engine)


def test_a_run_is_told_of_and_a_restart_tells_nothing_again(world: World) -> None:
    chat, again = Chat(), Chat()
    notifier = world.watched(chat, lambda watch: to_the_end(world, watch))
    assert chat.kinds == ["iteration", "iteration", "converged"]
    assert notifier.counts == {"sent": len(chat.messages), "failed": 0, "dropped": 0}
    assert world.markers() == {SPACE.told(message.event) for message in chat.messages}
    before = dict(world.store.objects)
    world.watched(again, world.look)
    assert again.messages == [] and world.store.objects == before


def test_two_daemons_send_once_whoever_commits(world: World) -> None:
    one, two = Chat(), Chat()
    first, second = world.notifier(one), world.notifier(two)
    to_the_end(world, Watch(first, "memory://run"), Watch(second, "memory://run"))
    first.close(20), second.close(20)
    events = [message.event for message in (*one.messages, *two.messages)]
    assert len(events) == len(set(events)) == len(world.markers()) > 2
    assert first.counts["failed"] == second.counts["failed"] == 0


def test_what_another_process_did_is_told_under_the_same_names(world: World) -> None:
    """This one saw the first version, and then one after the end: prune has changed the state meanwhile."""
    names = []
    for seen_by_one in (True, False):
        fresh, one, other = World(), Chat(), Chat()
        fresh.engine.accurate_after = 2
        first = fresh.record().load().state

        def act(watch: Watch, fresh: World = fresh) -> None:
            to_the_end(fresh, watch)

        if seen_by_one:
            fresh.watched(one, act)
        else:
            to_the_end(fresh)
        fresh.poller().tell(Order("prune", "space", iteration=1))

        def late(watch: Watch, fresh: World = fresh, first: State = first) -> None:
            watch.saw(first)
            fresh.look(watch)

        fresh.watched(other, late)
        assert bool(one.messages) is seen_by_one and bool(other.messages) is not seen_by_one
        names.append([message.event for message in (*one.messages, *other.messages)])
    assert names[0] == names[1] and names[0][-1].endswith("-converged")


def test_what_happened_while_nobody_watched_is_told_at_the_start_within_a_day(world: World) -> None:
    to_the_end(world)
    world.days = 0.9
    chat = Chat()
    world.watched(chat, world.look, frozenset({"converged"}))
    assert chat.kinds == ["converged"]
    old, later = World(), Chat()
    to_the_end(old)
    old.days = 1.1
    old.watched(later, old.look)
    assert later.messages == [] and not old.markers()


def test_only_so_many_versions_are_looked_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACK", 2)
    end = to_the_end(world)
    read = []
    get = world.store.get
    world.store.get = lambda key: (read.append(key), get(key))[1]  # type: ignore[method-assign, func-returns-value]
    world.watched(Chat(), lambda watch: watch.saw(end))
    assert [key for key in read if "told" not in key] == [SPACE.event(end.version - 1), SPACE.event(end.version - 2)]


def test_a_pause_is_told_each_time(world: World) -> None:
    chat = Chat()

    def act(watch: Watch) -> None:
        poller = world.poller(watch)
        watch.saw(poller.record.load().state)
        for _ in range(2):
            poller.tell(Order("pause", "for lunch"))
            poller.tell(Order("resume", "on"))

    world.watched(chat, act)
    assert chat.kinds == ["paused", "paused"] and chat.messages[0].reason == "for lunch"


def test_a_kind_that_nobody_wants_leaves_no_marker(world: World) -> None:
    chat = Chat()
    world.watched(chat, lambda watch: to_the_end(world, watch), frozenset({"failed"}))
    assert chat.messages == [] and world.markers() == set()


def test_without_a_target_nothing_is_done(world: World) -> None:
    notifier = Notifier(opened=lambda prefix: pytest.fail("a store was opened"))
    to_the_end(world, Watch(notifier, "memory://run"))
    notifier.close()
    assert notifier.counts == {"sent": 0, "failed": 0, "dropped": 0} and world.markers() == set()
    assert not notifier._thread.is_alive()


def test_a_receiver_that_hangs_holds_up_no_step(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes to its end while its first message is still being sent; what does not fit is dropped, and said."""
    chat = Chat()
    chat.go.clear()
    world.engine.accurate_after = 3
    notifier = world.notifier(chat)
    watch = Watch(notifier, "memory://run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WAITING", 1)
        world.poller(watch).tell(Order("pause", "x"))  # its first sight of the run: looked back at
        assert chat.entered.wait(20)
        world.poller(watch).tell(Order("resume", "x"))
        assert to_the_end(world, watch).at == "converged"
        assert chat.messages == []
    assert notifier.counts["dropped"] >= 1 and "a notification was dropped: too much waits" in caplog.text
    notifier.close(0)
    assert notifier.over.is_set(), "the process may end"
    chat.go.set()
    notifier._thread.join(20)
    assert chat.kinds == ["paused"], "what was not begun at the end is left to the next start"
    later = Chat()
    world.watched(later, world.look)
    assert later.kinds.count("converged") == 1 and "paused" not in later.kinds


def test_at_the_end_no_further_message_is_begun(world: World) -> None:
    """One look may have several; those that are left have no marker, and are told at the next start."""
    to_the_end(world)
    chat, later = Chat(), Chat()
    chat.go.clear()
    notifier = world.notifier(chat)
    world.look(Watch(notifier, "memory://run"))
    assert chat.entered.wait(20)
    notifier.close(0)
    chat.go.set()
    notifier._thread.join(20)
    world.watched(later, world.look)
    assert len(chat.messages) == 1 and later.kinds[-1] == "converged"
    assert len(world.markers()) == len(later.messages) + 1


def test_whoever_dies_after_the_marker_loses_the_message_and_doubles_none(world: World) -> None:
    chat, later = Chat(), Chat()
    chat.wrong = RuntimeError("killed")
    notifier = world.watched(chat, lambda watch: to_the_end(world, watch))
    assert notifier.counts["failed"] == len(world.markers()) > 0
    world.watched(later, world.look)
    assert later.messages == []


def test_a_store_that_refuses_stops_nothing_and_nothing_is_sent(world: World, caplog: pytest.LogCaptureFixture) -> None:
    chat, put, tries = Chat(), world.store.put, []

    def refusing(key: str, data: bytes, **conditions: Any) -> str:
        if "/told/" in key:
            tries.append(key)
            raise StoreError("403: hunter2/hunter2 may not write")
        return put(key, data, **conditions)

    world.store.put = refusing  # type: ignore[method-assign]
    notifier = world.watched(chat, lambda watch: to_the_end(world, watch), frozenset({"converged"}))
    assert world.record().load().state.at == "converged"
    assert chat.messages == [] and notifier.counts == {"sent": 0, "failed": 1, "dropped": 0} and len(tries) == 3
    assert "nothing is told of it: 403: *** may not write" in caplog.text


@pytest.mark.parametrize("error", [StoreError("reset"), Conflict("412")])
def test_a_marker_whose_answer_was_lost_counts(world: World, error: StoreError) -> None:
    chat, put = Chat(), world.store.put

    def lost(key: str, data: bytes, **conditions: Any) -> str:
        etag = put(key, data, **conditions)
        if "/told/" in key:
            raise error
        return etag

    world.store.put = lost  # type: ignore[method-assign]
    world.watched(chat, lambda watch: to_the_end(world, watch), frozenset({"converged"}))
    assert chat.kinds == ["converged"]


def test_a_flood_of_a_prefix_is_dammed(world: World) -> None:
    """Who may write to a prefix could pause and resume all day."""
    chat = Chat()

    def act(watch: Watch) -> None:
        poller = world.poller(watch)
        watch.saw(poller.record.load().state)
        for _ in range(module.AN_HOUR + 3):
            poller.tell(Order("pause", "x"))
            poller.tell(Order("resume", "x"))

    notifier = world.watched(chat, act)
    assert len(chat.messages) == module.AN_HOUR == len(world.markers())
    assert notifier.counts["dropped"] == 3


def test_secrets_are_not_sent(world: World) -> None:
    chat = Chat()

    def act(watch: Watch) -> None:
        poller = world.poller(watch)
        watch.saw(poller.record.load().state)
        poller.tell(Order("pause", "log in with hunter2/hunter2"))

    world.watched(chat, act)
    assert chat.messages[0].reason == "log in with ***"


def test_a_damaged_state_is_told_once_for_what_is_there(world: World, caplog: pytest.LogCaptureFixture) -> None:
    chat, error = Chat(), StateError("state.json: damaged\nits content")
    good = world.store.objects[SPACE.state]
    last = world.record().load().state

    def act(watch: Watch) -> None:
        watch.saw(last)
        for _ in range(3):
            assert watch.failed(error)
        assert not watch.failed(StoreError("away"))

    world.store.objects[SPACE.state] = good[:100]
    world.watched(chat, act)
    assert (
        chat.kinds == ["needs_person"]
        and chat.messages[0].run == "cu"
        and chat.messages[0].reason == "state.json: damaged"
    )
    world.watched(chat, act)  # a restart
    assert len(chat.messages) == 1
    world.store.objects[SPACE.state] = good[:90]
    world.watched(chat, act)
    assert len(chat.messages) == 2
    del world.store.objects[SPACE.state]
    world.watched(chat, lambda watch: watch.failed(NotTrusted("x")))
    assert len(chat.messages) == 3 and chat.messages[2].run == ""


def test_a_trouble_that_comes_again_is_looked_at_again(world: World) -> None:
    chat = Chat()

    def act(watch: Watch) -> None:
        watch.failed(NotTrusted("x"))
        assert chat.entered.wait(20)
        world.poller(watch).tell(Order("pause", "x"))
        watch.failed(NotTrusted("x"))

    world.watched(chat, act, frozenset({"needs_person"}))
    assert chat.kinds == ["needs_person"] * 2


def test_a_run_that_works_elsewhere_for_a_day_needs_a_person(world: World) -> None:
    chat = Chat()

    def act(watch: Watch) -> None:
        state = world.record().load().state
        watch.saw(state)
        assert not watch.waits(state, "it works at there")
        world.days = 1.1
        assert watch.waits(state, "it works at there") and watch.waits(state, "it works at there")

    world.watched(chat, act)
    assert [message.reason for message in chat.messages] == ["nothing has come of it for a day: it works at there"]


def test_a_trouble_that_lasts_costs_no_further_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon has a good step every few seconds while a run works elsewhere."""
    looks: list[str] = []
    notifier = world.notifier(Chat())
    monkeypatch.setattr(notifier, "needs_person", lambda prefix, state, reason: looks.append(reason))
    watch, state = Watch(notifier, "memory://run"), world.record().load().state
    world.days = 2
    for _ in range(3):
        watch.saw(state)
        assert watch.waits(state, "at there")
    assert len(looks) == 1
    notifier.close(20)


def test_a_store_that_cannot_be_opened_stops_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    chat = Chat()

    def opened(prefix: str) -> MemoryStore:
        if prefix == "bad":
            raise StoreError("no credentials")
        return world.store

    notifier = Notifier([chat], ALL, world.redactor, lambda: world.now().timestamp(), opened)
    Watch(notifier, "bad").failed(NotTrusted("x"))
    to_the_end(world, Watch(notifier, "memory://run"))
    notifier.close(20)
    assert "converged" in chat.kinds and notifier.counts["failed"] == 1
    assert "bad: nothing is told of it: no credentials" in caplog.text


def test_a_failure_is_logged_and_counted_and_the_next_message_is_sent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    chat = Chat()
    chat.wrong = "the receiver answered 500 hunter2/hunter2"
    notifier = world.watched(chat, lambda watch: to_the_end(world, watch), frozenset({"converged"}))
    assert notifier.counts == {"sent": 0, "failed": 1, "dropped": 0}
    assert "converged: not sent by chat: the receiver answered 500 ***" in caplog.text


def test_markers_are_no_versions(world: World) -> None:
    """The history's readers pass them by."""
    end = to_the_end(world)
    before = [state.version for state in versions(world.store, end)]
    world.watched(Chat(), world.look)
    assert world.markers() and all(SPACE.version(key) is None for key in world.markers())
    assert [state.version for state in versions(world.store, end)] == before == list(range(end.version - 1, 0, -1))
