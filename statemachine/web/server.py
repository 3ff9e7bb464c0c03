"""The HTTP server of all pages: uvicorn, in a thread, with limits.

It keeps no connection longer than a few seconds, reads no head longer than 64 kB, and closes each connection after
its answer. At the limit of connections the oldest one is closed: slow clients keep nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
import time
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from conventions.errors import ConfigError

CONNECTIONS = 32
SECONDS = 10.0  # a connection's whole life, until its request is there
ANSWERING = 300.0  # and from then on: a file may be long
SILENCE = 5.0  # longest wait for a client's next byte
HEAD = 65536  # bytes of a request before its body, and of its first line
FIELDS = 100  # headers of a request
QUEUE = 64  # connections that the system keeps until they are taken
_STOPPING = 2.0

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


class HttpServer:
    """Serves an application in a thread of its own.

    Parameters
    ----------
    listen
        Host and port; port 0 takes a free one.
    """

    def __init__(self, listen: tuple[str, int], app: ASGIApp) -> None:
        self._open: dict[_Connection, float] = {}
        self._socket = socket.socket(socket.AF_INET6 if ":" in listen[0] else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(listen)
            self._socket.listen(QUEUE)
        except (OSError, UnicodeError) as error:
            self._socket.close()
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"--listen {listen[0]}:{listen[1]}: {reason}") from None
        self.server_address: tuple[Any, ...] = self._socket.getsockname()

        class Connection(_Connection):
            others = self._open

        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level=logging.CRITICAL,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=[("Server", "dpgen2-sm")],
                backlog=QUEUE,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=4 * HEAD,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve([self._socket]))

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.should_exit = True
        self._thread.join(_STOPPING)


class _Lingering:
    """A transport that waits, when it is closed, until the client has sent its request: else the answer is lost."""

    def __init__(self, transport: asyncio.Transport, whole: Any) -> None:
        self._transport, self._whole = transport, whole
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if self.lingers or self._whole() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self.lingers = True
        self._transport.resume_reading()
        self._transport.write_eof()

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()


class _Connection(H11Protocol):
    """One request and its answer, within the limits."""

    others: dict[_Connection, float]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        while len(self.others) >= CONNECTIONS:
            next(iter(self.others)).hang_up()
        self.others[self] = time.monotonic()
        self._head = bytearray()
        self._has_head = self._ended = False
        self._bare = transport
        self._timers = {"life": self.loop.call_later(SECONDS, self._expire)}
        self._hear()
        super().connection_made(_Lingering(transport, self._is_whole))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        self.others.pop(self, None)
        for timer in self._timers.values():
            timer.cancel()
        super().connection_lost(exc)

    def hang_up(self) -> None:
        """End the connection at once, whatever it is about."""
        self.others.pop(self, None)
        with contextlib.suppress(OSError, AttributeError):
            self._bare.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._bare.abort()

    def data_received(self, data: bytes) -> None:
        self._hear()
        if self.transport.lingers:  # type: ignore[attr-defined]
            return
        if not self._has_head:
            self._head += data
            if refusal := self._check_head():
                self._refuse(*refusal)
                return
        super().data_received(data)
        if self._is_whole():
            self._timers["silence"].cancel()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends nothing more; its answer is still awaited."""
        if self.cycle is None or self.transport.lingers:  # type: ignore[attr-defined]
            return None
        self._ended = True
        self._timers["silence"].cancel()
        self.cycle.more_body = False  # what is there is all that comes
        self.cycle.message_event.set()
        return not self.cycle.response_complete

    def _is_whole(self) -> bool:
        """Has the whole request come?"""
        return self._ended or self.conn.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.SWITCHED_PROTOCOL)

    def _hear(self) -> None:
        if (timer := self._timers.get("silence")) is not None:
            timer.cancel()
        self._timers["silence"] = self.loop.call_later(SILENCE, self.hang_up)

    def _expire(self) -> None:
        answering = self.cycle is not None and self._is_whole() and not self.cycle.response_complete
        if answering and time.monotonic() - self.others.get(self, 0.0) < ANSWERING:
            self._timers["life"] = self.loop.call_later(ANSWERING, self._expire)
        else:
            self.hang_up()

    def _check_head(self) -> tuple[int, str] | None:
        """Why a request is refused by its head alone."""
        end = re.search(rb"\r?\n\r?\n", self._head)
        first = self._head.find(b"\n")
        if (len(self._head) if first < 0 else first) > HEAD:
            return 414, "the address is too long"
        if (end.start() if end else len(self._head)) > HEAD:
            return 431, "the headers are too long"
        if end is None:
            return None
        self._has_head = True
        fields = bytes(self._head[: end.start()]).split(b"\n")[1:]
        if len(fields) > FIELDS:
            return 431, "too many headers"
        for field in fields:
            name, _, value = field.partition(b":")
            if name.strip().lower() == b"content-length" and re.fullmatch(rb"\s*[0-9]{10,}\s*", value):
                return 413, "the body is too long"
        self._head.clear()
        return None

    def _refuse(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        reason = {400: "Bad Request", 413: "Content Too Large", 414: "URI Too Long", 431: "Headers Too Large"}[status]
        lines = [
            f"HTTP/1.1 {status} {reason}",
            "Server: dpgen2-sm",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        self._has_head = True
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not HTTP")
