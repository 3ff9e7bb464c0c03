"""Telling the daemon that something has ended. Standard library only.

A hint says "look now" and at which run, and nothing else. One that gets lost costs a polling interval, and is no error.
A workflow's last step sends one when its work is done: a pod for the hint alone would cost more than all else between
two stages. Argo uploads the outputs after that, so the daemon looks again and again for a while (`daemon/schedule.py`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, InvalidURL
from typing import Any

KEY = "DPGEN2_HOOK_KEY"
TIMESTAMP, NONCE, SIGNATURE = "X-Dpgen2-Timestamp", "X-Dpgen2-Nonce", "X-Dpgen2-Signature"
TRIES = 2
SECONDS = 3.0  # a try; a workflow's end waits for it
SAID = "notify: "  # how the line begins that a workflow's last step prints about its hint


def notify(url: str, workflow: str) -> None:
    """Send the hint of a workflow that ends; the key is in DPGEN2_HOOK_KEY. Never fails the workflow."""
    try:
        trouble = send(url, os.environ.get(KEY, "").strip(), workflow)
    except Exception as error:  # whatever it is: the workflow's work is done, and must not be called failed
        trouble = repr(error)
    print(SAID + (f"{trouble}; the daemon will look by itself" if trouble else "the daemon looks now"))


def sign(key: str, timestamp: str, nonce: str, body: bytes) -> str:
    """The signature of a hint.

    >>> sign("k" * 16, "1700000000", "0123456789abcdef", b"")[:15]
    'sha256=e3342a7e'
    """
    message = f"{timestamp}.{nonce}.".encode() + body
    return "sha256=" + hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def signed(key: str, body: bytes) -> dict[str, str]:
    """The headers of a hint of now, fresh at every call."""
    timestamp, nonce = str(int(time.time())), secrets.token_hex(16)
    return {TIMESTAMP: timestamp, NONCE: nonce, SIGNATURE: sign(key, timestamp, nonce, body)}


def send(url: str, key: str, name: str = "", pause: Callable[[float], None] = time.sleep) -> str:
    """Send a hint, at most twice; return what went wrong, or "".

    Parameters
    ----------
    name
        Of the run to look at, or of one of its workflows; without a name the daemon looks at all its runs.
    pause
        Waits that many seconds before a further try.
    """
    if not key:
        return f"{KEY} is not set"
    if not url.isprintable() or not url.lower().startswith(("http://", "https://")):
        return f"{url!r} is not an address: http(s)://host:port/hook"
    trouble, body = "", json.dumps({"name": name}).encode() if name else b""
    for attempt in range(TRIES):
        if attempt:
            pause(0.5)
        try:
            request = urllib.request.Request(url, body, signed(key, body), method="POST")
            with _opener().open(request, timeout=SECONDS) as answer:
                return "" if answer.status == 202 else f"{url} answered {answer.status}: is it the daemon's /hook?"
        except urllib.error.HTTPError as error:
            with error:
                trouble = f"{url} answered {error.code}: {error.read(200).decode('utf-8', 'replace').strip()}"
            if error.code < 500:
                return trouble
        except (InvalidURL, ValueError) as error:
            return f"{url!r} is not an address: {error}"
        except (OSError, HTTPException) as error:
            trouble = f"{url}: {getattr(error, 'reason', '') or error}"
    return trouble


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A hint goes where it was sent, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)
