"""Answers that are lost, cut or refused on the way to S3: whoever writes finds out what happened."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from conventions.errors import CommandRefused, Conflict, StoreAway, StoreError
from conventions.space import DataSpace
from operators.pod.claim import ClaimContext, ClaimParams, claim
from operators.pod.s3 import create_object
from statemachine.run.poller import REVOKED
from statemachine.run.record import Record
from statemachine.store import Store, open_store
from tests.doubles import FakeEngine, first_state, poller_of
from tests.servers import Server
from tests.servers.proxy import Proxy, proxy

_runs = itertools.count()
STATE, PLACE = DataSpace.state, first_state().place


@pytest.fixture(scope="module")
def before(ministack: Server) -> Iterator[Proxy]:
    with proxy(ministack) as server:
        yield server


@pytest.fixture
def line(before: Proxy, aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)
    before.faults.clear()
    before.seen.clear()
    yield before
    assert before.faults == []  # each one has happened


@pytest.fixture
def store(line: Proxy) -> Store:
    return open_store(line.prefix(f"fault/{next(_runs)}"))


def test_a_write_whose_answer_is_lost_is_no_conflict(line: Proxy, store: Store) -> None:
    tag = store.put("a", b"1", if_absent=True)
    line.will(("lost", "PUT", "/a"), ("lost", "PUT", "/b"), ("busy", "PUT", "/c"))
    for key, condition in (("a", {"if_match": tag}), ("b", {"if_absent": True}), ("c", {"if_absent": True})):
        with pytest.raises(StoreAway):  # and no conflict
            store.put(key, b"2", **condition)  # type: ignore[arg-type]
    assert [store.get(key).data for key in "ab"] == [b"2", b"2"]
    assert store.head("c") is None
    assert sum(request.startswith("PUT") for request in line.seen) == 4  # none was sent twice


def test_a_conditional_write_that_was_not_decided_is_sent_again(
    line: Proxy, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answer 409 of S3. Taken for a refusal, a claim of nobody would have its owner give up."""
    monkeypatch.setattr("operators.pod.s3.random.random", lambda: -1.0)  # no pause
    tag = store.put("a", b"1", if_absent=True)
    line.will(*[("undecided", "PUT", "/a")] * 2, *[("undecided", "PUT", "/b")] * 4, ("undecided", "PUT", "claim/0"))
    store.put("a", b"2", if_match=tag)
    store.put("b", b"2", if_absent=True)
    assert claim(ClaimParams(store.url, PLACE.claim(0), "uid-1"), ClaimContext()).owner == "uid-1"
    assert [store.get(key).data for key in "ab"] == [b"2", b"2"]
    line.will(*[("undecided", "PUT", "/a")] * 5)
    with pytest.raises(Conflict):  # another writer is busy for long: read again
        store.put("a", b"3", if_match=store.get("a").etag)


def test_a_run_whose_creation_was_not_answered_has_begun(line: Proxy, store: Store) -> None:
    line.will(("lost", "PUT", STATE))
    Record(store).create(first_state())
    with pytest.raises(CommandRefused, match="already"):
        Record(store).create(first_state())


def test_a_creation_that_failed_is_not_called_a_run(line: Proxy, store: Store) -> None:
    line.will(("busy", "PUT", STATE))
    with pytest.raises(StoreError) as caught:
        Record(store).create(first_state())
    assert not isinstance(caught.value, CommandRefused)


@pytest.mark.parametrize("lost", [[STATE], [".json"], [STATE, "00000002.json"]])
def test_a_commit_whose_answers_are_lost_has_won(line: Proxy, store: Store, lost: list[str]) -> None:
    record = Record(store)
    record.create(first_state())
    loaded = record.load()
    line.will(*(("lost", "PUT", end) for end in lost))
    committed = record.commit(loaded, loaded.state.model_copy(update={"at": "label.running"}))
    assert committed is not None and committed.state.version == 2
    assert Record(store).load() == committed
    again = record.commit(committed, committed.state.model_copy(update={"at": "label.submitting"}))
    assert again is not None and again.etag == store.get(STATE).etag
    assert [entry.key for entry in store.list("event/")] == [f"event/0000000{version}.json" for version in (1, 2, 3)]


def test_a_commit_that_failed_on_the_way_is_neither_won_nor_lost(line: Proxy, store: Store) -> None:
    record = Record(store)
    record.create(first_state())
    loaded = record.load()
    line.will(("busy", "PUT", STATE))
    with pytest.raises(StoreError):
        record.commit(loaded, loaded.state)
    assert record.load() == loaded


def test_a_rivals_commit_is_seen_behind_an_unclear_answer(line: Proxy, store: Store) -> None:
    record, rival = Record(store), Record(store)
    record.create(first_state())
    loaded = record.load()
    assert rival.commit(rival.load(), loaded.state.model_copy(update={"at": "label.running"}))
    line.will(("busy", "PUT", STATE))  # as Ceph answers some who lost a race
    assert record.commit(loaded, loaded.state) is None


def test_a_claim_whose_answer_is_lost_is_ours(line: Proxy, store: Store) -> None:
    params = ClaimParams(store.url, PLACE.claim(0), "uid-1")
    line.will(("lost", "PUT", "claim/0"))
    assert claim(params, ClaimContext()).owner == "uid-1"
    assert claim(params, ClaimContext()).owner == "uid-1"  # a repeated pod
    line.will(("busy", "PUT", "claim/0"))
    with pytest.raises(Conflict, match="uid-1"):
        claim(ClaimParams(store.url, PLACE.claim(0), "uid-2"), ClaimContext())
    assert store.get(PLACE.claim(0)).data == b"uid-1"


def test_a_claim_that_could_not_be_taken_says_why(line: Proxy, store: Store) -> None:
    line.will(("busy", "PUT", "claim/0"))
    with pytest.raises(StoreError, match="503"):
        create_object(store.url, PLACE.claim(0), b"uid-1")


def test_a_revocation_whose_answer_is_lost_holds(line: Proxy, store: Store) -> None:
    engine = FakeEngine(store)  # type: ignore[arg-type]
    poller = poller_of(store, engine)
    state = first_state(at="label.running")
    line.will(("lost", "PUT", "claim/0"))
    with pytest.raises(StoreError):
        poller._revoke(state)
    assert poller._revoke(state) is True
    assert store.get(state.place.claim(0)).data == REVOKED


def test_answers_that_break_off_are_read_again(line: Proxy, store: Store, tmp_path: Path) -> None:
    content = bytes(range(256)) * 12_000
    store.put("data/a", content)
    line.will(("cut", "GET", "/a"), ("busy", "GET", "/a"))
    assert store.get("data/a").data == content
    line.seen.clear()
    line.will(("cut", "GET", "/a"), ("cut", "GET", "/a"))
    path = store.fetch("data", tmp_path)
    assert path is not None and (path / "a").read_bytes() == content
    assert [file.name for file in tmp_path.rglob("*")] == ["data", "a"]
    assert sum(request.startswith("GET") and request.endswith("/a") for request in line.seen) == 3


def test_reads_listings_and_plain_writes_are_repeated(line: Proxy, store: Store) -> None:
    line.will(
        ("lost", "PUT", "/a"), ("busy", "PUT", "/a"), ("lost", "HEAD", "/a"), ("busy", "GET", "/runs"),
        ("cut", "GET", "/runs"), ("lost", "DELETE", "/a"),
    )  # fmt: skip
    store.put("a", b"1")
    assert store.head("a") is not None
    assert [entry.key for entry in store.list("")] == ["a"]
    store.delete("a")
    assert store.head("a") is None
