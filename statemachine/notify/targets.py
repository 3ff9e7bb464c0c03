"""Where messages go: the environment of the process that watches says so, by name. A run has no say in it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from conventions.errors import ConfigError, did_you_mean
from conventions.secrets import in_address
from statemachine.environment import value_or_file

from .messages import KINDS, USUAL

URLS, WEBHOOK, KEY, ON = "DPGEN2_NOTIFY_URLS", "DPGEN2_WEBHOOK_URL", "DPGEN2_WEBHOOK_KEY", "DPGEN2_NOTIFY_ON"
NAMES = (URLS, WEBHOOK, KEY, *(f"{name}_FILE" for name in (URLS, WEBHOOK, KEY)))
SHORTEST = 16  # characters of the key


@dataclass(frozen=True)
class Targets:
    """What the environment says. Its addresses are secrets: who knows one may write there.

    Parameters
    ----------
    urls
        Apprise's, one a service.
    webhook, key
        Where a signed JSON document is sent, and what it is signed with.
    kinds
        Which events are told.
    """

    urls: tuple[str, ...] = field(default=(), repr=False)
    webhook: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    kinds: frozenset[str] = USUAL

    @property
    def secrets(self) -> list[str]:
        """What no log may show."""
        addresses = [part for url in (*self.urls, self.webhook) if url for part in in_address(url)]
        return [*addresses, *filter(None, [self.key])]


def take(environ: MutableMapping[str, str]) -> Targets:
    """The targets that the environment names; afterwards it does not: nothing that this process starts needs them.

    Raises
    ------
    ConfigError
        When they cannot be used. The error names variables, and no value but a kind of event.
    """
    found = targets_from(environ)
    for name in NAMES:
        environ.pop(name, None)
    return found


def targets_from(environ: Mapping[str, str]) -> Targets:
    """The targets that an environment names."""
    urls = tuple(line for line in value_or_file(environ, URLS).split() if line)
    for number, url in enumerate(urls, 1):
        if "://" not in url or not url.isprintable():
            raise ConfigError(
                f"{URLS}: entry {number} is no address of Apprise, such as mailto://...; spaces or lines separate them"
            )
    webhook, key = value_or_file(environ, WEBHOOK), value_or_file(environ, KEY)
    if webhook and not (webhook.lower().startswith(("https://", "http://")) and _plain(webhook)):
        raise ConfigError(f"{WEBHOOK}: it is not an address: http(s)://host/path, without a password")
    if bool(webhook) != bool(key):
        raise ConfigError(
            f"{WEBHOOK} and {KEY} go together: what is sent is signed; `openssl rand -hex 32` makes a key"
        )
    if key and (len(key) < SHORTEST or not _plain(key)):
        raise ConfigError(
            f"{KEY}: use {SHORTEST} or more printable characters; `openssl rand -hex 32` makes a good key"
        )
    return Targets(urls, webhook, key, _kinds(environ.get(ON, "")))


def _kinds(text: str) -> frozenset[str]:
    """
    >>> sorted(_kinds("failed, iteration"))
    ['failed', 'iteration']
    """
    named = [word for word in text.replace(",", " ").split() if word]
    for word in named:
        if word not in KINDS:
            raise ConfigError(f"{ON}: {word[:40]!r} is no event; {did_you_mean(word, KINDS)}")
    return frozenset(named) or USUAL


def _plain(text: str) -> bool:
    """Is it one word of ASCII, without a login in it?"""
    return text.isascii() and text.isprintable() and " " not in text and "@" not in text.partition("?")[0]
