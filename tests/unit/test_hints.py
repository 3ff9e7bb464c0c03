"""Who may wake the daemon: signatures, times, nonces, keys; and the sender's side."""

from __future__ import annotations

from pathlib import Path

import pytest

from conventions.errors import ConfigError
from operators.pod.hint import NONCE, SAID, SIGNATURE, TIMESTAMP, notify, send, sign, signed
from statemachine.daemon.hints import Keys, Nonces, Refused, keys_from, verify

KEY, TOKEN = "k" * 32, "t" * 32
KEYS = Keys(KEY)
NOW = 1_700_000_000


def hint(body: bytes = b"", at: int = NOW, nonce: str = "n" * 16, key: str = KEY) -> dict[str, str]:
    return {TIMESTAMP: str(at), NONCE: nonce, SIGNATURE: sign(key, str(at), nonce, body)}


def status(headers: dict[str, str], keys: Keys = KEYS, body: bytes = b"", nonces: Nonces | None = None) -> int:
    """What the answer to a hint would be."""
    try:
        verify(keys, headers, body, NOW + 0.5, nonces or Nonces())
    except Refused as refusal:
        assert KEY not in str(refusal) and TOKEN not in str(refusal)
        return refusal.status
    return 202


@pytest.mark.parametrize("off", [0, -300, 300])
@pytest.mark.parametrize("body", [b"", b'{"name": "cu"}'])
def test_a_hint_is_accepted(off: int, body: bytes) -> None:
    assert status(hint(body, NOW + off if off >= 0 else NOW + off + 1), body=body) == 202


@pytest.mark.parametrize("off", [-301, 301, -(10**9), 10**11])
def test_a_hint_of_another_time_is_refused(off: int) -> None:
    assert status(hint(at=NOW + off)) == 403


@pytest.mark.parametrize(
    "change",
    [
        {SIGNATURE: ""}, {SIGNATURE: "sha256="}, {SIGNATURE: "sha256=" + "0" * 64}, {SIGNATURE: "sha256=" + "0" * 63},
        {SIGNATURE: hint()[SIGNATURE].upper()}, {SIGNATURE: hint()[SIGNATURE][7:]}, {SIGNATURE: "sha256=é" + "0" * 63},
        {SIGNATURE: "\udcff"}, {SIGNATURE: "x" * 65536}, {SIGNATURE: hint(key="K" * 32)[SIGNATURE]},
        {TIMESTAMP: str(NOW + 1)}, {TIMESTAMP: ""}, {TIMESTAMP: "nan"}, {TIMESTAMP: "-1"}, {TIMESTAMP: "9" * 5000},
        {TIMESTAMP: "\u0661\u0662"}, {NONCE: "m" * 16}, {NONCE: ""}, {NONCE: "é" * 16}, {NONCE: "n" * 65536},
    ],
)  # fmt: skip
def test_what_is_not_signed_by_the_key_is_refused(change: dict[str, str]) -> None:
    assert status(hint() | change) == 403


@pytest.mark.parametrize("name", [TIMESTAMP, NONCE, SIGNATURE])
def test_every_header_is_needed(name: str) -> None:
    headers = hint()
    del headers[name]
    assert status(headers) == 403


def test_the_parts_of_what_is_signed_cannot_run_into_each_other() -> None:
    moved = {TIMESTAMP: str(NOW), NONCE: "n" * 16 + ".a", SIGNATURE: sign(KEY, str(NOW), "n" * 16, b"a.")}
    assert status(moved, body=b"") == 403


def test_the_body_is_signed() -> None:
    assert status(hint(b'{"name": "cu"}'), body=b'{"name": "ag"}') == 403


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", ""),
        (b"{}", ""),
        (b'{"Records": [{"eventName": "s3:ObjectCreated:Put"}]}', ""),
        (b'{"name": "cu"}', "cu"),
        (b' {"name": "cu-0f3a99c1-000000-label-a0", "more": [1]}\n', "cu-0f3a99c1-000000-label-a0"),
    ],
)
def test_the_name_in_a_signed_body(body: bytes, name: str) -> None:
    assert verify(KEYS, hint(body), body, NOW, Nonces()) == name


BAD_BODIES = {
    "no JSON": b"cu",
    "no text": b"\xff\0" * 1000,
    "too deep": b'{"name": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "a list": b'["cu"]',
    "a number": b"1e999",
    "nothing": b"null",
    "a name that is no text": b'{"name": 1}',
    "a name that is a document": b'{"name": {"run": "cu"}}',
    "a name that is none": b'{"name": null}',
    "two names": b'{"name": "cu", "name": "ag"}',
    "a long name": b'{"name": "' + b"x" * 64 + b'"}',
    "a name with a line's end": b'{"name": "cu\\n"}',
    "a path": b'{"name": "../cu"}',
    "another script": '{"name": "çu"}'.encode(),
    "half a pair": b'{"name": "\\ud800"}',
    "it breaks off": b'{"name": "cu',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_signed_body_that_is_no_hint_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match=r"^invalid hint: .*") as refusal:
        verify(KEYS, hint(body), body, NOW, Nonces())
    assert refusal.value.status == 400 and len(str(refusal.value)) < 300


@pytest.mark.parametrize("body", [*BAD_BODIES.values(), b'{"name": "cu"}'])
def test_the_body_beside_a_token_is_not_used(body: bytes) -> None:
    assert verify(Keys(token=TOKEN), {"Authorization": f"Bearer {TOKEN}"}, body, NOW, Nonces()) == ""


def test_a_replay_is_refused() -> None:
    nonces = Nonces()
    assert [status(hint(), nonces=nonces) for _ in range(3)] == [202, 409, 409]
    assert status(hint(nonce="m" * 16), nonces=nonces) == 202


def test_a_forged_hint_does_not_use_up_a_nonce() -> None:
    nonces = Nonces()
    assert status(hint(key="K" * 32), nonces=nonces) == 403
    assert status(hint(), nonces=nonces) == 202


def test_the_memory_of_nonces_is_bounded_and_forgets_only_what_is_too_old_anyway() -> None:
    nonces = Nonces(size=3)
    for number in range(3):
        nonces.accept(str(number), until=100 + number, now=0)
    with pytest.raises(Refused) as full:
        nonces.accept("4", until=200, now=50)
    assert full.value.status == 429
    nonces.accept("4", until=200, now=101.5)  # 0 and 1 are too old by now
    with pytest.raises(Refused) as replay:
        nonces.accept("2", until=102, now=101.5)
    assert replay.value.status == 409


@pytest.mark.parametrize(
    ("keys", "headers", "expected"),
    [
        (Keys(), hint(), 404),
        (Keys(), {"Authorization": "Bearer "}, 404),
        (Keys(), hint(key=""), 404),
        (Keys(token=TOKEN), hint(key=""), 403),
        (Keys(token=TOKEN), {"Authorization": f"Bearer {TOKEN}"}, 202),
        (Keys(token=TOKEN), {"Authorization": f"bearer  {TOKEN}"}, 202),
        (Keys(token=TOKEN), {"Authorization": f"Basic {TOKEN}"}, 403),
        (Keys(token=TOKEN), {"Authorization": "Bearer é"}, 403),
        (Keys(token=TOKEN), {"Authorization": f"Bearer {TOKEN}x"}, 403),
        (Keys(KEY, TOKEN), {"Authorization": "Bearer wrong", **hint()}, 403),
        (Keys(KEY, TOKEN), hint(), 202),
        (KEYS, {"Authorization": f"Bearer {KEY}"}, 403),
        (KEYS, {"Authorization": "Bearer "}, 403),
    ],
)
def test_keys_and_tokens(keys: Keys, headers: dict[str, str], expected: int) -> None:
    assert status(headers, keys) == expected


def test_keys_are_read_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert keys_from({}) == Keys()
    assert keys_from({"DPGEN2_HOOK_KEY": f" {KEY}\n", "DPGEN2_HOOK_TOKEN": TOKEN}) == Keys(KEY, TOKEN)
    assert keys_from({"DPGEN2_HOOK_KEY_FILE": str(file)}) == Keys(KEY)
    assert KEY not in repr(keys_from({"DPGEN2_HOOK_KEY": KEY}))


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"DPGEN2_HOOK_KEY": "fifteen letters"}, "DPGEN2_HOOK_KEY: 15 characters are too short"),
        ({"DPGEN2_HOOK_TOKEN": "secret"}, "DPGEN2_HOOK_TOKEN: 6 characters are too short"),
        ({"DPGEN2_HOOK_KEY_FILE": "short"}, "DPGEN2_HOOK_KEY_FILE: 6 characters are too short"),
        ({"DPGEN2_HOOK_KEY_FILE": "nowhere"}, "DPGEN2_HOOK_KEY_FILE: nowhere cannot be read: No such file"),
        ({"DPGEN2_HOOK_KEY_FILE": "empty"}, "empty is empty"),
        ({"DPGEN2_HOOK_KEY_FILE": "binary"}, "binary cannot be read"),
        ({"DPGEN2_HOOK_KEY": KEY, "DPGEN2_HOOK_KEY_FILE": "short"}, "both set"),
    ],
)
def test_keys_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("secret")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    with pytest.raises(ConfigError, match=message) as refusal:
        keys_from(environ)
    assert "secret" not in str(refusal.value) and "fifteen letters" not in str(refusal.value)


def test_what_the_sender_signs_is_accepted_and_never_the_same() -> None:
    first, second = signed(KEY, b"{}"), signed(KEY, b"{}")
    assert first[NONCE] != second[NONCE]
    nonces = Nonces()
    for headers in (first, second):
        verify(KEYS, headers, b"{}", float(headers[TIMESTAMP]), nonces)


def test_a_hint_that_cannot_be_sent_fails_no_workflow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPGEN2_HOOK_KEY", KEY)
    for url in ("file:///etc/passwd", "ftp://host/x", "http://host:port/", "http://\n/", "", "http://[::1/"):
        notify(url, "w")
    monkeypatch.delenv("DPGEN2_HOOK_KEY")
    notify("http://127.0.0.1:1/hook", "w")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 7 and all(line.startswith(SAID) for line in said) and "is not set" in said[-1]
    assert KEY not in "".join(said)


def test_a_daemon_that_is_away_is_tried_twice() -> None:
    pauses: list[float] = []
    assert "refused" in send("http://127.0.0.1:1/hook", KEY, pause=pauses.append)
    assert len(pauses) == 1
