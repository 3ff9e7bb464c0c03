"""The engine's copies of what is on S3: they save downloads, and are never believed."""

from __future__ import annotations

import errno
import hashlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from statemachine.store import Mirror, open_store, transfer
from tests.servers import Server

_runs = itertools.count()


class Site:
    """A run's store as its engine sees it, and what is downloaded."""

    def __init__(self, server: Server, root: Path) -> None:
        self.root, self.url = root, server.prefix(f"mirror/{next(_runs)}")
        self.other: Any = open_store(self.url)  # somebody else who writes there
        self.downloads: list[str] = []
        self.restart()

    def restart(self) -> None:
        """As the next workflow does."""
        self.mirror = Mirror(self.root / "mirror")
        self.store: Any = open_store(self.url, self.mirror)

        def count(params: dict[str, Any], **_: Any) -> None:
            self.downloads.append(params["Key"].removeprefix(f"{self.store.place.path}/"))

        self.store._client.meta.events.register("provide-client-params.s3.GetObject", count)

    def publish(self, key: str, **files: bytes) -> None:
        folder = self.root / "made"
        for name, data in files.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        self.store.publish(folder, key)
        assert not folder.exists()

    def fetch(self, key: str) -> dict[str, bytes]:
        folder = self.store.fetch(key, self.root / "scratch")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def site(s3: Server, tmp_path: Path) -> Site:
    return Site(s3, tmp_path)


def test_what_was_made_here_is_not_downloaded(site: Site) -> None:
    site.publish("job/000000/out", a=b"1", b=b"2")
    site.publish("job/000000/log", c=b"3")
    assert site.fetch("job") == {"000000/out/a": b"1", "000000/out/b": b"2", "000000/log/c": b"3"}
    site.publish("job/000000/out", b=b"22")  # of the next attempt
    assert site.fetch("job/000000/out") == {"a": b"1", "b": b"22"}
    assert site.downloads == []


def test_what_was_fetched_is_not_downloaded_again(site: Site) -> None:
    for name in "ab":
        site.other.put(f"models/{name}", name.encode())
    for _ in range(2):
        assert site.fetch("models") == {"a": b"a", "b": b"b"}
        site.restart()
    assert sorted(site.downloads) == ["models/a", "models/b"]


def test_what_jobs_share_is_downloaded_by_one_of_them(site: Site) -> None:
    for number in range(20):
        site.other.put(f"models/{number}", b"%d" % number)
    together = threading.Barrier(4)
    found = []

    def job() -> None:
        together.wait()
        found.append(len(site.fetch("models")))

    threads = [threading.Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [20] * 4
    assert len(site.downloads) == 20


def test_one_thread_at_a_time_works_on_a_key(site: Site) -> None:
    with site.mirror.alone("models"):
        assert not site.mirror.alone("models").acquire(blocking=False)
        assert site.mirror.alone("data").acquire(blocking=False)


def link(path: Path) -> None:
    elsewhere = path.parents[2] / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[Callable[[Path], Any]] = [
    lambda path: path.write_bytes(b"xx"),
    lambda path: path.write_bytes(b"1"),
    lambda path: path.write_bytes(b""),
    lambda path: path.unlink(),
    link,
    folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_copy_that_is_not_the_object_is_replaced(site: Site, damage: Callable[[Path], Any]) -> None:
    site.publish("job", a=b"11", b=b"22")
    damage(site.mirror.root / "job" / "a")
    assert site.fetch("job") == {"a": b"11", "b": b"22"}
    assert not (site.mirror.root / "job" / "a").is_symlink()
    assert site.downloads == ["job/a"]


def test_the_store_decides_what_there_is(site: Site) -> None:
    site.publish("job", a=b"1", b=b"2", c=b"3")
    site.other.put("job/a", b"9")
    site.other.delete("job/b")
    site.other.delete("job/c")
    site.other.put("job/c/d", b"4")
    (site.mirror.root / "job" / "never published").write_bytes(b"x")
    assert site.fetch("job") == {"a": b"9", "c/d": b"4"}
    site.other.delete("job/c/d")
    site.other.put("job/c", b"5")
    assert site.fetch("job") == {"a": b"9", "c": b"5"}
    assert sorted(site.downloads) == ["job/a", "job/c", "job/c/d"]


def test_a_large_file_is_known_by_its_parts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WHOLE", 6 << 20)
    monkeypatch.setattr(transfer, "PART", 5 << 20)
    content = bytes(range(256)) * (11 << 12)
    site.publish("job", large=content)
    assert [entry.etag[-2:] for entry in site.store.list("job/")] == ["-3"]
    assert site.fetch("job") == {"large": content}
    assert site.downloads == []
    (site.mirror.root / "job" / "large").write_bytes(content[:-1] + b"x")
    assert site.fetch("job") == {"large": content}
    assert site.downloads == ["job/large"]


def test_a_copy_that_cannot_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, etag = tmp_path / "copy", hashlib.md5(b"1", usedforsecurity=False).hexdigest()
    copy.write_bytes(b"1")
    assert transfer.is_there(copy, 1, etag)

    def fails(*arguments: object) -> Any:
        raise OSError(errno.EIO, "the disk is worn out")

    monkeypatch.setattr(transfer, "open", fails, raising=False)
    assert not transfer.is_there(copy, 1, etag)


def test_a_copy_that_cannot_be_kept_is_missed_by_nobody(site: Site) -> None:
    site.mirror.root.mkdir()
    (site.mirror.root / "job").write_bytes(b"in the way")
    site.publish("job/000000", a=b"1")
    assert site.other.get("job/000000/a").data == b"1"
    site.mirror.forget()
    assert site.fetch("job/000000") == {"a": b"1"}


def test_only_what_is_in_the_store_is_kept(site: Site, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "empty").mkdir(parents=True)
    (made / "a").write_bytes(b"1")
    (made / "link").symlink_to("a")
    site.store.publish(made, "job")
    assert not made.exists()
    assert [path.name for path in (site.mirror.root / "job").iterdir()] == ["a"]
    (tmp_path / "done").write_bytes(b"{}")
    site.store.publish(tmp_path / "done", "done/000000.json")
    assert not (tmp_path / "done").exists()
    assert site.fetch("done") == {"000000.json": b"{}"}
    assert site.downloads == []


def test_what_one_workflow_did_not_use_is_gone_at_its_end(site: Site) -> None:
    site.publish("train/product", a=b"1")
    site.publish("explore/job/000000/in", a=b"1")
    site.publish("explore/job/000000/out", a=b"1")
    site.mirror.forget()
    site.restart()
    (site.mirror.root / ".part-1-left").write_bytes(b"by one that was killed")
    site.fetch("explore/job/000000/out")
    site.publish("select/product", a=b"1")
    site.mirror.forget()
    files = [path for path in site.mirror.root.rglob("*") if path.is_file()]
    assert sorted(path.relative_to(site.mirror.root).as_posix() for path in files) == [
        "explore/job/000000/out/a",
        "select/product/a",
    ]
    assert site.downloads == []


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "mirror" / "job").mkdir(parents=True)
    (tmp_path / "mirror" / "link").symlink_to(tmp_path / "elsewhere")
    Mirror(tmp_path / "mirror").forget()
    assert list((tmp_path / "mirror").iterdir()) == []
    assert (tmp_path / "elsewhere" / "kept").exists()
