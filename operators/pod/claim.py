"""The guard: a workflow's first step takes its attempt, or ends.

A workflow's name is free again once the workflow is deleted, so a poller that slept could create it a second
time. The claim is created once and never removed: whoever finds another owner there must not work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from conventions.errors import ConfigError, Conflict


@dataclass(frozen=True)
class ClaimParams:
    prefix: str
    key: str
    owner: str


@dataclass(frozen=True)
class ClaimContext:
    pass


@dataclass(frozen=True)
class Claimed:
    owner: str


def claim(params: ClaimParams, ctx: ClaimContext) -> Claimed:
    """Create the claim, or find that this very workflow has it already (a repeated pod).

    Raises
    ------
    Conflict
        When another workflow has it, or the poller has revoked it.
    """
    scheme = params.prefix.partition("://")[0]
    if scheme == "s3":
        from .s3 import create_object

        owner = create_object(params.prefix, params.key, params.owner.encode()).decode("utf-8", "replace")
    elif scheme == "file":
        path = Path(unquote(urlsplit(params.prefix).path))
        owner = create_file(path / params.key, params.owner.encode()).decode("utf-8", "replace")
    else:
        raise ConfigError(f"no claim can be taken in {params.prefix}")
    if owner != params.owner:
        raise Conflict(f"this attempt belongs to {owner}; nothing is done here")
    return Claimed(owner)


def create_file(path: Path, data: bytes) -> bytes:
    """Create a file with its content in one step, durably; return the content that is there then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(part, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except FileExistsError:
        pass
    finally:
        part.unlink()
    return path.read_bytes()
