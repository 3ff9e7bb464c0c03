"""What the steps of a workflow are given by a store that others may write to: surely what it should be.

A configuration is named by its hash. A job gets what this workflow's `plan` wrote for it, and of its earlier attempts
what this engine saw it leave: whatever else lies there is left out, and a planned file that was changed ends the step.
Not where the prefix is a folder: who can write to it can write to the engine's own files as well.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from conventions.errors import DataError
from operators.sums import sha256_of

_CONFIGURATION = re.compile(r"(?:.*/)?config/run/([0-9a-f]{64})\.json")


class Given:
    """Hashes of what `plan` wrote, and of what jobs left that did not finish, by the key of the folder.

    Parameters
    ----------
    left
        A file of the engine, where the next workflow finds what jobs left.
    """

    def __init__(self, left: Path) -> None:
        self.left = left
        self._jobs: dict[str, dict[str, str]] = {}
        self._known: dict[str, dict[str, str]] | None = None
        self._lock = threading.Lock()

    def planned(self, key: str, path: Path) -> None:
        """Remember what `plan` has written: the jobs' folders in `path`, which is to be published at `key`."""
        for inputs in path.glob("*/in"):
            self._jobs[f"{key}/{inputs.relative_to(path)}"] = _sums(inputs)

    def unfinished(self, key: str, path: Path) -> None:
        """Remember what a job has left in `path`, which is to be published at `key`: its next attempt goes on there."""
        line = json.dumps({"key": key, "files": _sums(path)})
        with self._lock, open(self.left, "a") as stream:
            stream.write(f"{line}\n")

    def check(self, key: str, path: Path) -> None:
        """Raise `DataError` where a copy of an object, or of all below a key, is not what it should be."""
        if named := _CONFIGURATION.fullmatch(key):
            if sha256_of(path) != named[1]:
                raise DataError(f"{key} is not the configuration that its name says: somebody has changed it")
        elif (wanted := self._jobs.get(key)) is not None and (lost := _reduce_to(path, wanted)):
            raise DataError(f"{key}/{lost[0]} is not what plan wrote: somebody has changed it")

    def sift(self, key: str, path: Path) -> None:
        """Leave in a copy of a job's earlier outputs only what this engine saw it leave."""
        with self._lock:
            if self._known is None:
                lines = self.left.read_text().splitlines() if self.left.exists() else []
                self._known = {found["key"]: found["files"] for found in map(json.loads, lines)}
        _reduce_to(path, self._known.get(key, {}))


def _reduce_to(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """Remove files that are not the wanted ones, and folders without any; return those that are missing then."""
    there = dict(_files(folder))
    good = {name for name in there.keys() & wanted.keys() if sha256_of(there[name]) == wanted[name]}
    for name in there.keys() - good:
        there[name].unlink()
    for path in sorted(folder.rglob("*"), reverse=True):  # what is deeper comes first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return sorted(wanted.keys() - good)


def _sums(folder: Path) -> dict[str, str]:
    return {name: sha256_of(file) for name, file in _files(folder)}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files below a folder, by their relative names."""
    return ((str(path.relative_to(folder)), path) for path in folder.rglob("*") if not path.is_dir())
