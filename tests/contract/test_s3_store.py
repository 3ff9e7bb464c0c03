"""The S3 store: the contract against real servers, and what only it promises."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from conventions.errors import ConfigError
from statemachine.store import Store, open_store
from tests import servers

from .store_contract import StoreContract

_runs = itertools.count()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.ministack(tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[servers.Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


class TestMinistack(StoreContract):
    @pytest.fixture
    def store(self, ministack: servers.Server) -> Store:
        return open_store(ministack.prefix(f"contract/{next(_runs)}"))


class TestMoto(StoreContract):
    @pytest.fixture
    def store(self, moto: servers.Server) -> Store:
        return open_store(moto.prefix(f"contract/{next(_runs)}"))


def test_a_store_that_ignores_conditions_is_refused(rclone: servers.Server) -> None:
    store = open_store(rclone.prefix("run"))
    with pytest.raises(ConfigError, match="conditional writes"):
        store.prove()
