"""Markers of notifications in a prefix: no command takes them for something else, or for damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conventions.errors import DataError
from conventions.space import DataSpace
from statemachine.notify import Notifier, Watch
from statemachine.run.history import versions
from statemachine.run.record import Record
from statemachine.store import open_store
from tests.conftest import Cli, Kept
from tests.unit.test_notifier import Chat

SPACE = DataSpace({})
ODD = [
    SPACE.told("0-00000001-failed"), "event/told/00000001.json", "event/told/00000099.json", "event/told/x/y",
    "event/told/state.json",
]  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    found = Kept(tmp_path_factory.mktemp("markers"))
    store = open_store(f"file://{found.path.parent}/kept")
    for key in ODD:  # also what somebody else put there
        store.put(key, b"\xff\x00 no marker at all")
    return found


@pytest.mark.slow
def test_every_command_passes_them_by(kept: Kept, cli: Cli) -> None:
    path = kept.again()
    prefix = path.parent / "out"
    for command in (("status", "--json"), ("doctor",), ("prune", "--dry-run", "--keep-last", "0"), ("resume",)):
        code, output, errors = cli(command[0], path, *command[1:])
        assert code == 0 and "event/told" not in output and "event/told" not in errors, (command, output, errors)
    code, output, errors = cli("list", path.parent, "--json")
    assert code == 0 and [Path(found["prefix"].removeprefix("file://")).name for found in json.loads(output)] == [
        "kept", "out"
    ], errors  # fmt: skip
    code, _, errors = cli("prune", path, "--keep-last", "0", "--yes")
    assert code == 0 and all((prefix / key).exists() for key in ODD), errors


@pytest.mark.parametrize("lost", ["state.json", "state.json and its newest version"])
def test_a_restore_passes_them_by(kept: Kept, cli: Cli, lost: str) -> None:
    path = kept.again()
    prefix = path.parent / "out"
    state = Record(open_store(f"file://{prefix}")).load().state
    (prefix / "state.json").unlink()
    if "version" in lost:
        (prefix / SPACE.event(state.version)).unlink()
    code, _, errors = cli("status", path)
    assert code == 2 and "--restore" in errors and "event/told" not in errors
    code, output, errors = cli("doctor", path, "--restore")
    assert code == 0 and "event/told" not in output, errors
    assert cli("resume", path)[0] == 0


def test_a_copy_has_them_and_tells_of_itself(kept: Kept, cli: Cli, tmp_path: Path) -> None:
    """The markers of a run say nothing of what its fork, which has another identity, is told of."""
    path = kept.again()
    first = Record(open_store(f"file://{path.parent}/out")).load().state
    store = open_store(f"file://{tmp_path}/there")
    assert cli("migrate", path, store.url)[0] == 0
    assert {entry.key for entry in store.list("event/told/")} == set(ODD)
    state = Record(store).load().state
    store.put(SPACE.told(f"{first.run_uid}-{state.version + 1:08d}-exhausted"), b"of the first run")
    ended = state.model_copy(update={"at": "exhausted", "reason": "x"})
    before = Record(store).load()
    after = Record(store).commit(before, ended)
    assert after
    chat = Chat()
    notifier = Notifier([chat])
    watch = Watch(notifier, store.url)
    watch.saw(before.state)
    watch.saw(after.state)
    notifier.close(20)
    assert chat.kinds == ["exhausted"]
    assert [version.version for version in versions(store, after.state)] == list(range(after.state.version - 1, 0, -1))


@pytest.mark.parametrize("event", ["", "..", "a/b", ".x", "x" * 129, "a b", "\x00", "ä"])
def test_a_key_is_made_of_plain_names_only(event: str) -> None:
    with pytest.raises(DataError):
        SPACE.told(event)


def test_a_folder_in_a_markers_place_stops_nothing(kept: Kept) -> None:
    """What may be written there by others: the message is lost, and that is all."""
    path = kept.again()
    prefix = path.parent / "out"
    state = Record(open_store(f"file://{prefix}")).load().state
    shutil.rmtree(prefix / "event/told")
    (prefix / SPACE.told(f"{state.run_uid}-{state.version:08d}-converged") / "x").mkdir(parents=True)
    chat = Chat()
    notifier = Notifier([chat], frozenset({"converged"}))
    notifier.over.wait = lambda timeout=None: False  # type: ignore[method-assign]
    Watch(notifier, f"file://{prefix}").saw(state)
    notifier.close(20)
    assert chat.messages == [] and notifier.counts["failed"] == 1
