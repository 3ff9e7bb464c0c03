"""The gate before every submission: no secret leaves in a manifest.

Whoever may list workflows reads them, and so do etcd's backups and the controller's logs.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import quote

from conventions.cluster import looks_like_key
from conventions.errors import EngineError

_SHORTEST = 8  # a shorter value would be found in innocent words
_LONG = 16  # from here on a beginning of 8 characters gives a value away


def refuse_secrets(manifest: dict[str, Any], secrets: Collection[str]) -> None:
    """Raise `EngineError` when a manifest holds a secret, as it is or encoded; the error names the place only.

    Beside `secrets`, the values of all environment variables whose names say so are looked for.
    """
    named = [value for name, value in os.environ.items() if looks_like_key(name) and not name.endswith("_FILE")]
    forms = {form for secret in {*secrets, *named} if len(secret) >= _SHORTEST for form in _forms(secret)}
    forms |= {secret[:_SHORTEST] for secret in secrets if len(secret) >= _LONG}
    for where, text in _texts(manifest):
        if any(form in text for form in forms):
            raise EngineError(
                f"the workflow was not submitted: it holds a secret in {where}. Take it out of the configuration; "
                "name a Kubernetes Secret in `pod.secrets` instead"
            )


def _forms(secret: str) -> set[str]:
    data = secret.encode()
    encoded = [base64.b64encode(data), base64.urlsafe_b64encode(data)]
    plain = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], data.hex()}
    return plain | {text.decode().rstrip("=") for text in encoded}


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
