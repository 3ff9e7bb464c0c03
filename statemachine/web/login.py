"""Who may give orders in a browser: one token, sessions in memory, and where a request comes from.

The token is shown to this process by DPGEN2_WEB_TOKEN, or by the file that DPGEN2_WEB_TOKEN_FILE names. A person gives
it once, and gets a session: a cookie with a random value, of which only the hash is kept here. Each form of a session
has a second secret, without which an order is refused; a page of another site could send the cookie, but not that.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field

from conventions.errors import ConfigError
from conventions.names import sha256
from statemachine.environment import value_or_file

TOKEN = "DPGEN2_WEB_TOKEN"
COOKIE = "dpgen2_session"
SHORTEST = 16  # characters of a token
LIFETIME = 4 * 3600.0  # seconds of a session
SESSIONS = 50  # at once; the oldest one ends
WRONG, WINDOW = 10, 300.0  # wrong tokens of an address in so many seconds
ADDRESSES = 1000  # whose wrong tokens are remembered


def take_token(environ: MutableMapping[str, str]) -> str:
    """The token that the environment gives, "" for none; afterwards it does not: nothing that is started needs it.

    Raises
    ------
    ConfigError
        When it is too short, or its file cannot be read.
    """
    advice = "; `openssl rand -hex 32` makes a good one"
    token = value_or_file(environ, TOKEN, advice)
    for name in (TOKEN, f"{TOKEN}_FILE"):
        environ.pop(name, None)
    if token and (len(token) < SHORTEST or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"{TOKEN}: use {SHORTEST} or more printable characters{advice}")
    return token


@dataclass
class Session:
    """A person who has given the token. `pasted` is a configuration that he was shown and has not confirmed yet."""

    until: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    pasted: tuple[str, str] = ("", "")


class Login:
    """Sessions of the people who know the token, and how many wrong tokens came lately."""

    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token, self._clock = _digest(token), clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def enter(self, token: str, address: str) -> str | None:
        """The value of a new session's cookie; None where the token is wrong."""
        right = hmac.compare_digest(_digest(token), self._token)
        with self._lock:
            now = self._clock()
            if not right:
                lately = self._wrong.setdefault(address, deque(maxlen=WRONG))
                lately.append(now)
                self._wrong.move_to_end(address)
                while len(self._wrong) > ADDRESSES:
                    self._wrong.popitem(last=False)
                return None
            value = secrets.token_urlsafe(32)
            self._sessions[sha256(value.encode())] = Session(now + LIFETIME)
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
            return value

    def is_barred(self, address: str) -> bool:
        """Have too many wrong tokens come from there? Then the right one is not looked at, either."""
        with self._lock:
            lately = self._wrong.get(address) or deque[float]()
            return len(lately) == WRONG and self._clock() - lately[0] < WINDOW

    def session(self, cookies: Mapping[str, str]) -> Session | None:
        """The session of a request, unless it has ended."""
        name = sha256(cookies.get(COOKIE, "").encode("utf-8", "replace"))
        with self._lock:
            found = self._sessions.get(name)
            if found is not None and self._clock() >= found.until:
                del self._sessions[name]
                return None
            return found

    def leave(self, cookies: Mapping[str, str]) -> None:
        """End the session of a request."""
        with self._lock:
            self._sessions.pop(sha256(cookies.get(COOKIE, "").encode("utf-8", "replace")), None)


def is_genuine(session: Session, given: str) -> bool:
    """Is that the secret of the session's own forms?"""
    return hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf.encode())


def _digest(token: str) -> bytes:
    """Of equal length for all, so that a comparison tells nothing of it."""
    return bytes.fromhex(sha256(token.strip().encode("utf-8", "replace")))
