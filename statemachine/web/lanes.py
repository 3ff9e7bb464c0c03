"""Threads that ask stores, so that a store which hangs keeps no page waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from typing import Any, TypeVar

from conventions.errors import Dpgen2Error

T = TypeVar("T")
THREADS = 4  # of a store
QUEUE = 32  # questions of visitors that wait for a store, at most


class Busy(Dpgen2Error):
    """A store has not answered in time, or has too many questions to answer already."""


class Lane:
    """A few threads for all runs of one store. They end with the process, also when the store never answers."""

    def __init__(self, threads: int = THREADS) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._asked = threading.Semaphore(QUEUE)
        self._threads, self._lock = threads, threading.Lock()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do some work soon. The caller has at most one such work of a run under way."""
        future: Future[T] = Future()
        with self._lock:
            if self._threads:
                self._threads -= 1
                threading.Thread(target=self._serve, name="web-store", daemon=True).start()
        self._work.put((future, work))
        return future

    def ask(self, work: Callable[[], T], seconds: float) -> T:
        """The answer to a visitor's question.

        Raises
        ------
        Busy
            When there is none in that time; work that has not begun is not done then.
        """
        if not self._asked.acquire(blocking=False):
            raise Busy("the store is busy with other questions; try again")
        future = self.submit(work)
        future.add_done_callback(lambda _: self._asked.release())
        try:
            return future.result(seconds)
        except FutureTimeout:
            raise Busy(f"the store has not answered in {seconds:.0f} s; try again") from None
        finally:
            future.cancel()

    def _serve(self) -> None:
        while True:
            future, work = self._work.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)


class Lanes:
    """A lane for each store."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Lane] = {}
        self._lock = threading.Lock()

    def of(self, prefix: str) -> Lane:
        store = (prefix.partition("://")[0], prefix.partition("?")[2])
        with self._lock:
            return self._known.setdefault(store, Lane())
