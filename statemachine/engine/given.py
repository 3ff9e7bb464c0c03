"""What the steps of a workflow are given by a store that others may write to: surely what it should be.

A configuration is named by its hash, and a job gets what this workflow's `plan` wrote for it: a file that was changed
meanwhile ends the step, one that was added is left out. Not where the prefix is a folder: who can write to it can write
to the engine's own files as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from conventions.errors import DataError
from operators.sums import sha256_of

_CONFIGURATION = re.compile(r"(?:.*/)?config/run/([0-9a-f]{64})\.json")


class Given:
    """Hashes of what `plan` wrote, by the key of each job's folder."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[str, str]] = {}

    def note(self, key: str, path: Path) -> None:
        """Remember what `plan` has written: the jobs' folders in `path`, which is to be published at `key`."""
        for inputs in path.glob("*/in"):
            sums = {name: sha256_of(file) for name, file in _files(inputs)}
            self._jobs[f"{key}/{inputs.relative_to(path)}"] = sums

    def check(self, key: str, path: Path) -> None:
        """Raise `DataError` where a copy of an object, or of all below a key, is not what it should be."""
        if named := _CONFIGURATION.fullmatch(key):
            if sha256_of(path) != named[1]:
                raise DataError(f"{key} is not the configuration that its name says: somebody has changed it")
            return
        if (planned := self._jobs.get(key)) is None:
            return
        there = dict(_files(path))
        for name in there.keys() - planned.keys():
            there[name].unlink()
        for name, sha in planned.items():
            if name not in there or sha256_of(there[name]) != sha:
                raise DataError(f"{key}/{name} is not what plan wrote: somebody has changed it")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files below a folder, by their relative names."""
    return ((str(path.relative_to(folder)), path) for path in folder.rglob("*") if not path.is_dir())
