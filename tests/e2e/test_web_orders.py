"""Orders in a real browser: with and without scripts, by keyboard, looked at by axe, and from another site."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conventions.state import State
from statemachine.run.record import Record
from statemachine.store import open_store
from statemachine.web.app import Site
from statemachine.web.board import Looking, Seen
from statemachine.web.lanes import Lanes
from statemachine.web.login import Login
from statemachine.web.server import HttpServer
from tests.browser import PHONE, Page, chromium
from tests.conftest import Cli

pytestmark = pytest.mark.servers
KEY = "correct horse battery staple"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def prefix(cli: Cli, stub_run: Path) -> str:
    assert cli("run", stub_run)[0] == 0
    assert cli("rewind", stub_run, "--iter", "1", "--stage", "train", "--yes")[0] == 0
    return f"file://{stub_run.parent}/out"


@contextmanager
def served(prefix: str) -> Iterator[str]:
    lanes = Lanes()
    server = HttpServer(("127.0.0.1", 0), Site(Looking([prefix], (), lanes), lanes, login=Login(KEY)).app)
    try:
        yield server.url
    finally:
        server.stop()


def state_of(prefix: str) -> State:
    return Record(open_store(prefix)).load().state


def enter(page: Any, url: str, prefix: str) -> None:
    """From the report by the keyboard alone."""
    page.goto(f"{url}/run/{Seen(prefix).name}")
    page.get_by_role("link", name="Orders").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Token").fill(KEY)
    page.keyboard.press("Enter")
    page.wait_for_url("**/orders")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_run_is_paused_and_goes_on(browser: Any, prefix: str, scripts: bool) -> None:
    with served(prefix) as url, Page(browser, url, java_script_enabled=scripts) as found:
        page = found.page
        enter(page, url, prefix)
        for button, paused in (("Pause", True), ("Resume", False)):
            page.locator(f"#reason-{button.lower()}").fill("lunch")
            page.get_by_role("button", name=f"{button} …").click()
            assert state_of(prefix).hold is not paused
            page.get_by_role("button", name=f"Yes, {button.lower()}").click()
            page.wait_for_url("**/orders")
            assert state_of(prefix).hold is paused and state_of(prefix).reason == "lunch"
            assert (", paused" in page.locator(".at").inner_text()) is paused
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(f"{url}/")
        page.goto(f"{url}/run/{Seen(prefix).name}/orders")
        assert page.get_by_label("Token").is_visible()
        assert found.complaints == []


def test_a_patch_is_shown_and_ordered(browser: Any, prefix: str) -> None:
    with served(prefix) as url, Page(browser, url) as found:
        page = found.page
        enter(page, url, prefix)
        box = page.get_by_label("Configuration")
        box.fill(box.input_value().replace('"max_iterations": 10', '"max_iterations": 4'))
        page.get_by_role("button", name="Patch …").click()
        assert page.locator("pre").inner_text().strip() == "max_iterations: 10 -> 4"
        page.get_by_role("button", name="Yes, patch").click()
        page.wait_for_url("**/orders")
        assert state_of(prefix).policy.max_iterations == 4 and found.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, prefix: str, scheme: str, tmp_path: Path) -> None:
    with served(prefix) as url, Page(browser, url, color_scheme=scheme) as found:
        page, pictures = found.page, []

        def look() -> None:
            assert found.violations() == [] and found.overflow() <= 0, page.url
            pictures.append(page.screenshot(path=tmp_path / f"{scheme}{len(pictures)}.png", full_page=True))

        page.goto(f"{url}/run/{Seen(prefix).name}/orders")
        look()
        page.get_by_label("Token").fill("wrong, and long enough")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        look()
        enter(page, url, prefix)
        look()
        page.get_by_role("button", name="Rewind …").click()
        look()
        page.go_back()
        box = page.get_by_label("Configuration")
        box.fill(box.input_value().replace('"max_iterations": 10', '"max_iterations": 4'))
        page.get_by_role("button", name="Patch …").click()
        look()
        page.set_viewport_size(PHONE)
        look()
        page.go_back()
        look()
        assert [text for text in found.complaints if "403" not in text] == []


@contextmanager
def another_site(target: str) -> Iterator[str]:
    """A page at another port of this machine that sends a form to ours as soon as it is looked at."""
    form = f'<form method="post" action="{target}"><input name="token" value="{KEY}"></form>'
    text = f"{form}<script>document.forms[0].submit()</script>"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_another_page_cannot_order_with_the_cookie(browser: Any, prefix: str, name: str) -> None:
    """Of another port of this machine cookies are sent along: they know no ports."""
    run = f"/run/{Seen(prefix).name}/orders/pause"
    with served(prefix) as url, another_site(url + run) as elsewhere, Page(browser, url) as found:
        enter(found.page, url, prefix)
        found.page.goto(elsewhere.replace("localhost", name))
        found.page.wait_for_url(f"**{run}")
        assert "Another page has sent this" in found.page.locator("body").inner_text()
        assert not state_of(prefix).hold
