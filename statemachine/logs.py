"""What is logged, and that no secret is. The daemon's log: lines for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any

from conventions.secrets import SHORTEST, forms, named_secrets

# What a line may carry beside its message; given to logging as `extra`.
FIELDS = ("event", "run", "prefix", "iteration", "stage", "at", "attempt", "version")

LEAST = 4  # a shorter value would be found in innocent words, whoever calls it a secret
# What gives access for a while although nobody set it: signatures, and tokens in headers; and passwords in addresses.
_PASSING = [
    (re.compile(r"(Signature(?:=|:\s*))[0-9a-f]{32,}"), r"\1***"),
    (re.compile(r"((?:bearer|x-amz-security-token)\W+(?:b['\"])?)[\w.~+/=-]{16,}", re.IGNORECASE), r"\1***"),
    (re.compile(r"(://)[^/\s:@'\"]*:[^/\s@'\"]*@"), r"\1***@"),
]


class Redactor(logging.Filter):
    """Replaces secrets in every line; more of them may become known later."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._forms: dict[str, frozenset[str]] = {}
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on keep these out, as they are and as URLs, JSON, hexadecimal or base64 hold them."""
        for secret in secrets:
            if len(secret) >= LEAST and secret not in self._forms:
                long = {form for form in forms(secret) if len(form) >= SHORTEST}
                self._forms = {**self._forms, secret: frozenset({secret, *long})}

    def redact(self, text: str) -> str:
        """
        >>> Redactor(["hunter2/0"]).redact("login hunter2/0 at http://host/?k=hunter2%2F0")
        'login *** at http://host/?k=***'
        """
        for form in sorted(frozenset().union(*self._forms.values()), key=len, reverse=True):
            text = text.replace(form, "***")
        for pattern, instead in _PASSING:
            text = pattern.sub(instead, text)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit: logging would show them
            message = f"{record.msg} {record.args}"
        record.msg, record.args = self.redact(message), ()
        if record.exc_info:
            record.exc_text = self.redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


class _OfProcess(Redactor):
    """Knows the secrets of the environment, as soon as there is anything to say."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = False

    def redact(self, text: str) -> str:
        if not self._looked:
            self._looked = True
            self.hide(named_secrets(os.environ))
        return super().redact(text)


known = _OfProcess()


def guard() -> None:
    """From now on no record of any logger holds a secret, whoever writes it and at whatever level.

    boto3 tells tokens and signatures at DEBUG, and a handler may be another's.
    """
    make = logging.getLogRecordFactory()
    if isinstance(make, _Clean):
        return
    logging.setLogRecordFactory(_Clean(make))


class _Clean:
    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        known.filter(record)
        return record


class JsonLines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        return json.dumps(line if not record.exc_text else {**line, "traceback": record.exc_text})


def set_up(json_lines: bool, secrets: Iterable[str]) -> Redactor:
    """Log to stderr from now on."""
    known.hide(secrets)
    handler = logging.StreamHandler()
    handler.addFilter(known)
    handler.setFormatter(JsonLines() if json_lines else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("apscheduler", "transitions", "httpx", "botocore"):
        logging.getLogger(library).setLevel(logging.ERROR)
    return known
