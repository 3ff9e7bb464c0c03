"""Sending a message: a signed JSON document to a webhook, or anything that Apprise reaches. A failure is a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from secrets import token_hex
from typing import Any, Protocol

from conventions.errors import ConfigError
from operators.pod.hint import signed

from .messages import Message
from .targets import URLS, Targets

SECONDS = 10.0  # that a receiver may be silent
PAUSES = (1.0, 5.0)  # before a further try, where nobody was reached at all
_KINDS = {
    "converged": "success",
    "exhausted": "warning",
    "failed": "failure",
    "cancelled": "warning",
    "needs_person": "failure",
}


class Sender(Protocol):
    """One way to send."""

    name: str  # for logs: without anything of its address

    def send(self, message: Message, pause: Callable[[float], object]) -> str:
        """Send once; what went wrong, or ""."""
        ...


class Webhook:
    """POSTs a message as JSON. It is signed as hints are: HMAC-SHA256 over time, nonce and body."""

    name = "webhook"

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key

    def send(self, message: Message, pause: Callable[[float], object]) -> str:
        """Tried again only where no connection was made: what a receiver may have read is not sent twice."""
        import httpx

        body = message.body
        for seconds in (*PAUSES, None):
            headers = {"Content-Type": "application/json", "User-Agent": "dpgen2-sm", **signed(self._key, body)}
            try:
                with (
                    httpx.Client(timeout=SECONDS, follow_redirects=False) as client,
                    client.stream("POST", self._url, content=body, headers=headers) as answer,
                ):
                    return "" if answer.is_success else f"the receiver answered {answer.status_code}"
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if seconds is None:
                    return f"nobody is there: {error or type(error).__name__}"
                pause(seconds)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                return f"{type(error).__name__}: {error}"
        raise AssertionError("the last try returns")


class Apprise:
    """One address of Apprise: Slack, Feishu, mail and a hundred others."""

    def __init__(self, url: str, number: int) -> None:
        try:
            import apprise
        except ImportError:
            raise ConfigError(f"{URLS}: Apprise is not installed: `pip install 'dpgen2-sm[notify]'`") from None
        self.name = f"address {number} of {URLS}"
        asset = apprise.AppriseAsset(app_id="dpgen2-sm", app_desc="dpgen2-sm", app_url="", async_mode=False)
        self._service: Any = apprise.Apprise(asset=asset)
        try:
            known = self._service.add(url)
        except Exception:  # of a plugin, which may show the address
            known = False
        if not known:
            raise ConfigError(f"{self.name} is none that Apprise knows, or something is missing in it")

    def send(self, message: Message, pause: Callable[[float], object]) -> str:
        kind = _KINDS.get(message.kind, "info")
        done = self._service.notify(body=message.text, title=message.title, notify_type=kind, body_format="text")
        return "" if done else "Apprise could not deliver it"


def senders_of(targets: Targets) -> list[Sender]:
    """A sender for each target.

    Raises
    ------
    ConfigError
        When an address is none, or Apprise is needed and not installed.
    """
    hooks: list[Sender] = [Webhook(targets.webhook, targets.key)] if targets.webhook else []
    return [*hooks, *(Apprise(url, number) for number, url in enumerate(targets.urls, 1))]


def try_out(targets: Targets) -> Iterator[tuple[str, str]]:
    """Send a test message to each target; its name, and what went wrong."""
    message = Message(event=f"test-{token_hex(8)}", kind="test", run="dpgen2-sm", prefix="")
    for sender in senders_of(targets):
        yield sender.name, sender.send(message, time.sleep)
