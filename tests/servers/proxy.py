"""A proxy before an S3 server that loses, cuts or refuses what a test tells it to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from . import Server


@dataclass(frozen=True)
class Proxy(Server):
    """Faults are (what, method, end of the path); each happens once, in the order given.

    `lost`: applied, but the answer never arrives. `busy`: not applied, 503. `cut`: the answer breaks off half-way.
    """

    faults: list[tuple[str, str, str]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def will(self, *faults: tuple[str, str, str]) -> None:
        self.faults.extend(faults)

    def take(self, method: str, path: str) -> str:
        """The fault that this request meets."""
        self.seen.append(f"{method} {path}")
        if self.faults and self.faults[0][1] == method and path.partition("?")[0].endswith(self.faults[0][2]):
            return self.faults.pop(0)[0]
        return ""


@contextmanager
def proxy(upstream: Server) -> Iterator[Proxy]:
    address = urlsplit(upstream.endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            fault = server.take(self.command, self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault == "busy":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection(address)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if fault == "lost":
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(key, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
            self.end_headers()
            if fault == "cut":
                self.close_connection = True
                data = data[: len(data) // 2]
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, *arguments: object) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Proxy(f"http://127.0.0.1:{http_server.server_port}", upstream.bucket)
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()
