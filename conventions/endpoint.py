"""Addresses of servers. Standard library only: pods check them, too."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_endpoint(text: str) -> str:
    """An address of a server: http(s)://host[:port], with neither credentials nor a cloud's metadata service in it."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"{text!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r}: a server's address is https://host[:port] (or http://)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials do not belong in an address; they come from the environment or a Secret")
    if parts.query or parts.fragment or port == 0 or not text.isprintable() or set(text) & set(" {}$`\\\"'<>"):
        raise ValueError(
            f"{text!r}: a server's address is https://host[:port], without query, fragment, port 0 or odd characters"
        )
    if parts.hostname.startswith("169.254.") or parts.hostname in ("fd00:ec2::254", "metadata.google.internal"):
        raise ValueError(f"{text!r} is a cloud's metadata service, not a server")
    return text.rstrip("/")
