"""The S3 store: the contract against real servers, and what only it promises."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import ConfigError, Conflict, StoreAway, StoreError
from statemachine.store import Mirror, Store, open_store, s3, transfer
from statemachine.store.probe import prove
from statemachine.store.s3 import new_client
from tests import servers
from tests.e2e.engines import need

from .store_contract import StoreContract

pytestmark = pytest.mark.usefixtures("aws")
_runs = itertools.count()


@pytest.fixture(scope="module")
def moto() -> Iterator[servers.Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    need("apt-get", "dpkg")
    with servers.ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


def small_pages(server: servers.Server, mirror: Mirror | None = None) -> Store:
    """A store of its own on the server, whose listings come in pages of ten."""
    store: Any = open_store(server.prefix(f"contract/{next(_runs)}"), mirror)
    store._client = new_client(store.place)
    events = store._client.meta.events
    events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 10})
    return store  # type: ignore[no-any-return]


@pytest.fixture
def store(ministack: servers.Server) -> Store:
    return small_pages(ministack)


class S3Contract(StoreContract):
    @pytest.fixture(autouse=True)
    def _small_requests(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where pages are small: requests that delete ten objects each."""
        if self.many < 1000:
            monkeypatch.setattr(s3, "_AT_ONCE", 10)

    def test_the_proof_holds(self, store: Store) -> None:
        prove(store)
        assert list(store.list("")) == []

    @pytest.mark.parametrize("size", [6 << 20, (6 << 20) + 1, 10 << 20])
    def test_a_large_file_goes_up_in_parts(
        self, store: Store, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "WHOLE", 6 << 20)
        monkeypatch.setattr(transfer, "PART", 5 << 20)
        content = os.urandom(1 << 20) * 10
        (tmp_path / "large").write_bytes(content[:size])
        store.publish(tmp_path / "large", "large")
        [entry] = store.list("large")
        assert entry.etag.endswith("-2") == (size > 6 << 20)
        fetched = store.fetch("large", tmp_path / "scratch")
        assert fetched is not None and fetched.read_bytes() == content[:size]


class TestMinistack(S3Contract):
    many = 31


class TestMirrored(S3Contract):
    many = 31

    @pytest.fixture
    def store(self, ministack: servers.Server, tmp_path: Path) -> Store:
        return small_pages(ministack, Mirror(tmp_path / "mirror"))


class TestMoto(S3Contract):
    many = 31
    test_processes_lose_no_increment = None  # type: ignore[assignment]

    @pytest.fixture
    def store(self, moto: servers.Server) -> Store:
        return small_pages(moto)


@pytest.mark.servers
class TestCeph(S3Contract):
    @pytest.fixture
    def store(self, ceph: servers.Server) -> Store:
        return open_store(ceph.prefix(f"contract/{next(_runs)}"))


def test_tags_lose_their_quotes_where_the_store_wants_it_so() -> None:
    """As Ceph does. It is found out once; a refusal that is meant stays one."""
    with servers.moto(quoted=False) as server:
        store: Any = open_store(server.prefix("bare"))
        first = store.put("state", b"1")
        with pytest.raises(Conflict):
            store.put("state", b"2", if_match="0" * 32)
        assert store._tag == '"{}"'
        second = store.put("state", b"2", if_match=first)
        assert store._tag == "{}"
        with pytest.raises(Conflict):
            store.put("state", b"3", if_match=first)
        store.put("state", b"3", if_match=second)
        assert store.get("state").data == b"3"


def test_a_store_that_ignores_conditions_is_refused(tmp_path: Path) -> None:
    with servers.rclone(tmp_path) as server, pytest.raises(ConfigError, match="conditional writes"):
        prove(open_store(server.prefix("run")))


def test_a_run_does_not_begin_in_such_a_store(tmp_path: Path, stub_run: Path, cli: Any) -> None:
    with servers.rclone(tmp_path / "rclone") as server:
        stub_run.write_text(stub_run.read_text().replace("prefix: out", f"prefix: {server.prefix('run')!r}"))
        code, _, errors = cli("init", stub_run)
        assert code == 2 and "overwrites an existing object despite If-None-Match" in errors
        assert "Contents" not in server.client().list_objects_v2(Bucket=server.bucket)


def test_only_conditional_writes_wait_to_be_let_in(store: Any) -> None:
    waits = []
    for client in (store._client, store._once):
        client.meta.events.register(
            "before-send.s3.PutObject", lambda request, **_: waits.append("Expect" in request.headers)
        )
    store.put("a", b"1")
    store.put("b", b"1", if_absent=True)
    assert waits == [False, True]


def test_a_fetch_that_was_interrupted_goes_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        store.put(f"data/{name}", name.encode())
    whole, fetched = transfer.download, []

    def download(client: Any, name: dict[str, str], target: Path, part: Path) -> None:
        if target.name == "c" and not interrupted:
            raise KeyboardInterrupt
        fetched.append(target.name)
        whole(client, name, target, part)

    interrupted: list[bool] = []
    monkeypatch.setattr(transfer, "download", download)
    monkeypatch.setattr(transfer, "parallel", lambda work, items: [work(item) for item in items])
    with pytest.raises(KeyboardInterrupt):
        store.fetch("data", tmp_path)
    interrupted.append(True)
    store.put("data/a", b"A")  # of the same size, but another
    path = store.fetch("data", tmp_path)
    assert fetched == ["a", "b", "a", "c", "d"]
    assert path is not None
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {"a": b"A", "b": b"b", "c": b"c", "d": b"d"}


@pytest.mark.parametrize("key", ["../up", "a/../../up", "./x", "a//b", "back\\slash"])
def test_keys_of_others_do_not_escape(ministack: servers.Server, store: Any, key: str, tmp_path: Path) -> None:
    """They are listed, so that a parser can refuse them, and never joined to a path."""
    whole = f"{store.place.path}/data/{key}"
    ministack.client().put_object(Bucket=ministack.bucket, Key=whole, Body=b"x")
    assert [entry.key for entry in store.list("data/")] == [f"data/{key}"]
    with pytest.raises(StoreError, match="not a usable key"):
        store.fetch("data", tmp_path / "scratch")
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["scratch"])


def test_folder_placeholders_are_no_objects(ministack: servers.Server, store: Any) -> None:
    for key in ("done/", "done/000000.json"):
        ministack.client().put_object(Bucket=ministack.bucket, Key=f"{store.place.path}/{key}", Body=b"")
    assert [entry.key for entry in store.list("")] == ["done/000000.json"]


def test_a_key_that_is_also_a_folder_is_an_error(store: Store, tmp_path: Path) -> None:
    store.put("data/a", b"1")
    store.put("data/a/b", b"2")
    with pytest.raises(StoreError, match="data/a"):
        store.fetch("data", tmp_path)


def test_what_is_wrong_is_said_in_a_line(
    ministack: servers.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="no such bucket") as caught:
        open_store(ministack.prefix("run").replace("s3://runs/", "s3://nothing/")).get("state")
    assert not isinstance(caught.value, StoreAway)
    closed = f"s3://runs/run?endpoint=http://127.0.0.1:{servers.free_port()}"
    with pytest.raises(StoreAway, match=r"cannot write s3://runs/run/state: .*127\.0\.0\.1"):
        open_store(closed).put("state", b"1", if_absent=True)
    with servers.rclone(tmp_path) as server:  # checks signatures
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong")
        with pytest.raises(StoreError, match=r"cannot read s3://runs/run/state: (access denied|the secret)") as caught:
            open_store(server.prefix("run")).get("state")
        assert "wrong-wrong" not in str(caught.value) and not isinstance(caught.value, StoreAway)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="there are no credentials") as caught:
        open_store(ministack.prefix("run")).get("state")
    assert not isinstance(caught.value, StoreAway)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        open_store(ministack.prefix("run")).get("state")


def test_the_secrets_are_those_in_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.secrets() == [servers.SECRET], "an access key that a person chose is a name"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-token")
    assert store.secrets() == [servers.SECRET, "a-session-token"]
