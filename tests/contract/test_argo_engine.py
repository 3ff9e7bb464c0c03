"""The Argo engine against the double of its server and a real S3 server: the contract, and what only it promises."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from conventions.cluster import ArgoConfig
from conventions.errors import ConfigError, EngineAway, EngineError
from statemachine.engine import Phase
from statemachine.engine.argo import ArgoEngine
from statemachine.store import Store, open_store
from tests.argo_double.server import NAMESPACE, ArgoDouble
from tests.servers import Server
from tests.warm import Warm, warm_workflows

from .engine_contract import WRITE, EngineContract, ended, manifest

TOKEN = "token-of-the-argo-server-0123456789"


@pytest.fixture
def store(s3: Server, tmp_path: Path) -> Store:
    return open_store(s3.prefix(f"engine/{tmp_path.name}"))


@pytest.fixture
def double(store: Store, tmp_path: Path, warm: Warm) -> Iterator[ArgoDouble]:
    with warm_workflows(warm), ArgoDouble(tmp_path / "argo", store.url, token=TOKEN, key_prefix="") as double:
        yield double


def engine_at(double: ArgoDouble, **settings: Any) -> ArgoEngine:
    """An engine that is told by the double when a workflow has ended, and needs not to ask again and again."""
    engine = ArgoEngine(ArgoConfig(type="argo", server=double.url, namespace=NAMESPACE, **settings))
    engine.wait = double.pods.wait  # type: ignore[method-assign]
    return engine


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statemachine.engine.argo_client.PAUSE", 0.01)


@pytest.fixture
def engine(double: ArgoDouble, monkeypatch: pytest.MonkeyPatch) -> ArgoEngine:
    monkeypatch.setenv("ARGO_TOKEN", f"Bearer {TOKEN}")
    return engine_at(double)


class TestArgoEngine(EngineContract):
    pass


def test_status_never_asks_for_nodes(engine: ArgoEngine, double: ArgoDouble) -> None:
    engine.submit(manifest("w-a0", WRITE))
    ended(engine, "w-a0")
    engine.submit(manifest("w-a0", WRITE))
    looks = [query for method, path, query in double.requests if method == "GET" and path.endswith("/w-a0")]
    assert len(looks) == 2
    assert all("status.phase" in query["fields"] and "nodes" not in query["fields"] for query in looks)


def test_a_busy_server_is_asked_again(engine: ArgoEngine, double: ArgoDouble) -> None:
    double.faults += [503, 429, "lose"]
    assert not engine.submit(manifest("w-a0", WRITE)), "the third try did it, the fourth met it"
    double.faults += [502, "lose"]
    assert engine.status("w-a0").phase is not Phase.gone
    ended(engine, "w-a0")
    assert len(double.manifests()) == 1


def test_a_server_that_stays_away_is_an_error_that_names_it(engine: ArgoEngine, double: ArgoDouble) -> None:
    double.faults += [503] * 4
    with pytest.raises(EngineAway, match=rf"{double.url} answered 503"):
        engine.status("w-a0")


def test_a_server_that_is_not_there_is_an_error(engine: ArgoEngine, double: ArgoDouble) -> None:
    double.server.shutdown()
    double.server.server_close()
    with pytest.raises(EngineAway, match="does not answer"):
        engine.status("w-a0")


def test_a_server_that_hangs_is_left(double: ArgoDouble) -> None:
    over = threading.Event()
    double.faults += [lambda: over.wait(30) and None] * 4
    with pytest.raises(EngineAway, match="does not answer"):
        engine_at(double, timeout=0.2).status("w-a0")
    over.set()


def test_a_wrong_token_is_an_error_with_advice(
    engine: ArgoEngine, double: ArgoDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARGO_TOKEN", "an-old-token-of-this-server")
    with pytest.raises(EngineError, match=r"401: token not valid.*token_file") as caught:
        engine.submit(manifest("w-a0", WRITE))
    assert "an-old-token" not in str(caught.value)


def test_a_token_file_is_read_anew(double: ArgoDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARGO_TOKEN", raising=False)
    path = tmp_path / "token"
    engine = engine_at(double, token_file=str(path))
    with pytest.raises(ConfigError, match=r"engine\.token_file"):
        engine.status("w-a0")
    path.write_text("an-old-token-of-this-server")
    with pytest.raises(EngineError, match="401"):
        engine.status("w-a0")
    path.write_text(f"{TOKEN}\n")
    assert engine.status("w-a0").phase is Phase.gone


def test_what_argo_refuses_is_an_error_with_its_reason(engine: ArgoEngine) -> None:
    with pytest.raises(EngineError, match=r"400: .*failed to resolve \{\{inputs\.parameters\.nothing"):
        engine.submit(manifest("w-a0", "echo {{inputs.parameters.nothing}}"))


def test_a_workflow_that_was_collected_is_gone_or_known_from_the_archive(
    engine: ArgoEngine, double: ArgoDouble
) -> None:
    engine.submit(manifest("w-a0", WRITE))
    ended(engine, "w-a0")
    double.collect_garbage(archive=True)
    assert engine.status("w-a0").phase is Phase.succeeded
    double.archive.clear()
    assert engine.status("w-a0").phase is Phase.gone


def test_what_holds_a_workflow_up_is_explained(engine: ArgoEngine, double: ArgoDouble) -> None:
    engine.submit(manifest("w-a0", "sleep 600"))
    waiting = {"type": "Pod", "phase": "Pending", "displayName": "guard(0)", "message": "ImagePullBackOff"}
    double.nodes = lambda name: {name: waiting}  # type: ignore[method-assign]
    assert "guard(0): ImagePullBackOff" in engine.explain("w-a0")
    engine.terminate("w-a0")


def test_another_page_is_not_taken_for_an_argo_server(engine: ArgoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>login</html>"))
    monkeypatch.setattr(engine.client, "_http", httpx.Client(base_url="http://argo", transport=page))
    with pytest.raises(EngineError, match="did not answer like an Argo server"):
        engine.status("w-a0")


def test_a_redirect_is_not_followed(engine: ArgoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    away = httpx.MockTransport(lambda request: httpx.Response(302, headers={"location": "http://elsewhere"}))
    monkeypatch.setattr(engine.client, "_http", httpx.Client(base_url="http://argo", transport=away))
    with pytest.raises(EngineError, match="answered 302"):
        engine.status("w-a0")


def test_tls_is_verified(store: Store, tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with ArgoDouble(tmp_path / "argo", store.url, tls=tls, key_prefix="") as double:
        assert engine_at(double, ca_file=str(tmp_path / "ca.pem")).status("w-a0").phase is Phase.gone
        with pytest.raises(EngineError, match=r"CERTIFICATE_VERIFY_FAILED.*engine\.ca_file") as caught:
            engine_at(double).status("w-a0")
        assert not isinstance(caught.value, EngineAway), "waiting would not help"
        trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))  # renewed: the next one to be opened reads it
        with pytest.raises(EngineError, match="CERTIFICATE_VERIFY_FAILED"):
            engine_at(double, ca_file=str(tmp_path / "ca.pem")).status("w-a0")


def test_runs_of_one_server_share_their_connections(double: ArgoDouble) -> None:
    first, second = engine_at(double), engine_at(double)
    assert first.client._http is second.client._http
    assert engine_at(double, timeout=3.0).client._http is not first.client._http


@pytest.mark.parametrize("form", ["plain", "base64", "percent", "beginning"])
def test_a_secret_is_never_submitted(engine: ArgoEngine, double: ArgoDouble, form: str) -> None:
    forms = {
        "plain": TOKEN,
        "base64": base64.b64encode(TOKEN.encode()).decode(),
        "percent": quote("a/secret+value=0123", safe=""),
        "beginning": TOKEN[:8],
    }
    engine = ArgoEngine(ArgoConfig(type="argo", server=double.url), lambda: ["a/secret+value=0123"])
    with pytest.raises(EngineError, match=r"spec\.templates\.2\.script\.source") as caught:
        engine.submit(manifest("w-a0", f"echo {forms[form]}"))
    assert forms[form] not in str(caught.value)
    assert double.requests == []


def test_a_secret_of_the_environment_is_never_submitted(
    engine: ArgoEngine, double: ArgoDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LICENCE_SERVER_PASSWORD", "correct horse battery")
    with pytest.raises(EngineError, match="holds a secret"):
        engine.submit(manifest("w-a0", "connect 'correct horse battery'"))
    assert double.requests == []
