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
POLLERS = STORES | {"ARGO_TOKEN", "DPGEN2_HOOK_KEY", "DPGEN2_HOOK_TOKEN"}
SHORTEST = 8  # shorter values are not treated as secrets
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
    return [value for value in (*named, *passwords, *map(unquote, passwords)) if len(value) >= SHORTEST]


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
