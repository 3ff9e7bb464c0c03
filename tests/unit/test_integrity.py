"""`doctor RUN` reads all of a run; what can be mended is mended, and what cannot is told with what to do."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from conventions.space import DataSpace
from conventions.state import State
from statemachine.run import integrity
from statemachine.store import Blob
from tests.conftest import Cli, Kept
from tests.doubles import MemoryStore
from tests.unit.test_restore import paused
from tests.warm import Warm, warm_workflows


@pytest.fixture(scope="module")
def ended(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    with warm_workflows(warm):
        return Kept(tmp_path_factory.mktemp("ended"))


@pytest.fixture
def run(ended: Kept) -> Path:
    """A run that has ended."""
    return ended.again()


def flip(path: Path) -> bytes:
    """Change one bit of a file; return what it was."""
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    return data


def one(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[-1]


def told(cli: Cli, run: Path, *options: str) -> tuple[int, list[str]]:
    """The exit code of doctor, and its lines that are not about this machine."""
    code, output, _ = cli("doctor", run, *options)
    return code, [line for line in output.splitlines() if "/" in line.split()[1] or " contents " in line]


def test_a_run_that_is_whole(cli: Cli, run: Path) -> None:
    code, lines = told(cli, run)
    assert code == 0 and lines[-1].startswith("ok  contents") and "are as they were written" in lines[-1]


def test_code_with_a_flipped_bit_is_shipped_again(cli: Cli, run: Path) -> None:
    path = one(run.parent / "out", ".dflow/python/pkg/*/*.zip")
    whole = flip(path)
    code, lines = told(cli, run)
    assert code == 1 and "its content is not what its name says: --repair lets it be shipped again" in lines[-1]
    code, lines = told(cli, run, "--repair")
    assert code == 0 and "was deleted; the next submission ships it again" in lines[-1]
    assert cli("rewind", run, "--iter", "0", "--stage", "train", "--yes")[0] == 0
    assert cli("resume", run)[0] == 0 and path.read_bytes() == whole


def test_a_file_of_the_user_is_put_back_by_patch(cli: Cli, run: Path) -> None:
    path = one(run.parent / "out", "config/file/*/cu.xyz")
    whole = flip(path)
    code, lines = told(cli, run.parent / "out")
    assert code == 1 and any(
        "`dpgen2-sm patch CONFIG` with the same configuration puts it back" in line for line in lines
    )
    code, output, _ = cli("patch", run)
    assert code == 0 and "was missing or damaged, and is put back" in output
    assert path.read_bytes() == whole and told(cli, run)[0] == 0
    assert cli("patch", run)[0] == 2, "the run has this configuration already"


def test_a_configuration_is_written_again_from_its_copy(cli: Cli, run: Path) -> None:
    path = one(run.parent / "out", "config/run/*.json")
    whole = flip(path)
    code, output, _ = cli("doctor", run)
    assert code == 1 and "--repair takes it from config/iter/" in output
    assert cli("doctor", run, "--repair")[0] == 1, "the state's own check came before"
    assert path.read_bytes() == whole and cli("doctor", run)[0] == 0


def test_a_configuration_is_taken_from_an_older_copy_where_the_newest_is_gone(cli: Cli, run: Path) -> None:
    flip(one(run.parent / "out", "config/run/*.json"))
    *older, newest = sorted((run.parent / "out/config/iter").iterdir())
    assert [path.name for path in older] == ["000000"]
    shutil.rmtree(newest)
    assert "--repair takes it from config/iter/000000/" in cli("doctor", run)[1]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("event/00000002.json", "the run goes on without it"),
        (
            "dataset/deepmd/iter/000001/*/type.raw",
            "take it from a backup, or `dpgen2-sm rewind RUN --iter 1 --stage label`",
        ),
        ("train/stub/iter/*/product/results.txt", "`dpgen2-sm rewind RUN --iter 1 --stage train` makes it again"),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_what_only_a_person_can_mend_is_told(cli: Cli, run: Path, pattern: str, words: str, gone: bool) -> None:
    *_, path = [each for each in sorted((run.parent / "out").glob(pattern)) if each.name != "SHA256SUMS"]
    path.unlink() if gone else flip(path)
    code, lines = told(cli, run, "--repair")
    assert code == 1 and words in lines[-1]


def test_a_list_of_hashes_that_was_deleted_is_damage(cli: Cli, run: Path) -> None:
    one(run.parent / "out", "train/stub/iter/*/product/SHA256SUMS").unlink()
    code, lines = told(cli, run)
    assert code == 1 and "product/SHA256SUMS  missing; `dpgen2-sm rewind RUN --iter 1 --stage train`" in lines[-1]


def test_what_a_killed_process_left_is_removed_when_it_is_old(cli: Cli, run: Path) -> None:
    left = [run.parent / "out/.engine/workflow/.new-x", run.parent / "out/event/.part-1-2-x"]
    fresh = run.parent / "out/.part-3-4-state.json"
    left[0].mkdir(parents=True)
    left[1].touch()
    fresh.touch()
    for path in left:
        os.utime(path, (0, 0))
    code, output, _ = cli("doctor", run)
    assert code == 1 and output.count("left by a process that was killed: --repair removes it") == 2
    assert cli("doctor", run, "--repair")[0] == 0
    assert not any(path.exists() for path in left) and fresh.exists()


def test_a_history_that_is_gone_is_begun_anew(cli: Cli, run: Path) -> None:
    shutil.rmtree(run.parent / "out/event")
    code, _, errors = cli("pause", run)
    assert code == 2 or code == 1
    assert "the run's history under event/ is gone: `dpgen2-sm doctor RUN --restore` begins it anew" in errors
    assert cli("doctor", run, "--restore")[0] == 0
    assert cli("status", run)[0] == 0 and cli("rewind", run, "--iter", "0", "--stage", "train", "--yes")[0] == 0


class Slow(MemoryStore):
    """Answers for the history only when many are asked for at once, as a store far away makes it worth."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__()
        self.objects, self.together = inner.objects, threading.Barrier(8)
        self.asked: list[str] = []

    def get(self, key: str) -> Blob:
        if DataSpace({}).version(key) is not None:
            self.together.wait(30)
            self.asked.append(key)
        return super().get(key)


def test_the_history_is_read_many_at_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "_AT_ONCE", 16)
    store = Slow(paused(versions=65))
    state = State.unseal(store.objects[DataSpace.state])
    store.objects[DataSpace({}).event(3)] = b"damaged"
    del store.objects[DataSpace({}).event(40)]
    store.objects[DataSpace({}).event(50)] = store.objects[DataSpace({}).event(48)]
    found = integrity._history(store, state)
    assert next(found).key.endswith("00000003.json") and len(store.asked) <= 16
    assert [damage.key[-13:-5] for damage in found] == ["00000040", "00000050", "00000051"]
    assert len(store.asked) == 64


def test_a_damaged_state_and_no_configuration(cli: Cli, run: Path) -> None:
    """Restore and patch do not wait for each other."""
    shutil.rmtree(run.parent / "out/config")
    flip(run.parent / "out/state.json")
    code, output, _ = cli("doctor", run, "--restore")
    assert code == 0 and "`dpgen2-sm patch CONFIG` with the original configuration restores it" in output
    assert cli("patch", run)[0] == 0
    assert cli("doctor", run)[0] == 0
