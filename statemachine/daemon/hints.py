"""Who may wake the daemon: signed hints, each accepted once. Pure: key, time and memory are given."""

from __future__ import annotations

import hmac
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message

from conventions.documents import parse_json
from conventions.errors import ConfigError, DataError
from operators.pod.hint import KEY, NONCE, SIGNATURE, TIMESTAMP, sign
from statemachine.environment import value_or_file

TOKEN = "DPGEN2_HOOK_TOKEN"
KEY_FILE = f"{KEY}_FILE"
SHORTEST = 16  # characters of a key or token
WINDOW = 300  # seconds that a hint's timestamp may be off
NONCES = 10_000  # accepted hints that are remembered


class Refused(Exception):
    """A hint that is not accepted; `status` is for the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Keys:
    """What hints are checked with; empty: no such hints are accepted."""

    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


class Nonces:
    """The hints accepted recently. Bounded; only a holder of the key can fill it."""

    def __init__(self, size: int = NONCES) -> None:
        self._size = size
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def accept(self, nonce: str, until: float, now: float) -> None:
        """Remember a nonce until its hint would expire; raise `Refused` when it was seen before."""
        with self._lock:
            if nonce in self._until:
                raise Refused(409, "this hint was received before")
            if len(self._until) >= self._size:
                self._until = {old: end for old, end in self._until.items() if end >= now}
            if len(self._until) >= self._size:
                raise Refused(429, "too many hints")
            self._until[nonce] = until


def keys_from(environ: Mapping[str, str]) -> Keys:
    """Key and token as the environment gives them.

    Raises
    ------
    ConfigError
        When one is too short, or a key file cannot be read.
    """
    key = value_or_file(environ, KEY, "; `openssl rand -hex 32` makes a good key")
    token = environ.get(TOKEN, "").strip()
    for name, value in ((KEY_FILE if environ.get(KEY_FILE) else KEY, key), (TOKEN, token)):
        if value and len(value) < SHORTEST:
            raise ConfigError(
                f"{name}: {len(value)} characters are too short, use {SHORTEST} or more; `openssl rand -hex 32` "
                "makes a good one"
            )
    return Keys(key, token)


def verify(keys: Keys, headers: Mapping[str, str] | Message, body: bytes, now: float, nonces: Nonces) -> str:
    """Accept a hint and return the name in it, or raise `Refused`. A sender without the key learns nothing else.

    Parameters
    ----------
    headers
        Of the request: `X-Dpgen2-Timestamp`, `-Nonce` and `-Signature`; or `Authorization: Bearer` with the token.
    now
        Seconds since the epoch.
    """
    if not (keys.key or keys.token):
        raise Refused(404, f"hooks are off: the daemon has no {KEY}")
    bearer = headers.get("Authorization")
    if keys.token and bearer is not None:
        scheme, _, token = bearer.partition(" ")
        if scheme.lower() != "bearer" or not _same(token.strip(), keys.token):
            raise Refused(403, "invalid hint: the bearer token is wrong")
        return ""  # its body is another's: a bucket's notification, an event
    timestamp, nonce, signature = (headers.get(name, "") for name in (TIMESTAMP, NONCE, SIGNATURE))
    formed = re.fullmatch("[0-9]{1,12}", timestamp) and re.fullmatch("[A-Za-z0-9_-]{16,64}", nonce)
    if not keys.key or not formed or not _same(signature, sign(keys.key, timestamp, nonce, body)):
        raise Refused(403, "invalid hint: the signature is missing or wrong")
    if abs(now - int(timestamp)) > WINDOW:
        raise Refused(403, f"the hint's timestamp is more than {WINDOW} s off: check the clocks")
    nonces.accept(nonce, int(timestamp) + WINDOW, now)
    return named(body)


def named(body: bytes) -> str:
    """The run or workflow that a signed body names, `{"name": "cu"}`; "" when it names none.

    >>> named(b'{"name": "cu-0f3a99c1-000000-label-a0"}')
    'cu-0f3a99c1-000000-label-a0'
    """
    if not body:
        return ""
    try:
        found = parse_json(body, "invalid hint")
    except DataError as error:
        raise Refused(400, str(error)) from None
    name = found.get("name", "") if isinstance(found, dict) else None
    if not isinstance(name, str) or not re.fullmatch("[a-z0-9-]{0,63}", name):
        raise Refused(400, 'invalid hint: send no body, or {"name": "the name of a run or of its workflow"}')
    return name


def _same(given: str, right: str) -> bool:
    """Constant-time comparison; of bytes, since compare_digest takes only ASCII text."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode("utf-8"))
