"""The paths that a person wrote into a configuration."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from conventions.errors import ConfigError

MOST_LOOKED_AT = 50_000  # files and folders; a pattern may begin at the root of a cluster's disks


def matches(base: Path, pattern: str, where: str) -> Iterator[Path]:
    """The files and folders that a path or glob pattern names, relative to the configuration's folder `base`."""
    try:
        path = Path(pattern).expanduser()
        there = (base / path).exists()
    except (RuntimeError, OSError) as error:  # no such user, a name too long, a folder that may not be entered
        raise ConfigError(f"{where}: {pattern!r}: {error}") from None
    if there:
        yield base / path
    elif glob.has_magic(pattern):
        top, parts = (Path(path.anchor), path.parts[1:]) if path.is_absolute() else (base, path.parts)
        found = sorted(set(_below(top, parts, _counted(pattern, where))))
        if not found:
            raise ConfigError(f"{where}: no file matches {pattern!r}")
        yield from found
    else:
        raise ConfigError(f"{where}: {pattern!r}: there is no such file in {base}")


Look = Callable[[Path], list[str]]


def _counted(pattern: str, where: str) -> Look:
    """Lists what is in a folder, until it is too much."""
    seen = 0

    def look(folder: Path) -> list[str]:
        nonlocal seen
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
        except OSError:  # no folder, or one that may not be entered
            return []
        seen += len(names)
        if seen > MOST_LOOKED_AT:
            raise ConfigError(
                f"{where}: {pattern!r} is looked for among more than {MOST_LOOKED_AT:,} files; name their folders"
            )
        return names

    return look


def _below(
    folder: Path, parts: tuple[str, ...], look: Look, around: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Path]:
    """What a pattern names below a folder, as `glob` does; but `**` does not go in circles through links.

    Parameters
    ----------
    around
        Device and number of the folders that `**` has come through.
    """
    there = _status(folder)
    if there is None:
        return
    if not parts:
        yield folder
    elif parts[0] == "**":
        here = (there.st_dev, there.st_ino)
        if here in around:
            return
        if stat.S_ISDIR(there.st_mode):
            yield from _below(folder, parts[1:], look)
            for name in look(folder):
                if not name.startswith("."):
                    yield from _below(folder / name, parts, look, around | {here})
        elif len(parts) == 1:
            yield folder
    elif glob.has_magic(parts[0]):
        for name in look(folder):
            if fnmatch.fnmatchcase(name, parts[0]) and (parts[0][0] == "." or name[0] != "."):
                yield from _below(folder / name, parts[1:], look)
    else:
        yield from _below(folder / parts[0], parts[1:], look)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
