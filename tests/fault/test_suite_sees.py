"""The suite can see: its own tests, on stores, engines and pollers that are broken on purpose, fail.

Each broken thing is named with the test that sees it; the same test passes on the thing as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conventions.documents import StageReport
from conventions.errors import ConfigError, NotFound
from conventions.state import State
from statemachine.engine import Phase, Status
from statemachine.engine.local import LocalEngine
from statemachine.run.poller import Poller
from statemachine.run.record import Record
from statemachine.store import Blob, Entry, open_store
from statemachine.store.file import FileStore
from statemachine.store.probe import prove
from statemachine.store.race import race
from tests import servers
from tests.contract.engine_contract import EngineContract
from tests.contract.store_contract import StoreContract
from tests.doubles import FakeEngine, MemoryStore, first_state
from tests.fault import test_crashes as crashes
from tests.figures import Figures


def fails(test: Callable[..., None], *arguments: Any) -> bool:
    """Does a test fail? What it raises counts as in pytest."""
    try:
        test(*arguments)
    except (Exception, pytest.fail.Exception):
        return True
    return False


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads change places as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


# --- stores -------------------------------------------------------------------------------------------------------


class IgnoresMatch(MemoryStore):
    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return super().put(key, data, if_absent=if_absent)


class IgnoresAbsent(MemoryStore):
    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return super().put(key, data, if_match=if_match)


class CreatesBySwap(MemoryStore):
    """A swap of nothing makes something."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return super().put(key, data, if_absent=if_absent, if_match=if_match if key in self.objects else None)


class RefusesRightTags(MemoryStore):
    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        return super().put(key, data, if_absent=if_absent, if_match=None if if_match is None else f'"{if_match}"')


class WritesAndRefuses(MemoryStore):
    """A refusal that was applied all the same."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        before = super().put
        try:
            return before(key, data, if_absent=if_absent, if_match=if_match)
        finally:
            self.objects[key] = data


class Loses(MemoryStore):
    """Every second write is answered and not kept."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        kept = dict(self.objects)
        tag = super().put(key, data, if_absent=if_absent, if_match=if_match)
        if next(self.__dict__.setdefault("writes", itertools.count())) % 2:
            self.objects = kept
        return tag


class ReadsTheOld(MemoryStore):
    """The first read after a write sees what was there before."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        old = self.objects.get(key)
        tag = super().put(key, data, if_absent=if_absent, if_match=if_match)
        self.__dict__.setdefault("old", {})[key] = old
        return tag

    def get(self, key: str) -> Blob:
        old = self.__dict__.get("old", {}).pop(key, None)
        return Blob(old, hashlib.sha256(old).hexdigest()) if old is not None else super().get(key)


class ForgetsInListings(MemoryStore):
    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(list(super().list(prefix))[:-1])


class ListsUnsorted(MemoryStore):
    def list(self, prefix: str) -> Iterator[Entry]:
        return iter(list(super().list(prefix))[::-1])


class ListsSiblings(MemoryStore):
    """A prefix runs into its siblings."""

    def list(self, prefix: str) -> Iterator[Entry]:
        return super().list(prefix.rstrip("/"))


class KeepsDeleted(MemoryStore):
    def delete(self, key: str) -> None:
        pass


class EscapesByKeys(MemoryStore):
    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        self.objects[key] = data
        return hashlib.sha256(data).hexdigest()


Contract = StoreContract()
STORES: list[tuple[type[MemoryStore], Callable[..., None], tuple[Any, ...]]] = [
    (IgnoresMatch, Contract.test_swap_needs_the_present_tag, ()),
    (IgnoresAbsent, Contract.test_create_happens_once, ()),
    (CreatesBySwap, Contract.test_swap_of_nothing_is_refused, ()),
    (RefusesRightTags, Contract.test_swap_needs_the_present_tag, ()),
    (WritesAndRefuses, Contract.test_create_happens_once, ()),
    (WritesAndRefuses, Contract.test_swap_needs_the_present_tag, ()),
    (Loses, Contract.test_get_returns_what_put_wrote, ()),
    (ReadsTheOld, Contract.test_get_returns_what_put_wrote, ()),
    (ForgetsInListings, Contract.test_list_is_sorted_and_complete_and_by_prefix, ()),
    (ListsUnsorted, Contract.test_list_is_sorted_and_complete_and_by_prefix, ()),
    (ListsSiblings, Contract.test_list_is_sorted_and_complete_and_by_prefix, ()),
    (KeepsDeleted, Contract.test_copy_and_delete, ()),
    (EscapesByKeys, Contract.test_keys_that_could_escape_are_refused, ("a/../b",)),
]


def test_broken_stores_fail_the_contract(figure: Figures) -> None:
    for broken, test, more in STORES:
        assert fails(test, broken(), *more), f"{test.__name__} does not see {broken.__name__}"
        assert not fails(test, MemoryStore(), *more), test.__name__
    figure("the suite can see: broken stores that fail the contract", len({broken for broken, *_ in STORES}))


@pytest.mark.parametrize("broken", [IgnoresMatch, IgnoresAbsent, RefusesRightTags, WritesAndRefuses, Loses])
def test_broken_stores_are_refused_at_init(broken: type[MemoryStore]) -> None:
    prove(MemoryStore())
    with pytest.raises((ConfigError, NotFound)):
        prove(broken())


def test_a_server_that_ignores_conditions_fails_the_contract_and_the_proof(
    tmp_path: Path, aws: None, figure: Figures
) -> None:
    with servers.rclone(tmp_path) as server:
        tests = [Contract.test_create_happens_once, Contract.test_swap_needs_the_present_tag]
        tests += [Contract.test_swap_of_nothing_is_refused, Contract.test_of_many_creators_one_wins]
        seen = [
            test.__name__ for number, test in enumerate(tests) if fails(test, open_store(server.prefix(f"{number}")))
        ]
        assert seen == [test.__name__ for test in tests]
        assert not fails(Contract.test_get_returns_what_put_wrote, open_store(server.prefix("plain")))
        with pytest.raises(ConfigError, match="conditional writes"):
            prove(open_store(server.prefix("run")))
    figure("the suite can see: contract tests that fail on a server that ignores conditions", len(tests))


class NoLock(FileStore):
    """It checks, and then writes."""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Callable[[], None]]:
        self.root.mkdir(parents=True, exist_ok=True)
        yield lambda: None


def test_a_store_without_its_lock_fails_the_races(tmp_path: Path, hurried: None) -> None:
    rounds = itertools.count()

    def seen(test: Callable[..., None], kind: type[FileStore]) -> bool:
        return any(fails(test, kind.of(tmp_path / f"{next(rounds)}")) for _ in range(20))

    for test in (Contract.test_of_many_creators_one_wins, Contract.test_concurrent_swaps_lose_no_increment):
        assert seen(test, NoLock), test.__name__
    assert not fails(Contract.test_concurrent_swaps_lose_no_increment, FileStore.of(tmp_path / "whole"))


@pytest.mark.slow
def test_a_server_without_its_lock_fails_the_race(aws: None, hurried: None) -> None:
    """moto checks and then writes, as it is: the lock that the tests put around it is what makes it a store."""
    with servers.moto(atomic=False) as server:
        prove(open_store(server.prefix("calm")))  # one after the other it is right: only a race can see
        verdicts = (race(open_store(server.prefix(f"{n}")), writers=8, rounds=10, swaps=5) for n in range(30))
        assert any(not verdict.atomic for verdict in verdicts)


def test_two_pollers_on_a_server_without_its_lock_never_both_win(aws: None) -> None:
    """The very interleaving: both swaps are checked before one of them is written. The history has one of them only."""
    from moto.s3.models import S3Backend

    both, kept = threading.Barrier(2), threading.Event()
    usual = S3Backend.put_object

    def late(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "state.json" in str(args):
            with contextlib.suppress(threading.BrokenBarrierError):
                if both.wait(5):
                    kept.wait(5)  # its own version comes second: also that write would be checked too early
        done = usual(self, *args, **kwargs)
        if "event/00000002" in str(args):
            kept.set()
        return done

    def winners(atomic: bool) -> int:
        with servers.moto(atomic=atomic) as server, pytest.MonkeyPatch.context() as patch:
            store = open_store(server.prefix(f"run{atomic}"))
            Record(store).create(first_state())
            if not atomic:
                patch.setattr(S3Backend, "put_object", late)
            won: list[object] = []

            def swap(hold: bool) -> None:
                record = Record(open_store(store.url))
                before = record.load(verify=False)
                ready.wait(10)
                won.append(record.commit(before, before.state.model_copy(update={"hold": hold})))

            ready = threading.Barrier(2)
            threads = [threading.Thread(target=swap, args=(hold,)) for hold in (True, False)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return sum(each is not None for each in won)

    assert winners(atomic=True) == 1
    assert winners(atomic=False) <= 1


# --- engines ------------------------------------------------------------------------------------------------------


class ForgetsNames(LocalEngine):
    """The same name is accepted again."""

    def submit(self, manifest: dict[str, Any]) -> bool:
        folder = self._folder(manifest["metadata"]["name"])
        if folder.exists():
            self.wait(manifest["metadata"]["name"], 60)  # or it might be caught before it has done anything
            folder.rename(folder.with_name(f".forgotten-{len(list(folder.parent.iterdir()))}"))
        return super().submit(manifest)


class TakesAnySpecification(LocalEngine):
    def _exists(self, name: str, manifest: dict[str, Any]) -> bool:
        return False


class CallsTheDeadRunning(LocalEngine):
    def status(self, name: str) -> Status:
        found = super().status(name)
        return Status(Phase.running) if found.phase in (Phase.failed, Phase.gone) else found


class CallsTheRunningGone(LocalEngine):
    def status(self, name: str) -> Status:
        found = super().status(name)
        return Status(Phase.gone) if found.phase is Phase.running else found


class RunsTwice(LocalEngine):
    def submit(self, manifest: dict[str, Any]) -> bool:
        name = manifest["metadata"]["name"]
        if super().submit(manifest):
            super().submit({**manifest, "metadata": {**manifest["metadata"], "name": f"{name}-again"}})
            self.wait(f"{name}-again", 60)
            return True
        return False


class NeverStops(LocalEngine):
    def terminate(self, name: str) -> None:
        pass

    def wait(self, name: str, seconds: float) -> None:
        super().wait(name, min(seconds, 1))


class FailsInSilence(LocalEngine):
    def explain(self, name: str) -> str:
        return ""


class KeepsNames(LocalEngine):
    def delete(self, name: str) -> None:
        pass


Workflows = EngineContract()
ENGINES: list[tuple[type[LocalEngine], Callable[..., None], str]] = [
    (ForgetsNames, Workflows.test_the_same_submission_again_is_the_same_workflow, "engine"),
    (ForgetsNames, Workflows.test_every_job_runs_once, "engine tmp_path"),
    (TakesAnySpecification, Workflows.test_another_specification_under_the_name_is_an_error, "engine"),
    (CallsTheDeadRunning, Workflows.test_an_unknown_workflow_is_gone, "engine"),
    (CallsTheRunningGone, Workflows.test_terminate_ends_it_and_is_repeatable, "engine"),
    (RunsTwice, Workflows.test_every_job_runs_once, "engine tmp_path"),
    (NeverStops, Workflows.test_terminate_ends_it_and_is_repeatable, "engine"),
    (FailsInSilence, Workflows.test_a_failed_reduce_fails_the_workflow_and_says_why, "engine"),
    (KeepsNames, Workflows.test_delete_frees_the_name, "engine"),
]


@pytest.mark.slow
def test_broken_engines_fail_the_contract(tmp_path: Path, figure: Figures) -> None:
    number = itertools.count()

    def seen(kind: type[LocalEngine], test: Callable[..., None], wanted: str) -> bool:
        root = tmp_path / str(next(number))
        store = FileStore.of(root / "store")
        engine = kind(root / "engine", store.url, slots=2)
        root.mkdir(parents=True)
        given: dict[str, Any] = {"engine": engine, "store": store, "tmp_path": root}
        try:
            return fails(test, *(given[name] for name in wanted.split()))
        finally:
            for folder in (root / "engine" / "workflow").glob("*"):
                if (folder / "settings.json").exists():
                    engine._kill(folder)

    for broken, test, wanted in ENGINES:
        assert seen(broken, test, wanted), f"{test.__name__} does not see {broken.__name__}"
    for test, wanted in {test: wanted for _, test, wanted in ENGINES}.items():
        assert not seen(LocalEngine, test, wanted), test.__name__
    figure("the suite can see: broken engines that fail the contract", len({broken for broken, *_ in ENGINES}))


# --- pollers ------------------------------------------------------------------------------------------------------

# An engine that forgets names does them no harm: there are claims.


def no_history(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Record, "keep", lambda self, version, data: None)


def names_of_chance(patch: pytest.MonkeyPatch) -> None:
    count = itertools.count()
    patch.setattr(State, "workflow", property(lambda state: f"{state.stage}-{next(count)}"))


def no_swap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(crashes, "MemoryStore", IgnoresMatch)


def no_claim(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(crashes, "MemoryStore", IgnoresAbsent)


def no_intent(patch: pytest.MonkeyPatch) -> None:
    """Running is written down before the workflow is submitted."""
    usual = Poller._act

    def act(self: Poller, action: Any, state: State, seen: Any) -> Any:
        if action.name == "SUBMIT":
            later.append(self.submission.prepare(state).manifest)
            return replace(seen, submitted=True)
        while later:
            self.engine.submit(later.pop(0))
        return usual(self, action, state, seen)

    later: list[Any] = []
    patch.setattr(Poller, "_act", act)


def reports_unread(patch: pytest.MonkeyPatch) -> None:
    """A report is believed whatever has arrived of its files."""
    patch.setattr(Poller, "_report", lambda self, state: StageReport.load(self.store.get(state.place.report).data))


def takes_for(patch: pytest.MonkeyPatch, phase: Phase, other: Phase) -> None:
    """The engine calls every workflow of one phase one of another."""
    usual = FakeEngine.status

    def status(self: FakeEngine, name: str) -> Status:
        found = usual(self, name)
        return Status(other) if found.phase is phase else found

    patch.setattr(FakeEngine, "status", status)


def calls_the_dead_running(patch: pytest.MonkeyPatch) -> None:
    takes_for(patch, Phase.gone, Phase.running)


def calls_the_running_gone(patch: pytest.MonkeyPatch) -> None:
    takes_for(patch, Phase.running, Phase.gone)


def runs_twice(patch: pytest.MonkeyPatch) -> None:
    usual = FakeEngine._body

    def body(self: FakeEngine, state: State) -> Phase:
        usual(self, state)
        self.store.delete(state.place.claim(state.attempt))
        return usual(self, state)

    patch.setattr(FakeEngine, "_body", body)


def at_any_point() -> None:
    for after in (False, True):
        crashes.test_a_crash_at_any_point_changes_nothing(after)


POLLERS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (no_swap, crashes.test_a_poller_that_slept_before_its_swap_has_lost),
    (no_claim, crashes.test_a_poller_that_slept_cannot_start_finished_work_again),
    (no_history, at_any_point),
    (names_of_chance, at_any_point),
    (no_intent, at_any_point),
    (reports_unread, crashes.test_a_stage_whose_product_did_not_arrive_is_repeated),
    (calls_the_dead_running, crashes.test_a_workflow_that_dies_is_followed_by_a_new_attempt),
    (calls_the_running_gone, at_any_point),
    (runs_twice, at_any_point),
]


@pytest.mark.parametrize(("breaking", "test"), POLLERS, ids=[f"{b.__name__}-{t.__name__}" for b, t in POLLERS])
def test_a_broken_poller_fails_the_crash_tests(
    breaking: Callable[[pytest.MonkeyPatch], None], test: Callable[[], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        breaking(patch)
        assert fails(test), f"{test.__name__} does not see {breaking.__name__}"


def test_how_many_broken_pollers_were_tried(figure: Figures) -> None:
    figure("the suite can see: broken pollers and records that fail the crash tests", len({b for b, _ in POLLERS}))
