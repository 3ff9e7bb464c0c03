"""What the Argo engine makes of answers that no Argo server gives, and of tokens that no server takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from conventions.cluster import ArgoConfig
from conventions.errors import ConfigError, EngineError, NameTaken, NotFound
from conventions.names import SPEC_HASH
from statemachine.engine import Phase
from statemachine.engine.argo import ArgoEngine
from statemachine.engine.argo_client import ArgoClient

GONE = (404, {"code": 5, "message": 'workflows.argoproj.io "w" not found'})
WORKFLOW = {"metadata": {"name": "w"}}


def engine(*answers: tuple[int, Any]) -> ArgoEngine:
    """An engine whose requests get these answers, one after the other."""
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        status, body = left.pop(0)
        return httpx.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())

    found = ArgoEngine(ArgoConfig(type="argo", server="http://argo", namespace="argo"))
    found.client._http = httpx.Client(base_url="http://argo/api/v1", transport=httpx.MockTransport(answer))
    return found


@pytest.mark.parametrize("body", [b"<html>default backend - 404</html>", {"message": "no route"}, b"", b"[]"])
def test_a_404_of_something_on_the_way_is_no_gone_workflow(body: Any) -> None:
    """Else a proxy that is being reloaded would have a second attempt begun beside the first."""
    with pytest.raises(EngineError, match=r"answered 404.*engine\.server"):
        engine((404, body)).status("w")


@pytest.mark.parametrize("body", [{}, {"error": "x"}, {"metadata": None}, {"metadata": {"name": "other"}}])
def test_an_answer_about_something_else_is_no_running_workflow(body: Any) -> None:
    with pytest.raises(EngineError, match="returned something else than the workflow"):
        engine((200, body)).status("w")


@pytest.mark.parametrize("status", [None, "x", [], {}, {"phase": None}, {"progress": 1, "message": None}])
def test_a_workflow_without_a_status_is_running(status: Any) -> None:
    found = engine((200, {**WORKFLOW, "status": status})).status("w")
    assert (found.phase, found.finished, found.total, found.message) == (Phase.running, 0, 0, "")


@pytest.mark.parametrize("progress", ["²/3", "1/", "/", "9" * 5000 + "/1", "-1/2", "1/2/3"])
def test_a_progress_that_is_none(progress: str) -> None:
    found = engine((200, {**WORKFLOW, "status": {"phase": "Running", "progress": progress}})).status("w")
    assert (found.finished, found.total) == (0, 0)


@pytest.mark.parametrize("items", [None, {}, "x", [None], [{}], [{"metadata": None}], [{"metadata": {"name": "v"}}]])
def test_an_archive_that_does_not_know_it(items: Any) -> None:
    assert engine(GONE, (200, {"items": items})).status("w").phase is Phase.gone


def test_a_server_without_an_archive() -> None:
    assert engine(GONE, (404, {"code": 5, "message": "Not Found"})).status("w").phase is Phase.gone


@pytest.mark.parametrize("metadata", [None, [], {"annotations": None}, {"annotations": "x"}])
def test_a_workflow_without_our_annotation_is_another(metadata: Any) -> None:
    manifest = {"metadata": {"name": "w", "annotations": {SPEC_HASH: "0"}}}
    with pytest.raises(NameTaken):
        engine((409, {"message": "exists"}), (200, {"metadata": metadata})).submit(manifest)


def test_a_workflow_that_could_not_be_stopped_is_an_error() -> None:
    """Else `cancel` would wait without a word for the end of a workflow that goes on using its nodes."""
    refused = (403, {"code": 7, "message": "workflows is forbidden"})
    with pytest.raises(EngineError, match="403: workflows is forbidden"):
        engine(refused, (200, {**WORKFLOW, "status": {"phase": "Running"}})).terminate("w")
    ended = (400, {"code": 3, "message": "cannot shut down a completed workflow"})
    engine(ended, (200, {**WORKFLOW, "status": {"phase": "Succeeded"}})).terminate("w")
    engine(GONE).terminate("w")


@pytest.mark.parametrize("nodes", [None, [1], {"a": None}, {"a": {"type": "Pod", "phase": "Failed"}}])
def test_nodes_that_tell_nothing(nodes: Any) -> None:
    found = engine((200, {"status": {"nodes": nodes, "message": "it broke"}}), (200, b"")).explain("w")
    assert found == "it broke"


@pytest.mark.parametrize("line", [{"result": "x"}, {"result": None}])
def test_lines_without_a_log(line: Any) -> None:
    assert list(engine((200, line)).logs("w")) == []


@pytest.mark.parametrize("code", [200, 500])
def test_an_error_of_a_stream_is_told(code: int) -> None:
    """Its parts are below `error`, also after an answer 200."""
    line = {"error": {"grpc_code": 13, "http_code": 500, "message": "no such container: main"}}
    with pytest.raises(EngineError, match="answered 500: no such container: main"):
        list(engine((code, line)).logs("w"))


def test_a_stream_of_a_workflow_that_is_gone() -> None:
    line = {"error": {"grpc_code": 5, "http_code": 404, "message": 'workflows.argoproj.io "w" not found'}}
    with pytest.raises(NotFound, match="not found"):
        list(engine((404, line)).logs("w"))


def log(*lines: str) -> tuple[int, bytes]:
    """The stream of a log."""
    return 200, b"".join(
        json.dumps({"result": {"podName": "w-job-1", "content": line}}).encode() + b"\n" for line in lines
    )


def test_a_log_that_is_followed_again_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream ends when a proxy, or our time-out, ends it; the next one begins with the first line again."""
    monkeypatch.setattr("statemachine.engine.argo._PAUSE", 0)
    head, asked = "==> task.000000.log <==", iter([True, True, False])
    broken = (500, {"error": {"grpc_code": 13, "http_code": 500, "message": "stream reset"}})
    answers = [log(head, "one"), broken, log(head, "one", "two")]
    found = list(engine(*answers).job_logs("w", "000000", lambda: next(asked)))
    assert found == [("task.000000.log", b"one\n"), ("task.000000.log", b"two\n")]


def test_what_the_last_step_says_of_its_hint_explains_nothing() -> None:
    found = engine((200, {"status": {}}), log("two jobs failed", "notify: the daemon looks now")).explain("w")
    assert found == "job-1: two jobs failed"


def test_a_log_that_cannot_be_had_is_an_error() -> None:
    broken = (500, {"error": {"grpc_code": 13, "http_code": 500, "message": "no permission"}})
    with pytest.raises(EngineError, match="no permission"):
        list(engine(broken).job_logs("w", "000000", lambda: False))


def test_nodes_of_a_large_stage_are_not_asked_for() -> None:
    assert engine((200, {"status": {"progress": "7/2003"}})).running("w") is None
    node = {"type": "Pod", "phase": "Running", "displayName": "jobs(7:000007)(0)"}
    other = {"type": "Pod", "phase": "Running", "displayName": "plan"}
    answers = (200, {"status": {"progress": "7/20"}}), (200, {"status": {"nodes": {"a": node, "b": other, "c": 1}}})
    (job,) = engine(*answers, log("Batch 5: trn: rmse_f = 0.1")).running("w") or []
    assert job.job_id == "000007"
    assert engine(GONE).running("w") is None


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("token", ["hunter2-hunter2\nhunter2", "hunter2-hunter2\u00e9", "hunter2-hunter2\0"])
def test_a_token_that_cannot_be_sent_is_not_shown(server: HTTPServer, tmp_path: Path, token: str) -> None:
    """The HTTP library would show it in its error."""
    (tmp_path / "token").write_text(token)
    settings = ArgoConfig(
        type="argo", server=f"http://127.0.0.1:{server.server_port}", token_file=str(tmp_path / "token")
    )
    with pytest.raises(ConfigError, match="token_file") as caught:
        ArgoEngine(settings).status("w")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/../../x", "a b", "x?y", "é"])
def test_a_namespace_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ARGO_NAMESPACE", name)
    with pytest.raises(ConfigError, match="ARGO_NAMESPACE"):
        ArgoEngine(ArgoConfig(type="argo", server="http://argo"))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One that says nothing of a server."""
    for name in ("ARGO_SERVER", "ARGO_SECURE", "ARGO_NAMESPACE", "ARGO_TOKEN", "ARGO_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_environment_names_the_server_that_the_configuration_does_not(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"engine\.server: this key is required.*or set ARGO_SERVER"):
        ArgoClient(ArgoConfig(type="argo"))
    environment.setenv("ARGO_SERVER", "argo.example.org:2746")
    assert ArgoClient(ArgoConfig(type="argo")).url == "https://argo.example.org:2746"
    environment.setenv("ARGO_SECURE", "false")
    assert ArgoClient(ArgoConfig(type="argo")).url == "http://argo.example.org:2746"


def test_a_token_file_of_the_environment_may_be_missing_where_there_is_a_token(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = ArgoClient(ArgoConfig(type="argo", server="http://argo"))
    environment.setenv("ARGO_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none cannot be read"):
        client.token()
    environment.setenv("ARGO_TOKEN", "Bearer v2:secret")
    assert client.token() == "v2:secret"
    named = ArgoClient(ArgoConfig(type="argo", server="http://argo", token_file=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="none cannot be read"):
        named.token()
