"""What a request says: by which name it asks, which page sends it, and its body, whole or refused before it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import ClientDisconnect, Request

FIELDS = 20  # of a form


class Refused(Exception):
    """A body that is not taken; `status` is for the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def read_body(request: Request, most: int) -> bytes:
    """The whole body; one of more bytes is not read."""
    length = request.headers.get("Content-Length", "0").strip()
    if "Transfer-Encoding" in request.headers:
        raise Refused(411, "send a Content-Length")
    if not re.fullmatch("[0-9]+", length):
        raise Refused(400, "Content-Length is not a number")
    if len(length) > 9 or int(length) > most:
        raise Refused(413, f"send at most {most} bytes")
    try:
        return await request.body()
    except ClientDisconnect:
        raise Refused(400, "the body did not come") from None


async def read_form(request: Request, most: int) -> dict[str, str]:
    """The fields of a form as browsers send it without files."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "send a form of this page")
    try:
        text = (await read_body(request, most)).decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS, errors="strict"))
    except ValueError:
        raise Refused(400, "this is no form of this page") from None


def names_of(host: str) -> frozenset[str]:
    """The names by which a server on this machine only may be asked; empty where it listens elsewhere.

    >>> sorted(names_of("127.0.0.1")), names_of("0.0.0.0")
    (['127.0.0.1', '::1', 'localhost'], frozenset())
    """
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return frozenset({"localhost", "127.0.0.1", "::1", host}) if here else frozenset()


def hostname(given: str) -> str:
    """The name in a Host header, without its port.

    >>> hostname("LocalHost:8080"), hostname("[::1]:80"), hostname("evil.example")
    ('localhost', '::1', 'evil.example')
    """
    return re.sub(r":[0-9]*$", "", given).strip("[]").lower() if given.count(":") < 2 or "]" in given else given


def is_from_here(headers: Mapping[str, str]) -> bool:
    """Does a browser say that one of our own pages sends the request? Who says nothing of it is refused, too.

    >>> is_from_here({"Sec-Fetch-Site": "same-origin"}), is_from_here({"Sec-Fetch-Site": "same-site"}), is_from_here({})
    (True, False, False)
    >>> is_from_here({"Origin": "http://localhost:80", "Host": "localhost:80"})
    True
    """
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None:
        return site == "same-origin"
    try:
        return origin is not None and urlsplit(origin).netloc == headers.get("Host")
    except ValueError:
        return False
