"""Sending over real HTTP: the signed webhook, Apprise, and the commands that use them."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import ConfigError
from operators.pod.hint import NONCE, SIGNATURE, TIMESTAMP
from statemachine.cli.telling import watching
from statemachine.daemon.daemon import Daemon
from statemachine.logs import Redactor
from statemachine.notify import Message, Notifier, Targets
from statemachine.notify.senders import Apprise, Webhook, senders_of
from statemachine.run.begin import begin
from statemachine.run.config_file import read_config
from statemachine.run.opening import open_poller
from tests.conftest import Cli
from tests.receiver import Receiver, receiver
from tests.servers import free_port

KEY = "k3y-" * 8
TOKEN = "T0kenInTheAddress"
MESSAGE = Message("0" * 32 + "-00000007-failed", "failed", "cu", "file:///run", "label: ä", 3, "label", 1, 7)


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def verified(headers: Any, body: bytes) -> dict[str, Any]:
    """What docs/operations.md tells a receiver to do."""
    signed = f"{headers[TIMESTAMP]}.{headers[NONCE]}.".encode() + body
    expected = "sha256=" + hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(expected, headers[SIGNATURE]) and len(headers[NONCE]) == 32
    assert abs(time.time() - int(headers[TIMESTAMP])) < 300
    found: dict[str, Any] = json.loads(body)
    return found


def test_the_webhook_is_signed(there: Receiver) -> None:
    assert Webhook(f"{there.url}/a/{TOKEN}", KEY).send(MESSAGE, pytest.fail) == ""
    path, headers, body = there.arrived.get(timeout=20)
    assert path == f"/a/{TOKEN}" and headers["Content-Type"] == "application/json"
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")
    documented: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], documented)
    assert documented["genuine"](KEY, headers, body) and not documented["genuine"](KEY, headers, body + b" ")
    assert verified(headers, body) == json.loads(MESSAGE.body) and body == MESSAGE.body
    with pytest.raises(AssertionError):
        verified(headers, body.replace(b"failed", b"paused"))


@pytest.mark.parametrize("status", [301, 307, 403, 500, 503])
def test_a_receiver_that_refuses_is_asked_once(there: Receiver, status: int) -> None:
    """Who answers may have read it: a second try could tell it twice. A redirect leads nowhere."""
    there.status = status
    assert Webhook(there.url, KEY).send(MESSAGE, pytest.fail) == f"the receiver answered {status}"
    assert len(there.all) == 1


def test_a_receiver_that_is_not_there_is_asked_again() -> None:
    pauses: list[float] = []
    said = Webhook(f"http://127.0.0.1:{free_port()}/{TOKEN}", KEY).send(MESSAGE, pauses.append)
    assert said.startswith("nobody is there") and pauses == [1, 5]


def test_a_receiver_that_does_not_answer_is_given_up(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    there.before = go.wait
    monkeypatch.setattr("statemachine.notify.senders.SECONDS", 0.01)
    assert Webhook(there.url, KEY).send(MESSAGE, pytest.fail).startswith("ReadTimeout")
    go.set()


def test_apprise_sends(there: Receiver) -> None:
    sender = Apprise(there.url.replace("http", "json") + f"/{TOKEN}", 1)
    assert sender.send(MESSAGE, pytest.fail) == ""
    path, _, body = there.arrived.get(timeout=20)
    found = json.loads(body)
    assert path == f"/{TOKEN}" and (found["title"], found["type"]) == ("cu: failed", "failure")
    assert found["message"].splitlines() == ["iteration 3, label", "label: ä", "file:///run"]
    there.status = 500
    assert sender.send(MESSAGE, pytest.fail) == "Apprise could not deliver it"


@pytest.mark.parametrize("url", [f"nonsense://{TOKEN}", f"slack://{TOKEN}", "json://"])
def test_an_address_that_apprise_does_not_know(url: str) -> None:
    with pytest.raises(ConfigError, match="address 2 of DPGEN2_NOTIFY_URLS") as refused:
        senders_of(Targets(urls=("json://127.0.0.1", url)))
    assert TOKEN not in str(refused.value)


def test_without_apprise_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert [sender.name for sender in senders_of(Targets(webhook="https://host", key=KEY))] == ["webhook"]
    with pytest.raises(ConfigError, match=r"pip install 'dpgen2-sm\[notify\]'"):
        senders_of(Targets(urls=(f"json://127.0.0.1/{TOKEN}",)))


def environment(monkeypatch: pytest.MonkeyPatch, there: Receiver, **more: str) -> None:
    monkeypatch.setenv("DPGEN2_WEBHOOK_URL", f"{there.url}/{TOKEN}")
    monkeypatch.setenv("DPGEN2_WEBHOOK_KEY", KEY)
    for name, value in more.items():
        monkeypatch.setenv(name, value)


def kinds(there: Receiver) -> list[str]:
    return [json.loads(body)["kind"] for body in there.all]


def test_run_tells_and_resume_does_not_tell_again(
    cli: Cli, stub_run: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, there, DPGEN2_NOTIFY_ON="converged,iteration")
    code, _, errors = cli("run", stub_run)
    assert code == 0, errors
    assert kinds(there) == ["iteration", "iteration", "converged"]
    _, headers, body = there.arrived.queue[-1]
    found = verified(headers, body)
    assert (found["run"], found["iteration"]) == ("stub", 1) and found["prefix"].endswith("/out")
    environment(monkeypatch, there, DPGEN2_NOTIFY_ON="converged,iteration")
    assert cli("resume", stub_run)[0] == 0
    assert len(there.all) == 3
    markers = list((stub_run.parent / "out/event/told").iterdir())
    assert len(markers) == 3
    everything = [path.read_bytes() for path in (stub_run.parent / "out").rglob("*") if path.is_file()]
    assert not [data for data in everything if TOKEN.encode() in data or KEY.encode() in data]
    code, output, _ = cli("doctor", stub_run)
    assert code == 0 and "told" not in output


@pytest.mark.slow
def test_a_receiver_that_hangs_delays_no_run(
    cli: Cli, stub_run: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs until the run has ended: a step that waited for it would wait for ever."""
    go, over = threading.Event(), []
    there.before = go.wait
    begin(read_config(stub_run), stub_run.parent)
    monkeypatch.setattr("statemachine.notify.notifier.GRACE", 0.0)
    environment(monkeypatch, there, DPGEN2_NOTIFY_ON="iteration,converged")
    close = Notifier.close

    def closing(self: Notifier, seconds: float = 0.0) -> None:
        over.append(len(there.all))
        close(self, seconds)

    monkeypatch.setattr(Notifier, "close", closing)
    code, output, _ = cli("run", stub_run)
    go.set()
    assert code == 0 and "converged" in output and over[0] <= 1


@pytest.mark.slow
def test_a_daemon_whose_receiver_hangs_goes_on(stub_run: Path, there: Receiver, cli: Cli) -> None:
    go = threading.Event()
    there.before = go.wait
    begin(read_config(stub_run), stub_run.parent)
    notifier = Notifier([Webhook(there.url, KEY)], frozenset({"iteration", "converged"}), Redactor())
    daemon = Daemon([f"file://{stub_run.parent}/out"], 0.05, Redactor(), notifier=notifier)
    daemon.open()
    daemon.start()
    try:
        assert daemon.all_ended.wait(60)
        assert daemon.stop() == [] and daemon.runs[0].failures == 0
        assert notifier.counts["sent"] == 0
    finally:
        go.set()
    notifier.close(20)
    assert kinds(there) == ["iteration", "iteration", "converged"]


def test_an_untrusted_run_needs_a_person(
    cli: Cli, stub_run: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin(read_config(stub_run), stub_run.parent)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    notifier = Notifier([Webhook(there.url, KEY)], redactor=Redactor())
    daemon = Daemon([], 3600, Redactor(), discover=[f"file://{stub_run.parent}"], notifier=notifier)
    daemon.open()
    daemon.start()
    _, headers, body = there.arrived.get(timeout=20)
    found = verified(headers, body)
    assert found["kind"] == "needs_person" and "dpgen2-sm trust" not in found["event"]
    assert found["reason"].endswith("its commands are not run here:"), "and none of them is shown elsewhere"
    daemon.stop()
    notifier.close(20)
    assert daemon.runs[0].needs_person and there.arrived.empty()


@pytest.mark.slow
def test_steps_by_cron_tell_once_and_an_idle_one_looks_at_nothing(
    cli: Cli, stub_run: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(read_config(stub_run), stub_run.parent)
    poller = open_poller(f"file://{stub_run.parent}/out")
    while not (state := poller.record.load().state).ended:
        environment(monkeypatch, there, DPGEN2_NOTIFY_ON="iteration,converged")
        assert cli("step", stub_run)[0] == 0
        poller.engine.wait(state.workflow, 60)
    assert kinds(there) == ["iteration", "iteration", "converged"]
    environment(monkeypatch, there, DPGEN2_NOTIFY_ON="iteration,converged")
    monkeypatch.setattr(Notifier, "changed", lambda *_: pytest.fail("it looked"))
    assert cli("step", stub_run)[0] == 0


def test_what_ends_run_or_step_is_told_where_a_person_is_needed(
    cli: Cli, stub_run: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(read_config(stub_run), stub_run.parent)
    state = stub_run.parent / "out/state.json"
    state.write_bytes(state.read_bytes()[:-3])
    for command in ("resume", "step", "step"):
        environment(monkeypatch, there)
        code, _, errors = cli(command, stub_run)
        assert (code, "state.json" in errors) == (2, True)
    assert kinds(there) == ["needs_person"] and "state.json" in json.loads(there.all[0])["reason"]


def test_a_test_message(cli: Cli, there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, errors = cli("daemon", "--test-notify")
    assert code == 2 and "nobody would be told" in errors
    json_url = there.url.replace("http", "json")
    environment(monkeypatch, there, DPGEN2_NOTIFY_URLS=f"{json_url}/{TOKEN}2")
    assert cli("daemon", "--test-notify") == (0, "webhook: sent\naddress 1 of DPGEN2_NOTIFY_URLS: sent\n", "")
    assert [json.loads(body).get("kind") for body in there.all] == ["test", None]
    environment(monkeypatch, there)
    there.status = 500
    assert cli("daemon", "--test-notify") == (1, "webhook: the receiver answered 500\n", "")
    environment(monkeypatch, there, DPGEN2_NOTIFY_ON="nothing")
    code, _, errors = cli("daemon", "--test-notify")
    assert code == 2 and "DPGEN2_NOTIFY_ON: 'nothing' is no event" in errors


def test_no_log_shows_an_address_or_a_key(
    cli: Cli, there: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All loggers at DEBUG: Apprise, its HTTP library and httpx tell the whole address there."""
    with caplog.at_level(logging.DEBUG):
        for name in ("apprise", "urllib3", "httpx", "httpcore", "requests"):
            monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
        json_url = there.url.replace("http://", "json://me:pAssw0rd-in-it@")
        environment(monkeypatch, there, DPGEN2_NOTIFY_URLS=f"{json_url}/{TOKEN}")
        there.status = 500
        code, output, errors = cli("daemon", "--test-notify")
    assert code == 1 and len(there.all) == 2
    text = caplog.text + output + errors + str([record.__dict__ for record in caplog.records])
    assert "apprise" in text and "httpcore" in text and "***" in text
    for secret in (TOKEN, KEY, "pAssw0rd-in-it"):
        assert secret not in text


def test_follow_takes_the_targets_out_of_its_environment(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    environment(monkeypatch, there)
    with watching("file:///nowhere") as watch:
        assert [sender.name for sender in watch.notifier.senders] == ["webhook"]
        assert "DPGEN2_WEBHOOK_KEY" not in os.environ and "DPGEN2_WEBHOOK_URL" not in os.environ
    assert not watch.notifier._thread.is_alive()
