"""A proxy before an HTTP server (S3, the double of Argo) that loses, cuts, delays or refuses.

It does what a test tells it to, each fault once and in order, or, as `Toxic`, what its dice say.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from . import Server

_ERROR = b"<Error><Code>%s</Code><Message>as a test wants it</Message></Error>"
REFUSALS = {"busy": (503, b""), "slow down": (503, _ERROR % b"SlowDown"), "broken": (500, _ERROR % b"InternalError")}
# A conditional write meets another one that is under way: decided is nothing yet, and it has to be sent again.
ANSWERS = {**REFUSALS, "undecided": (409, _ERROR % b"ConditionalRequestConflict")}
KINDS = ("lost", "cut", "late", "trickle", "reset", "hole", *REFUSALS)


@dataclass(frozen=True)
class Proxy(Server):
    """Faults are (what, method, end of the path).

    `lost`: applied, but the answer never arrives. `cut`: the answer breaks off half-way, and the connection is reset.
    `late`: the answer takes its time. `trickle`: it comes in small pieces. Not applied are `busy` (503), `slow down`
    (503, as S3 says it), `broken` (500), `undecided` (409), `reset` (in the middle of the request) and `hole`: nothing
    ever comes back, until the connection is closed.
    """

    faults: list[tuple[str, str, str]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def will(self, *faults: tuple[str, str, str]) -> None:
        self.faults.extend(faults)

    def take(self, method: str, path: str) -> str:
        """The fault that this request meets."""
        self.seen.append(f"{method} {path}")
        if self.faults and self.faults[0][1] == method and path.partition("?")[0].endswith(self.faults[0][2]):
            return self.faults.pop(0)[0]
        return ""


@dataclass(frozen=True)
class Toxic(Proxy):
    """A bad network, until it is `healed`: each request may meet any fault; refusals come in bursts."""

    dice: random.Random = field(default_factory=random.Random)
    share: float = 0.05  # of the requests that meet a fault
    pause: float = 0.3  # seconds that `late` takes, and `hole` before it is closed
    burst: list[str] = field(default_factory=list)
    met: dict[str, int] = field(default_factory=dict)
    healed: threading.Event = field(default_factory=threading.Event)
    lock: Any = field(default_factory=threading.Lock)

    def take(self, method: str, path: str) -> str:
        with self.lock:
            if self.healed.is_set():
                return ""
            if self.burst:
                fault = self.burst.pop()
            elif self.dice.random() < self.share:
                fault = self.dice.choice(KINDS)
                if fault in REFUSALS:
                    self.burst.extend([fault] * self.dice.randrange(3))
            else:
                return ""
            self.met[fault] = self.met.get(fault, 0) + 1
            return fault


@contextmanager
def proxy(upstream: Server, kind: type[Proxy] = Proxy, **settings: Any) -> Iterator[Any]:
    address = urlsplit(upstream.endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            fault = server.take(self.command, self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size // 2 if fault == "reset" else size)
            if fault in ("reset", "hole"):
                if fault == "hole":
                    server.stop.wait(server.pause)
                self.hang_up()
            elif fault in ANSWERS:
                self.refuse(*ANSWERS[fault])
            else:
                if fault == "late":
                    server.stop.wait(server.pause)
                status, headers, data = self.ask(body)
                if fault == "lost":
                    self.hang_up()
                else:
                    self.answer(status, headers, data, fault)

        def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(address)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, fault: str) -> None:
            self.send_response_only(status)
            length = str(len(data))
            for key, value in headers:
                if key.lower() == "content-length":
                    length = value  # of what a HEAD does not send
                elif key.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(key, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if fault == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.hang_up()
            elif fault == "trickle":
                for first in range(0, len(data), 1 + len(data) // 10):
                    self.wfile.write(data[first : first + 1 + len(data) // 10])
                    server.stop.wait(server.pause / 10)
            else:
                self.wfile.write(data)

        def refuse(self, status: int, body: bytes) -> None:
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def hang_up(self) -> None:
            """Reset the connection: the other side gets an error at once."""
            self.close_connection = True
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, *arguments: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client or a server that went away."""

    http_server = Quiet(("127.0.0.1", 0), Handler)
    server = kind(f"http://127.0.0.1:{http_server.server_port}", upstream.bucket, **settings)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        http_server.shutdown()
        thread.join()
        http_server.server_close()
