"""`migrate`: the run at the new place is the run, whatever interrupts the copy; what is no such copy is not touched."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conventions.documents import COSTS
from conventions.errors import StoreError
from conventions.space import DataSpace
from conventions.state import State
from operators.sums import write_sums
from statemachine.machine.orders import Order
from statemachine.run import migrate as module
from statemachine.run.migrate import migrate, works
from statemachine.run.opening import open_poller
from statemachine.run.place import begun_at, is_copy
from statemachine.run.poller import tell
from statemachine.run.record import Record
from statemachine.store import Store, open_store
from statemachine.store.file import FileStore
from tests.conftest import CONFIG, STRUCTURE, Cli, Kept
from tests.doubles import MemoryStore, first_state
from tests.servers import Server

SPACE = DataSpace({})


@pytest.fixture
def rests(cli: Cli, stub_run: Path, tmp_path: Path) -> Store:
    """A run that was begun and paused, with some labels, and what its engine and store keep for themselves."""
    assert cli("init", stub_run)[0] == 0
    assert cli("pause", stub_run)[0] == 0
    labels = tmp_path / "out" / SPACE.dataset_init("bulk")
    (labels / "Cu1").mkdir(parents=True)
    (labels / "Cu1" / "type.raw").write_text("0\n")
    write_sums(labels)
    open_store(f"file://{tmp_path}/out").put(SPACE.told("0-00000002-paused"), b"host:1 0\n")
    for name in (".engine/workflow/x/log", ".probe/left", "dataset/.part-1-2-x"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of this machine")
    return open_store(f"file://{tmp_path}/out")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def ended(kept: Kept) -> Store:
    """A run that has converged."""
    return open_store(f"file://{kept.again().parent}/out")


def objects(store: Store) -> dict[str, bytes]:
    """What a run has, without its state and what a machine keeps for itself."""
    found = {entry.key: store.get(entry.key).data for entry in store.list("")}
    return {key: data for key, data in found.items() if key != SPACE.state and not key.startswith(SPACE.probe)}


def added(source: Store, target: Store) -> set[str]:
    """What a migrated run has beside all that the first one has, with equal bytes."""
    before, after = objects(source), objects(target)
    assert {key: after.get(key) for key in before} == before
    return set(after) - set(before)


def check_identity(source: Store, target: Store) -> None:
    """The copy is a run of its own, with nothing else that is new."""
    old, new = Record(source).load().state, Record(target).load().state
    assert new.run_uid != old.run_uid and new.version == old.version + 1 and new.hold == old.hold
    assert added(source, target) == {SPACE.event(new.version), SPACE.configuration(new.config_sha256)}
    assert json.loads(target.get(SPACE.configuration(new.config_sha256)).data)["prefix"] == target.url


# --- the copy -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_a_folder_to_s3_and_back(cli: Cli, ended: Store, s3: Server, tmp_path: Path) -> None:
    there, back = open_store(s3.prefix(f"migrate/{tmp_path.name}")), open_store(f"file://{tmp_path}/back")
    before = objects(ended)
    code, output, errors = cli("migrate", ended.url, there.url, "--json")
    assert code == 0, errors
    told = json.loads(output)
    assert told["objects"] == told["copied"] == len(before) + 1 and told["at"] == "converged"
    assert told["bytes"] == sum(map(len, before.values()))
    check_identity(ended, there)
    code, output, errors = cli("migrate", there.url, tmp_path / "back")
    assert code == 0 and f"`dpgen2-sm resume {back.url}` goes on with it" in output, errors
    check_identity(there, back)
    assert objects(ended) == before and len(added(ended, back)) == 4
    assert cli("doctor", back.url)[0] == 0
    first, second = (json.loads(cli("status", place.url, "--json")[1]) for place in (ended, back))
    assert first["iterations"] == second["iterations"]


def test_leftovers_of_a_machine_stay(cli: Cli, rests: Store, s3: Server, tmp_path: Path) -> None:
    there = open_store(s3.prefix(f"migrate/{tmp_path.name}"))
    assert cli("migrate", rests.url, there.url)[0] == 0
    assert not [
        entry.key for entry in there.list("") if entry.key.startswith((".probe", ".engine")) or "part" in entry.key
    ]
    there.put("dataset/.engine/x", b"as of an aws s3 sync")
    assert cli("migrate", there.url, tmp_path / "back")[0] == 0
    assert not (tmp_path / "back" / "dataset" / ".engine").exists()


def test_large_objects_go_through_a_file(
    cli: Cli, rests: Store, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WHOLE", 3)
    before = objects(rests)
    there, back = open_store(s3.prefix(f"migrate/{tmp_path.name}")), open_store(f"file://{tmp_path}/back")
    assert cli("migrate", rests.url, there.url)[0] == 0
    assert cli("migrate", there.url, back.url)[0] == 0
    assert objects(rests) == before, "a file of the source is not moved"
    check_identity(there, back)


def rows(cli: Cli, run: Path) -> list[dict[str, Any]]:
    """What the table says; what jobs used differs."""
    found = json.loads(cli("status", run, "--json")[1])["iterations"]
    return [{name: value for name, value in row.items() if name not in COSTS} for row in found]


def test_the_migrated_run_goes_on_to_the_same_end(cli: Cli, kept: Kept, stub_run: Path, tmp_path: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{tmp_path}/out")
    while (state := poller.step()).at != "train.running":
        poller.engine.wait(state.workflow, 60)
    assert cli("pause", stub_run)[0] == 0
    code, _, errors = cli("migrate", stub_run, tmp_path / "there")
    assert code == 2 and "its state is train.running, so a workflow may be running; wait until" in errors
    while poller.step().at.endswith(".running"):
        poller.engine.wait(state.workflow, 60)
    assert cli("migrate", stub_run, tmp_path / "there")[0] == 0
    assert cli("resume", tmp_path / "there")[0] == 0
    expected = rows(cli, kept.path.parent / "kept")
    assert rows(cli, tmp_path / "there") == expected
    old = Record(open_store(f"file://{tmp_path}/out")).load().state
    assert old.hold and old.at == "explore.submitting", "the first one is as it was, and goes on if somebody asks it to"
    assert cli("resume", stub_run)[0] == 0
    assert rows(cli, stub_run) == expected


# --- interrupted --------------------------------------------------------------------------------------------


class Broken:
    """Lets so many writes of a store through, then fails; the last of them perhaps after it was made."""

    def __init__(self, store: Any, writes: int, after: bool) -> None:
        self._store, self._left, self._after, self._lock = store, writes, after, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, **condition: Any) -> Any:
        with self._lock:
            self._left -= 1
            left = self._left
        if left == 0 and self._after:
            self._store.put(key, data, **condition)
        if left <= 0:
            raise StoreError("the store is gone")
        return self._store.put(key, data, **condition)


def interrupted(source: Store, target: Store, after: bool) -> Iterator[set[str]]:
    """What a migration leaves that fails at its first write, at its second, ...; ends with one that does not fail."""
    for writes in range(1, 100):
        try:
            migrate(source, Broken(target, writes, after), "x")
        except StoreError:
            yield {entry.key for entry in target.list("") if not entry.key.startswith(SPACE.probe)}
            continue
        return
    raise AssertionError("it never ends")


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_at_every_write_then_repeated(cli: Cli, rests: Store, tmp_path: Path, after: bool) -> None:
    before, ways = objects(rests), 0
    for writes in range(1, 100):
        target = open_store(f"file://{tmp_path}/{writes}")
        try:
            migrate(rests, Broken(target, writes, after), "x")
            break
        except StoreError:
            ways += 1
        there = target.head(SPACE.state) is not None
        left = objects(target)
        if not there:
            assert left.items() <= before.items()
            assert cli("status", target.url)[0] == 2, "half a copy is no run"
        elif Record(target).load().state.run_uid == Record(rests).load().state.run_uid:
            assert cli("step", target.url)[0] == 2, "a copy that is not forked is refused"
        moved = migrate(rests, target, "x")
        assert moved.copied == (0 if there else len(before) + 1 - len(left)), "nothing is copied twice"
        assert migrate(rests, target, "x").objects == 0
        old, new = Record(rests).load().state, Record(target).load().state
        assert new.run_uid != old.run_uid and {key: objects(target)[key] for key in before} == before
    assert ways > len(before) + 3, "each object, the state, and what a fork writes"


def test_one_copy_is_gone_on_with_until_it_is_whole(rests: Store, s3: Server, tmp_path: Path) -> None:
    """On S3, where listings have checksums: each try comes further, none begins anew."""
    target = open_store(s3.prefix(f"migrate/{tmp_path.name}"))
    sizes = [len(left) for left in interrupted(rests, target, after=True)]
    assert sizes == sorted(sizes) and len(sizes) < 15
    assert len(added(rests, target)) in (1, 2), "a fork whose entry in the history is lost is one"
    assert not is_copy(begun_at(target, Record(target).load().state), target.url)


def test_ctrl_c(cli: Cli, rests: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = FileStore.put

    def stopped(self: FileStore, key: str, data: bytes, **condition: Any) -> str:
        if self.url.endswith("/there") and key.endswith("type.raw"):
            raise KeyboardInterrupt
        return put(self, key, data, **condition)

    with monkeypatch.context() as broken:
        broken.setattr(FileStore, "put", stopped)
        assert cli("migrate", rests.url, tmp_path / "there")[0] == 130
    assert not (tmp_path / "there" / SPACE.state).exists()
    code, output, _ = cli("migrate", rests.url, tmp_path / "there", "--json")
    told = json.loads(output)
    assert code == 0 and told["copied"] < told["objects"] - 1, "the first configuration, at least, was there"


def test_how_far_it_is_told(rests: Store, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    moved = migrate(rests, open_store(f"file://{tmp_path}/there"), "x", lambda total, more: told.append((total, more)))
    assert {total for total, _ in told} == {moved.bytes} and sum(more for _, more in told) == moved.bytes > 0


def test_what_is_there_with_other_content_is_copied_again(rests: Store, s3: Server, tmp_path: Path) -> None:
    for number, url in enumerate((s3.prefix(f"migrate/{tmp_path.name}"), f"file://{tmp_path}/there")):
        target, key = open_store(url), f"{SPACE.dataset_init('bulk')}/Cu1/type.raw"
        target.put(SPACE.config(0), rests.get(SPACE.config(0)).data)
        target.put(key, b"1\n")
        assert migrate(rests, target, "x").copied == len(objects(rests)), number
        check_identity(rests, target)


@pytest.mark.parametrize("folder", [False, True])
def test_from_s3_only_what_differs_is_copied(rests: Store, s3: Server, tmp_path: Path, folder: bool) -> None:
    one = open_store(s3.prefix(f"migrate/{tmp_path.name}/one"))
    two = open_store(f"file://{tmp_path}/two" if folder else s3.prefix(f"migrate/{tmp_path.name}/two"))
    migrate(rests, one, "x")
    two.put(SPACE.config(0), one.get(SPACE.config(0)).data)
    two.put(f"{SPACE.dataset_init('bulk')}/Cu1/type.raw", b"1\n")
    assert migrate(one, two, "x").copied == len(objects(one)), "all but the configuration, and the state"
    check_identity(one, two)


# --- what is refused ----------------------------------------------------------------------------------------


def test_another_run_is_there(cli: Cli, rests: Store, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "cu.xyz").write_text(STRUCTURE)
    (other / "run.yaml").write_text(CONFIG.replace("run: stub", "run: another"))
    assert cli("init", other / "run.yaml")[0] == 0
    there = open_store(f"file://{other}/out")
    before = objects(there), there.get(SPACE.state)
    code, _, errors = cli("migrate", rests.url, there.url)
    assert code == 2 and "holds another run, 'another'" in errors
    there.delete(SPACE.state)
    code, _, errors = cli("migrate", rests.url, there.url)
    assert code == 2 and "is not of this run as it is now" in errors, "half a run is one, too"
    assert objects(there) == before[0]


def test_it_went_on_at_both_places(cli: Cli, rests: Store, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert cli("migrate", rests.url, there)[0] == 0
    code, output, _ = cli("migrate", rests.url, there)
    assert code == 0 and "migrated there before; nothing was copied" in output
    tell(Record(rests), Order("resume", "x"))
    tell(Record(rests), Order("pause", "x"))
    code, _, errors = cli("migrate", rests.url, there)
    assert code == 2 and "holds another run, 'stub'" in errors


@pytest.mark.parametrize("strange", ["notes.txt", "dataset/deepmd/iter/000000/x"])
def test_other_files_are_there(cli: Cli, rests: Store, tmp_path: Path, strange: str) -> None:
    target = open_store(f"file://{tmp_path}/there")
    for begun in (False, True):
        if begun:
            target.put(SPACE.config(0), rests.get(SPACE.config(0)).data)
        target.put(strange, b"mine")
        before = sorted((tmp_path / "there").rglob("*"))
        code, _, errors = cli("migrate", rests.url, target.url)
        assert code == 2 and f"there/{strange} exists, and is not of this run as it is now" in errors
        assert sorted((tmp_path / "there").rglob("*")) == before


def test_another_migration_begins_there_just_now(rests: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = open_store(f"file://{tmp_path}/there")

    def late(store: Store) -> str:
        store.put(SPACE.config(0), b"{}")
        return ""

    listing = module._listing
    monkeypatch.setattr(module, "_listing", lambda store: listing(store) if store is rests else {})
    monkeypatch.setattr(module, "prove", late)
    with pytest.raises(module.CommandRefused, match="there holds another run"):
        migrate(rests, target, "x")
    assert objects(target) == {SPACE.config(0): b"{}"}


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("out", "is the prefix of the run itself"),
        ("out/dataset/there", "is inside the run 'stub'"),
        (".", "there is a run below"),
        ("ftp://host/there", "use file:///absolute/path, or s3://bucket/path"),
        ("run.yaml", "this is a file"),
    ],
)
def test_prefixes_that_cannot_be(
    cli: Cli, rests: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, seen: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, output, errors = cli("migrate", "run.yaml", target)
    assert (code, output) == (2, "") and seen in errors, errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_copy_is_no_run(cli: Cli, rests: Store, tmp_path: Path) -> None:
    (tmp_path / "out").rename(tmp_path / "copy")
    code, _, errors = cli("migrate", tmp_path / "copy", tmp_path / "there")
    assert code == 2 and "was moved from there: `dpgen2-sm fork " in errors
    assert not (tmp_path / "there").exists()


def test_argo_needs_a_bucket(cli: Cli, stub_run: Path, s3: Server, tmp_path: Path) -> None:
    url = s3.prefix(f"migrate/{tmp_path.name}")
    text = CONFIG.replace("prefix: out", f'prefix: "{url}"')
    engine = '{type: argo, server: "http://127.0.0.1:1", image: "x/y:1"}'
    stub_run.write_text(text.replace("{type: local, slots: 2}", engine))
    assert cli("init", stub_run)[0] == 0
    assert cli("pause", stub_run)[0] == 0
    code, _, errors = cli("migrate", stub_run, tmp_path / "there")
    assert code == 2 and "engine.type argo needs s3://bucket/path" in errors
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        (
            {"at": "label.submitting"},
            "its state is label.submitting, so a workflow may be running; `dpgen2-sm pause` it",
        ),
        ({"at": "label.running", "hold": True}, "its state is label.running, so .*; wait until `dpgen2-sm status`"),
        ({"at": "cancelling"}, "it is being stopped"),
        ({"at": "label.submitting", "hold": True}, ""),
        ({"at": "cancelled"}, ""),
        ({"at": "failed"}, ""),
        ({"at": "converged"}, ""),
    ],
)
def test_a_run_that_works_is_not_moved(changes: dict[str, Any], seen: str) -> None:
    found = works(MemoryStore(), first_state(**changes))
    assert bool(found) == bool(seen) and re.search(seen, found)


def test_a_workflow_that_was_submitted_before_the_pause() -> None:
    store, state = MemoryStore(), first_state(at="label.submitting", hold=True, attempt=2)
    store.put(state.place.claim(1), b"of an earlier attempt")
    assert works(store, state) == ""
    store.put(state.place.claim(2), state.workflow.encode())
    assert "has begun: `dpgen2-sm resume` follows it" in works(store, state)


def test_it_goes_on_meanwhile(cli: Cli, rests: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = module._Copying.check

    def meanwhile(self: Any) -> None:
        check(self)
        tell(Record(rests), Order("resume", "by somebody else"))

    with monkeypatch.context() as busy:
        busy.setattr(module._Copying, "check", meanwhile)
        code, _, errors = cli("migrate", rests.url, tmp_path / "there")
    assert code == 2 and "went on meanwhile" in errors
    assert not (tmp_path / "there" / SPACE.state).exists()
    tell(Record(rests), Order("pause", "x"))
    assert cli("migrate", rests.url, tmp_path / "there")[0] == 0, "what was copied of it is gone on with"
    check_identity(rests, open_store(f"file://{tmp_path}/there"))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("what", ["changed", "gone"])
def test_damage_is_not_copied(
    cli: Cli, rests: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, large: bool
) -> None:
    if large:
        monkeypatch.setattr(module, "_WHOLE", 0)
    path = tmp_path / "out" / SPACE.dataset_init("bulk") / "Cu1" / "type.raw"
    if what == "changed":
        path.write_text("1\n")
    else:
        path.unlink()
    code, _, errors = cli("migrate", rests.url, tmp_path / "there")
    assert code == 2 and "Cu1/type.raw" in errors and "`dpgen2-sm doctor RUN` says" in errors
    assert not (tmp_path / "there" / SPACE.state).exists()


def test_labels_of_an_attempt_that_was_cut_short_are_no_damage(rests: Store, tmp_path: Path) -> None:
    labels = tmp_path / "out" / SPACE.dataset_iter(0)
    labels.mkdir(parents=True)
    (labels / "SHA256SUMS").write_text(f"{'0' * 64}  Cu1/type.raw\n")
    target = open_store(f"file://{tmp_path}/there")
    migrate(rests, target, "x")
    check_identity(rests, target)


def test_a_write_that_was_cut_short_is_seen(
    cli: Cli, rests: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FileStore.put

    def short(self: FileStore, key: str, data: bytes, **condition: Any) -> str:
        if self.url.endswith("/there") and key.endswith("type.raw"):
            data = data[:-1]
        return put(self, key, data, **condition)

    monkeypatch.setattr(FileStore, "put", short)
    code, _, errors = cli("migrate", rests.url, tmp_path / "there")
    assert code == 1 and "Cu1/type.raw is not there as it was written; repeat this" in errors
    assert not (tmp_path / "there" / SPACE.state).exists()


def test_a_write_that_was_changed_is_seen_by_its_checksum(rests: Store, s3: Server, tmp_path: Path) -> None:
    target = open_store(s3.prefix(f"migrate/{tmp_path.name}"))

    class Changing(Broken):
        def put(self, key: str, data: bytes, **condition: Any) -> Any:
            tag = self._store.put(key, data, **condition)
            if key.endswith("type.raw"):
                self._store.put(key, b"1\n")
            return tag

    with pytest.raises(StoreError, match=r"type.raw is not there as it was written"):
        migrate(rests, Changing(target, 0, False), "x")
    assert target.head(SPACE.state) is None


def test_an_answer_that_was_lost(rests: Store, tmp_path: Path) -> None:
    class Lost(Broken):
        def put(self, key: str, data: bytes, **condition: Any) -> Any:
            tag = self._store.put(key, data, **condition)
            if key == SPACE.state and "if_absent" in condition:
                raise StoreError("no answer")
            return tag

    target = open_store(f"file://{tmp_path}/there")
    state: State = migrate(rests, Lost(target, 0, False), "x").state
    assert state.run_uid == Record(target).load().state.run_uid
    check_identity(rests, target)
