"""The gate before every submission: no secret leaves in a manifest.

Whoever may list workflows reads them, and so do etcd's backups and the controller's logs.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any
from urllib.parse import quote

from conventions.cluster import looks_like_key
from conventions.errors import EngineError

_SHORTEST = 8  # a shorter value would be found in innocent words
_LONG = 16  # from here on a beginning of 8 characters gives a value away
# What a variable's name ends with when its value only says where a secret is, or whose.
_NO_SECRET = ("_FILE", "_PATH", "_DIR", "_NAME", "_ID", "_URI", "_URL", "_HOST", "_PORT")


def refuse_secrets(manifest: dict[str, Any], secrets: Collection[str]) -> None:
    """Raise `EngineError` when a manifest holds a secret, as it is or encoded; the error says where, and whose it is.

    Beside `secrets`, the values of all environment variables whose names say so are looked for.
    """
    named = {
        f"the value of {name}": value
        for name, value in os.environ.items()
        if looks_like_key(name) and not name.endswith(_NO_SECRET)
    }
    known = [*named.items(), *(("a credential in use", secret) for secret in secrets)]
    forms = {form: whose for whose, secret in known if len(secret) >= _SHORTEST for form in _forms(secret)}
    forms |= {secret[:_SHORTEST]: "the beginning of a credential in use" for secret in secrets if len(secret) >= _LONG}
    for where, text in _texts(manifest):
        found = next((whose for form, whose in forms.items() if form in text), None)
        if found:
            raise EngineError(
                f"the workflow was not submitted: it holds a secret in {where} ({found}). Take it out of the "
                "configuration; name a Kubernetes Secret in `pod.secrets` instead"
            )


def _forms(secret: str) -> set[str]:
    data = os.fsencode(secret)
    plain = {secret, quote(data, safe=""), json.dumps(secret)[1:-1], data.hex()}
    return plain | {text for encode in (base64.b64encode, base64.urlsafe_b64encode) for text in _base64(data, encode)}


def _base64(data: bytes, encode: Callable[[bytes], bytes]) -> Iterator[str]:
    """What base64 of a text shows of `data` in it, wherever it begins: `user:password` too."""
    for before, hidden in enumerate((0, 2, 3)):
        text = encode(bytes(before) + data).decode()
        yield text[hidden:] if not text.endswith("=") else text.rstrip("=")[hidden:-1]


def _texts(value: Any, where: str = "") -> Iterable[tuple[str, str]]:
    """Every text of a document, keys too, with its place."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield where, key
            yield from _texts(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}.{index}")
