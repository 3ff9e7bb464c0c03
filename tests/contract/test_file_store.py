"""The file store: the contract, and what only it promises."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from conventions.errors import ConfigError, Conflict, StoreError
from statemachine.store import Store, open_store
from statemachine.store.file import FileStore

from .store_contract import StoreContract


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FileStore.of(tmp_path / "root")


class TestFileStore(StoreContract):
    many = 31  # it has no pages


def test_a_refused_write_says_what_is_there(store: Store) -> None:
    old = store.put("state.json", b"1")
    with pytest.raises(Conflict, match="exists already"):
        store.put("state.json", b"2", if_absent=True)
    store.put("state.json", b"2", if_match=old)
    with pytest.raises(Conflict, match="it has changed"):
        store.put("state.json", b"3", if_match=old)
    store.delete("state.json")
    with pytest.raises(Conflict, match="it is gone"):
        store.put("state.json", b"3", if_match=old)


def test_a_swap_is_flushed_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power-cut order: the whole file system, then the new content, then the name, then the folder."""
    store = FileStore.of(tmp_path)
    tag = store.put("state.json", b"1")
    order: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def spy_replace(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    def spy_fsync(handle: int) -> None:
        order.append("flush folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "flush content")
        fsync(handle)

    monkeypatch.setattr(Path, "replace", spy_replace)
    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr("statemachine.store.file._sync_filesystem", lambda folder: order.append("flush all"))
    store.put("state.json", b"2", if_match=tag)
    assert order == ["flush all", "flush content", "rename", "flush folder"]


@pytest.mark.parametrize(("syncfs", "all_of_them"), [(lambda handle: 0, 0), (lambda handle: -1, 1), (None, 1)])
def test_where_one_file_system_cannot_be_flushed_all_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncfs: Any, all_of_them: int
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: flushed.append("all"))
    library = SimpleNamespace(syncfs=syncfs) if syncfs else SimpleNamespace()
    monkeypatch.setattr("statemachine.store.file.ctypes", SimpleNamespace(CDLL=lambda name: library))
    store = FileStore.of(tmp_path)
    store.put("state.json", b"2", if_match=store.put("state.json", b"1"))
    assert len(flushed) == all_of_them


def test_a_new_folder_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("statemachine.store.file._sync_folder", synced.append)
    FileStore.of(tmp_path).put("a/b/c", b"1")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_killed_write_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore.of(tmp_path)
    store.put("state.json", b"old")

    def die(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        store.put("state.json", b"new")
    assert store.get("state.json").data == b"old"
    assert [entry.key for entry in store.list("")] == ["state.json"]


def test_a_killed_publication_from_another_disk_leaves_the_old_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file cannot be renamed from disk to disk: a copy that breaks off must not be taken for the model."""
    store, made = FileStore.of(tmp_path / "root"), tmp_path / "model"
    store.put("product/model", b"old")
    made.write_bytes(b"the new one")
    replace, copyfile = Path.replace, shutil.copyfile

    def other_disk(self: Path, target: Path) -> Path:
        if self == made:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, target)

    def die(source: Path, target: Path) -> None:
        target.write_bytes(b"the")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", other_disk)
    monkeypatch.setattr(shutil, "copyfile", die)
    with pytest.raises(KeyboardInterrupt):
        store.publish(made, "product/model")
    assert store.get("product/model").data == b"old"
    assert [entry.key for entry in store.list("")] == ["product/model"]
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    store.publish(made, "product/model")
    assert store.get("product/model").data == b"the new one" and not made.exists()


def test_of_two_writers_one_wins_although_somebody_deletes_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has compared; the lock is deleted, and a second takes a new one, compares and writes."""
    first, second = FileStore.of(tmp_path), FileStore.of(tmp_path)
    tag = first.put("state.json", b"1", if_absent=True)
    check = first._check

    def deleted(*found: object) -> None:
        check(*found)  # type: ignore[arg-type]
        (tmp_path / ".lock").unlink()
        second.put("state.json", b"2", if_match=tag)

    monkeypatch.setattr(first, "_check", deleted)
    with pytest.raises(StoreError, match=r"\.lock was deleted while it was held; nothing was written: try again"):
        first.put("state.json", b"3", if_match=tag)
    assert first.get("state.json").data == b"2"
    assert not list(tmp_path.glob(".part*")), "nothing is left"


def test_whoever_waited_for_a_lock_that_was_deleted_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore.of(tmp_path)
    store.put("a", b"1", if_absent=True)
    flock, locked = fcntl.flock, []

    def slow(lock: IO[bytes], kind: int) -> None:
        locked.append(os.fstat(lock.fileno()).st_ino)
        if len(locked) == 1:
            (tmp_path / ".lock").rename(tmp_path / "away")
        flock(lock, kind)

    monkeypatch.setattr(fcntl, "flock", slow)
    store.put("b", b"1", if_absent=True)
    assert len(locked) == 2 and locked[1] == (tmp_path / ".lock").stat().st_ino


def test_its_own_files_are_hidden_and_refused(tmp_path: Path) -> None:
    store = FileStore.of(tmp_path)
    store.put("a", b"1", if_absent=True)
    assert [entry.key for entry in store.list("")] == ["a"]
    with pytest.raises(StoreError):
        store.put(".lock", b"x")


@pytest.mark.parametrize(
    "url", ["file://host/path", "file:///a?b", "ftp://x", "relative", "file:relative", "file:///a#b"]
)
def test_odd_prefixes_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)


def test_a_path_with_spaces_and_percent_signs_comes_back(tmp_path: Path) -> None:
    root = tmp_path / "my run 100%"
    store = FileStore.of(root)
    store.put("a", b"1")
    assert (root / "a").is_file()
    assert open_store(store.url).get("a").data == b"1"
