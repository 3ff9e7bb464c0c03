"""The guard's claim. What happens when answers are lost is in tests/fault/test_s3_faults.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conventions.errors import ConfigError, Conflict
from operators.pod.claim import ClaimContext, ClaimParams, claim
from statemachine.store import open_store
from statemachine.store.file import FileStore
from tests import servers

KEY = "label/ase/iter/000000/claim/0"


@pytest.fixture(params=["file", "s3"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return FileStore.of(tmp_path / "my run").url
    server: servers.Server = request.getfixturevalue("s3")
    return server.prefix(tmp_path.name)


def test_the_first_owner_has_it_for_ever(prefix: str) -> None:
    assert claim(ClaimParams(prefix, KEY, "uid-1"), ClaimContext()).owner == "uid-1"
    assert claim(ClaimParams(prefix, KEY, "uid-1"), ClaimContext()).owner == "uid-1"
    with pytest.raises(Conflict, match="belongs to uid-1"):
        claim(ClaimParams(prefix, KEY, "uid-2"), ClaimContext())
    assert open_store(prefix).get(KEY).data == b"uid-1"


def test_a_revoked_attempt_cannot_be_claimed(prefix: str) -> None:
    open_store(prefix).put(KEY, b"revoked", if_absent=True)
    with pytest.raises(Conflict, match="belongs to revoked"):
        claim(ClaimParams(prefix, KEY, "uid-1"), ClaimContext())


def test_other_prefixes_are_refused() -> None:
    with pytest.raises(ConfigError, match="ftp"):
        claim(ClaimParams("ftp://host/run", KEY, "uid-1"), ClaimContext())


def test_a_claim_in_a_folder_is_on_disk_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content before its name, and its name before any job: a power cut must not free the attempt for another."""
    order: list[str] = []
    link, fsync = os.link, os.fsync

    def spy_link(source: Path, target: Path) -> None:
        order.append("name")
        link(source, target)

    def spy_fsync(handle: int) -> None:
        order.append("flush folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "flush content")
        fsync(handle)

    monkeypatch.setattr(os, "link", spy_link)
    monkeypatch.setattr(os, "fsync", spy_fsync)
    claim(ClaimParams(FileStore.of(tmp_path).url, KEY, "uid-1"), ClaimContext())
    assert order == ["flush content", "name", "flush folder"]


def test_a_claim_in_a_folder_needs_the_standard_library_only(tmp_path: Path) -> None:
    code = (
        "import sys; from operators.pod.claim import *; "
        f"claim(ClaimParams({FileStore.of(tmp_path).url!r}, 'claim/0', 'uid'), ClaimContext()); "
        "print({'boto3', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
