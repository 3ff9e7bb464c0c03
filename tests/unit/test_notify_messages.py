"""What is told of a run, and where the environment says that it goes. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import (
    ConfigError,
    Dpgen2Error,
    NoRun,
    NotTrusted,
    StateError,
    StoreAway,
    TooNew,
)
from conventions.secrets import ADDRESSES, POLLERS, in_address, named_secrets
from conventions.space import DataSpace
from conventions.state import IterationSummary, State
from statemachine.notify.messages import KINDS, LONGEST, Message, age, messages, needs_person, trouble
from statemachine.notify.targets import KEY, NAMES, ON, URLS, WEBHOOK, take
from tests.doubles import first_state

ROW = IterationSummary(
    iteration=3, figures={"accurate": 90.0, "candidate": 10.0, "labelled": 7.0, "rmse_f": 0.0512, "selected": 4.0}
)


def told(before: dict[str, Any], after: dict[str, Any], **both: Any) -> list[Message]:
    old = first_state(version=6, iteration=3, stage="select", at="select.running", trail=[ROW], **both)
    new = old.model_copy(update={"version": 7, "updated_at": "2026-01-02T03:04:05+00:00", **after})
    return messages(old.model_copy(update=before), new, "file:///run")


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ({}, {"at": "converged"}, ["iteration", "converged"]),
        ({}, {"at": "exhausted"}, ["iteration", "exhausted"]),
        ({}, {"at": "failed"}, ["failed"]),
        ({"at": "train.running"}, {"at": "converged"}, ["iteration", "converged"]),
        ({"at": "train.running"}, {"at": "explore.submitting"}, []),
        ({}, {"at": "label.submitting", "iteration": 4}, ["iteration"]),
        ({}, {"at": "explore.submitting", "iteration": 4, "hold": True}, ["iteration", "paused"]),
        ({}, {"hold": True}, ["paused"]),
        ({"hold": True}, {"hold": True, "at": "select.submitting"}, []),
        ({"hold": True}, {"hold": False}, []),
        ({}, {"at": "cancelling"}, []),
        ({"at": "cancelling"}, {"at": "cancelled"}, ["cancelled"]),
        ({"at": "cancelling"}, {"at": "explore.submitting", "iteration": 4}, []),  # a rewind
        ({"at": "converged"}, {"at": "converged", "pruned": 2}, []),
        ({"at": "failed"}, {"at": "select.submitting", "attempt": 1}, []),
        ({"version": 5}, {"at": "converged"}, []),  # the version between is not known
        ({"run_uid": "1" * 32}, {"at": "converged"}, []),  # another run is there now
    ],
)
def test_what_is_told(before: dict[str, Any], after: dict[str, Any], kinds: list[str]) -> None:
    found = told(before, after)
    assert [message.kind for message in found] == kinds
    assert {message.event for message in found} == {f"{'0' * 32}-00000007-{kind}" for kind in kinds}
    for message in found:
        assert DataSpace({}).told(message.event) == f"event/told/{message.event}"
        assert message.kind in KINDS


def test_what_a_message_says() -> None:
    (message,) = told({}, {"at": "failed", "reason": "label: 3 of 4 jobs failed\nVASP: ZBRENT\x1b[31m", "attempt": 2})
    assert json.loads(message.body) == {
        "schema_version": 1, "event": f"{'0' * 32}-00000007-failed", "kind": "failed", "run": "cu",
        "prefix": "file:///run", "reason": "label: 3 of 4 jobs failed VASP: ZBRENT\ufffd[31m", "iteration": 3,
        "stage": "select", "attempt": 2, "version": 7, "time": "2026-01-02T03:04:05+00:00", "figures": ROW.figures,
    }  # fmt: skip
    assert message.title == "cu: failed"
    assert message.text.splitlines() == [
        "iteration 3, select",
        "label: 3 of 4 jobs failed VASP: ZBRENT\ufffd[31m",
        "accurate 90.0%, candidate 10.0%, failed 0.0%, 7 labels, 4 chosen, force RMSE 0.0512 eV/A",
        "file:///run",
    ]


def test_an_iteration_that_ended_has_its_own_figures() -> None:
    newer = IterationSummary(iteration=4, figures={"labelled": 1.0})
    (message,) = told({}, {"at": "label.submitting", "iteration": 4, "trail": [ROW, newer], "reason": "x"})
    assert (message.iteration, message.figures, message.reason) == (3, ROW.figures, "")


def test_what_a_prefix_says_wakes_nobody_in_a_chat_and_is_short() -> None:
    (message,) = told({}, {"at": "failed", "reason": "<!channel> @here " + "x" * 5000})
    assert "<" not in message.text and "@" not in message.text and "[!channel] (at)here" in message.text
    assert len(message.reason) == LONGEST
    odd = trouble("file:///a\nBcc: x@example.org/<b>", None, "0" * 32, "x")
    assert odd.title == "file:///a Bcc: x(at)example.org/[b]: needs a person" and "\nBcc" not in odd.text


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (NotTrusted("x"), True), (StateError("x"), True), (TooNew("x"), True), (ConfigError("x"), True),
        (NoRun("x"), False), (StoreAway("x"), False), (Dpgen2Error("x"), False), (KeyError("x"), False),
    ],
)  # fmt: skip
def test_which_errors_need_a_person(error: Exception, wanted: bool) -> None:
    assert needs_person(error) is wanted


def test_a_trouble_is_told_of_what_is_there() -> None:
    message = trouble("s3://b/run", None, "a" * 32, "state.json: damaged\nnothing was changed")
    assert (message.event, message.kind) == ("a" * 32 + "-needs_person", "needs_person")
    assert message.title == "s3://b/run: needs a person" and message.reason == "state.json: damaged nothing was changed"
    assert trouble("s3://b/run", first_state(), "a" * 32, "x").title == "cu: needs a person"


def test_the_age_of_a_state() -> None:
    state = first_state(updated_at="2026-01-02T03:04:05+00:00")
    assert age(state, 1767323045 + 60.0) == 60
    for text in ("t", "", "9" * 400, "2026-13-45"):
        assert age(state.model_copy(update={"updated_at": text}), 0.0) == float("inf")


def test_a_state_of_any_form_tells_or_does_not_but_never_fails() -> None:
    """Names of events are keys: whatever a valid state says, they stay plain."""
    odd = {"reason": "\ud800\u202e\x00", "updated_at": "\x00" * 100, "writer": "../.."}
    before = State.from_json(json.loads(first_state(at="label.running").model_dump_json()))
    found = messages(before, before.model_copy(update={"version": 2, "at": "failed", **odd}), "p")
    assert [message.kind for message in found] == ["failed"]
    for message in found:
        assert all(line.isprintable() for line in message.text.splitlines())
        assert DataSpace({}).told(message.event) and message.body.isascii()


GOOD = {WEBHOOK: "https://hooks.example.org/T0KEN0000", KEY: "k" * 32, URLS: "json://127.0.0.1:1/a\njson://127.0.0.1/b"}


def test_targets_are_taken_out_of_the_environment(tmp_path: Path) -> None:
    environ = {**GOOD, ON: "failed,iteration", "HOME": "/x"}
    found = take(environ)
    assert environ == {ON: "failed,iteration", "HOME": "/x"}
    assert (found.webhook, found.key, len(found.urls)) == (GOOD[WEBHOOK], GOOD[KEY], 2)
    assert found.kinds == {"failed", "iteration"}
    for name, value in GOOD.items():
        (tmp_path / name).write_text(f"\n{value}\n")
    files = {f"{name}_FILE": str(tmp_path / name) for name in GOOD}
    assert take(files) == take({**GOOD}) and files == {}
    assert take({}).kinds == set(KINDS) - {"iteration"} and not take({}).secrets
    assert set(found.secrets) >= {GOOD[WEBHOOK], GOOD[KEY], "T0KEN0000"}
    assert "T0KEN" not in repr(found) and GOOD[KEY] not in repr(found)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({WEBHOOK: GOOD[WEBHOOK]}, "go together"),
        ({KEY: "k" * 32}, "go together"),
        ({WEBHOOK: GOOD[WEBHOOK], KEY: "hunter2"}, "16 or more"),
        ({WEBHOOK: "https://me:hunter2@host/x", KEY: "k" * 32}, "without a password"),
        ({WEBHOOK: "ftp://hunter2/x", KEY: "k" * 32}, "not an address"),
        ({WEBHOOK: "https://host/hun ter2", KEY: "k" * 32}, "not an address"),
        ({URLS: "slack://hunter2/a hunter2"}, "entry 2 is no address"),
        ({URLS: "json://hunter2", f"{URLS}_FILE": "/x"}, "keep one"),
        ({f"{URLS}_FILE": "/nowhere"}, "cannot be read"),
        ({f"{KEY}_FILE": "/dev/null", WEBHOOK: GOOD[WEBHOOK]}, "is empty"),
        ({ON: "failed,conveged"}, "did you mean 'converged'"),
    ],
)
def test_targets_that_cannot_be_used(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        take(environ)
    assert "hunter2" not in str(refused.value) and "T0KEN" not in str(refused.value)


def test_no_job_gets_an_address_or_a_key() -> None:
    assert {name for name in NAMES if not name.endswith("_FILE")} <= POLLERS and {URLS, WEBHOOK} == ADDRESSES


@pytest.mark.parametrize(
    ("url", "hidden", "shown"),
    [
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general", ["T1JJ3T3L2", "A1BRTD4JD"], ["#general"]),
        ("tgram://123456789:AAbbCCddEE/12315544/", ["AAbbCCddEE", "123456789"], []),
        ("mailto://someone:pass%21word@example.org?to=a@b.org", ["pass%21word", "pass!word"], ["example.org"]),
        ("https://open.feishu.cn/open-apis/bot/v2/hook/5b1c9f2e-77aa", ["5b1c9f2e-77aa"], ["open.feishu.cn"]),
        ("json://10.20.30.40:8080/path", [], ["10.20.30.40"]),
    ],
)
def test_what_of_an_address_is_hidden(url: str, hidden: list[str], shown: list[str]) -> None:
    found = in_address(url)
    assert url in found and set(hidden) <= set(found) and not set(shown) & set(found)
    assert set(hidden) <= {*named_secrets({URLS: f"x://y {url}"})}
