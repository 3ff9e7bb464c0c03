"""What the daemon serves: health for probes, metrics for Prometheus, the hook that wakes it, and the pages of its runs.

The hook reads no body longer than 64 kB; the other limits are those of `statemachine/web/server.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from statemachine.web.app import Site
from statemachine.web.board import Seen
from statemachine.web.lanes import Lanes
from statemachine.web.login import Login
from statemachine.web.requests import Refused as BadBody
from statemachine.web.requests import names_of, read_body
from statemachine.web.server import CONNECTIONS, HttpServer, address

from .hints import Keys, Nonces, Refused, verify
from .metrics import Figures

if TYPE_CHECKING:
    from .daemon import Daemon

__all__ = ["BODY", "CONNECTIONS", "Server", "address"]

BODY = 65536  # bytes
UNDER_ANY_NAME = ("/healthz", "/readyz", "/hook")  # probes and senders know this machine by other names

log = logging.getLogger("dpgen2-sm")


class Server(HttpServer):
    """Answers for a daemon, in a thread of its own.

    Parameters
    ----------
    listen
        Host and port; port 0 takes a free one.
    daemon
        Whose health, figures and runs are shown, and who is woken.
    keys
        What hints are checked with.
    shown
        Whether the runs have pages; by default where only this machine can look at them.
    login
        Who may give orders there; None: nobody.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        daemon: Daemon,
        keys: Keys,
        shown: bool | None = None,
        login: Login | None = None,
    ) -> None:
        from prometheus_client import CollectorRegistry

        self.daemon, self.keys, self.nonces = daemon, keys, Nonces()
        self.registry = CollectorRegistry()
        self.registry.register(Figures(lambda: self.daemon.runs, self.results))
        self.hints = {"received": 0, "refused": 0}
        self._lock = threading.Lock()
        extra = [
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
            Route("/hook", self._no_hint),
        ]
        self.shown = bool(names_of(listen[0])) if shown is None else shown
        site = Site(
            self,
            Lanes(),
            listen[0],
            extra,
            lambda request: self._hook(request),
            UNDER_ANY_NAME,
            shown=self.shown,
            login=login,
            ordered=lambda name: self.daemon.hint(name),
        )
        super().__init__(listen, site.app)

    def seen(self) -> list[Seen]:
        """The daemon's runs as its last steps have left them: no store is asked."""
        return [Seen(run.prefix, run.state, run.error) for run in self.daemon.runs]

    def count(self, result: str) -> None:
        with self._lock:
            self.hints[result] += 1

    def results(self) -> dict[str, dict[str, int]]:
        """How many hints and notifications had which result."""
        return {"dpgen2_hints": self.hints, "dpgen2_notifications": self.daemon.notifier.counts}

    async def _healthz(self, request: Request) -> Response:
        return _report(self.daemon.stuck())

    async def _readyz(self, request: Request) -> Response:
        return _report(self.daemon.not_ready())

    async def _metrics(self, request: Request) -> Response:
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _no_hint(self, request: Request) -> Response:
        return PlainTextResponse("POST a hint here\n", 405, {"Allow": "POST"})

    async def _hook(self, request: Request) -> Response:
        try:
            body = await read_body(request, BODY)
            if request.url.path != "/hook":
                raise Refused(404, "send hints to /hook")
            name = verify(self.keys, request.headers, body, time.time(), self.nonces)
        except (Refused, BadBody) as refusal:
            self.count("refused")
            log.debug("hint refused: %s", refusal, extra={"event": "hint_refused"})
            return PlainTextResponse(f"{refusal}\n", refusal.status)
        self.count("received")
        self.daemon.hint(name)
        return PlainTextResponse("accepted\n", 202)


def _report(trouble: str) -> Response:
    return PlainTextResponse(f"{trouble or 'ok'}\n".encode("utf-8", "replace"), 503 if trouble else 200)
