"""The daemon's small web server: health for probes, metrics for Prometheus, and the hook that wakes it.

It serves these four paths and nothing else, keeps no connection longer than a few seconds, and reads no body
longer than 64 kB.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any

from conventions.errors import ConfigError

from .hints import Keys, Nonces, Refused, verify
from .metrics import Figures

if TYPE_CHECKING:
    from .daemon import Daemon

BODY = 65536  # bytes
CONNECTIONS = 32
SECONDS = 10.0  # a connection's whole life
SILENCE = 5.0  # longest wait for a client's next byte

log = logging.getLogger("dpgen2-sm")


def address(text: str) -> tuple[str, int]:
    """The host and port of `--listen`; a bare port is on this machine only.

    >>> address("8080"), address("0.0.0.0:8080"), address("[::1]:8080")
    (('127.0.0.1', 8080), ('0.0.0.0', 8080), ('::1', 8080))
    """
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):)?([0-9]{1,5})", text, re.ASCII)
    if not found or int(found[2]) > 65535:
        raise ConfigError(f"--listen {text!r}: HOST:PORT or a port is expected, such as 127.0.0.1:8080")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


class Server(ThreadingMixIn, TCPServer):
    """Answers for a daemon, in threads of its own.

    Parameters
    ----------
    listen
        Host and port; port 0 takes a free one.
    daemon
        Whose health and figures are shown, and who is woken.
    keys
        What hints are checked with.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, listen: tuple[str, int], daemon: Daemon, keys: Keys) -> None:
        from prometheus_client import CollectorRegistry

        self.address_family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self.daemon, self.keys, self.nonces = daemon, keys, Nonces()
        self.registry = CollectorRegistry()
        self.registry.register(Figures(lambda: self.daemon.runs, self.results))
        self.hints = {"received": 0, "refused": 0}
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        try:
            super().__init__(listen, _Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"--listen {listen[0]}:{listen[1]}: {reason}") from None
        threading.Thread(target=self.serve_forever, name="web", daemon=True).start()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def count(self, result: str) -> None:
        with self._lock:
            self.hints[result] += 1

    def results(self) -> dict[str, dict[str, int]]:
        """How many hints and notifications had which result."""
        return {"dpgen2_hints": self.hints, "dpgen2_notifications": self.daemon.notifier.counts}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Slow clients cannot block others: at the limit of connections the oldest one is closed."""
        with self._lock:
            if len(self._open) >= CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                _hang_up(oldest)
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().close_request(request)

    def service_actions(self) -> None:
        """Called twice a second: close connections that have lasted too long."""
        oldest = time.monotonic() - SECONDS
        with self._lock:
            for request, since in self._open.items():
                if since < oldest:
                    _hang_up(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection is closed after it."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = SILENCE
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(message)s\n"

    def do_GET(self) -> None:
        path, daemon = self.path.partition("?")[0], self.server.daemon
        if path == "/healthz":
            self._report(daemon.stuck())
        elif path == "/readyz":
            self._report(daemon.not_ready())
        elif path == "/metrics":
            from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

            self._answer(200, generate_latest(self.server.registry), CONTENT_TYPE_LATEST)
        elif path == "/hook":
            self._answer(405, b"POST a hint here\n", Allow="POST")
        else:
            self._answer(404, b"not found; paths: /healthz, /readyz, /metrics, /hook\n")

    def do_POST(self) -> None:
        try:
            body = self._body()
            if self.path.partition("?")[0] != "/hook":
                raise Refused(404, "send hints to /hook")
            name = verify(self.server.keys, self.headers, body, time.time(), self.server.nonces)
        except Refused as refusal:
            self.server.count("refused")
            log.debug("hint refused: %s", refusal, extra={"event": "hint_refused"})
            self._answer(refusal.status, f"{refusal}\n".encode())
            self._drain()
            return
        self.server.count("received")
        self.server.daemon.hint(name)
        self._answer(202, b"accepted\n")

    def _body(self) -> bytes:
        """The whole body."""
        length = self.headers.get("Content-Length", "0").strip()
        if "Transfer-Encoding" in self.headers:
            raise Refused(411, "send a Content-Length")
        if not re.fullmatch("[0-9]+", length):
            raise Refused(400, "Content-Length is not a number")
        if len(length) > 9 or int(length) > BODY:
            raise Refused(413, f"a hint has at most {BODY} bytes")
        return self.rfile.read(int(length))

    def _drain(self) -> None:
        """Read what the client still sends, else it would not see the answer. The server closes long ones."""
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(BODY):
                pass

    def _report(self, trouble: str) -> None:
        self._answer(503 if trouble else 200, f"{trouble or 'ok'}\n".encode("utf-8", "replace"))

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8", **headers: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "dpgen2-sm"

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _hang_up(request: Any) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
