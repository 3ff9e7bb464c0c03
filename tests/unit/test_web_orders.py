"""Orders from the pages: who may give them, what is asked before, and that they do what the commands do."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from conventions.errors import CommandRefused, ConfigError
from conventions.state import State
from operators.registry import load_config
from statemachine.run.begin import begin
from statemachine.run.config_file import read_config
from statemachine.run.configuration import configuration
from statemachine.run.opening import open_poller
from statemachine.run.pasted import present, read_pasted
from statemachine.run.record import Record
from statemachine.run.trust import trust_of
from statemachine.store import open_store
from statemachine.web import orders, view
from statemachine.web.app import Site
from statemachine.web.board import Looking, Seen
from statemachine.web.lanes import Lanes
from statemachine.web.login import COOKIE, LIFETIME, SESSIONS, TOKEN, WINDOW, WRONG, Login, take_token
from statemachine.web.requests import is_from_here
from tests.conftest import Cli
from tests.report_run import campaign
from tests.servers import Server

KEY = "correct horse battery staple"
LOCAL = "http://127.0.0.1:8080"
FROM_HERE = {"Sec-Fetch-Site": "same-origin"}
HOSTILE = "<script>alert(1)</script>{{7*7}}\x1b[31m"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((view, "FIRST"), (orders, "CARRYING"), (orders, "STOPPING")):
        monkeypatch.setattr(module, name, 60.0)


class Browser:
    """Somebody who clicks: each form is sent as its page has it."""

    def __init__(self, *prefixes: str, login: Login | None = None, ordered: Any = None) -> None:
        lanes, self.login = Lanes(), login or Login(KEY)
        self.site = Site(Looking(prefixes, (), lanes), lanes, login=self.login, ordered=ordered)
        self.client = TestClient(self.site.app, base_url=LOCAL, follow_redirects=False)
        self.run = f"/run/{Seen(prefixes[0]).name}"
        self.form: dict[str, str] = {}
        self.text = ""

    def get(self, path: str) -> int:
        return self.took(self.client.get(path))

    def post(self, path: str, headers: dict[str, str] = FROM_HERE, **changes: str) -> int:
        return self.took(self.client.post(path, data={**self.form, **changes}, headers=headers))

    def took(self, answer: Any) -> int:
        self.text = answer.text
        hidden = re.findall(r'<input type="hidden" name="([a-z]+)" value="([^"]*)">', answer.text)
        if hidden:
            self.form = {name: unescape(value) for name, value in hidden}
        return int(answer.status_code)

    def enter(self) -> Browser:
        assert self.get("/login") == 200
        assert self.post("/login", token=KEY) == 303
        assert self.get(f"{self.run}/orders") == 200
        return self

    def order(self, trigger: str, **fields: str) -> int:
        """Ask for it and confirm what is shown."""
        asked = self.post(f"{self.run}/orders/{trigger}", **fields)
        return self.post(f"{self.run}/orders/{trigger}") if asked == 200 else asked


@pytest.fixture
def prefix(cli: Cli, stub_run: Path) -> str:
    assert cli("init", stub_run)[0] == 0
    return f"file://{stub_run.parent}/out"


@pytest.fixture
def browser(prefix: str) -> Iterator[Browser]:
    found = Browser(prefix)
    with found.client:
        yield found


def state_of(prefix: str) -> State:
    return Record(open_store(prefix)).load().state


# Who ----------------------------------------------------------------------------------------------------------------


def test_without_a_token_the_pages_only_show(prefix: str) -> None:
    lanes = Lanes()
    with TestClient(Site(Looking([prefix], (), lanes), lanes).app, base_url=LOCAL, follow_redirects=False) as client:
        at = f"/run/{Seen(prefix).name}"
        assert client.post("/login", data={"token": ""}, headers=FROM_HERE).status_code == 405
        assert client.get("/login").status_code == 404 and "/orders" not in client.get(at).text
        assert client.get(f"{at}/orders").status_code == 404
        assert client.post(f"{at}/orders/pause", headers=FROM_HERE).status_code == 405
    assert not state_of(prefix).hold


def test_the_token_opens_a_session(browser: Browser, prefix: str) -> None:
    assert browser.get(f"{browser.run}/orders") == 303
    assert browser.get(f"/login?run={browser.run[5:]}") == 200 and browser.form == {"run": browser.run[5:]}
    assert browser.post("/login", token="something that is wrong") == 403 and "not the token" in browser.text
    answer = browser.client.post("/login", data={**browser.form, "token": KEY}, headers=FROM_HERE)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{browser.run}/orders")
    cookie = answer.headers["Set-Cookie"]
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; HttpOnly; Max-Age={LIFETIME:.0f}; Path=/; SameSite=strict", cookie)
    assert browser.get(f"{browser.run}/orders") == 200 and KEY not in browser.text
    assert cookie.partition("=")[2].partition(";")[0] not in browser.text
    assert browser.get(browser.run) == 200 and f'href="{browser.run}/orders"' in browser.text
    over_https = {**FROM_HERE, "X-Forwarded-Proto": "https"}
    assert "; Secure" in browser.client.post("/login", data={"token": KEY}, headers=over_https).headers["Set-Cookie"]


def test_who_logs_out_is_out(browser: Browser, prefix: str) -> None:
    browser.enter()
    kept = dict(browser.client.cookies)
    assert browser.post("/logout", csrf="x") == 403 and browser.get(f"{browser.run}/orders") == 200
    assert browser.post("/logout") == 303
    browser.client.cookies.update(kept)
    assert browser.get(f"{browser.run}/orders") == 303 and browser.order("pause") == 403
    assert not state_of(prefix).hold


@pytest.mark.parametrize(
    ("headers", "form", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, {}, 403),
        ({"Sec-Fetch-Site": "same-site"}, {}, 403),
        ({"Sec-Fetch-Site": "none"}, {}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": LOCAL}, {}, 403),
        ({"Origin": "http://evil.example"}, {}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, {}, 403),
        ({"Origin": "null"}, {}, 403),
        ({"Origin": "http://[127.0.0.1:8080"}, {}, 403),
        ({}, {}, 403),
        (FROM_HERE, {"csrf": ""}, 403),
        (FROM_HERE, {"csrf": "\u00fc"}, 403),
        ({**FROM_HERE, "Cookie": ""}, {}, 403),
        ({**FROM_HERE, "Cookie": f"{COOKIE}=x"}, {}, 403),
        ({**FROM_HERE, "Host": "sm.example"}, {}, 421),
        ({**FROM_HERE, "Content-Type": "text/plain"}, {}, 415),
        ({**FROM_HERE, "Content-Type": "application/json"}, {}, 415),
        ({**FROM_HERE, "Content-Length": "9999999"}, {}, 413),
        ({**FROM_HERE, "Content-Length": "x"}, {}, 400),
        (FROM_HERE, {f"x{number}": "" for number in range(30)}, 400),
        (FROM_HERE, {}, 303),
        ({"Origin": LOCAL}, {}, 303),
    ],
)
def test_an_order_of_another_page_is_none(
    browser: Browser, prefix: str, headers: dict[str, str], form: dict[str, str], status: int
) -> None:
    """Also where the cookie comes with it."""
    browser.enter()
    assert browser.post(f"{browser.run}/orders/pause") == 200
    if "Cookie" in headers:
        browser.client.cookies.clear()
    assert browser.post(f"{browser.run}/orders/pause", headers, **form) == status
    assert state_of(prefix).hold is (status == 303)


def test_the_secret_of_another_session_does_not_count(browser: Browser, prefix: str) -> None:
    other = Browser(prefix, login=browser.login).enter()
    browser.enter()
    assert browser.post(f"{browser.run}/orders/pause", csrf=other.form["csrf"]) == 403


def test_a_login_from_another_page_is_refused(browser: Browser) -> None:
    assert browser.post("/login", {"Origin": "http://evil.example"}, token=KEY) == 403
    assert browser.client.get("/login", headers={"Host": "sm.example"}).status_code == 421
    assert browser.get("/login?run=../../evil") == 200 and browser.form == {"run": ""}
    answer = browser.client.post("/login", data={"run": "//evil.example", "token": KEY}, headers=FROM_HERE)
    assert answer.headers["Location"] == "/"


def test_other_methods_give_no_orders(browser: Browser, prefix: str) -> None:
    browser.enter()
    assert browser.get(f"{browser.run}/orders/pause") in (404, 405)
    assert browser.client.put(f"{browser.run}/orders/pause", headers=FROM_HERE).status_code == 501
    assert browser.post(f"{browser.run}/orders") == 405 and browser.post(browser.run) == 405
    assert browser.post("/run/0123456789abcdef/orders/pause") == 404
    assert browser.post(f"{browser.run}/orders/fork") == 404


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_wrong_tokens_bar_an_address_for_a_while() -> None:
    clock = Clock()
    login = Login(KEY, clock)
    for _ in range(WRONG):
        assert not login.is_barred("a") and login.enter("wrong", "a") is None
    assert login.is_barred("a") and not login.is_barred("b")
    clock.now = WINDOW
    assert not login.is_barred("a") and login.enter(KEY, "a")


def test_a_barred_address_is_not_let_in_with_the_right_token(prefix: str) -> None:
    browser = Browser(prefix)
    with browser.client:
        assert [browser.post("/login", token="wrong") for _ in range(WRONG)] == [403] * WRONG
        assert browser.post("/login", token=KEY) == 429 and not browser.client.cookies


def test_sessions_end_and_are_few() -> None:
    clock = Clock()
    login = Login(KEY, clock)
    values = [str(login.enter(KEY, "a")) for _ in range(SESSIONS + 1)]
    assert len(set(values)) == len(values)
    assert login.session({COOKIE: values[0]}) is None and login.session({COOKIE: values[1]}) is not None
    clock.now = LIFETIME
    assert login.session({COOKIE: values[-1]}) is None
    assert login.session({}) is None and login.session({COOKIE: "\udc80"}) is None


def test_the_token_comes_from_the_environment_and_does_not_stay_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{KEY}\n")
    for name, value in ((TOKEN, KEY), (f"{TOKEN}_FILE", str(tmp_path / "token"))):
        environ = {name: value, "PATH": "/bin"}
        assert take_token(environ) == KEY and environ == {"PATH": "/bin"}
    assert take_token({}) == ""
    for bad in ("short", "ümlaute in einem token", "a\x07" * 20):
        with pytest.raises(ConfigError, match=TOKEN) as error:
            take_token({TOKEN: bad})
        assert bad not in str(error.value)


def test_the_token_is_not_kept() -> None:
    login = Login(KEY)
    assert login.enter(f" {KEY}\n", "a") and KEY not in repr(vars(login))


def test_a_name_in_dns_that_leads_here_is_not_from_here() -> None:
    assert not is_from_here({"Origin": "https://127.0.0.1.evil.example:8080", "Host": "127.0.0.1:8080"})


# What ---------------------------------------------------------------------------------------------------------------


def test_nothing_happens_until_it_is_confirmed(browser: Browser, prefix: str) -> None:
    browser.enter()
    assert browser.post(f"{browser.run}/orders/pause") == 200
    assert "Nothing new is submitted until the run is resumed." in browser.text and not state_of(prefix).hold
    assert browser.post(f"{browser.run}/orders/pause", sure="x") == 200
    assert "Nothing was done" in browser.text and not state_of(prefix).hold
    assert browser.post(f"{browser.run}/orders/pause") == 303 and state_of(prefix).hold


def test_pause_and_resume(browser: Browser, prefix: str) -> None:
    heard: list[str] = []
    told = Browser(prefix, ordered=heard.append).enter()
    assert told.order("pause", reason=" lunch\n<b> ") == 303
    assert (state_of(prefix).hold, state_of(prefix).reason) == (True, "lunch\ufffd<b>")
    assert heard == ["stub"]
    assert told.get(f"{told.run}/orders") == 200
    assert ", paused" in told.text and "lunch\ufffd&lt;b&gt;" in told.text and "cannot pause" in told.text
    assert told.order("pause") == 422 and "cannot pause" in told.text
    assert told.order("resume") == 303
    assert (state_of(prefix).hold, state_of(prefix).reason) == (False, "resumed in a browser")


def test_cancel_stops_and_resume_begins_a_new_attempt(browser: Browser, prefix: str) -> None:
    poller = open_poller(prefix)
    running = poller.step()
    assert running.at == "label.running"
    browser.enter()
    assert browser.post(f"{browser.run}/orders/cancel") == 200 and running.workflow in browser.text
    assert browser.post(f"{browser.run}/orders/cancel") == 303
    assert state_of(prefix).at == "cancelled"
    assert poller.step().at == "cancelled", "a poller that was there all the time sees it"
    browser.get(f"{browser.run}/orders")
    assert browser.order("resume") == 303
    assert (state_of(prefix).at, state_of(prefix).attempt) == ("label.submitting", 1)


def test_a_cancel_that_is_not_done_yet_is_completed(
    browser: Browser, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statemachine.run.orders.stopped", lambda poller, seconds: poller.record.load().state)
    browser.enter()
    assert browser.order("cancel") == 303 and state_of(prefix).at == "cancelling"
    monkeypatch.undo()
    _patient.__wrapped__(monkeypatch)  # type: ignore[attr-defined]
    browser.get(f"{browser.run}/orders")
    assert browser.order("cancel") == 303 and state_of(prefix).at == "cancelled"


def test_rewind(cli: Cli, browser: Browser, prefix: str, stub_run: Path) -> None:
    assert cli("run", stub_run)[0] == 0
    browser.enter()
    assert browser.post(f"{browser.run}/orders/rewind", iteration="0", stage="explore") == 200
    assert "from explore of iteration 0 on is not used any more: 2 labels" in browser.text
    assert "begins iteration 2 with explore, in the place of iteration 0" in browser.text
    assert browser.post(f"{browser.run}/orders/rewind") == 303
    state = state_of(prefix)
    assert (state.at, state.iteration, state.stage) == ("explore.submitting", 2, "explore")
    for fields in ({}, {"iteration": "-1"}, {"iteration": "0", "stage": "x"}, {"iteration": "1" * 7, "stage": "train"}):
        browser.get(f"{browser.run}/orders")
        assert browser.order("rewind", **fields) == 422, fields
    browser.get(f"{browser.run}/orders")
    assert browser.order("rewind", iteration="7", stage="train") == 422 and "there is no iteration 7" in browser.text


def test_a_run_that_has_moved_on_is_asked_for_again(browser: Browser, prefix: str) -> None:
    browser.enter()
    assert browser.post(f"{browser.run}/orders/cancel") == 200
    poller = open_poller(prefix)
    while (state := poller.step()).stage == "label":
        poller.engine.wait(state.workflow, 60)
    assert browser.post(f"{browser.run}/orders/cancel") == 200 and "Nothing was done" in browser.text
    assert browser.post(f"{browser.run}/orders/cancel") == 303


def test_an_order_beside_pollers_is_done_once(browser: Browser, prefix: str) -> None:
    """Two pollers and two browsers at once: each change is a compare-and-swap."""
    pollers = [open_poller(prefix) for _ in range(2)]
    people = [browser.enter(), Browser(prefix, login=browser.login).enter()]
    for person in people:
        assert person.post(f"{person.run}/orders/pause") == 200
    codes: list[int] = []
    gate = threading.Barrier(4)

    def click(person: Browser) -> None:
        gate.wait()
        codes.append(person.post(f"{person.run}/orders/pause"))

    def step(poller: Any) -> None:
        gate.wait()
        poller.step()

    work = [threading.Thread(target=click, args=(person,)) for person in people]
    work += [threading.Thread(target=step, args=(poller,)) for poller in pollers]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    state = state_of(prefix)
    assert state.hold and sorted(codes) in ([303, 422], [303, 303]) and state.at.startswith("label.")
    history = [State.unseal(open_store(prefix).get(f"event/{n:08d}.json").data) for n in range(1, state.version)]
    assert sum(one.hold and not before.hold for before, one in zip(history, [*history[1:], state], strict=True)) == 1


def test_an_order_whose_answer_takes_long_may_be_done(
    browser: Browser, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.enter()
    assert browser.post(f"{browser.run}/orders/pause") == 200
    ended = threading.Event()

    def slowly(*_: Any, **__: Any) -> None:
        ended.wait()

    monkeypatch.setattr(orders, "open_poller", slowly)
    usual = orders.Orders._do

    def hurried(self: Any, *what: Any) -> Any:
        monkeypatch.setattr(orders, "CARRYING", 0.01)
        return usual(self, *what)

    monkeypatch.setattr(orders.Orders, "_do", hurried)
    assert browser.post(f"{browser.run}/orders/pause") == 503 and "it may be done all the same" in browser.text
    ended.set()


# Trust --------------------------------------------------------------------------------------------------------------


def test_an_order_does_not_make_a_run_trusted(browser: Browser, prefix: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of somebody else"))
    before = state_of(prefix)
    browser.enter()
    text = present(open_store(prefix), before)
    for trigger in ("pause", "cancel"):
        assert browser.order(trigger) == 422 and "you have neither begun nor used this run" in browser.text
        browser.get(f"{browser.run}/orders")
    assert state_of(prefix) == before
    assert browser.order("patch", text=text.replace('"max_iterations": 10', '"max_iterations": 3')) == 303
    assert not trust_of(prefix).engines and not trust_of(prefix).configurations


# Patch --------------------------------------------------------------------------------------------------------------


def test_a_patch_shows_what_changes_first(browser: Browser, prefix: str) -> None:
    browser.enter()
    text = unescape(re.findall(r"<textarea[^>]*>\n(.*)</textarea>", browser.text, re.DOTALL)[0])
    assert text == present(open_store(prefix), state_of(prefix))
    changed = text.replace('"max_iterations": 10', '"max_iterations": 3').replace("\n", "\r\n")
    assert browser.post(f"{browser.run}/orders/patch", text=changed) == 200
    assert "max_iterations: 10 -&gt; 3\n" in browser.text and state_of(prefix).policy.max_iterations == 10
    assert browser.post(f"{browser.run}/orders/patch") == 303
    state = state_of(prefix)
    assert state.policy.max_iterations == 3 and state.next_config_sha256 in trust_of(prefix).configurations
    assert load_config(configuration(open_store(prefix), state, newest=True)).max_iterations == 3
    browser.get(f"{browser.run}/orders")
    assert "A patched configuration waits" in browser.text
    assert browser.order("patch", text=changed) == 422 and "has this configuration already" in browser.text


def test_a_run_yaml_is_patched_with_the_files_that_the_run_keeps(browser: Browser, prefix: str, stub_run: Path) -> None:
    browser.enter()
    stub_run.with_name("cu.xyz").write_text("another file on this machine's disk\n")
    text = stub_run.read_text().replace("tasks: 3", "tasks: 5")
    assert browser.post(f"{browser.run}/orders/patch", text=text) == 200, browser.text
    assert re.findall(r"<pre[^>]*>(.*?)</pre>", browser.text, re.DOTALL) == ["explore.tasks: 3 -&gt; 5\n"]
    assert browser.post(f"{browser.run}/orders/patch") == 303
    stored = load_config(configuration(open_store(prefix), state_of(prefix), newest=True))
    before = load_config(configuration(open_store(prefix), state_of(prefix)))
    assert stored.structures == before.structures and stored.prefix == before.prefix


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cu.xyz", "/etc/passwd", "none of the files of this run (they are: cu.xyz)"),
        ("cu.xyz", "'*.xyz'", "none of the files of this run"),
        ("cu.xyz", f"{'0' * 64}/cu.xyz", "the run keeps no such file"),
        ("cu.xyz", f"{'0' * 64}/../../state.json", "none of the files of this run"),
        ("cu.xyz", f"{'0' * 64}/..", "none of the files of this run"),
        ("prefix: out", "prefix: /etc", "prefix cannot be changed"),
        ("prefix: out", "prefix: s3://elsewhere/x", "prefix cannot be changed"),
        ("tasks: 3", "tasks: three", "a valid integer"),
        ("tasks: 3", "task: 3", "unknown key"),
        ("app: stub, tasks", "app: lammps, tasks", "explore"),
        ("run: stub", "run: other", "run cannot be changed"),
        ("explore:", "explore: [", "line "),
        ("explore:", f"{HOSTILE}:", "special characters"),
        ("explore:", "a: *b\nexplore:", "stands for nothing"),
        ("type: local", "type: argo", "engine"),
    ],
)
def test_a_configuration_that_is_refused(
    browser: Browser, prefix: str, stub_run: Path, old: str, new: str, said: str
) -> None:
    """As the command refuses it, and without a look at this machine's disk."""
    before = sorted(entry.key for entry in open_store(prefix).list(""))
    text = stub_run.read_text().replace(old, new)
    assert old in stub_run.read_text()
    browser.enter()
    assert browser.order("patch", text=text) == 422 and said in unescape(browser.text), browser.text
    assert "<script>alert" not in browser.text
    assert sorted(entry.key for entry in open_store(prefix).list("")) == before


def test_an_empty_configuration_is_refused(browser: Browser) -> None:
    browser.enter()
    assert browser.order("patch") == 422 and "the file is empty" in browser.text


@pytest.mark.parametrize("change", ["token_file: /etc/shadow", "ca_file: /tmp/ca.pem"])
def test_how_an_argo_server_is_reached_is_not_changed_by_a_page(s3: Server, stub_run: Path, change: str) -> None:
    """Else what any file of this machine holds could be sent there as a token."""
    url, argo = s3.prefix("web"), "type: argo, server: 'https://argo:2746', namespace: argo"
    text = stub_run.read_text().replace("prefix: out", f"prefix: '{url}'").replace("type: local, slots: 2", argo)
    stub_run.write_text(text)
    state = begin(read_config(stub_run), stub_run.parent)
    with pytest.raises(CommandRefused, match="how the engine is reached"):
        read_pasted(open_store(url), state, text.replace(argo, f"{argo}, {change}"))
    assert read_pasted(open_store(url), state, text.replace(argo, f"{argo}, parallelism: 5")).changes == [
        "engine.parallelism: null -> 5"
    ]


def test_texts_of_others_do_nothing(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/run")
    campaign(store, 1, tmp_path, at="failed", reason=HOSTILE)
    browser = Browser(store.url)
    with browser.client:
        browser.enter()
        assert "&lt;script&gt;alert(1)" in browser.text and "<script>alert" not in browser.text
        assert browser.post(f"{browser.run}/orders/resume", reason=HOSTILE) == 200
        assert "<script>alert" not in browser.text and "\x1b" not in browser.text and "{{7*7}}" in browser.text
