"""The daemon's web server over real HTTP, on a free port."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import Response

from conventions.errors import ConfigError
from conventions.state import IterationSummary
from operators.pod.hint import NONCE, SIGNATURE, TIMESTAMP, sign, signed
from statemachine.daemon.hints import Keys
from statemachine.daemon.web import BODY, CONNECTIONS, Server, address
from statemachine.run.record import Record
from statemachine.store import open_store
from statemachine.web import server as limits
from statemachine.web.app import POLICY
from statemachine.web.board import Seen
from statemachine.web.login import COOKIE, Login
from tests.conftest import Cli
from tests.doubles import first_state
from tests.report_run import campaign

KEY = "k" * 32
NEVER: dict[str, Any] = {**dict.fromkeys(("state", "seconds", "last_good", "jobs")), "error": "it hangs"}
ZERO = dict.fromkeys(("steps", "failures", "transitions", "needs_person"), 0)
ROWS = [
    IterationSummary(
        iteration=0, figures={"labelled": 3.0, "rmse_f": 0.3, "rmse_e": 0.02, "train_rmse_f": 0.2, "train_rmse_e": 0.01}
    ),
    IterationSummary(iteration=1, figures={"accurate": 1.0, "rmse_f": 9.0, "labelled": 100.0}, left=True),
    IterationSummary(
        iteration=2,
        figures={"labelled": 20.0, "accurate": 60.0, "candidate": 30.0, "failed": 10.0, "blind_rmse_f": 0.4},
    ),
]


class FakeDaemon:
    """Says what a test wants, and counts who woke it."""

    def __init__(self) -> None:
        self.trouble = {"stuck": "", "not_ready": ""}
        self.hints: list[str] = []
        self.notifier = SimpleNamespace(counts={"sent": 3, "failed": 1, "dropped": 0})
        self.runs = [
            SimpleNamespace(
                prefix="s3://b/one", steps=5, failures=2, transitions=3, seconds=0.25, last_good=1700000000.5,
                jobs=(3, 10), error="", needs_person=True,
                totals={"labelled": 8.0, "job_hours": 2.0, "cpu_hours": 31.5, "gpu_hours": 2.0},
                state=first_state(at="train.running", iteration=4, attempt=1, hold=True, trail=ROWS),
            ),
            SimpleNamespace(prefix='s3://b/"two"\\', totals={}, **ZERO, **NEVER),
        ]  # fmt: skip

    def stuck(self) -> str:
        return self.trouble["stuck"]

    def not_ready(self) -> str:
        return self.trouble["not_ready"]

    def hint(self, name: str) -> None:
        self.hints.append(name)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One server for all tests: stopping takes half a second."""
    server = Server(("127.0.0.1", 0), FakeDaemon(), Keys(KEY))  # type: ignore[arg-type]
    yield server
    server.stop()


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def server(shared: Server, daemon: FakeDaemon) -> Server:
    shared.daemon = daemon  # type: ignore[assignment]
    shared.hints = {"received": 0, "refused": 0}
    return shared


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)  # type: ignore[arg-type]
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.text = answer.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return answer


def post(server: Server, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
    return ask(server, "POST", "/hook", body, **(signed(KEY, body) if headers is None else headers)).status


def raw(server: Server, request: bytes) -> bytes:
    with socket.create_connection(server.server_address[:2], timeout=20) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(("path", "what"), [("/healthz", "stuck"), ("/readyz", "not_ready")])
def test_probes(server: Server, daemon: FakeDaemon, path: str, what: str) -> None:
    answer = ask(server, "GET", path)
    assert (answer.status, answer.text, answer.version) == (200, "ok\n", 11)  # type: ignore[attr-defined]
    daemon.trouble[what] = "s3://b/one: läuft nicht"
    answer = ask(server, "GET", path + "?x=y")
    assert (answer.status, answer.text) == (503, "s3://b/one: läuft nicht\n")  # type: ignore[attr-defined]


def test_nothing_tells_a_version_or_offers_a_directory(server: Server) -> None:
    for method, path, expected in (
        ("GET", "/nowhere", 404), ("GET", "/../../etc/passwd", 404), ("GET", "/hook", 405), ("GET", "/healthz/", 404),
        ("POST", "/healthz", 404), ("PUT", "/hook", 501), ("BREW", "/", 501), ("GET", "/" + "x" * 70000, 414),
    ):  # fmt: skip
        answer = ask(server, method, path)
        assert answer.status == expected and answer.headers["Server"] == "dpgen2-sm", (method, path)
        assert "Python" not in answer.text and "<" not in answer.text  # type: ignore[attr-defined]


def test_metrics_are_prometheus_text_of_few_series(server: Server) -> None:
    post(server)
    post(server)
    post(server, headers={})
    answer = ask(server, "GET", "/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))  # type: ignore[attr-defined]
    found = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    one = {name: value for (name, *labels), value in found.items() if labels == ["s3://b/one"]}
    assert one == {
        "dpgen2_steps_total": 5, "dpgen2_step_failures_total": 2, "dpgen2_transitions_total": 3,
        "dpgen2_step_seconds": 0.25, "dpgen2_last_good_step_timestamp_seconds": 1700000000.5, "dpgen2_iteration": 4,
        "dpgen2_attempt": 1, "dpgen2_jobs_finished": 3, "dpgen2_jobs": 10, "dpgen2_needs_person": 1,
        "dpgen2_accurate_fraction": 0.6, "dpgen2_candidate_fraction": 0.3, "dpgen2_failed_fraction": 0.1,
        "dpgen2_rmse_f": 0.3, "dpgen2_rmse_e": 0.02, "dpgen2_train_rmse_f": 0.2, "dpgen2_train_rmse_e": 0.01,
        "dpgen2_blind_rmse_f": 0.4,
        "dpgen2_labelled_last": 20, "dpgen2_labelled": 8, "dpgen2_job_hours": 2, "dpgen2_cpu_hours": 31.5,
        "dpgen2_gpu_hours": 2,
    }  # fmt: skip
    samples = [sample for family in families for sample in family.samples]
    (info,) = [sample for sample in samples if sample.name == "dpgen2_run_info"]
    assert info.labels == {"run": "s3://b/one", "name": "cu", "at": "train.running (paused)"} and info.value == 1
    assert found["dpgen2_hints_total", "received"] == 2 and found["dpgen2_hints_total", "refused"] == 1
    assert found["dpgen2_notifications_total", "sent"] == 3 and found["dpgen2_notifications_total", "failed"] == 1
    unknown = [sample for sample in samples if sample.labels.get("run") == 's3://b/"two"\\']
    assert sorted(sample.name for sample in unknown) == [
        "dpgen2_needs_person", "dpgen2_step_failures_total", "dpgen2_steps_total", "dpgen2_transitions_total",
    ]  # fmt: skip


def test_the_pages_show_what_the_daemon_knows(server: Server, daemon: FakeDaemon, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/run")
    state = campaign(store, 1, tmp_path)
    daemon.runs.append(SimpleNamespace(prefix=store.url, state=state, error=""))
    text = ask(server, "GET", "/").text  # type: ignore[attr-defined]
    assert "train.running, paused" in text and "it hangs" in text and "3 runs" in text
    report = ask(server, "GET", f"/run/{Seen(store.url).name}")
    assert report.status == 200 and report.headers["Content-Security-Policy"] == POLICY
    assert "<figure" in report.text  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/metrics", 421), ("/", 421), ("/run/x", 421)]
)
def test_only_probes_and_hints_may_call_this_machine_by_another_name(server: Server, path: str, status: int) -> None:
    assert ask(server, "GET", path, Host="evil.example").status == status
    assert ask(server, "POST", "/hook", Host="evil.example", **signed(KEY, b"")).status == 202


def test_an_order_wakes_the_daemon_and_hints_are_no_orders(daemon: FakeDaemon, stub_run: Path, cli: Cli) -> None:
    assert cli("init", stub_run)[0] == 0
    prefix = f"file://{stub_run.parent}/out"
    daemon.runs = [SimpleNamespace(prefix=prefix, state=None, error="")]
    login = Login(KEY)
    cookie = f"{COOKIE}={login.enter(KEY, 'here')}"
    session = login.session({COOKIE: cookie.partition("=")[2]})
    assert session is not None
    server = Server(("127.0.0.1", 0), daemon, Keys(KEY), login=login)  # type: ignore[arg-type]
    at = f"/run/{Seen(prefix).name}/orders/pause"

    def order(**fields: str) -> Any:
        form = urlencode({"csrf": session.csrf, **fields}).encode()
        kind = "application/x-www-form-urlencoded"
        return ask(server, "POST", at, form, Cookie=cookie, Sec_Fetch_Site="same-origin", Content_Type=kind)

    try:
        (sure,) = re.findall('name="sure" value="([0-9a-f]+)"', order().text)
        assert daemon.hints == [] and order(sure=sure).status == 303 and daemon.hints == ["stub"]
        assert ask(server, "POST", "/hook", **signed(KEY, b"")).status == 202
        assert ask(server, "POST", "/", **signed(KEY, b"")).status == 404
    finally:
        server.stop()
    assert Record(open_store(prefix)).load().state.hold


@pytest.mark.parametrize(
    ("listen", "shown", "status"), [("0.0.0.0", None, 404), ("0.0.0.0", True, 200), ("127.0.0.1", False, 404)]
)
def test_others_see_no_pages_unless_asked_for(daemon: FakeDaemon, listen: str, shown: bool | None, status: int) -> None:
    server = Server((listen, 0), daemon, Keys(KEY), shown)  # type: ignore[arg-type]
    try:
        assert server.shown is (status == 200)
        assert ask(server, "GET", "/").status == status
        assert ask(server, "GET", "/run/x/json").status == 404
        assert ask(server, "GET", "/healthz").status == ask(server, "GET", "/metrics").status == 200
    finally:
        server.stop()


def test_a_file_may_take_longer_than_a_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose answer is under way outlives the time that a request has."""

    async def late(request: Any) -> Response:
        for connection in list(server._open):
            connection._expire()
        return Response("late")

    monkeypatch.setattr(server, "_hook", late)
    answer = raw(server, b"POST /hook HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
    assert answer.endswith(b"late")


def test_a_signed_hint_wakes_the_daemon_once(server: Server, daemon: FakeDaemon) -> None:
    body = b'{"name": "cu"}'
    headers = signed(KEY, body)
    assert post(server, body, headers) == 202
    assert post(server, body, headers) == 409
    assert daemon.hints == ["cu"]


def test_refused_hints_wake_nobody(server: Server, daemon: FakeDaemon) -> None:
    old = str(int(time.time()) - 1000)
    for body, headers in (
        (b"", {}),
        (b"", signed("K" * 32, b"")),
        (b"other", signed(KEY, b"body")),
        (b"", {TIMESTAMP: old, NONCE: "n" * 16, SIGNATURE: sign(KEY, old, "n" * 16, b"")}),
        (b"", {**signed(KEY, b""), SIGNATURE: "sha256=\xe9"}),
    ):
        assert post(server, body, headers) == 403
    assert daemon.hints == []


def test_a_signed_body_that_is_no_hint_wakes_nobody(server: Server, daemon: FakeDaemon) -> None:
    body = b'{"name": ["cu"]}'
    answer = ask(server, "POST", "/hook", body, **signed(KEY, body))
    assert (answer.status, daemon.hints) == (400, [])
    assert "send no body, or" in answer.text  # type: ignore[attr-defined]


def test_the_body_is_small(server: Server, daemon: FakeDaemon) -> None:
    assert post(server, b"{}".ljust(BODY)) == 202
    assert post(server, b"{}".ljust(BODY + 1)) == 413
    assert post(server, b"x" * 10_000_000) == 413
    assert daemon.hints == [""]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: -1", 400), (b"Content-Length: 1e3", 400), (b"Content-Length: " + b"9" * 5000, 413),
        (b"Transfer-Encoding: chunked", 411), (b"Content-Length: 0\r\nX: " + b"x" * 70000, 431),
        (b"\r\n".join(b"X%d: y" % number for number in range(200)), 431),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_requests_that_are_not_right(server: Server, daemon: FakeDaemon, headers: bytes, status: int) -> None:
    answer = raw(server, b"POST /hook HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert daemon.hints == []


def test_a_request_that_ends_in_the_middle_is_no_hint(server: Server, daemon: FakeDaemon) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(KEY, b"whole").items())
    with socket.create_connection(server.server_address[:2], timeout=20) as client:
        client.sendall(f"POST /hook HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n{head}\r\nwho".encode())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(12) == b"HTTP/1.1 403"
    assert daemon.hints == []


def test_slow_clients_keep_nobody_out(server: Server, daemon: FakeDaemon) -> None:
    slow = [socket.create_connection(server.server_address[:2], timeout=20) for _ in range(3 * CONNECTIONS)]
    for client in slow:
        client.sendall(b"POST /hook HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\nx")
    assert ask(server, "GET", "/healthz").status == 200
    assert post(server) == 202
    assert len(server._open) <= CONNECTIONS
    for client in slow[: 2 * CONNECTIONS]:
        assert client.recv(1) == b""  # they gave up their places
    for client in slow:
        client.close()


def test_a_connection_does_not_last(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    with socket.create_connection(server.server_address[:2], timeout=20) as client:
        client.sendall(b"GET /healthz")
        assert client.recv(1) == b""


def test_without_a_key_there_are_no_hooks(server: Server, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "keys", Keys())
    assert [post(server), post(server, headers={})] == [404, 404]
    assert daemon.hints == []


def test_dpgen2_sm_poke(server: Server, daemon: FakeDaemon, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = f"{server.url}/hook"
    assert cli("notify", hook)[0] == 2
    monkeypatch.setenv("DPGEN2_HOOK_KEY", KEY)
    assert cli("notify", hook) == (0, "accepted: the daemon checks all its runs now\n", "")
    assert cli("notify", hook, "cu") == (0, "accepted: the daemon checks the run that is called cu now\n", "")
    assert daemon.hints == ["", "cu"]
    code, _, errors = cli("notify", hook, "../cu")
    assert code == 1 and "400: invalid hint: send no body" in errors
    assert cli("notify", "ftp://host/hook")[0] == cli("notify", "http://user:pw@host/hook")[0] == 2
    code, _, errors = cli("notify", server.url)
    assert code == 1 and "404: send hints to /hook" in errors
    monkeypatch.setenv("DPGEN2_HOOK_KEY", "K" * 32)
    code, _, errors = cli("notify", hook)
    assert code == 1 and "403" in errors and "K" * 32 not in errors


def test_a_redirect_is_not_followed(cli: Cli, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    async def elsewhere(request: Any) -> Response:
        return Response(status_code=307, headers={"Location": "http://127.0.0.1:1/hook"})

    monkeypatch.setattr(server, "_hook", elsewhere)
    monkeypatch.setenv("DPGEN2_HOOK_KEY", KEY)
    code, _, errors = cli("notify", f"{server.url}/hook")
    assert code == 1 and "answered 307" in errors


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "80:", "a:b", "1:2:3", "127.0.0.1:65536", "h:8 0", "::1"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        address(text)


def test_an_address_that_is_taken(server: Server, cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    taken = server.url.removeprefix("http://")
    code, _, errors = cli("daemon", "--listen", taken, stub_run)
    assert (code, errors) == (2, f"error: --listen {taken}: Address already in use\n")
