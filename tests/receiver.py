"""A receiver of notifications: keeps what it is sent, and answers what a test says."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What has arrived, in order: path, headers and body."""

    url: str
    arrived: queue.Queue[tuple[str, Any, bytes]] = field(default_factory=queue.Queue)
    status: int = 200
    before: Callable[[], object] = lambda: None  # called before the answer: it may wait

    @property
    def all(self) -> list[bytes]:
        return [body for _, _, body in list(self.arrived.queue)]


@contextmanager
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.arrived.put((self.path, self.headers, body))
            found.before()
            self.send_response(found.status)
            if found.status in (301, 307):
                self.send_header("Location", f"{found.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Receiver(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
