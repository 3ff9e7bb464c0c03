"""Which values are secrets, judged by their names, and the forms in which they may appear in a text."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote, unquote

# Variables with what a poller is trusted with: to reach the store, and beyond. No job gets them.
STORES = frozenset(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
ADDRESSES = frozenset(("DPGEN2_NOTIFY_URLS", "DPGEN2_WEBHOOK_URL"))  # who knows them may write there
KEYS = frozenset(("DPGEN2_HOOK_KEY", "DPGEN2_HOOK_TOKEN", "DPGEN2_WEBHOOK_KEY", "DPGEN2_WEB_TOKEN"))
POLLERS = STORES | ADDRESSES | KEYS | {"ARGO_TOKEN"}
SHORTEST = 8  # shorter values are not treated as secrets
_LONG = 20  # a part of an address with so many characters is no word
_NAMED_HOSTS = re.compile(r"(https?|jsons?|xmls?|forms?|mailtos?)$")  # elsewhere a token may stand where a host does
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")


def without_pollers(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment as a job may have it."""
    return {name: value for name, value in environ.items() if name not in POLLERS}


def looks_like_key(name: str) -> bool:
    """Does a variable's name suggest that its value is a secret?"""
    return bool(re.search(r"(TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|_KEY$)", name.upper()))


def named_secrets(environ: Mapping[str, str]) -> list[str]:
    """The values of variables whose names suggest secrets, and the passwords in addresses (HTTPS_PROXY)."""
    named = [value for name, value in environ.items() if looks_like_key(name)]
    passwords = [password for value in environ.values() for password in _PASSWORD.findall(value)]
    parts = [part for name in ADDRESSES for url in environ.get(name, "").split() for part in in_address(url)]
    return [value for value in (*named, *passwords, *map(unquote, passwords), *parts) if len(value) >= SHORTEST]


def in_address(url: str) -> list[str]:
    """What gives access in an address where notifications go: the whole, its password, and what looks like a token.

    >>> in_address("https://hooks.example.org/services/T0AB12CD3/secret")
    ['https://hooks.example.org/services/T0AB12CD3/secret', 'T0AB12CD3']
    >>> in_address("feishu://5b1c9f2e-77aa/")[1:], in_address("json://me:key@host.example.org:8080/")[1:]
    (['5b1c9f2e-77aa'], ['key'])
    """
    scheme, _, rest = url.partition("://")
    login, at, place = rest.partition("@")
    if _NAMED_HOSTS.match(scheme.lower()):
        place = re.sub(r"^[^/?#]*", "", place if at else rest)
        rest = f"{login}@{place}" if at else place
    password = login.partition(":")[2] if at and "/" not in login else ""
    pieces = [piece for piece in re.split(r"[/:@?&=#,]+", rest) if len(piece) >= SHORTEST]
    tokens = [piece for piece in pieces if len(piece) >= _LONG or re.search("[0-9A-Z]", piece)]
    found = [url, password, *tokens]
    return list(dict.fromkeys(text for part in found for text in (part, unquote(part)) if text))


def forms(secret: str) -> set[str]:
    """A secret as it is, and as it appears in URLs, JSON, hexadecimal and base64."""
    data = os.fsencode(secret)
    plain = {secret, quote(data, safe=""), json.dumps(secret)[1:-1], data.hex()}
    return plain | {text for encode in (base64.b64encode, base64.urlsafe_b64encode) for text in _base64(data, encode)}


def _base64(data: bytes, encode: Callable[[bytes], bytes]) -> Iterator[str]:
    """The part of a text's base64 that depends on `data` only, at any offset of it: also in `user:password`."""
    for before, hidden in enumerate((0, 2, 3)):
        text = encode(bytes(before) + data).decode()
        yield text[hidden:] if not text.endswith("=") else text.rstrip("=")[hidden:-1]
