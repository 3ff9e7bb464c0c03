"""Pages of runs as a process of its own, which advances nothing."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence

from statemachine import logs

from .app import Site
from .board import Looking
from .lanes import Lanes
from .login import Login, take_token
from .server import HttpServer, address

log = logging.getLogger("dpgen2-sm")


def serve(prefixes: Sequence[str], places: Sequence[str], listen: str) -> None:
    """Show runs until SIGTERM or SIGINT."""
    token = take_token(os.environ)
    logs.set_up(False, [token])
    ended = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda number, frame: ended.set())
    lanes, at = Lanes(), address(listen)
    site = Site(Looking(dict.fromkeys(prefixes), places, lanes), lanes, at[0], login=Login(token) if token else None)
    server = HttpServer(at, site.app)
    log.info("the runs are shown at %s", server.url, extra={"event": "listening"})
    if token:
        log.info("who gives the token can give orders there", extra={"event": "listening"})
    ended.wait()
    server.stop()
    logging.shutdown()
    os._exit(0)  # a normal exit would wait for a store that hangs
