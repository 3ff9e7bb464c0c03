"""The daemon: APScheduler calls `step()` of every run at an interval."""

from __future__ import annotations

import logging
import signal
import threading

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED
from apscheduler.schedulers.background import BackgroundScheduler

from .runs import open_poller

log = logging.getLogger("dpgen2-sm")


def serve(prefixes: list[str], interval: float) -> None:
    """Advance runs until all have ended, or until SIGTERM or SIGINT; a step that was begun is finished."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for library in ("apscheduler", "transitions"):
        logging.getLogger(library).setLevel(logging.ERROR)
    stop = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stop.set())
    scheduler = BackgroundScheduler(timezone="UTC")

    def advance(prefix: str) -> None:
        state = open_poller(
            prefix, lambda s: log.info("%s iteration %d %s %s", s.run, s.iteration, s.at, s.reason)
        ).step()
        if state.ended:
            scheduler.remove_job(prefix)

    def after(event: object) -> None:
        exception = getattr(event, "exception", None)
        if exception is not None:
            log.error("%s: %s", getattr(event, "job_id", ""), exception)
        if not scheduler.get_jobs():
            stop.set()

    scheduler.add_listener(after, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    for prefix in dict.fromkeys(prefixes):
        open_poller(prefix)
        scheduler.add_job(advance, "interval", [prefix], id=prefix, seconds=interval, max_instances=1, coalesce=True)
    scheduler.start()
    for job in scheduler.get_jobs():
        job.modify(next_run_time=_now())
    stop.wait()
    scheduler.shutdown(wait=True)


def _now() -> object:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc)
