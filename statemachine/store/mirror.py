"""Copies, on this machine, of what an engine has fetched from a store or published there."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Collection
from pathlib import Path


class Mirror:
    """Files by the keys of their objects: what a step has made or fetched, the next one need not download.

    A copy is never believed: whoever reads it asks the store for a listing, prunes what that does not name, and
    compares the rest with it. So a copy that is stale, cut short or changed is downloaded again.

    Parameters
    ----------
    root
        A folder that only one workflow uses at a time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._used: set[str] = set()
        self._locks: dict[str, threading.Lock] = {}

    def alone(self, key: str) -> threading.Lock:
        """A lock: what all jobs share is downloaded by the first of them, while the others wait."""
        self._used.add(key)
        return self._locks.setdefault(key, threading.Lock())

    def prune(self, key: str, named: Collection[str]) -> None:
        """Remove what lies at or below `key` and is not named."""
        _prune(self.root / key, key, named)

    def take(self, path: Path, key: str, files: list[Path]) -> None:
        """Move local files here that were uploaded to `key`: `path` itself, or those below it."""
        self._used.add(key)
        with contextlib.suppress(OSError):  # they are in the store: a copy is no more than a convenience
            for file in files:
                place = self.root / key / file.relative_to(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)

    def forget(self) -> None:
        """Remove all that has not been used since this object was made."""
        above = {key[:end] for key in self._used for end, letter in enumerate(key) if letter == "/"}

        def clear(folder: Path, below: str) -> None:
            for entry in _entries(folder):
                key = f"{below}{entry.name}"
                if key in above and entry.is_dir(follow_symlinks=False):
                    clear(Path(entry.path), f"{key}/")
                elif key not in self._used:
                    _remove(entry)

        clear(self.root, "")


def _prune(path: Path, key: str, named: Collection[str]) -> None:
    if path.is_symlink() or not path.is_dir():
        if key not in named:
            path.unlink(missing_ok=True)
        return
    for entry in _entries(path):
        _prune(Path(entry.path), f"{key}/{entry.name}", named)
    with contextlib.suppress(OSError):  # it is not empty
        path.rmdir()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        Path(entry.path).unlink(missing_ok=True)
