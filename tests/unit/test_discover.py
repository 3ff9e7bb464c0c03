"""`dpgen2-sm list`: every run below a folder, whatever state it is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from conventions.errors import StoreError
from statemachine.run.discover import runs_below
from statemachine.store import Entry
from tests.conftest import Cli
from tests.doubles import MemoryStore


def test_runs_below_a_prefix() -> None:
    store = MemoryStore()
    for key in (
        "a/state.json",
        "a/b/state.json",
        "c/d/state.json",
        "c/x",
        "1/2/3/4/state.json",
        "1/2/3/4/5/state.json",
    ):
        store.put(key, b"")
    assert list(runs_below(store, {})) == [f"memory://run/{name}" for name in ("1/2/3/4", "a", "c/d")]
    store.put("state.json", b"")
    assert list(runs_below(store, {})) == ["memory://run"]


class Closed(MemoryStore):
    """A store that does not let everybody into the folder `b`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.closed = "b/"

    def head(self, key: str) -> Entry | None:
        self.asked.append(key)
        if key.startswith(self.closed):
            raise StoreError("permission denied")
        return super().head(key)


def test_a_folder_that_nobody_may_look_into_hides_no_other() -> None:
    store, missed = Closed(), dict[str, str]()
    for name in ("a", "b", "c"):
        store.put(f"{name}/state.json", b"")
    assert list(runs_below(store, missed)) == ["memory://run/a", "memory://run/c"]
    assert missed == {"memory://run/b": "permission denied"}
    store.closed = ""
    with pytest.raises(StoreError):
        list(runs_below(store, {}))


def test_the_store_is_not_asked_again_about_runs_that_are_known() -> None:
    store = Closed()
    for number in range(150):
        store.put(f"runs/{number}/state.json", b"")
    found = list(runs_below(store, {}))
    assert len(found) == 150
    store.put("runs/new/state.json", b"")
    store.asked.clear()
    assert sorted(runs_below(store, {}, known=set(found))) == sorted([*found, "memory://run/runs/new"])
    assert store.asked == ["state.json", "runs/state.json", "runs/new/state.json"]


def test_the_settings_of_an_endpoint_are_kept() -> None:
    store = MemoryStore()
    store.url = "s3://bucket/runs?endpoint=http://h:1&region=x"
    store.put("cu/state.json", b"")
    assert list(runs_below(store, {})) == ["s3://bucket/runs/cu?endpoint=http://h:1&region=x"]


def test_list(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(stub_run.read_text())
    for name in ("one", "two", "deep/er/three"):
        path = stub_run.with_name(f"{name.rpartition('/')[2]}.yaml")
        path.write_text(yaml.safe_dump({**config, "prefix": f"runs/{name}", "run": path.stem}))
        assert cli("init", path)[0] == 0
    assert cli("pause", f"{tmp_path}/runs/two")[0] == 0
    (tmp_path / "runs/bad").mkdir()
    (tmp_path / "runs/bad/state.json").write_text("{}")
    code, output, _ = cli("list", f"{tmp_path}/runs")
    lines = output.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == ["?", "three", "one", "two"]
    assert "unreadable" in lines[0] and "not a state document" in lines[0]
    assert "label.submitting (paused)" in lines[3] and lines[3].endswith(f"file://{tmp_path}/runs/two")
    found = json.loads(cli("list", "--json", f"{tmp_path}/runs", f"{tmp_path}/runs/two")[1])
    assert [run["prefix"].rpartition("/")[2] for run in found] == ["bad", "three", "one", "two", "two"]
    assert "there is no run below" in cli("list", f"{tmp_path}/nowhere")[1]
