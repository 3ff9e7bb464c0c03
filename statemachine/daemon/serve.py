"""The daemon as a process."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence

from operators.pod.hint import KEY
from statemachine import logs
from statemachine.notify import Notifier, take
from statemachine.notify.senders import senders_of
from statemachine.web.login import Login, take_token

from .daemon import LATE, Daemon
from .hints import KEY_FILE, TOKEN, keys_from

log = logging.getLogger("dpgen2-sm")


def serve(
    prefixes: list[str],
    interval: float,
    listen: str | None,
    json_lines: bool,
    stay: bool,
    discover: Sequence[str] = (),
    shown: bool | None = None,
) -> None:
    """Advance runs until all have ended, or until SIGTERM or SIGINT; steps in progress are finished.

    Parameters
    ----------
    listen
        Where to answer probes and take hints, `HOST:PORT` or a port; None: nowhere.
    json_lines
        Log JSON, not text.
    stay
        Do not end when all runs have ended.
    discover
        Places below which runs are looked for, now and again.
    shown
        Whether the runs have pages there; None: where only this machine can look at them.
    """
    keys, targets, token = keys_from(os.environ), take(os.environ), take_token(os.environ)
    for name in (KEY, KEY_FILE, TOKEN):
        os.environ.pop(name, None)  # nothing that the daemon starts needs them
    redactor = logs.set_up(json_lines, [keys.key, keys.token, token, *targets.secrets])
    notifier = Notifier(senders_of(targets), targets.kinds, redactor)
    daemon = Daemon(prefixes, interval, redactor, stay, discover=discover, notifier=notifier)
    received: list[str] = []

    def stop(number: int, frame: object) -> None:
        received.append(signal.Signals(number).name)
        daemon.all_ended.set()

    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, stop)
    server = None
    if listen is not None:
        from .web import Server, address  # who does not listen does not pay for it

        server = Server(address(listen), daemon, keys, shown, Login(token) if token else None)
    try:
        daemon.open()
        if server is not None:
            hooks = "on" if keys.key or keys.token else "off: set DPGEN2_HOOK_KEY to turn them on"
            pages = "shown" if server.shown else "not shown (--pages shows them)"
            orders = "taken" if token and server.shown else "not taken"
            log.info(
                "listening on %s; hooks are %s; runs are %s; orders are %s there",
                *(server.url, hooks, pages, orders),
                extra={"event": "listening"},
            )
        if not received:
            daemon.start()
        while not daemon.all_ended.wait(LATE):
            daemon.catch_up()
    finally:
        unfinished = daemon.stop()
        notifier.close()
        if server is not None:
            server.stop()
    why = f"stopped by {received[0]}; submitted workflows keep running" if received else "all runs have ended"
    log.info("%s", why, extra={"event": "stopped"})
    if unfinished:
        log.warning("stopped in the middle of a step, which is safe: %s", ", ".join(unfinished))
        logging.shutdown()
        os._exit(0)  # a normal exit would wait for their threads
