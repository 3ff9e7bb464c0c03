"""The protocol that every store implements."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from conventions.errors import StoreError


@dataclass(frozen=True)
class Blob:
    """An object's bytes, with the tag (ETag) that a conditional write compares."""

    data: bytes
    etag: str


class Entry(NamedTuple):
    """An object in a listing."""

    key: str
    size: int
    etag: str = ""  # empty where a listing does not tell
    modified: float = 0.0  # seconds since 1970 by the store's clock; 0 in listings


Arrived = Callable[[int], None]
_STRANGE = re.compile(r"[\x00-\x1f\x7f\\]")


class Store(Protocol):
    """Objects under the prefix of one run. Keys are relative to it and use `/`.

    A write is seen by every later read and listing (strong consistency), and is durable when `put` with a
    condition returns.
    """

    url: str  # canonical; `open_store` reads it back

    def at(self, key: str) -> str:
        """The full name of an object, for people."""

    def secrets(self) -> list[str]:
        """The credentials in use: values that must never be written anywhere."""

    def get(self, key: str) -> Blob:
        """Read an object; raise `NotFound`."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write an object atomically and return its tag.

        Raises
        ------
        Conflict
            With `if_absent`, when the object exists; with `if_match`, when its tag differs or it does not exist.
        """

    def list(self, prefix: str) -> Iterator[Entry]:
        """Objects whose key begins with `prefix`, in lexical order."""

    def folders(self, prefix: str) -> Sequence[str]:
        """Names of the folders directly below a prefix (`""`, or one that ends with `/`), in lexical order."""

    def head(self, key: str) -> Entry | None:
        """Size and age of an object, or None when it does not exist."""

    def copy(self, source: str, target: str) -> None:
        """Copy one object inside the store, replacing the target."""

    def delete(self, key: str) -> None:
        """Delete an object; no error when it does not exist."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete objects, many in one request where the store can; no error for those that do not exist."""

    def fetch(self, key: str, scratch: Path) -> Path | None:
        """A local path with the object `key`, or with all objects under it; None when there are none.

        The path is below `scratch`, unless the store can offer files that it keeps anyway (never to be changed).
        """

    def publish(self, path: Path, key: str, arrived: Arrived = lambda size: None) -> None:
        """Move a local file to `key`, or a folder's files below it.

        Symbolic links in a folder are skipped; `path` itself must not be one: a job could link to anything.
        `arrived` is called with the size of each file, from any thread.
        """


def check_key(key: str) -> str:
    """Refuse keys that could leave the prefix or that some store would read differently."""
    parts = key.split("/")
    if not key or len(key.encode("utf-8", "replace")) > 900 or any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"{key!r} is not a usable key")
    if _STRANGE.search(key):
        raise StoreError(f"{key!r} is not a usable key: it has control characters or a backslash")
    return key


def files_below(path: Path, key: str) -> list[Path]:
    """What `publish` puts into the store: a file, or the regular files below a folder, in order."""
    if path.is_symlink():
        raise StoreError(f"{key}: a symbolic link is not published")
    if path.is_file():
        return [path]
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sorted(file for file in found if stat.S_ISREG(file.lstat().st_mode))
