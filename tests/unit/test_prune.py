"""`prune`: what goes, what stays, and that nobody goes back to what was deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conventions.documents import DoneMarker, TaskResult
from conventions.errors import CommandRefused
from conventions.state import IterationSummary, State
from operators.sums import write_sums
from statemachine.machine.orders import Order
from statemachine.machine.transitions import command
from statemachine.run.record import Record
from statemachine.store import open_store
from tests.conftest import Cli
from tests.doubles import first_state

ALL = ["label", "train", "explore", "select"]
ROWS = [IterationSummary(iteration=number, stages=ALL) for number in range(4)]
KEPT = ("product/x", "report.json", "done/000000.json", "claim/0", "job/000000/log/task.000000")
MARKER = DoneMarker(
    job_id="000000", inputs="0" * 64, tasks=[TaskResult(id="task.000000", code=1)], files=[]
).dump()  # of a job that is to be repeated: the last stage here is not done
GONE = ("job/000000/in/task.000000/x", "job/000000/out/task.000000/traj")


@pytest.fixture
def run(cli: Cli, stub_run: Path, tmp_path: Path) -> Path:
    """A run in its fifth iteration, with the files that stages leave."""
    assert cli("init", stub_run)[0] == 0
    record = Record(open_store(f"file://{tmp_path}/out"))
    loaded = record.load()
    where = {"iteration": 4, "stage": "train", "at": "train.submitting", "trail": ROWS}
    assert record.commit(loaded, loaded.state.model_copy(update=where))
    for iteration in range(5):
        for stage in ALL:
            for name in (*KEPT, *GONE):
                path = tmp_path / "out" / stage / "stub" / "iter" / f"{iteration:06d}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(MARKER if name.startswith("done/") else b"x" * 1000)
            write_sums(tmp_path / "out" / stage / "stub" / "iter" / f"{iteration:06d}" / "product")
        labels = tmp_path / "out" / "dataset" / "deepmd" / "iter" / f"{iteration:06d}"
        (labels / "Cu1").mkdir(parents=True)
        (labels / "Cu1" / "type.raw").touch()
    return stub_run


def files(folder: Path) -> set[str]:
    kept = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in kept if path.parts[-2] not in ("event", "out")}


def test_what_goes_and_what_stays(cli: Cli, run: Path, tmp_path: Path) -> None:
    before = files(tmp_path / "out")
    code, output, _ = cli("prune", run, "--dry-run")
    assert code == 0 and "explore: 2 iterations, 4 files, 0.000 GB" in output and "nothing was deleted" in output
    code, output, _ = cli("prune", run)
    assert code == 0 and "nothing was deleted; --yes deletes it" in output, "nobody can be asked"
    assert files(tmp_path / "out") == before
    told = json.loads(cli("prune", run, "--json")[1])
    assert (told["deleted"], told["before_iteration"], told["stages"][1]["files"]) == (False, 2, 4)
    assert files(tmp_path / "out") == before
    code, output, errors = cli("prune", run, "--yes")
    assert code == 0 and "were deleted, from iterations before 2" in output, errors
    gone = {f"{stage}/stub/iter/{n:06d}/{name}" for stage in ALL[1:] for n in (0, 1) for name in GONE}
    assert before - files(tmp_path / "out") == gone
    assert not (tmp_path / "out/explore/stub/iter/000000/job/000000/out").exists()
    assert cli("prune", run, "--yes")[1].splitlines()[-1] == "nothing can go"
    code, output, _ = cli("prune", run, "--yes", "--json", "--label-outputs", "--keep-last", "0")
    assert code == 0 and json.loads(output)["deleted"]
    assert not files(tmp_path / "out") & {f"label/stub/iter/{n:06d}/{GONE[1]}" for n in range(3)}
    assert f"explore/stub/iter/000003/{GONE[1]}" in files(tmp_path / "out"), "the newest explored iteration"
    assert "dataset/deepmd/iter/000000/Cu1/type.raw" in files(tmp_path / "out")
    assert cli("status", run)[0] == 0 and cli("doctor", run)[0] == 0


def test_nobody_goes_back_to_trajectories_that_were_deleted(cli: Cli, run: Path) -> None:
    assert cli("prune", run, "--yes")[0] == 0
    code, _, errors = cli("rewind", run, "--iter", "1", "--stage", "select")
    assert code == 2 and "the trajectories of iteration 1 were deleted by `prune`; go back to an explore" in errors
    assert cli("rewind", run, "--iter", "2", "--stage", "select")[0] == 0


def test_an_interrupted_prune_is_repeated(cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from statemachine.store.file import FileStore

    whole = FileStore.delete_all

    def dies(self: FileStore, keys: list[str]) -> None:
        whole(self, keys[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(FileStore, "delete_all", dies)
        assert cli("prune", run, "--yes")[0] == 130
    assert cli("rewind", run, "--iter", "0", "--stage", "select")[0] == 2
    assert cli("prune", run, "--yes")[0] == 0
    assert not [name for name in files(tmp_path / "out") if name.startswith("explore/stub/iter/000001/job/000000/in")]


def state(**changes: object) -> State:
    return first_state(**{"iteration": 4, "stage": "train", "at": "train.running", "trail": ROWS, **changes})


@pytest.mark.parametrize(("iteration", "allowed"), [(0, True), (3, True), (4, False)])
def test_the_newest_trajectories_are_kept(iteration: int, allowed: bool) -> None:
    order = Order("prune", iteration=iteration)
    if allowed:
        assert command(state(), order).pruned == iteration
        assert command(state(pruned=2), order).pruned == max(2, iteration), "never less"
    else:
        with pytest.raises(CommandRefused, match="trajectories that are needed are those of iteration 3"):
            command(state(), order)


def test_a_rewind_that_came_first_keeps_what_it_reads() -> None:
    back = command(state(at="failed"), Order("rewind", "", 1, "select"))
    assert back.newest["explore"] == 1
    with pytest.raises(CommandRefused, match="cannot prune: the newest trajectories that are needed"):
        command(back, Order("prune", iteration=2))
    stopping = command(state(), Order("rewind", "", 1, "select"))
    with pytest.raises(CommandRefused, match="cannot prune: a rewind is under way"):
        command(stopping, Order("prune", iteration=1))


def test_an_iteration_that_began_with_select_needs_the_trajectories_of_an_earlier_one() -> None:
    """Iteration 4 was begun by a rewind to `select` of iteration 1: it explored nothing itself."""
    left = [row.model_copy(update={"stages": ALL[:3] if row.iteration == 1 else [], "left": True}) for row in ROWS[1:]]
    rows = [ROWS[0], *left, IterationSummary(iteration=4, stages=["select"]), IterationSummary(iteration=5, stages=ALL)]
    run = state(iteration=5, stage="select", at="select.running", trail=rows)
    pruned = command(run, Order("prune", iteration=4))
    with pytest.raises(CommandRefused, match="trajectories of iteration 1 were deleted by `prune`"):
        command(pruned, Order("rewind", "", 4, "select"))
