"""Which values are secrets, by the names that they have, and the forms in which they may appear in a text."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote, unquote

SHORTEST = 8  # what names and forms suggest is a secret from this length on
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")


def looks_like_key(name: str) -> bool:
    """Does a variable's name say that its value is a secret?"""
    return bool(re.search(r"(TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|_KEY$)", name.upper()))


def named_secrets(environ: Mapping[str, str]) -> list[str]:
    """The values of variables whose names say that they are secrets, and the passwords in addresses (HTTPS_PROXY)."""
    named = [value for name, value in environ.items() if looks_like_key(name)]
    passwords = [password for value in environ.values() for password in _PASSWORD.findall(value)]
    return [value for value in (*named, *passwords, *map(unquote, passwords)) if len(value) >= SHORTEST]


def forms(secret: str) -> set[str]:
    """A secret as it is, and as URLs, JSON, hexadecimal and base64 hold it."""
    data = os.fsencode(secret)
    plain = {secret, quote(data, safe=""), json.dumps(secret)[1:-1], data.hex()}
    return plain | {text for encode in (base64.b64encode, base64.urlsafe_b64encode) for text in _base64(data, encode)}


def _base64(data: bytes, encode: Callable[[bytes], bytes]) -> Iterator[str]:
    """What base64 of a text shows of `data` in it, wherever it begins: `user:password` too."""
    for before, hidden in enumerate((0, 2, 3)):
        text = encode(bytes(before) + data).decode()
        yield text[hidden:] if not text.endswith("=") else text.rstrip("=")[hidden:-1]
