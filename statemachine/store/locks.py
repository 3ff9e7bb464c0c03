"""Do locks in a folder hold against everyone who can open it? The file store and the local engine rely on that."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from conventions.errors import ConfigError

_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """A mounted file system: its type, what is mounted, and its options."""

    kind: str
    source: str
    options: frozenset[str]


def check_locks(folder: Path) -> Mount:
    """Test the locks of a folder, or of the one that it would be made in; tell the file system.

    Raises
    ------
    ConfigError
        Where locks fail, do not exclude, or are known to this machine only.
    """
    mount = mount_of(folder)
    fault = _known_fault(mount) or _fault(folder)
    if fault:
        raise ConfigError(
            f"{folder} is on {mount.kind} ({mount.source}): {fault}. Without locks that every machine sees, processes "
            "would overwrite each other's state: use a local disk or S3, or mount it with such locks (docs/stores.md)"
        )
    return mount


def mount_of(folder: Path) -> Mount:
    """What a folder, or where it would be made, is on: the last mount of the longest path that leads to it."""
    found, depth = Mount("unknown", "unknown", frozenset()), -1
    path = os.path.realpath(folder)
    for line in _MOUNTS.read_text("utf-8", "surrogateescape").splitlines():
        own, _, other = line.partition(" - ")
        _, _, _, _, at, options, *_ = own.split(" ")
        kind, source, more = other.split(" ")
        at = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), at)  # a space, a tab, a backslash
        if len(at) >= depth and (path + "/").startswith(at.rstrip("/") + "/"):
            found, depth = Mount(kind, source, frozenset([*options.split(","), *more.split(",")])), len(at)
    return found


def _known_fault(mount: Mount) -> str | None:
    """What the options say; no test on one machine would show it."""
    local = mount.options & {"nolock", "local_lock=flock", "local_lock=all", "localflock", "nobrl"}
    if mount.kind == "fuse.sshfs":
        return "its locks hold on this machine only"
    if mount.kind in ("nfs", "nfs4", "lustre", "cifs", "smb3") and local:
        return f"it is mounted with {' and '.join(sorted(local))}, so that locks hold on this machine only"
    if mount.kind == "lustre" and "flock" not in mount.options:
        return "it is mounted without the option `flock`, so that there are no locks"
    return None


def _fault(folder: Path) -> str | None:
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        first = tempfile.NamedTemporaryFile(dir=there, prefix=".part-locks-")  # noqa: SIM115 (`with` would hide its error)
    except OSError:  # it cannot be written to: whoever writes next says so
        return None
    with first, open(first.name, "ab") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError as error:
            return f"locks fail ({error.strerror})"
    return "two locks of one file were given at once"
