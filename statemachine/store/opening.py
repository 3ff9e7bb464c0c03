"""Opening the store of a prefix; only the store that is used is imported."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from conventions.errors import ConfigError

from .base import Store
from .mirror import Mirror


def open_store(url: str, mirror: Mirror | None = None) -> Store:
    """The store of a prefix: `file:///absolute/path` or `s3://bucket/path`.

    Parameters
    ----------
    mirror
        Where a store whose files are elsewhere keeps copies of those that pass through here.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme == "file":
        from .file import FileStore

        return FileStore(url)
    if scheme == "s3":
        from .s3 import S3Store

        return S3Store(url, mirror)
    raise ConfigError(f"prefix {url!r}: use file:///absolute/path, or s3://bucket/path")


def local_folder(url: str) -> Path | None:
    """The folder that a file:// URL names; None for other stores.

    >>> local_folder("file:///a%20b/c"), local_folder("s3://bucket/c")
    (PosixPath('/a b/c'), None)
    """
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def prefix_url(text: str, base: Path) -> str:
    """A prefix as a URL; a plain path is a folder, relative to `base`."""
    if "://" in text or ":" in text.partition("/")[0]:
        return open_store(text).url
    from .file import FileStore

    try:
        return FileStore.of(base / Path(text).expanduser()).url
    except (RuntimeError, OSError, ValueError) as error:  # no such user; a loop of links; not a path
        raise ConfigError(f"prefix {text!r}: {error}") from None
