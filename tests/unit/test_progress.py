"""What `dpgen2-sm run` shows of a stage that runs: tasks done, running and failed, the pace, and how far some are."""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from conventions.state import State
from operators.explore.live import live as of_lammps
from operators.explore.live import live_ase as of_ase
from operators.live import TASK_LOG, Read
from operators.train.live import live as of_deepmd
from statemachine.cli import follow
from statemachine.cli.progress import Sight
from statemachine.engine import LiveJob
from statemachine.engine.local_jobs import Growing, excerpt
from statemachine.run.progress import Pace, Progress, Watch
from statemachine.store.file import FileStore
from tests.doubles import first_state

STEP = LiveJob("000002", {"task.000000": 3}, "task.000001", {"lcurve.out": "# step rmse_f_trn\n 40 0.5\n"}.get)


class Stage:
    """A train stage of three jobs, of two, two and one task, in the store of a folder."""

    def __init__(self, root: Path, attempt: int = 0) -> None:
        self.store = FileStore.of(root)
        self.state = first_state(at="train.running", stage="train", attempt=attempt)
        self.place = self.state.place
        for job, tasks in (("000000", 2), ("000001", 2), ("000002", 1)):
            for task in range(tasks):
                self.store.put(f"{self.place.job(job).job_in}/task.{task:06d}/input.json", b"{}")
        self.written = itertools.count(1_000_000_000)
        self.put(self.place.claim(attempt), b"x")
        self.jobs: list[LiveJob] | None = []
        self.poller = SimpleNamespace(store=self.store, engine=self, status=None)

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data)
        now = next(self.written)
        os.utime(self.store.root / key, (now, now))

    def ended(self, job: str, codes: Sequence[int]) -> None:
        tasks = [{"id": f"task.{n:06d}", "code": code} for n, code in enumerate(codes)]
        marker = {"schema_version": 1, "job_id": job, "inputs": "0" * 64, "tasks": tasks, "files": []}
        self.put(self.place.job(job).job_done, json.dumps(marker).encode())

    def running(self, name: str) -> list[LiveJob] | None:
        return self.jobs

    def watch(self) -> Watch:
        return Watch(self.store, self, self.state, of_deepmd)  # type: ignore[arg-type]


def test_tasks_are_counted(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    watch = stage.watch()
    assert watch.look() == Progress(running=0, total=5)
    stage.ended("000000", [0, 7])
    stage.jobs = [LiveJob("000001", {"task.000000": 3}, "task.000001", STEP.read), LiveJob("000002", note="submitted")]
    found = watch.look()
    assert (found.ended, found.failed, found.running, found.total) == (3, 2, 1, 5)
    assert found.notes == ("job 1 task.000001: step 40, rmse_f 0.5 eV/Angstrom", "job 2: submitted")
    stage.jobs = None
    assert watch.look().running is None


def test_a_job_that_failed_before_has_not_ended_in_this_attempt(tmp_path: Path) -> None:
    stage = Stage(tmp_path, attempt=1)
    stage.ended("000000", [0, 0])
    stage.ended("000001", [0, 7])
    stage.put(stage.place.claim(1), b"x")
    watch = stage.watch()
    assert (watch.look().ended, watch.look().failed) == (2, 0)
    stage.ended("000001", [0, 7])
    assert (watch.look().ended, watch.look().failed) == (4, 1)


def test_each_marker_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path)
    stage.ended("000000", [0, 0])
    watch = stage.watch()
    watch.look()
    monkeypatch.setattr(stage.store, "get", None)
    assert watch.look().ended == 2


def test_an_app_that_cannot_read_ends_nothing(tmp_path: Path) -> None:
    def odd(read: Read) -> str:
        raise ValueError("half a row")

    stage = Stage(tmp_path)
    stage.jobs = [STEP]
    assert Watch(stage.store, stage, stage.state, odd).look().notes == ()  # type: ignore[arg-type]


def test_the_pace_is_of_what_ended_since_the_first_look() -> None:
    times = iter([0.0, 10.0, 20.0, 30.0])
    pace = Pace(lambda: next(times))
    assert pace(Progress(ended=100, total=108)) is None
    assert pace(Progress(ended=100, total=108)) is None
    assert pace(Progress(ended=104, total=108)) == (0.2, 20.0)
    assert pace(Progress(ended=108, total=108)) is None


def test_a_line_a_minute_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage, times = Stage(tmp_path), [0.0]
    lines = follow._Lines()
    lines.sight = Sight(first=60, clock=lambda: times[0])

    def at(seconds: float) -> str:
        times[0] = seconds
        lines.progress(stage.poller, stage.state)  # type: ignore[arg-type]
        return capsys.readouterr().out

    stage.ended("000000", [0, 7])
    assert (at(0), at(59)) == ("", "")
    assert at(61) == "  2 of 5 tasks ended, 1 failed\n"
    stage.ended("000001", [0, 0])
    assert at(100) == ""
    stage.jobs = [LiveJob("000002", {}, "task.000000", STEP.read)]
    assert at(121) == (
        "  4 of 5 tasks ended, 1 running, 1 failed, 2 tasks/min, 30 s left; "
        "job 2 task.000000: step 40, rmse_f 0.5 eV/Angstrom\n"
    )
    assert at(181).startswith("  4 of 5 tasks ended, 1 running, 1 failed, 1 tasks/min, 60 s left")


def test_the_bar_on_a_terminal(tmp_path: Path) -> None:
    stage, shown = Stage(tmp_path), io.StringIO()
    stage.ended("000000", [0, 7])
    stage.jobs = [LiveJob("000002", {}, "task.000000", STEP.read)]
    console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    display = follow._Terminal(console)
    with display.open():
        display.committed(stage.state)
        display.progress(stage.poller, stage.state)  # type: ignore[arg-type]
    last = shown.getvalue()
    assert "iteration 0 train" in last and "2/5 1 running, 1 failed" in last
    assert "job 2 task.000000: step 40, rmse_f 0.5 eV/Angstrom" in last


def texts(**files: str) -> Any:
    return {name.replace("__", "."): text for name, text in files.items()}.get


def test_how_far_a_training_is() -> None:
    log = "DEEPMD INFO Batch     150: trn: rmse = 6.14e-01, rmse_e = 4.14e-02, rmse_f = 1.48e-02, lr = 8.33e-03\n"
    log += "DEEPMD INFO Batch     150: total wall time = 2.26 s\n"
    assert of_deepmd({TASK_LOG: log}.get) == "step 150, rmse_e 4.14e-02 eV/atom, rmse_f 1.48e-02 eV/Angstrom"
    cut = "# step rmse_trn rmse_f_trn lr\n 10 1.0 0.2 1e-3\n 20 1.0"
    assert of_deepmd(texts(lcurve__out=cut)) == "step 10, rmse_f 0.2 eV/Angstrom", "a row that is being written"
    assert of_deepmd(texts(lcurve__out="# step rmse_trn\n")) == of_deepmd(texts()) == ""


def test_how_far_a_trajectory_is() -> None:
    thermo = "Step Temp\n   0 300.0 -3.5\n  10 301.5 -3.4\nLoop time of 1"
    assert of_lammps({TASK_LOG: thermo, "in.lammps": "run 50\n"}.get) == "step 10 of 50"
    assert of_lammps({TASK_LOG: thermo, "in.lammps": "run 50\nrun 50\n"}.get) == "step 10", "of a template"
    assert of_lammps(texts()) == ""


def test_how_far_a_trajectory_of_ase_is() -> None:
    printed = "      step energy/eV temperature/K volume/Angstrom^3\n         0 -3.5 300.00 64.000\n"
    task = '{"cell": [[1.0]], "nsteps": 50}'
    assert of_ase({TASK_LOG: printed, "md.json": task}.get) == "step 0 of 50"
    rows = "#       step ...\n          20       1e-02 1e-3 5e-3       0.12 0.01 0.05\n"
    assert of_ase({TASK_LOG: printed, "md.json": task, "model_devi.out": rows}.get) == (
        "step 20 of 50, max_devi_f 0.12 eV/Angstrom"
    )
    assert of_ase(texts()) == ""


def test_of_a_file_that_grows_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, growing = tmp_path / "log", Growing()
    path.write_text("one\n")
    assert list(growing.new(path)) == [b"one\n"]
    with open(path, "a") as stream:
        stream.write("two\n")
    assert list(growing.new(path)) == [b"two\n"] and list(growing.new(path)) == []
    path.write_text("new\n")
    assert list(growing.new(path)) == [b"new\n"]
    monkeypatch.setattr("statemachine.engine.local_jobs._CHUNK", 3)
    assert list(Growing().new(path)) == [b"new", b"\n"]
    assert list(growing.new(tmp_path / "none")) == []


def test_of_a_long_file_beginning_and_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lcurve.out"
    path.write_text("# head\n" + "".join(f"{n:05d}\n" for n in range(1000)))
    assert excerpt(path, 20) == "# head\n00000\n00001\n00997\n00998\n00999\n"
    assert excerpt(path, 1 << 16) == path.read_text()


def test_state_without_a_workflow_is_not_looked_at(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    state: State = stage.state.model_copy(update={"at": "train.submitting"})
    assert not Sight().look(stage.store, stage, state, 1.0)  # type: ignore[arg-type]
