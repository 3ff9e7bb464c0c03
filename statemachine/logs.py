"""The daemon's log: lines for people, or one JSON object a line. No secret passes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import datetime, timezone
from urllib.parse import quote

# What a line may carry beside its message; given to logging as `extra`.
FIELDS = ("event", "run", "prefix", "iteration", "stage", "at", "attempt", "version")


class Redactor(logging.Filter):
    """Replaces secrets in every line; more of them may become known later."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets: frozenset[str] = frozenset()
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on keep these out, as they are and as a URL holds them."""
        forms = (form for secret in secrets if secret for form in (secret, quote(secret, safe="")))
        self._secrets = self._secrets.union(forms)

    def redact(self, text: str) -> str:
        """
        >>> Redactor(["hunter2/0"]).redact("login hunter2/0 at http://host/?k=hunter2%2F0")
        'login *** at http://host/?k=***'
        """
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = self.redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


class JsonLines(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        return json.dumps(line if not record.exc_text else {**line, "traceback": record.exc_text})


def set_up(json_lines: bool, secrets: Iterable[str]) -> Redactor:
    """Log to stderr from now on."""
    redactor = Redactor(secrets)
    handler = logging.StreamHandler()
    handler.addFilter(redactor)
    handler.setFormatter(JsonLines() if json_lines else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("apscheduler", "transitions", "httpx", "botocore"):
        logging.getLogger(library).setLevel(logging.ERROR)
    return redactor
