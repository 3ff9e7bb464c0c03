"""Pages that give orders to a run: a person logs in, chooses, reads what it will do, and confirms.

All is done by forms, so that it works without JavaScript. Nothing is done for a request that another page sends,
without a session, or without the secret of the session's own forms.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from conventions.errors import CommandRefused, Dpgen2Error, StateError
from conventions.forms import printable
from conventions.names import STAGES
from conventions.state import State
from statemachine.logs import known
from statemachine.machine.orders import Order
from statemachine.run.opening import open_poller
from statemachine.run.orders import carry_out
from statemachine.run.pasted import patch_pasted, present, read_pasted
from statemachine.run.trail import lengthened
from statemachine.store import Store, open_store

from . import pages
from .board import Board, Seen, named, told
from .consequences import REASONS, TITLES, refused, seen, will_do
from .lanes import Busy
from .login import COOKIE, LIFETIME, Login, Session, is_genuine
from .requests import Refused, hostname, is_from_here, names_of, read_form
from .view import Views

HERE = names_of("127.0.0.1")
SMALL, LARGE = 4096, 2 << 20  # bytes of a form; a configuration is at most 1 MiB, and some letters take three
LONGEST = 200  # characters of a reason
STOPPING = 5.0  # seconds that a page waits for a workflow to stop
CARRYING = 30.0  # seconds that it waits for a store that has an order

log = logging.getLogger("dpgen2-sm")
Form = dict[str, str]


class Orders:
    """The pages of those who know the token.

    Parameters
    ----------
    ordered
        Is told the name of a run that has an order; None where nobody here advances runs.
    """

    def __init__(self, login: Login, board: Board, views: Views, ordered: Callable[[str], None] | None) -> None:
        self.login, self.board, self.views, self.ordered = login, board, views, ordered
        at = "/run/{name:str}/orders"
        self.routes: list[BaseRoute] = [
            Route("/login", self._login),
            Route("/login", _posted(self._enter, SMALL), methods=["POST"]),
            Route("/logout", _posted(self._leave, SMALL), methods=["POST"]),
            Route(at, self._orders),
            Route(f"{at}/{{trigger:str}}", _posted(self._order, LARGE), methods=["POST"]),
        ]

    def _login(self, request: Request) -> Response:
        if refusal := _elsewhere(request):
            return refusal
        run = request.query_params.get("run", "")
        return HTMLResponse(pages.login(run if _is_name(run) else ""))

    def _enter(self, request: Request, form: Form) -> Response:
        address, run = request.client.host if request.client else "", form.get("run", "")
        run = run if _is_name(run) else ""
        if self.login.is_barred(address):
            return HTMLResponse(pages.login(run, "Too many wrong tokens came from there. Wait some minutes."), 429)
        value = self.login.enter(form.get("token", ""), address)
        if value is None:
            log.warning("a wrong token was given for orders, from %s", address, extra={"event": "login"})
            return HTMLResponse(pages.login(run, "This is not the token."), 403)
        log.info("somebody has logged in to give orders, from %s", address, extra={"event": "login"})
        answer = RedirectResponse(f"/run/{run}/orders" if run else "/", 303)
        secure = request.headers.get("X-Forwarded-Proto", request.url.scheme) == "https"
        answer.set_cookie(COOKIE, value, int(LIFETIME), httponly=True, samesite="strict", secure=secure)
        return answer

    def _leave(self, request: Request, form: Form) -> Response:
        session = self.login.session(request.cookies)
        if session is None or not is_genuine(session, form.get("csrf", "")):
            return _refusal("You were not logged in.")
        self.login.leave(request.cookies)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    def _orders(self, request: Request) -> Response:
        """What can be ordered now."""
        if refusal := _elsewhere(request):
            return refusal
        session = self.login.session(request.cookies)
        if session is None:
            return RedirectResponse(f"/login?run={request.path_params['name']}", 303)
        return self._of_run(request, lambda run: self._choice(run, session))

    def _choice(self, run: Seen, session: Session) -> Response:
        def question(store: Store, state: State) -> tuple[State, str]:
            with suppress(StateError):  # it is lost; what needs it says so
                return state, present(store, state)
            return state, ""

        state, text = self.views.of(run.prefix).ask(question)
        text = text if known.redact(text) == text else ""  # what is shown with stars would be sent back with them
        why = {trigger: refused(state, Order(trigger)) for trigger in ("pause", "resume", "cancel")}
        return HTMLResponse(pages.orders(run.name, state, session.csrf, why, text))

    def _order(self, request: Request, form: Form) -> Response:
        """Ask whether that is meant; when it was confirmed, do it."""
        session, trigger = self.login.session(request.cookies), request.path_params["trigger"]
        if session is None:
            return _refusal("You are not logged in, or were for too long.")
        if not is_genuine(session, form.get("csrf", "")):
            return _refusal("This form is not of your session: load the page again.")
        if trigger not in TITLES:
            return HTMLResponse(pages.trouble("No such order", "There is no such order."), 404)
        order = _order_of(trigger, form)
        if order is None:
            wrong = "Give an iteration, and a stage to go back to."
            return HTMLResponse(pages.trouble("Not possible", wrong, request.url.path.rpartition("/")[0]), 422)
        return self._of_run(request, lambda run: self._ask_or_do(run, session, order, form))

    def _ask_or_do(self, run: Seen, session: Session, order: Order, form: Mapping[str, str]) -> Response:
        text = ""
        if order.trigger == "patch":
            pasted = session.pasted[1] if session.pasted[0] == run.name else ""
            text = form.get("text") or pasted
            session.pasted = (run.name, text)

        def question(store: Store, state: State) -> tuple[State, list[str], list[str]]:
            rewinding = order.trigger == "rewind"
            state = lengthened(store, state, order.iteration) if rewinding else state
            if why := refused(state, order):
                raise CommandRefused(why)
            found = read_pasted(store, state, text) if order.trigger == "patch" else None
            return state, found.changes if found else [], found.notes if found else []

        state, changes, notes = self.views.of(run.prefix).ask(question, CARRYING)
        sure = seen(state, order, text)
        if form.get("sure") != sure:
            moved = "sure" in form
            found = pages.sure(run.name, state, session.csrf, order, sure, will_do(state, order), changes, notes, moved)
            return HTMLResponse(found)
        after = self._do(run.prefix, order, text)
        session.pasted = ("", "")
        log.info("%s: %s ordered by a page: %s", run.prefix, order.trigger, order.reason, extra={"event": "order"})
        if self.ordered:
            self.ordered(after.run)
        return RedirectResponse(f"/run/{run.name}/orders", 303)

    def _do(self, prefix: str, order: Order, text: str) -> State:
        """As the commands do it. Nobody named the run for that: it is not trusted at its first use."""

        def work() -> State:
            if order.trigger == "patch":
                return patch_pasted(open_store(prefix), text, order.reason)
            return carry_out(open_poller(prefix, named=False), order, STOPPING)

        try:
            return self.views.of(prefix).lane.ask(work, CARRYING)
        except Busy as error:
            raise Busy(f"{error}; it may be done all the same: look at the run before you order it again") from None

    def _of_run(self, request: Request, page: Callable[[Seen], Response]) -> Response:
        run = named(self.board.seen(), request.path_params["name"])
        if run is None:
            return HTMLResponse(pages.trouble("No such run", "No run that is shown here has this address."), 404)
        try:
            return page(run)
        except (Dpgen2Error, OSError) as error:
            found = pages.trouble("Not done", told(error), f"/run/{run.name}/orders")
            return HTMLResponse(found, 503 if isinstance(error, Busy) else 422)


def _posted(work: Callable[[Request, Form], Response], most: int) -> Callable[[Request], Awaitable[Response]]:
    """An address that takes forms of our own pages."""

    async def answer(request: Request) -> Response:
        if refusal := _elsewhere(request):
            return refusal
        if not is_from_here(request.headers):
            return _refusal("Another page has sent this, or your browser does not say which one.")
        try:
            form = await read_form(request, most)
        except Refused as error:
            return HTMLResponse(pages.trouble("Refused", str(error)), error.status)
        found: Response = await run_in_threadpool(work, request, form)
        return found

    return answer


def _elsewhere(request: Request) -> Response | None:
    """Under other names than this machine's a token would travel in the clear, or a proxy does not do as we ask."""
    if hostname(request.headers.get("Host", "")) in HERE:
        return None
    return HTMLResponse(pages.trouble("Refused", "Orders are given at http://localhost only, as with ssh -L."), 421)


def _refusal(text: str) -> Response:
    return HTMLResponse(pages.trouble("Refused", text), 403)


def _order_of(trigger: str, form: Mapping[str, str]) -> Order | None:
    reason = " ".join(printable(form.get("reason", ""), kept="").split())[:LONGEST] or REASONS[trigger]
    if trigger != "rewind":
        return Order(trigger, reason)
    iteration, stage = form.get("iteration", ""), form.get("stage", "")
    if not re.fullmatch("[0-9]{1,6}", iteration, re.ASCII) or stage not in STAGES:
        return None
    return Order(trigger, reason, int(iteration), stage)


def _is_name(text: Any) -> bool:
    """Can an address name a run so?"""
    return bool(re.fullmatch("[0-9a-f]{16,32}", text))
