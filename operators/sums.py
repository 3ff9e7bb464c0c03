"""SHA256SUMS: what a folder of results holds, in the words of sha256sum, which also jobs without Python have."""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path

from conventions.errors import DataError
from conventions.space import DataSpace

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*)")
_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_file(path: Path, sha256: str, size: int | None = None) -> str:
    """What is wrong with a file of which hash and perhaps size are recorded; empty if nothing is."""
    try:
        there = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if not stat.S_ISREG(there.st_mode):
        return "missing"
    if size is not None and there.st_size != size:
        return f"{there.st_size} bytes instead of {size}"
    return "" if sha256_of(path) == sha256 else "its content is not the one that was recorded (sha256 differs)"


def user_file(files: Path, name: str) -> Path:
    """A file that the user's configuration names, as `init` stored it: `{sha256}/{name}` below `files`.

    Raises
    ------
    DataError
        When it is missing, or is not what its name says.
    """
    problem = check_file(files / name, name.partition("/")[0])
    if problem:
        raise DataError(f"{DataSpace.files}/{name}: {problem}; put the file back that the run began with")
    return files / name


def write_sums(folder: Path) -> None:
    """List all files of a folder in its SHA256SUMS."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    lines = [f"{sha256_of(path)}  {name}\n" for name, path in sorted(files.items()) if name != SUMS]
    (folder / SUMS).write_text("".join(lines))


def parse(data: bytes) -> dict[str, str]:
    """The hashes of a list by name; lines that are none, or name what lies elsewhere, do not count."""
    found = (_LINE.fullmatch(line) for line in data.decode("ascii", "replace").splitlines())
    return {match[2]: match[1] for match in found if match}


def verify(folder: Path, *names: str, what: str) -> None:
    """Raise `DataError` unless the named files of a folder are the recorded ones."""
    if not (folder / SUMS).exists():
        raise DataError(f"{what}: {SUMS} is missing; put it back, or rewind to the stage that wrote it")
    recorded = parse((folder / SUMS).read_bytes())
    for name in names:
        problem = check_file(folder / name, recorded[name]) if name in recorded else f"{SUMS} does not list it"
        if problem:
            raise DataError(f"{what}: {name}: {problem}")
