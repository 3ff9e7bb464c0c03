"""What `doctor RUN` finds among the jobs and claims of the stage that a run is in, and what `--repair` does then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conventions.space import DoneKey
from conventions.state import State
from statemachine.run.opening import find_prefix
from statemachine.run.record import Record
from statemachine.run.unfinished import stage_damages
from statemachine.store import Store, open_store
from tests.conftest import CONFIG, Cli, Kept
from tests.servers import Server
from tests.unit.test_integrity import flip
from tests.warm import Warm, warm_workflows

TRAIN = "train/stub/iter/000000"
OUTPUT = f"{TRAIN}/job/000000/out/task.000000/result"


@pytest.fixture(scope="module")
def failed(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """One of three train jobs ended with an error, as long as there is the file `broken`; each execution is counted."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "broken").touch()
    setup = [f"STUB_LEDGER={folder}/ledger", f'[ "$JOB_ID" != 000002 ] || [ ! -e {folder}/broken ] || exit 9']
    train = json.dumps({"app": "stub", "tasks": 3, "retries": 0, "setup": setup})
    text = CONFIG.replace("train: {app: stub}", f"train: {train}").replace("accurate_after: 1", "accurate_after: 0")
    with warm_workflows(warm):
        return Kept(folder, text, code=1)


@pytest.fixture
def run(failed: Kept) -> Path:
    """A run that has failed in the train stage."""
    path = failed.again()
    (path.parent / "broken").touch()
    shutil.rmtree(path.parent / "ledger", ignore_errors=True)
    (path.parent / "ledger").mkdir()
    return path


def looked_at(path: Path) -> tuple[Store, State]:
    store = open_store(find_prefix(str(path)))
    return store, Record(store).load().state


def told(cli: Cli, run: Path, *options: str) -> tuple[int, list[str]]:
    """The exit code of doctor, and its lines on the train stage."""
    code, output, _ = cli("doctor", run, *options)
    return code, [line for line in output.splitlines() if line.split()[1].startswith(TRAIN)]


def no_json(out: Path) -> str:
    (out / TRAIN / "done/000000.json").write_text('{"job_id":')
    return "not valid JSON"


def of_no_job(out: Path) -> str:
    (out / TRAIN / "done/000000.json").rename(out / TRAIN / "done/000007.json")
    return "the stage has no such job, or its inputs were lost"


def inputs_lost(out: Path) -> str:
    shutil.rmtree(out / TRAIN / "job/000000/in")
    return "the stage has no such job, or its inputs were lost"


def other_inputs(out: Path) -> str:
    (out / TRAIN / "job/000000/in/digest").write_text(f"{'0' * 64}\n")
    return "its completion marker belongs to other inputs"


def output_cut(out: Path) -> str:
    (out / OUTPUT).write_bytes(b"")
    return "out/task.000000/result: 0 bytes instead of 9"


def output_changed(out: Path) -> str:
    flip(out / OUTPUT)
    return "out/task.000000/result: its content is not the one that was recorded"


def output_lost(out: Path) -> str:
    shutil.rmtree(out / TRAIN / "job/000000/out")
    return "out/task.000000/result: missing"


@pytest.mark.parametrize(
    "damage", [no_json, of_no_job, inputs_lost, other_inputs, output_cut, output_changed, output_lost]
)
def test_a_marker_that_no_attempt_counts(cli: Cli, run: Path, damage: Callable[[Path], str]) -> None:
    words = damage(run.parent / "out")
    code, (line,) = told(cli, run)
    assert code == 1 and words in line
    assert line.endswith("no attempt counts its job: --repair removes the marker, and the job is run again")
    code, (line,) = told(cli, run, "--repair")
    assert code == 0 and line.endswith("was removed; the next attempt runs its job again")
    left = {path.name for path in (run.parent / "out" / TRAIN / "done").iterdir()}
    assert left == {"000001.json", "000002.json"}
    assert told(cli, run) == (0, [])


def test_a_job_whose_inputs_were_lost(cli: Cli, run: Path) -> None:
    """Its stage can never end, until its marker is gone."""
    inputs_lost(run.parent / "out")
    (run.parent / "broken").unlink()
    assert cli("resume", run)[0] == 1
    assert told(cli, run, "--repair")[0] == 0
    assert cli("resume", run)[0] == 0
    ran = {path.name: len(path.read_text().split()) for path in (run.parent / "ledger").glob("train-0-*")}
    assert ran == {"train-0-0": 1, "train-0-2": 1}, "what was finished, and is whole, is not run again"


def test_what_is_normal(cli: Cli, run: Path) -> None:
    """A job that failed is repeated, whatever it left; claims stay; a restore has gone back from a later attempt."""
    out = run.parent / "out"
    left = out / TRAIN / "job/000002/out/task.000000"
    left.mkdir(parents=True, exist_ok=True)
    (left / "result").write_text("of an attempt that was killed")
    shutil.rmtree(out / TRAIN / "job/000002/in")
    (out / TRAIN / "claim/1").write_bytes(b"revoked")
    (out / TRAIN / "claim/2").write_bytes(b"0f3a99c1-d2e4-4000-8000-000000000000")
    assert told(cli, run) == (0, [])


def test_a_stage_that_is_done_is_not_looked_at(cli: Cli, run: Path) -> None:
    flip(run.parent / "out/label/stub/iter/000000/done/000000.json")
    (run.parent / "out/label/stub/iter/000000/claim/0").write_bytes(b"\0")
    assert told(cli, run)[0] == 0
    (run.parent / "broken").unlink()
    assert cli("resume", run)[0] == 0
    flip(run.parent / "out" / OUTPUT)
    assert told(cli, run) == (0, [])


@pytest.mark.parametrize("name", ["notes.txt", "7.json", "000000.json.old"])
def test_what_is_no_marker_by_its_name(cli: Cli, run: Path, name: str) -> None:
    """It may be anybody's: it is told, and left alone."""
    (run.parent / "out" / TRAIN / "done" / name).touch()
    for options in ((), ("--repair",)):
        code, (line,) = told(cli, run, *options)
        assert code == 1 and f"done/{name}  only completion markers belong here" in line


def test_a_marker_of_a_newer_version_is_not_removed(cli: Cli, run: Path) -> None:
    path = run.parent / "out" / TRAIN / "done/000000.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "schema_version": 99}))
    code, (line,) = told(cli, run, "--repair")
    assert code == 1 and "upgrade this installation" in line and path.exists()


def test_a_marker_that_was_replaced_meanwhile_stays(run: Path) -> None:
    no_json(run.parent / "out")
    store, state = looked_at(run)
    (found,) = stage_damages(store, state, lambda size: None)
    store.put(found.key, b"of the job, which has just ended")
    assert found.repair and "was replaced meanwhile" in found.repair()
    assert store.get(found.key).data == b"of the job, which has just ended"


def test_a_claim_that_names_no_owner(cli: Cli, run: Path) -> None:
    """One that is over changes nothing."""
    claim = run.parent / "out" / TRAIN / "claim/0"
    claim.write_bytes(b"")
    for options in ((), ("--repair",)):
        code, (line,) = told(cli, run, *options)
        assert code == 1 and line.endswith("its attempt is over, and cannot begin again: nothing has to be done")
    assert claim.read_bytes() == b"", "what was claimed is never freed"


def test_a_claim_that_an_attempt_finds_ends_it(cli: Cli, stub_run: Path) -> None:
    assert cli("init", stub_run)[0] == 0
    claim = stub_run.parent / "out/label/stub/iter/000000/claim/0"
    claim.parent.mkdir(parents=True)
    claim.write_bytes(b"\0")
    code, output, _ = cli("doctor", stub_run)
    assert code == 1 and "else it ends at once, and the next one follows: nothing has to be done" in output
    assert cli("run", stub_run)[0] == 0
    report = json.loads((stub_run.parent / "out/label/stub/iter/000000/report.json").read_bytes())
    assert report["attempt"] == 1


def test_on_s3(run: Path, s3: Server) -> None:
    """Outputs are fetched job by job, and are not left on the disk."""
    output_changed(run.parent / "out")
    here, state = looked_at(run)
    store = open_store(s3.prefix("unfinished"))
    for entry in here.list(TRAIN):
        store.put(entry.key, here.get(entry.key).data)
    read: list[int] = []
    (found,) = stage_damages(store, state, read.append)
    assert "result: its content is not the one that was recorded" in found.what and read == [9, 9]
    assert found.repair and found.repair()
    assert list(stage_damages(store, state, read.append)) == []
    left = [key for entry in store.list(TRAIN) if isinstance(key := state.place.space.parse(entry.key), DoneKey)]
    assert [key.job_id for key in left] == ["000001", "000002"]
