"""The race tells a store that is atomic from one that is not."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import Conflict, StoreError
from statemachine.run.doctor import race_check
from statemachine.store import Blob, open_store
from statemachine.store import race as module
from statemachine.store.file import FileStore
from statemachine.store.probe import prove
from statemachine.store.race import race
from tests import servers
from tests.conftest import Cli
from tests.e2e.engines import need


class Careless(FileStore):
    """Every creator wins; each third swap is acknowledged and not done."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        if if_match and next(self.__dict__.setdefault("swaps", itertools.count())) % 3 == 0:
            return ""
        return super().put(key, data, if_match=if_match)


class Forgetful(FileStore):
    """Each third conditional write is applied, or not, and then not answered."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        number = next(self.__dict__.setdefault("numbers", itertools.count()))
        if (if_absent or if_match) and number % 6 == 0:
            raise StoreError("not applied")
        tag = super().put(key, data, if_absent=if_absent, if_match=if_match)
        if (if_absent or if_match) and number % 6 == 3:
            raise StoreError("applied, but not answered")
        return tag


def test_a_store_that_is_not_atomic_is_caught(tmp_path: Path) -> None:
    verdict = race(Careless.of(tmp_path), writers=2, rounds=3, swaps=4)
    assert not verdict.atomic
    assert (verdict.rounds, verdict.won_twice, verdict.swaps) == (3, 3, 8)
    assert verdict.lost >= 3


class Torn(FileStore):
    """Reads see half of what was written."""

    def get(self, key: str) -> Blob:
        blob = super().get(key)
        return Blob(blob.data[: len(blob.data) // 2], blob.etag)


def test_reads_of_half_a_write_are_caught(tmp_path: Path) -> None:
    verdict = race(Torn.of(tmp_path), writers=2, rounds=1, swaps=1)
    assert not verdict.atomic and verdict.torn == 2


def test_an_atomic_store_passes_and_is_left_clean(tmp_path: Path) -> None:
    store = FileStore.of(tmp_path)
    done: list[tuple[int, int]] = []
    verdict = race(store, lambda *progress: done.append(progress), writers=4, rounds=5, swaps=3)
    assert verdict.atomic
    assert str(verdict) == ("4 writers: 5 races to create, 0 with more than one winner; 12 swaps acknowledged, 0 lost")
    assert sorted(done) == [(number, 17) for number in range(1, 18)]
    assert list(store.list("")) == []


def test_answers_that_are_missing_are_no_fault(tmp_path: Path) -> None:
    verdict = race(Forgetful.of(tmp_path), writers=3, rounds=6, swaps=4)
    assert verdict.atomic and verdict.unclear


def test_the_doctor_races_on_demand(stub_run: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "statemachine.run.doctor.race", lambda store, progress: race(store, progress, rounds=2, swaps=1)
    )
    monkeypatch.setattr("shutil.which", lambda program, path: f"/bin/{program}")
    code, output, _ = cli("doctor", stub_run, "--race", "--json")
    assert code == 0 and json.loads(output)[-1]["what"] == "race"
    broken = lambda store, progress: race(Careless.of(tmp_path / "x"), progress, writers=2, rounds=2, swaps=1)  # noqa: E731
    monkeypatch.setattr("statemachine.run.doctor.race", broken)
    code, output, _ = cli("doctor", stub_run, "--race")
    assert code == 1 and "2 with more than one winner" in output and "not atomic" in output
    code, _, errors = cli("doctor", "--race")
    assert code == 2 and "name the RUN" in errors


class Refusing(FileStore):
    """Replaces nothing, whatever the tag."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        if if_match is not None:
            raise Conflict(key)
        return super().put(key, data, if_absent=if_absent)


def test_there_is_no_race_where_nobody_can_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statemachine.run.doctor.open_store", lambda url: Refusing(url))
    check = race_check(str(tmp_path), lambda done, total: None)
    assert not check.good and "refuses to replace an unchanged object with If-Match" in check.detail


@pytest.mark.servers
@pytest.mark.usefixtures("aws")
def test_ministack_and_ceph_are_atomic(ministack: servers.Server, tmp_path: Path) -> None:
    need("apt-get", "dpkg")
    assert race(open_store(ministack.prefix("race")), rounds=20, swaps=4).atomic
    with servers.ceph(tmp_path) as ceph:
        assert race(open_store(ceph.prefix("race")), rounds=20, swaps=4).atomic


@pytest.mark.servers
@pytest.mark.usefixtures("aws")
def test_moto_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as AWS does, so that only a race shows it. Threads are switched often, to see it sooner."""
    monkeypatch.setattr(module, "_SIZES", (500_000, 1_000_000))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with servers.moto(atomic=False) as server:
            store: Any = open_store(server.prefix("race"))
            prove(store)
            assert any(not race(store, rounds=30, swaps=3).atomic for _ in range(10))
    finally:
        sys.setswitchinterval(before)
