"""The check before every submission: no manifest may hold a secret.

Everybody who may list workflows can read them; they are also in etcd's backups and in the controller's logs.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any

from conventions.errors import EngineError
from conventions.secrets import SHORTEST, forms, looks_like_key

_LONG = 16  # of values this long, also the first 8 characters are looked for
# Endings of variable names whose values only say where a secret is, or whose.
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
    wanted = {form: whose for whose, secret in known if len(secret) >= SHORTEST for form in forms(secret)}
    wanted |= {secret[:SHORTEST]: "the beginning of a credential in use" for secret in secrets if len(secret) >= _LONG}
    for where, text in _texts(manifest):
        found = next((whose for form, whose in wanted.items() if form in text), None)
        if found:
            raise EngineError(
                f"the workflow was not submitted: it holds a secret in {where} ({found}). Take it out of the "
                "configuration; name a Kubernetes Secret in `pod.secrets` instead"
            )


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
