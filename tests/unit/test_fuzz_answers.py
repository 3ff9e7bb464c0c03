"""What servers answer, and what strangers send to ours, damaged: a value, or the project's own error."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.parsers import ResponseParserError

from conventions.cluster import ArgoConfig
from conventions.errors import EngineError, NotFound
from conventions.names import SPEC_HASH
from operators.pod.hint import NONCE, SIGNATURE, TIMESTAMP, sign
from statemachine.daemon.hints import Keys, Nonces, Refused, named, verify
from statemachine.daemon.web import Server
from statemachine.engine import Status
from statemachine.engine.argo import ArgoEngine
from statemachine.store.listing import _PAGE, _parse
from tests.figures import Figures
from tests.mutations import LONG, Parser, check
from tests.unit.test_web import FakeDaemon

KEY, NOW = "k" * 32, 1_700_000_000
PAGE = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    b"<Contents><Key>p/a%20b</Key><Size>3</Size><ETag>&quot;ab&quot;</ETag></Contents>"
    b"<Contents><Key>p/c</Key><Size>0</Size><ETag>cd</ETag></Contents></ListBucketResult>"
)
WORKFLOW = {
    "metadata": {"name": "w", "uid": "u", "annotations": {SPEC_HASH: "0"}},
    "status": {
        "phase": "Running", "progress": "1/3", "message": "x",
        "nodes": {"a": {"type": "Pod", "phase": "Failed", "message": "it broke", "displayName": "p"}},
    },
    "items": [{"metadata": {"name": "w"}, "status": {"phase": "Succeeded"}}],
    "version": "v3.6", "code": 5, "message": "gone", "result": {"podName": "w-plan", "content": "hello"},
}  # fmt: skip
MANIFEST = {"metadata": {"name": "w", "annotations": {SPEC_HASH: "0"}}}


def listing(data: bytes, folder: Path) -> None:
    found: dict[str, Any] = {}
    answer: dict[str, Any] = {"status_code": 200, "body": data}
    _parse(answer, found)
    for key, size, etag in found[_PAGE]["objects"] if answer["status_code"] == 200 else ():
        assert key and not key.endswith("/") and isinstance(size, int) and isinstance(etag, str)


@functools.cache
def argo_server() -> tuple[ArgoEngine, dict[str, Any]]:
    """An engine, and what all its requests are answered with."""
    answer: dict[str, Any] = {}
    engine = ArgoEngine(ArgoConfig(type="argo", server="http://argo", namespace="argo"))
    transport = httpx.MockTransport(lambda request: httpx.Response(**answer))
    engine.client._http = httpx.Client(base_url="http://argo/api/v1", transport=transport)
    return engine, answer


def argo(status: int, data: bytes) -> ArgoEngine:
    engine, answer = argo_server()
    answer.update(status_code=status, content=data)
    return engine


def argo_says(data: bytes, folder: Path) -> None:
    """Every question, answered with that."""
    engine = argo(200, data)
    asked = [
        lambda: engine.status("w"),
        lambda: engine.explain("w"),
        lambda: list(engine.logs("w")),
        lambda: list(engine.job_logs("w", "000000", lambda: False)),
        lambda: engine.running("w"),
        lambda: engine.check(),
        lambda: engine.submit(MANIFEST),
        lambda: engine.terminate("w"),
        lambda: engine.delete("w"),
    ]
    for question in asked:
        with contextlib.suppress(EngineError):
            found = question()
            assert not isinstance(found, Status) or (0 <= found.finished < 10**9 and 0 <= found.total < 10**9)


def argo_refuses(data: bytes, folder: Path) -> None:
    for status in (301, 400, 401, 404, 409):
        engine = argo(status, data)
        with contextlib.suppress(EngineError):
            assert engine.status("w").phase.value == "gone"
        with contextlib.suppress(EngineError, NotFound):
            engine.submit(MANIFEST)


def hint(data: bytes, folder: Path) -> None:
    """A request's head as a stranger writes it; only the samples carry the key's signature."""
    head = Message()
    for line in data.split(b"\n"):
        name, _, value = line.decode("latin-1").partition(":")
        with contextlib.suppress(ValueError):  # a name that cannot be one
            head[name] = value.strip()
    verify(Keys(KEY), head, b"", NOW, Nonces())
    signature = sign(KEY, head[TIMESTAMP], head[NONCE], b"")
    assert head[SIGNATURE] == signature and abs(int(head[TIMESTAMP]) - NOW) <= 300


def body(data: bytes, folder: Path) -> None:
    """A body that the key has signed names a run, or none."""
    assert set(named(data)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


SERVER: list[Server] = []


def request(data: bytes, folder: Path) -> None:
    """Bytes sent to the daemon's port are answered or hung up on, and wake nobody; the next ones are served."""
    (server,) = SERVER
    with socket.create_connection(server.server_address[:2], timeout=20) as client:
        client.sendall(data[:100_000])
        client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                answer += part
    assert not answer or answer.endswith(b"\n")
    assert server.daemon.hints == [] and b"Traceback" not in answer  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def serving() -> Iterator[None]:
    SERVER.append(Server(("127.0.0.1", 0), FakeDaemon(), Keys(KEY)))  # type: ignore[arg-type]
    yield
    SERVER.pop().stop()


HINT = f"{TIMESTAMP}: {NOW}\n{NONCE}: {'n' * 16}\n{SIGNATURE}: {sign(KEY, str(NOW), 'n' * 16, b'')}".encode()
REQUESTS = [
    b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
    + HINT.replace(b"1", b"2").replace(b"\n", b"\r\n")
    + b"\r\n\r\n{}",
]

PARSERS: dict[str, Parser] = {
    "listing of S3": Parser(listing, [PAGE], errors=(ResponseParserError,)),
    "answers of Argo": Parser(argo_says, [], [WORKFLOW]),
    "refusals of Argo": Parser(argo_refuses, [], [WORKFLOW]),
    "hints": Parser(hint, [HINT], errors=(Refused,)),
    "bodies of hints": Parser(body, [], [{"name": "cu-0f3a99c1-000000-label-a0"}], errors=(Refused,)),
    "requests to the daemon": Parser(request, REQUESTS),
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_value_or_an_error_of_ours(name: str, tmp_path: Path, serving: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statemachine.engine.argo_client.PAUSE", 0)
    check(PARSERS[name], tmp_path)


@pytest.mark.slow
def test_many_more(tmp_path: Path, serving: None, monkeypatch: pytest.MonkeyPatch, figure: Figures) -> None:
    monkeypatch.setattr("statemachine.engine.argo_client.PAUSE", 0)
    tried = [check(parser, tmp_path, LONG) for parser in PARSERS.values()]
    figure("bad input: damaged answers tried", sum(tried), exact=False)


def test_how_many_parsers(figure: Figures) -> None:
    from tests.unit import test_fuzz_documents, test_fuzz_outputs

    tables = (PARSERS, test_fuzz_documents.PARSERS, test_fuzz_outputs.PARSERS)
    figure("bad input: parsers searched by mutation", sum(map(len, tables)))
