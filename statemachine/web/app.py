"""The pages' addresses: which question each one asks, and what guards all of them."""

from __future__ import annotations

import json
import logging
import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conventions.errors import DataError, Dpgen2Error, NotFound
from conventions.state import State
from statemachine.logs import known
from statemachine.report.figures import as_json
from statemachine.store import Store

from . import files, jobs, pages
from .board import Board, Seen, named, told
from .lanes import Busy, Lanes
from .login import Login
from .orders import Orders
from .requests import hostname, names_of
from .view import View, Views

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer our own forms would not say that they are ours
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",
}
DOWNLOADS = 2  # at once: each is in memory
PIECE = 256 << 10  # bytes of a download that are sent at once
READING = 60.0  # seconds in which a file must be read

log = logging.getLogger("dpgen2-sm")
Post = Callable[[Request], Any]


class Site:
    """The pages of some runs, as a Starlette application.

    Parameters
    ----------
    board
        All runs.
    host
        Where it listens. On this machine only, requests must name this machine: a name in somebody's DNS that leads
        here gives his pages no access.
    extra, post
        Further addresses, and who answers POST; nobody by default.
    open_to
        Addresses that may be asked under any name.
    every
        Seconds between two questions of a page that is looked at.
    shown
        False: only what is in `extra` is answered.
    login
        Who may give orders; None: the pages only show.
    ordered
        Is told the name of a run that has an order; None where nobody here advances runs.
    """

    def __init__(
        self,
        board: Board,
        lanes: Lanes,
        host: str = "127.0.0.1",
        extra: Sequence[BaseRoute] = (),
        post: Post | None = None,
        open_to: Sequence[str] = (),
        every: float = pages.EVERY,
        shown: bool = True,
        login: Login | None = None,
        ordered: Callable[[str], None] | None = None,
    ) -> None:
        self.board, self.views, self.every = board, Views(lanes), every
        self.orders = Orders(login, board, self.views, ordered).routes if login else []
        self._downloads = threading.Semaphore(DOWNLOADS)
        at = "/run/{name:str}"
        routes = [
            Route("/", self._overview),
            Route("/favicon.ico", lambda _: Response(status_code=204)),
            Route("/static/style.css", lambda _: Response(pages.style(), media_type="text/css")),
            Route("/static/live.js", lambda _: Response(pages.script(), media_type="text/javascript")),
            Route(at, self._answer(self._report)),
            Route(f"{at}/json", self._answer(self._json)),
            Route(f"{at}/jobs", self._answer(self._present_jobs)),
            Route(f"{at}/jobs/{{stage:str}}/{{iteration:int}}", self._answer(self._jobs)),
            Route(f"{at}/log/{{stage:str}}/{{iteration:int}}/{{job:int}}", self._answer(self._log)),
            Route(f"{at}/steps", self._answer(self._steps)),
            *self.orders,
            Route(f"{at}/{{kind:str}}/{{path:path}}", self._answer(self._files)),
        ]
        errors: Any = {404: _not_found, 405: _not_allowed, Exception: _failed}
        app = Starlette(routes=[*extra, *(routes if shown else [])], exception_handlers=errors)
        app.router.redirect_slashes = False
        self.app: ASGIApp = Guard(app, host, post, open_to, shown and bool(self.orders))

    def _answer(self, page: Callable[[Request, Seen, View], Response]) -> Callable[[Request], Response]:
        """A page of one run; what went wrong is a page, too."""

        def answer(request: Request) -> Response:
            run = named(self.board.seen(), request.path_params["name"])
            if run is None:
                return _trouble(404, "No such run", "No run that is shown here has this address.")
            try:
                return page(request, run, self.views.of(run.prefix))
            except NotFound as error:
                return _trouble(404, "Not there", told(error))
            except DataError as error:
                return _trouble(422, "Not possible", told(error))
            except (Dpgen2Error, OSError) as error:
                return _trouble(503, "Not now", told(error))

        return answer

    def _overview(self, request: Request) -> Response:
        runs = self.board.seen()
        return _live(request, pages.overview_tag(runs), lambda: pages.overview(runs, self.every))

    def _report(self, request: Request, run: Seen, view: View) -> Response:
        shown = view.now()
        return _live(request, shown.tag, lambda: pages.run(run.name, shown, self.every, bool(self.orders)))

    def _json(self, request: Request, run: Seen, view: View) -> Response:
        text = json.dumps(as_json(view.now().figures), indent=1)
        return Response(f"{known.redact(text)}\n", media_type="application/json")

    def _present_jobs(self, request: Request, run: Seen, view: View) -> Response:
        state = view.ask(lambda store, state: state)
        return RedirectResponse(f"/run/{run.name}/jobs/{state.stage}/{state.iteration}", 307)

    def _jobs(self, request: Request, run: Seen, view: View) -> Response:
        stage, iteration = request.path_params["stage"], request.path_params["iteration"]
        asked = request.query_params.get("first", "0")
        first = int(asked) if re.fullmatch("[0-9]{1,6}", asked) else 0

        def question(store: Store, state: State) -> tuple[State, jobs.Jobs]:
            return state, jobs.jobs(store, state, stage, iteration, first)

        state, found = view.ask(question)
        tag = pages.jobs_tag(state, stage, iteration, found)
        return _live(
            request,
            tag,
            lambda: pages.jobs(run.name, state, stage, iteration, found, tag, self.every, bool(self.orders)),
        )

    def _log(self, request: Request, run: Seen, view: View) -> Response:
        at = request.path_params
        text = view.ask(lambda store, state: jobs.log(store, state, at["stage"], at["iteration"], at["job"]))
        return PlainTextResponse(known.redact(text))

    def _steps(self, request: Request, run: Seen, view: View) -> Response:
        return PlainTextResponse(known.redact(view.ask(jobs.steps)))

    def _files(self, request: Request, run: Seen, view: View) -> Response:
        kind, path = request.path_params["kind"], request.path_params["path"]
        if kind not in files.KINDS:
            return _trouble(404, "Not there", "There is no such page.")
        if path == "" or path.endswith("/"):
            name, found = view.ask(lambda store, state: (state.run, files.folder(store, state, kind, path)))
            return HTMLResponse(pages.folder(run.name, name, kind, path, found, bool(self.orders)))
        if not self._downloads.acquire(blocking=False):
            raise Busy("others are downloading; try again")
        try:
            data: bytes = view.ask(lambda store, state: files.file(store, state, kind, path), READING)
            answer = StreamingResponse(_pieces(data), media_type="application/octet-stream")
        except BaseException:
            self._downloads.release()
            raise
        weakref.finalize(answer, self._downloads.release)
        answer.headers["Content-Length"] = str(len(data))
        plain = re.sub(r"[^A-Za-z0-9._+-]", "_", path.rpartition("/")[2])
        answer.headers["Content-Disposition"] = f'attachment; filename="{plain}"'
        return answer


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), PIECE):
        yield data[begin : begin + PIECE]


def _live(request: Request, tag: str, make: Callable[[], str]) -> Response:
    """A page, or that it is still as the visitor has it."""
    headers = {"ETag": f'"{tag}"'}
    if request.headers.get("If-None-Match", "").strip('"') == tag:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(make(), headers=headers)


def _trouble(status: int, title: str, text: str) -> Response:
    return HTMLResponse(pages.trouble(title, text), status)


def _not_found(request: Request, error: Exception) -> Response:
    return PlainTextResponse("not found; the overview is at /\n", 404)


def _not_allowed(request: Request, error: Exception) -> Response:
    return PlainTextResponse("not allowed\n", 405, dict(getattr(error, "headers", None) or {}))


def _failed(request: Request, error: Exception) -> Response:
    return PlainTextResponse("this page failed; the log says why\n", 500)


class Guard:
    """What holds for every request: methods, names of this machine, headers, and no traceback."""

    def __init__(self, app: ASGIApp, host: str, post: Post | None, open_to: Sequence[str], orders: bool) -> None:
        self.app, self.post, self.open_to, self.orders = app, post, frozenset(open_to), orders
        self.names = names_of(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                ours = {name.lower().encode() for name in HEADERS}
                given = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in ours]
                headers = [*given, *((name.encode(), value.encode()) for name, value in HEADERS.items())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            answer = await self._answer(Request(scope, receive))
            await (self.app if answer is None else answer)(scope, receive, guarded)
        except Exception as error:
            log.error("a page failed: %s: %s", type(error).__name__, error, extra={"event": "error"})
            log.debug("", exc_info=True)
            if not begun:
                await _failed(Request(scope), error)(scope, receive, guarded)

    async def _answer(self, request: Request) -> Response | None:
        """The answer where no page is asked."""
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("not known here; use GET\n", 501)
        path = request.url.path
        if self.names and path not in self.open_to and hostname(request.headers.get("Host", "")) not in self.names:
            return PlainTextResponse("this server is asked as localhost only\n", 421)
        if request.method != "POST" or (self.orders and path.startswith(("/login", "/logout", "/run/"))):
            return None
        if self.post is None:
            return PlainTextResponse("these pages only show\n", 405, {"Allow": "GET, HEAD"})
        answer: Response = await self.post(request)
        return answer
