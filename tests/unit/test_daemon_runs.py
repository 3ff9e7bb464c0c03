"""The daemon over runs in memory: a poller each, errors, hints, stopping. The timer is real, waits are for events."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures import wait as wait_for_futures
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from apscheduler.events import EVENT_JOB_SUBMITTED
from apscheduler.schedulers.background import BackgroundScheduler

from conventions.errors import ConfigError, NoRun, NotTrusted, StateError, StoreError
from conventions.state import IterationSummary, State
from statemachine.daemon import daemon as daemon_module
from statemachine.daemon import run as module
from statemachine.daemon.daemon import RATE, THREADS, Daemon, Workers
from statemachine.daemon.schedule import Schedule
from statemachine.engine import Phase, Status
from statemachine.logs import JsonLines, Redactor
from tests.doubles import MemoryStore, first_state

SECRET = "hunter2/hunter2"


class FakePoller:
    """A run whose steps do what a test says; a step without an order changes nothing."""

    def __init__(self) -> None:
        self.away = ""
        self.store = MemoryStore()
        self.store.secrets = lambda: [SECRET]  # type: ignore[method-assign]
        self.status = Status(Phase.running, finished=3, total=10)
        self.state = first_state(at="train.running")
        self.orders: list[Callable[[], None]] = []
        self.opened = self.steps = 0
        self.seen = threading.Semaphore(0)  # released after every step
        self.commit: Callable[[State], None] = lambda state: None

    def step(self) -> State:
        self.steps += 1
        try:
            if self.orders:
                self.orders.pop(0)()
            return self.state
        finally:
            self.seen.release()

    def change(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update={"version": self.state.version + 1, **changes})
        self.commit(self.state)


def fail(error: Exception) -> Callable[[], None]:
    def order() -> None:
        raise error

    return order


@pytest.fixture
def pollers(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakePoller]:
    found = {"a": FakePoller(), "b": FakePoller()}

    def open_poller(prefix: str, on_commit: Any, named: bool) -> FakePoller:
        found[prefix].opened += 1
        found[prefix].commit = on_commit
        return found[prefix]

    monkeypatch.setattr(module, "open_poller", open_poller)
    return found


@pytest.fixture
def make(pollers: dict[str, FakePoller]) -> Iterator[Callable[..., Daemon]]:
    made = []

    def start(interval: float = 3600, **options: Any) -> Daemon:
        made.append(Daemon(list(pollers), interval, Redactor(), **options))
        made[0].open()
        made[0].start()
        return made[0]

    yield start
    assert not made or made[0].stop() == []


def wait(poller: FakePoller, steps: int = 1) -> None:
    for _ in range(steps):
        assert poller.seen.acquire(timeout=20)


def test_one_poller_is_kept_for_all_steps(make: Callable[..., Daemon], pollers: dict[str, FakePoller]) -> None:
    make(0.001)
    wait(pollers["a"], 50)  # and the timer never forgets a run, however quick its steps are
    assert pollers["a"].opened == 1


def test_a_run_with_errors_goes_on_by_itself_and_stops_no_other(
    make: Callable[..., Daemon], pollers: dict[str, FakePoller], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pollers.values()
    a.orders = [fail(StoreError(f"no answer\nfrom {SECRET}")), fail(KeyError("x")), lambda: a.change(at="converged")]
    b.orders = [lambda: None] * 2 + [lambda: b.change(at="failed")]
    daemon = make(0.01)
    assert daemon.all_ended.wait(20)
    assert (a.opened, b.opened) == (3, 1)
    run = daemon.runs[0]
    assert (run.steps, run.failures, run.transitions, run.error) == (3, 2, 1, "")
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert lines == ["a: no answer; from ***; next try in 0.0 s", "a: KeyError: 'x'; next try in 0.0 s"]


def test_an_end_that_the_history_does_not_know_yet_is_none(
    make: Callable[..., Daemon], pollers: dict[str, FakePoller]
) -> None:
    """The state is swapped, and then the store refuses its last version: the next step has to keep it."""
    a, b = pollers.values()

    def half() -> None:
        a.change(at="converged")
        raise StoreError("away")

    a.orders = [half]
    b.orders = [lambda: b.change(at="converged")]
    daemon = make(0.01)
    assert daemon.all_ended.wait(20)
    assert a.steps == 2 and daemon.runs[0].error == ""


def test_a_run_backs_off_and_a_hint_calls_it_back(
    make: Callable[..., Daemon], pollers: dict[str, FakePoller], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    a, b = pollers.values()
    a.orders = [fail(StoreError("away"))]
    daemon = make(100)
    wait(a)
    wait(b)
    daemon.stop(0)
    assert "a: away; next try in 200.0 s" in caplog.text
    assert "a: away" in daemon.not_ready() and "b" not in daemon.not_ready()


def test_hints_look_again_until_the_state_changes(make: Callable[..., Daemon], pollers: dict[str, FakePoller]) -> None:
    a, b = pollers.values()
    daemon = make()
    wait(a), wait(b)
    a.orders = [lambda: None, lambda: a.change(at="explore.submitting")]
    daemon.hint("cu")
    wait(a, 2)
    wait(b, 3)  # its state does not change: the looks go on
    assert a.steps == 3


@pytest.mark.parametrize("name", ["ag", "ag-11111111", "ag-11111111-000007-select-a3"])
def test_a_hint_wakes_the_run_that_it_names(
    make: Callable[..., Daemon], pollers: dict[str, FakePoller], name: str
) -> None:
    a, b = pollers.values()
    b.state = first_state(at="train.running", run="ag", run_uid="1" * 32)
    daemon = make()
    wait(a), wait(b)
    daemon.hint(name)
    wait(b, 2)
    assert a.steps == 1


def test_a_name_that_no_run_has_wakes_only_those_that_could_not_be_read(
    make: Callable[..., Daemon], pollers: dict[str, FakePoller]
) -> None:
    a, b = pollers.values()
    a.orders = [fail(StoreError("away"))]
    daemon = make()
    wait(a), wait(b)
    for name in ("ag", "c", "cu-0000000", "cu-11111111-000000-train-a0"):
        daemon.hint(name)
    wait(a)
    assert b.steps == 1 and not daemon.runs[1].schedule.gaps


def test_a_hint_during_a_step_is_not_lost(make: Callable[..., Daemon], pollers: dict[str, FakePoller]) -> None:
    a = pollers["a"]
    entered, go = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        assert go.wait(20)
        a.change(at="explore.running")

    a.orders = [slow]
    daemon = make()
    assert entered.wait(20)
    daemon.hint()
    go.set()
    wait(a, 2)


def test_targets_that_are_wrong_are_refused_and_stores_that_are_away_are_not(
    pollers: dict[str, FakePoller], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: dict[str, Exception] = {"a": StoreError("connection refused"), "b": StateError("damaged")}

    def open_poller(prefix: str, on_commit: Any, named: bool) -> None:
        raise errors[prefix]

    monkeypatch.setattr(module, "open_poller", open_poller)
    with pytest.raises(StateError, match="damaged"):
        Daemon(["a", "b"], 1, Redactor()).open()
    errors["b"] = ConfigError("unknown")
    with pytest.raises(ConfigError, match="unknown"):
        Daemon(["a", "b"], 1, Redactor()).open()
    errors["b"] = NotTrusted("another engine")  # a person may trust it meanwhile; the others go on
    Daemon(["a", "b"], 1, Redactor()).open()
    daemon = Daemon(["a"], 1, Redactor())
    daemon.open()
    assert daemon.not_ready() == "a: connection refused"


def test_a_daemon_that_stays_waits_for_a_run_to_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_poller(prefix: str, on_commit: Any, named: bool) -> None:
        raise NoRun("there is no run")

    monkeypatch.setattr(module, "open_poller", open_poller)
    with pytest.raises(NoRun):
        Daemon(["a"], 1, Redactor()).open()
    daemon = Daemon(["a"], 1, Redactor(), stay=True)
    daemon.open()
    assert daemon.not_ready() == "a: there is no run"


def test_a_step_that_does_not_end(pollers: dict[str, FakePoller]) -> None:
    a, b = pollers.values()
    now, entered, go = [0.0], threading.Event(), threading.Event()

    def hangs() -> None:
        entered.set()
        assert go.wait(20)

    a.orders = [hangs]
    daemon = Daemon(list(pollers), 100, Redactor(), clock=lambda: now[0])
    daemon.open()
    daemon.start()
    assert entered.wait(20)
    wait(b)  # it holds up no other
    now[0] = 1000.0
    assert daemon.stuck() == ""
    now[0] = 1001.0
    assert daemon.stuck() == "a: a step has been running for 1001 s"
    assert daemon.stop(0) == ["a"]
    go.set()
    assert daemon.stop() == [] and a.steps == 1


def test_a_daemon_that_is_stopped_while_its_timer_fires_ends_without_a_traceback(
    pollers: dict[str, FakePoller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer starts a look, and then removes its job, which it must find although it is being shut down."""
    fired, stopping, go, died = threading.Event(), threading.Event(), threading.Event(), list[str]()
    submit_job, remove_all_jobs = Workers.submit_job, BackgroundScheduler.remove_all_jobs

    def fire(self: Workers, job: Any, times: Any) -> None:
        submit_job(self, job, times)
        fired.set()
        while daemon._scheduler.running and not stopping.wait(0.01):
            pass

    def empty(self: BackgroundScheduler) -> None:
        stopping.set()
        remove_all_jobs(self)

    monkeypatch.setattr(Workers, "submit_job", fire)
    monkeypatch.setattr(BackgroundScheduler, "remove_all_jobs", empty)
    monkeypatch.setattr(threading, "excepthook", lambda failure: died.append(repr(failure.exc_value)))

    def held() -> None:  # a look that ends sets the timer again, and would wait for it
        assert go.wait(20)

    for poller in pollers.values():
        poller.orders = [held]
    daemon = Daemon(list(pollers), 3600, Redactor())
    monkeypatch.setattr(daemon._scheduler, "start", partial(daemon._scheduler.start, paused=True))
    daemon.open()
    daemon.start()
    daemon._scheduler.resume()
    assert fired.wait(20)
    daemon.stop(0)
    go.set()
    assert daemon.stop() == []
    assert died == []


def many(monkeypatch: pytest.MonkeyPatch, prefixes: list[str], open_one: Callable[[str], FakePoller]) -> Daemon:
    monkeypatch.setattr(module, "open_poller", lambda prefix, on_commit, named: open_one(prefix))
    return Daemon(prefixes, 3600, Redactor(), clock=lambda: 100.0)


def test_a_hint_without_a_name_is_spread_out(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = many(monkeypatch, [f"file:///{number}" for number in range(100)], lambda prefix: FakePoller())
    monkeypatch.setattr(daemon._scheduler, "start", partial(daemon._scheduler.start, paused=True))
    daemon.start()
    for run in daemon.runs:
        run.schedule = Schedule(3600, due=5000.0)
    daemon._free = 0.0
    daemon.hint()
    due = [run.schedule.due for run in daemon.runs]
    assert due[0] == 100 and due == sorted(due)
    assert [later - earlier for earlier, later in pairwise(due)] == pytest.approx([1 / RATE] * 99)
    for _ in range(100):
        daemon.hint()  # the looks to come serve this one too
    assert due == [run.schedule.due for run in daemon.runs]
    assert len(daemon._scheduler.get_jobs()) == 100
    daemon.stop(0)


def test_a_store_that_hangs_takes_its_own_threads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    go, inside, most, lock = threading.Event(), [0], [0], threading.Lock()

    def hang() -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        assert go.wait(20)
        with lock:
            inside[0] -= 1

    hanging = {f"s3://b/{number}?endpoint=http://h": FakePoller() for number in range(3 * THREADS)}
    for poller in hanging.values():
        poller.orders = [hang]
    other = FakePoller()
    daemon = many(monkeypatch, [*hanging, "s3://b/other"], lambda prefix: hanging.get(prefix, other))
    fired = threading.Semaphore(0)
    daemon._scheduler.add_listener(lambda event: fired.release(), EVENT_JOB_SUBMITTED)
    daemon.open()
    daemon.start()
    for _ in daemon.runs:
        assert fired.acquire(timeout=20)
    wait(other)
    with daemon._changed:  # those that wait for a thread: the timer is not blamed for them, nor set again
        daemon._changed.wait_for(lambda: daemon.runs[-1].begun is None, 20)
        for run in daemon.runs[:-1]:
            run.schedule = replace(run.schedule, due=-10_000.0)
    daemon.catch_up()
    assert daemon.stuck() == "" and len(daemon._scheduler.get_jobs()) == 1
    go.set()
    for poller in hanging.values():
        wait(poller)
    assert most[0] == THREADS
    assert daemon.stop() == []


def test_opening_takes_few_threads_and_waits_for_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_module, "OPENING", 0.0)
    go = threading.Event()

    def hang(prefix: str) -> FakePoller:
        assert go.wait(20)
        return FakePoller()

    daemon = many(monkeypatch, [f"file:///{number}" for number in range(2 * THREADS)], hang)
    daemon.open()
    go.set()
    reasons = [line.partition(": ")[2] for line in daemon.not_ready().splitlines()]
    assert reasons == ["no answer in 0 s"] * THREADS + ["not checked yet"] * THREADS


def test_a_wrong_target_is_refused_however_many_come_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each store that answers gives the runs that wait for their turn more time."""
    last, answers = f"file:///{4 * THREADS}", threading.Semaphore(0)

    def open_one(prefix: str) -> FakePoller:
        assert answers.acquire(timeout=20)
        if prefix == last:
            raise ConfigError("unknown")
        return FakePoller()

    def one_answer(pending: Any, seconds: float, when: str = "") -> Any:
        answers.release()
        return wait_for_futures(pending, 20, FIRST_COMPLETED)

    monkeypatch.setattr(daemon_module, "wait", one_answer)
    with pytest.raises(ConfigError, match="unknown"):
        many(monkeypatch, [f"file:///{number}" for number in range(4 * THREADS + 1)], open_one).open()


def test_a_timer_that_has_stopped(pollers: dict[str, FakePoller]) -> None:
    now = [0.0]
    daemon = Daemon(list(pollers), 1, Redactor(), clock=lambda: now[0])
    assert daemon.stuck() == ""
    now[0] = 601.0
    assert "the timer has stopped" in daemon.stuck()


def test_a_daemon_that_stays_takes_up_a_run_that_was_resumed(
    make: Callable[..., Daemon], pollers: dict[str, FakePoller]
) -> None:
    a, b = pollers.values()
    a.state = b.state = first_state(at="failed")
    daemon = make(stay=True)
    wait(a), wait(b)
    daemon.hint()
    wait(a), wait(b)
    assert not daemon.all_ended.is_set() and daemon.not_ready() == ""


def test_what_is_known_of_a_run(make: Callable[..., Daemon], pollers: dict[str, FakePoller]) -> None:
    a, b = pollers.values()
    rows = [IterationSummary(iteration=0, figures={"labelled": 3.0, "cpu_hours": 1.5})]
    a.state, b.state = first_state(at="train.running", trail=rows), first_state(at="converged")
    daemon = make(0.01)
    wait(b), wait(a, 2)
    assert daemon.runs[0].totals == {"labelled": 3.0, "cpu_hours": 1.5}
    assert daemon.runs[0].jobs == (3, 10) and daemon.runs[1].jobs is None
    assert b.steps == 1


def line(message: str, redactor: Redactor, *args: object, **extra: Any) -> str:
    record = logging.LogRecord("x", logging.INFO, "f", 1, message, args, None)
    record.__dict__.update(extra)
    assert redactor.filter(record)
    return JsonLines().format(record)


def test_json_lines() -> None:
    found = json.loads(line("%s läuft\n%d", Redactor(), "es", 7, run="cu", iteration=3, other="x"))
    assert found.pop("time").endswith("+00:00")
    assert found == {"level": "info", "message": "es läuft\n7", "run": "cu", "iteration": 3}


def test_no_secret_is_logged() -> None:
    redactor = Redactor(["", 'quo"te', "long" * 4, "long" * 8])
    redactor.hide([SECRET])
    text = line("%s", redactor, f'{SECRET} hunter2%2Fhunter2 quo"te {"long" * 8}')
    assert json.loads(text)["message"] == "*** *** *** ***"
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        record = logging.LogRecord("x", 40, "f", 1, "m", (), (ValueError, error, error.__traceback__))
    redactor.filter(record)
    assert SECRET not in logging.Formatter().format(record) + JsonLines().format(record)
    assert "ValueError: ***" in JsonLines().format(record)


def test_a_wall_clock_that_is_set_back_holds_up_no_look(
    make: Callable[..., Daemon], pollers: dict[str, FakePoller]
) -> None:
    """The timer goes by the wall clock; here only the clock that counts seconds goes on."""
    now = [0.0]
    daemon = make(interval=10, clock=lambda: now[0])
    with daemon._changed:
        daemon._changed.wait_for(lambda: all(run.schedule.due == 10 and run.begun is None for run in daemon.runs), 20)
    daemon.catch_up()
    now[0] = 12
    daemon.catch_up()
    for poller in pollers.values():
        assert poller.seen.acquire(timeout=20) and poller.seen.acquire(timeout=20)
        assert poller.steps == 2
