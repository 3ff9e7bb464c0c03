"""The paths that a person wrote into a configuration."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from conventions.errors import ConfigError


def matches(base: Path, pattern: str, where: str) -> Iterator[Path]:
    """The files and folders that a path or glob pattern names, relative to the configuration's folder `base`."""
    try:
        root = base / Path(pattern).expanduser()
        there = root.exists()
    except (RuntimeError, OSError) as error:  # no such user, a name too long, a folder that may not be entered
        raise ConfigError(f"{where}: {pattern!r}: {error}") from None
    if there:
        yield root
    elif any(char in pattern for char in "*?["):
        found = [Path(name) for name in sorted(glob.glob(str(root), recursive=True))]
        if not found:
            raise ConfigError(f"{where}: no file matches {pattern!r}")
        yield from found
    else:
        raise ConfigError(f"{where}: {pattern!r}: there is no such file in {base}")
