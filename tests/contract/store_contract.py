"""What every Store must do. A backend's test class inherits this and makes `store`."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conventions.errors import Conflict, NotFound, StoreError
from statemachine.store import Store

ROOT = Path(__file__).parents[2]


def increment(store: Store, times: int) -> int:
    """Add to `count` by swaps; return how many of them ended in neither success nor refusal."""
    unknown = 0
    while times:
        blob = store.get("count")
        try:
            store.put("count", b"%d" % (int(blob.data) + 1), if_match=blob.etag)
            times -= 1
        except Conflict:
            pass
        except StoreError:  # Ceph answers some losers of a race with 500
            unknown += 1
    return unknown


class StoreContract:
    many = 1001  # keys that do not fit into a page of a listing, nor into one request that deletes

    def test_get_returns_what_put_wrote(self, store: Store) -> None:
        store.put("a/b.json", b"one")
        assert store.get("a/b.json").data == b"one"
        store.put("a/b.json", b"two")
        assert store.get("a/b.json").data == b"two"

    def test_get_of_nothing_or_of_a_prefix_is_not_found(self, store: Store) -> None:
        store.put("a/b.json", b"one")
        for key in ("nothing", "a", "a/b.json/c"):
            with pytest.raises(NotFound):
                store.get(key)

    def test_folders_below_a_prefix(self, store: Store) -> None:
        for key in ("b/run/state.json", "b/run/event/1", "a/state.json", "c", "a b/x"):
            store.put(key, b"x")
        assert store.folders("") == ["a", "a b", "b"]
        assert store.folders("b/") == ["run"] and store.folders("b/run/") == ["event"]
        assert store.folders("c/") == store.folders("none/") == []

    def test_many_folders(self, store: Store) -> None:
        for number in range(self.many):
            store.put(f"runs/{number:06d}/x", b"")
        assert store.folders("runs/") == [f"{number:06d}" for number in range(self.many)]

    def test_create_happens_once(self, store: Store) -> None:
        store.put("claim", b"first", if_absent=True)
        with pytest.raises(Conflict):
            store.put("claim", b"second", if_absent=True)
        assert store.get("claim").data == b"first"

    def test_swap_needs_the_present_tag(self, store: Store) -> None:
        tag = store.put("state", b"1")
        newer = store.put("state", b"2", if_match=tag)
        with pytest.raises(Conflict):
            store.put("state", b"3", if_match=tag)
        assert store.get("state").data == b"2"
        assert store.get("state").etag == newer
        store.put("state", b"3", if_match=newer)
        assert store.get("state").data == b"3"

    def test_swap_of_nothing_is_refused(self, store: Store) -> None:
        with pytest.raises((Conflict, NotFound)):
            store.put("state", b"1", if_match="0" * 64)
        assert store.head("state") is None

    def test_of_many_creators_one_wins(self, store: Store) -> None:
        won: list[bytes] = []

        def create(name: bytes) -> None:
            try:
                store.put("claim", name, if_absent=True)
            except Conflict:
                return
            won.append(name)

        threads = [threading.Thread(target=create, args=(b"%d" % n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("claim").data == won[0]

    def test_concurrent_swaps_lose_no_increment(self, store: Store) -> None:
        store.put("count", b"0")
        unknown: list[int] = []
        threads = [threading.Thread(target=lambda: unknown.append(increment(store, 5))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(unknown) == 4
        assert 20 <= int(store.get("count").data) <= 20 + sum(unknown)

    def test_processes_lose_no_increment(self, store: Store) -> None:
        store.put("count", b"0")
        script = (
            "import sys; from statemachine.store import open_store; "
            "from tests.contract.store_contract import increment; print(increment(open_store(sys.argv[1]), 20))"
        )
        command = [sys.executable, "-c", script, store.url]
        processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
        unknown = sum(int(process.communicate()[0]) for process in processes)
        assert 40 <= int(store.get("count").data) <= 40 + unknown

    def test_list_is_sorted_and_complete_and_by_prefix(self, store: Store) -> None:
        keys = ["a/0001/in", "a/0001/out/x", "a/0002", "a-b", "b/c", "a/0001.json"]
        for key in keys:
            store.put(key, key.encode())
        assert [entry.key for entry in store.list("a/")] == sorted(k for k in keys if k.startswith("a/"))
        assert [entry.key for entry in store.list("a/0001")] == sorted(k for k in keys if k.startswith("a/0001"))
        assert {entry.key: entry.size for entry in store.list("a/0001/")} == {"a/0001/in": 9, "a/0001/out/x": 12}
        assert list(store.list("nothing/")) == []

    def test_many_keys_come_in_pages(self, store: Store, tmp_path: Path) -> None:
        names = [f"{number:06d}.json" for number in range(self.many)]
        (tmp_path / "done").mkdir()
        for name in names:
            (tmp_path / "done" / name).write_bytes(b"{}")
        store.publish(tmp_path / "done", "done")
        assert not (tmp_path / "done").exists()
        assert [entry.key for entry in store.list("done/")] == [f"done/{name}" for name in names]
        assert next(iter(store.list("done/"))).key == "done/000000.json"

    @pytest.mark.parametrize("name", ["a b", "a+b", "100%", "%2F", "a&b=c", "ü/日本", "a'\"b", "#?~*", "a<b>", "a:b@c"])
    def test_names_are_taken_as_they_are(self, store: Store, name: str) -> None:
        key = f"odd/{name}/x"
        store.put(key, b"1")
        assert store.get(key).data == b"1"
        assert [entry.key for entry in store.list(f"odd/{name}/")] == [key]
        assert [entry.key for entry in store.list("odd/")] == [key]
        assert store.head(key) is not None
        store.copy(key, key + "y")
        store.delete(key)
        assert [entry.key for entry in store.list("odd/")] == [key + "y"]

    def test_head_tells_the_size(self, store: Store) -> None:
        store.put("a", b"12345")
        entry = store.head("a")
        assert entry is not None and entry.size == 5
        assert store.head("b") is None

    def test_many_are_deleted(self, store: Store) -> None:
        keys = [f"many/{number:04d}/x y+&" for number in range(self.many)]
        for key in (*keys, "many/kept", "manyfold"):
            store.put(key, b"x")
        store.delete_all([*keys, "many/never", "many/0000/x"])
        assert [entry.key for entry in store.list("many")] == ["many/kept", "manyfold"]
        store.delete_all([])

    def test_copy_and_delete(self, store: Store) -> None:
        store.put("a", b"1")
        store.copy("a", "c/d")
        assert store.get("c/d").data == b"1"
        store.delete("a")
        store.delete("a")
        assert store.head("a") is None
        with pytest.raises(NotFound):
            store.copy("a", "e")

    def test_folders_go_out_and_come_back(self, store: Store, tmp_path: Path) -> None:
        folder = tmp_path / "made"
        (folder / "task.000000").mkdir(parents=True)
        (folder / "task.000000" / "x").write_bytes(b"1")
        (folder / "y").write_bytes(b"22")
        store.put("job/out/old", b"kept")
        sizes: list[int] = []
        store.publish(folder, "job/out", sizes.append)
        assert sorted(sizes) == [1, 2]
        assert [e.key for e in store.list("job/out/")] == ["job/out/old", "job/out/task.000000/x", "job/out/y"]
        path = store.fetch("job/out", tmp_path / "scratch")
        assert path is not None
        assert (path / "task.000000" / "x").read_bytes() == b"1"
        assert (path / "old").read_bytes() == b"kept"
        single = store.fetch("job/out/y", tmp_path / "single")
        assert single is not None and single.read_bytes() == b"22"
        assert store.fetch("job/nothing", tmp_path / "none") is None

    def test_what_is_fetched_has_siblings(self, store: Store, tmp_path: Path) -> None:
        for key in ("job/out!", "job/out-1", "job/out.txt", "job/out/x", "job/out0", "job/outer/x", "job/in"):
            store.put(key, key.encode())
        path = store.fetch("job/out", tmp_path / "folder")
        assert path is not None and [file.name for file in path.rglob("*")] == ["x"]
        single = store.fetch("job/out.txt", tmp_path / "single")
        assert single is not None and single.read_bytes() == b"job/out.txt"
        assert store.fetch("job/ou", tmp_path / "none") is None

    def test_a_file_is_published_over_an_old_one(self, store: Store, tmp_path: Path) -> None:
        store.put("done/000000.json", b"old")
        (tmp_path / "new").write_bytes(b"new")
        store.publish(tmp_path / "new", "done/000000.json")
        assert store.get("done/000000.json").data == b"new"

    @pytest.mark.parametrize(
        "key", ["", "/abs", "a//b", "a/../b", "..", "./a", "a/", "a/./b", "a\0b", "a\nb", "a\\b", "x" * 2000]
    )
    def test_keys_that_could_escape_are_refused(self, store: Store, key: str) -> None:
        with pytest.raises(StoreError):
            store.put(key, b"x")
        with pytest.raises(StoreError):
            store.get(key)
