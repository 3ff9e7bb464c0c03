"""Folders whose locks do not hold: what the mount says, and what a lock itself does."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from conventions.errors import ConfigError
from statemachine.engine.local import LocalEngine
from statemachine.store import locks
from statemachine.store.locks import check_locks, mount_of
from tests.conftest import Cli

ROOT = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of mounts to which a test appends."""
    table = tmp_path / "mountinfo"
    table.write_text(ROOT)
    monkeypatch.setattr(locks, "_MOUNTS", table)
    return table


def mounted(table: Path, at: Path | str, kind: str, options: str = "rw", source: str = "server:/export") -> None:
    with open(table, "a") as stream:
        stream.write(f"99 22 0:50 / {at} rw,relatime shared:9 master:2 - {kind} {source} {options}\n")


def test_the_mount_of_a_folder(mount: Path, tmp_path: Path) -> None:
    assert mount_of(tmp_path).kind == "ext4"
    mounted(mount, tmp_path / "a", "nfs", "rw,vers=3")
    mounted(mount, tmp_path / "a/b", "xfs")
    mounted(mount, str(tmp_path / "a c").replace(" ", "\\040"), "btrfs")
    assert mount_of(tmp_path / "a/x/y").kind == "nfs" and "vers=3" in mount_of(tmp_path / "a").options
    assert mount_of(tmp_path / "a/b/run").kind == "xfs"
    assert mount_of(tmp_path / "a c/run").kind == "btrfs"
    assert mount_of(tmp_path / "ab").kind == "ext4"
    mounted(mount, tmp_path / "a", "nfs4")
    assert mount_of(tmp_path / "a/run").kind == "nfs4", "mounted over the first"
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert mount_of(tmp_path / "link/run").kind == "nfs4"


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("nfs", "rw,vers=3,nolock,local_lock=all", "mounted with local_lock=all and nolock"),
        ("nfs4", "rw,vers=4.2,local_lock=flock", "mounted with local_lock=flock"),
        ("lustre", "rw,localflock,lazystatfs", "mounted with localflock"),
        ("lustre", "rw,checksum", "without the option `flock`"),
        ("lustre", "rw,noflock", "without the option `flock`"),
        ("cifs", "rw,nobrl", "mounted with nobrl"),
        ("fuse.sshfs", "rw", "on this machine only"),
    ],
)
def test_locks_of_one_machine_are_refused(mount: Path, tmp_path: Path, kind: str, options: str, why: str) -> None:
    mounted(mount, tmp_path, kind, options)
    with pytest.raises(ConfigError, match=why):
        check_locks(tmp_path / "run")
    with pytest.raises(ConfigError, match=why):
        LocalEngine(tmp_path / "run/.engine", "s3://b/x").check()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("nfs", "rw,vers=3,local_lock=none"),
        ("nfs4", "rw,vers=4.2,local_lock=none"),
        ("nfs4", "rw,local_lock=posix"),
        ("lustre", "rw,flock,lazystatfs"),
        ("gpfs", "rw"),
        ("xfs", "rw,nobrl"),
    ],
)
def test_locks_of_all_machines_are_taken(mount: Path, tmp_path: Path, kind: str, options: str) -> None:
    mounted(mount, tmp_path, kind, options)
    assert check_locks(tmp_path / "run").kind == kind
    assert [path.name for path in tmp_path.iterdir()] == ["mountinfo"], "nothing is left, nothing is made"


def test_locks_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=r"locks fail \(No locks available\)"):
        check_locks(tmp_path)


def test_locks_that_exclude_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)
    with pytest.raises(ConfigError, match="two locks of one file"):
        check_locks(tmp_path)


def test_what_is_typed_and_seen(cli: Cli, stub_run: Path, mount: Path) -> None:
    mounted(mount, stub_run.parent, "nfs", "rw,vers=3,nolock,local_lock=all", "filer:/export")
    code, output, _ = cli("doctor", stub_run)
    assert code == 1 and "is on nfs (filer:/export): it is mounted with local_lock=all and nolock" in output
    mount.write_text(ROOT)
    mounted(mount, stub_run.parent, "nfs4", "rw,vers=4.2,local_lock=none")
    code, output, _ = cli("doctor", stub_run)
    assert code == 0 and "conditional writes are honoured; locks work (nfs4)" in output


def test_a_lock_is_seen_through_a_file_that_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS gives no exclusive lock for a file that is not open for writing."""
    flock = fcntl.flock

    def like_nfs(handle: object, how: int) -> None:
        if how & fcntl.LOCK_EX and not getattr(handle, "writable")():  # noqa: B009
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(handle, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", like_nfs)
    engine = LocalEngine(tmp_path, tmp_path.as_uri())
    with open(tmp_path / "lock", "wb") as lock:
        assert not engine._alive(tmp_path)
        flock(lock, fcntl.LOCK_EX)
        assert engine._alive(tmp_path)
