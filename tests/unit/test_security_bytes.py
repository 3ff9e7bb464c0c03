"""What is consumed is what was recorded: outputs of jobs and products of stages are hashed where they are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

from conventions.config import UserFile
from conventions.documents import StageReport
from conventions.errors import DataError
from conventions.names import STAGES
from conventions.space import DataSpace, StageSpace
from operators import jobs, registry
from operators.explore.lammps import LammpsConfig, run_script
from operators.explore.stage import CHECK_MODELS
from operators.label.cp2k import PROGRAM, Cp2kConfig
from operators.label.frames import LabelPlan, PlanParams, frames_to_label
from operators.label.program import FETCH
from operators.sums import SUMS, user_file, verify, write_sums
from operators.train import dp_model
from statemachine.run.submission import Submission
from tests.doubles import MemoryStore, first_state
from tests.label_run import add_file
from tests.select_run import STUBS, SelectRun, deviations, dump
from tests.stage_harness import call, run_job

CONFIG = {
    "run": "t", "prefix": "file:///nowhere", "type_map": ["Cu"], "structures": {"s": {"files": ["cu.xyz"]}},
    "init": {"label": ["s"]}, **{stage: {"app": "stub", "tasks": 3} for stage in STAGES},
}  # fmt: skip


class Stage:
    """A stage of three instant jobs in a plain folder."""

    def __init__(self, root: Path) -> None:
        if STUBS not in sys.path:
            sys.path.append(STUBS)
            registry.known.cache_clear()
        self.root, self.app = root, registry.app("train", "stub")
        self.place: StageSpace = DataSpace(dict.fromkeys(STAGES, "stub")).stage("train", 0)
        (root / self.place.config).parent.mkdir(parents=True)
        (root / self.place.config).write_text(json.dumps(CONFIG))

    def plan(self) -> list[str]:
        planned: list[str] = call(self.app.plan, self.place, self.root, {"iteration": 0, "systems": []}).job_ids
        return planned

    def run(self, job_ids: list[str]) -> None:
        assert [run_job(self.app, self.place, self.root, job_id) for job_id in job_ids] == [0] * len(job_ids)

    def reduce(self, attempt: int) -> StageReport:
        call(self.app.reduce, self.place, self.root, {"iteration": 0, "attempt": attempt, "n_jobs": 3})
        return StageReport.load((self.root / self.place.report).read_bytes())

    def out(self, job_id: str) -> Path:
        return self.root / self.place.job(job_id).job_out / "task.000000" / "result"


def other(path: Path) -> None:
    """Other bytes, as many."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    """The same bytes, elsewhere."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


SPOILED: list[tuple[Callable[[Path], object], str]] = [
    (other, "sha256 differs"),
    (Path.unlink, "missing"),
    (lambda path: path.write_bytes(b""), "0 bytes instead of"),
    (link, "missing"),
]


@pytest.mark.parametrize(("spoil", "problem"), SPOILED)
def test_a_job_whose_files_are_not_its_markers_is_repeated(
    tmp_path: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    stage = Stage(tmp_path)
    stage.run(stage.plan())
    whole = stage.out("000001").read_bytes()
    spoil(stage.out("000001"))
    assert stage.plan() == [], "the marker alone looks good"
    report = stage.reduce(0)
    assert (report.complete, report.jobs.failed) == (False, 1)
    assert problem in report.messages[0] and "job 000001" in report.messages[0]
    assert stage.plan() == ["000001"], "the marker was taken back"
    stage.run(["000001"])
    assert stage.reduce(1).complete and stage.plan() == []
    assert stage.out("000001").read_bytes() == whole


def test_every_recorded_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path)
    stage.run(stage.plan())
    hashed: list[Path] = []
    check = jobs.check_file
    monkeypatch.setattr(jobs, "check_file", lambda path, *more: hashed.append(path) or check(path, *more))
    assert stage.reduce(0).complete
    assert hashed == [stage.out(f"{job:06d}") for job in range(3)]


class Job:
    """A job of two tasks through the wrapper; task 1 fails while `fail` exists."""

    def __init__(self, root: Path) -> None:
        self.root, self.inputs = root, root / "in"
        for number in range(2):
            (self.inputs / f"task.{number:06d}").mkdir(parents=True)
            (self.inputs / f"task.{number:06d}/name").write_text(f"{number}\n")
        run = 'echo "$(cat name)" >>"$LEDGER"\ncat name >result\n[ "$(cat name)" = 0 ] || [ ! -e "$FAIL" ]\n'
        (self.inputs / "run.sh").write_text(run)
        (self.inputs / "outputs").write_text("need result\n")
        (self.inputs / "digest").write_text("0" * 64 + "\n")
        (root / "fail").touch()

    def run(self) -> tuple[int, dict[str, Any]]:
        return self.start(), json.loads((self.root / "place/done").read_text())

    def start(self, **more: str) -> int:
        places = {"JOB": "in", "PREVIOUS": "store", "OUT": "place/out", "LOG": "place/log", "DONE": "place/done"}
        env = {f"JOB_{name}": str(self.root / place) for name, place in places.items()}
        env |= {"JOB_ID": "000000", "LEDGER": str(self.root / "ledger"), "FAIL": str(self.root / "fail"), **more}
        return subprocess.run(["sh", str(files("operators.pod") / "job.sh")], env={**os.environ, **env}).returncode

    def said(self) -> str:
        return jobs.telling_line(self.root / "place/log/job.log")

    def publish(self) -> None:
        (self.root / "place/out").rename(self.root / "store")


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_task_that_is_not_run_again_is_recorded_all_the_same(tmp_path: Path, spoiled: bool) -> None:
    """The engine took the unfinished job's outputs to the store; the finished task's come back, if they are right."""
    job = Job(tmp_path)
    assert job.run()[0] == 1
    job.publish()
    (tmp_path / "fail").unlink()
    if spoiled:
        other(tmp_path / "store/task.000000/result")
    code, marker = job.run()
    assert code == 0
    assert [file["name"] for file in marker["files"]] == ["task.000000/result", "task.000001/result"]
    assert (tmp_path / "place/out/task.000000/result").read_text() == "0\n"
    assert (tmp_path / "ledger").read_text().split() == ["0", "1", *(["0"] if spoiled else []), "1"]


def test_an_output_that_is_a_link_is_none(tmp_path: Path) -> None:
    job = Job(tmp_path)
    (tmp_path / "fail").unlink()
    (job.inputs / "run.sh").write_text("ln -s /etc/passwd result\n")
    code, marker = job.run()
    assert code == 1 and [task["code"] for task in marker["tasks"]] == [65, 65] and marker["files"] == []


def committee(root: Path) -> Path:
    root.mkdir()
    for number in range(2):
        (root / f"graph.{number:03d}.pb").write_bytes(b"\nmodel %d" % number)
    write_sums(root)
    return root


@pytest.mark.parametrize(
    ("spoil", "name"), [(None, ""), *((spoil, "graph.001.pb") for spoil, _ in SPOILED[:3]), (Path.unlink, SUMS)]
)
def test_exploration_runs_with_the_recorded_models_only(
    tmp_path: Path, spoil: Callable[[Path], object] | None, name: str
) -> None:
    models = committee(tmp_path / "models")
    if spoil:
        spoil(models / name)
    job = Job(tmp_path)
    (job.inputs / "once.sh").write_text(CHECK_MODELS)
    explore = LammpsConfig.model_construct(setup=[], command=f"touch result {tmp_path}/ran; true")
    run = run_script(explore, ["graph.000.pb", "graph.001.pb"])
    (job.inputs / "run.sh").write_text(run)
    code = job.start(JOB_MODELS=str(models))
    assert (code, (tmp_path / "ran").exists()) == ((70, False) if spoil else (0, True))
    assert job.said() == ("error: the models are not what was recorded" if spoil else "the log is empty")


def test_training_reads_the_recorded_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "data/iter/000000/Cu4"
    system.mkdir(parents=True)
    (system / "type.raw").write_text("0\n" * 4)
    write_sums(system.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("JOB_MODELS", str(tmp_path / "none"))
    (tmp_path / "task").mkdir()
    monkeypatch.chdir(tmp_path / "task")
    job = {"tests": [], "reuse": None, "start": "", "train_args": [], "compress": False}
    Path("job.json").write_text(json.dumps(job))
    Path("input.json").write_text(json.dumps({"training": {"training_data": {"systems": ["data/iter/000000/Cu4"]}}}))
    monkeypatch.setattr(dp_model, "imported_dp", lambda: pytest.fail("it came as far as dp"))
    monkeypatch.setenv("DP_COMMAND", "dp")
    with pytest.raises(pytest.fail.Exception):
        dp_model.main()
    other(system / "type.raw")
    with pytest.raises(SystemExit, match=r"data/iter/000000/Cu4/type\.raw is not what was recorded"):
        dp_model.main()
    (system.parent / SUMS).unlink()
    with pytest.raises(SystemExit, match=r"data/iter/000000/SHA256SUMS is missing"):
        dp_model.main()


def test_training_refuses_what_another_attempt_left_in_a_system(tmp_path: Path) -> None:
    system = tmp_path / "iter/000000/Cu4"
    (system / "set.000").mkdir(parents=True)
    (system / "type.raw").write_text("0\n" * 4)
    (system / "set.000/box.npy").write_bytes(b"1")
    write_sums(system.parent)
    dp_model.check_recorded([system.parent / SUMS])
    (system / "set.000/virial.npy").write_bytes(b"2")
    with pytest.raises(SystemExit, match=r"virial\.npy is not among what was recorded"):
        dp_model.check_recorded([system.parent / SUMS])


def test_the_models_of_a_stage_check_their_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "iter/000000/Cu4"
    system.mkdir(parents=True)
    (system / "type.raw").write_text("0\n" * 4)
    write_sums(system.parent)
    lists, read = [system.parent / SUMS], []
    check = dp_model.check_recorded
    monkeypatch.setattr(dp_model, "check_recorded", lambda paths: (read.append(paths), check(paths)))
    for workflow in ("a0", "a1"):
        (tmp_path / workflow).mkdir()
        monkeypatch.setenv("DPGEN2_SHARED", str(tmp_path / workflow))
        for _ in range(4):
            dp_model.check_once(lists)
    assert read == [lists] * 2, "once a workflow"
    (system / "type.raw").write_text("1\n" * 4)
    (tmp_path / "a2").mkdir()
    monkeypatch.setenv("DPGEN2_SHARED", str(tmp_path / "a2"))
    for _ in range(2):  # what was refused is not taken as checked
        with pytest.raises(SystemExit, match="is not what was recorded"):
            dp_model.check_once(lists)


def test_only_recorded_systems_are_trained_on() -> None:
    """A label stage was killed while it published, and its next attempt made other systems."""
    store = MemoryStore()
    for name in ("iter/000000/Cu4", "iter/000001/Cu8", "init/bulk/Cu32"):
        folder, _, system = name.rpartition("/")
        store.objects[f"dataset/deepmd/{name}/type.raw"] = b"0\n"
        store.objects[f"dataset/deepmd/{folder}/{SUMS}"] = f"{'0' * 64}  {system}/type.raw\n".encode()
    store.objects["dataset/deepmd/iter/000000/Cu4.novirial/type.raw"] = b"0\n"
    state = first_state(stage="train", at="train.submitting")
    found = Submission(store).facts(state)["systems"]
    assert found == ["init/bulk/Cu32", "iter/000000/Cu4", "iter/000001/Cu8"]


LATER = PlanParams(has_selected=True)


def test_frames_to_label_are_the_recorded_ones(tmp_path: Path) -> None:
    selected = tmp_path / "selected"
    selected.mkdir()
    bulk("Cu").write(selected / "frames.extxyz", format="extxyz")
    write_sums(selected)
    config: Any = registry.load_config(json.dumps(CONFIG).encode())
    ctx = LabelPlan(config=tmp_path, done=tmp_path, jobs=tmp_path, files=tmp_path, selected=selected)
    assert [len(atoms) for atoms in frames_to_label(config, LATER, ctx)] == [1]
    other(selected / "frames.extxyz")
    with pytest.raises(DataError, match=r"the product of select: frames\.extxyz: .*sha256 differs"):
        frames_to_label(config, LATER, ctx)


def selection(root: Path) -> tuple[SelectRun, list[Path]]:
    run = SelectRun(root)
    rows = [(step, 0.2) for step in range(0, 30, 10)]
    return run, [run.add(deviations(rows), dump(range(0, 30, 10), seed)) for seed in range(2)]


def test_scores_come_from_the_recorded_deviations(tmp_path: Path) -> None:
    run, folders = selection(tmp_path)
    other(folders[1] / "model_devi.out")
    report = run.stage()
    assert report.complete and report.classes["candidate"] == 3
    assert "1 of 2 trajectories cannot be used" in report.messages[0] and "sha256 differs" in report.messages[0]


@pytest.mark.parametrize("broken", [False, True])
def test_chosen_frames_come_from_the_recorded_dump(tmp_path: Path, broken: bool) -> None:
    run, folders = selection(tmp_path)
    if broken:
        run.trajectories[1]["class"] = "truncated"
        run.offer(run.trajectories)
    planned = run.plan()
    assert run.job("000000") == 0
    other(folders[1] / "traj.lammpstrj")
    report = run.reduce(planned.n_jobs)
    assert report.complete and report.classes["selected"] == 3 and report.classes["corrupt"] == 3
    assert any("sha256 differs" in message for message in report.messages)
    assert {frame["job_id"] for frame in run.manifest} == {"000000"}


def test_the_list_of_trajectories_is_the_recorded_one(tmp_path: Path) -> None:
    run, _ = selection(tmp_path)
    product = tmp_path / run.explore.product
    assert run.plan().n_jobs == 1
    (product / "trajectories.json").write_text('{"schema_version": 1, "trajectories": []}')
    with pytest.raises(DataError, match=r"the product of explore: trajectories\.json: .*sha256 differs"):
        run.plan()


@pytest.mark.parametrize("files_of", [{"traj.lammpstrj": "../../etc"}, {"model_devi.out": "A" * 64}, [["x", 1]], 7])
def test_odd_hashes_in_the_list_of_trajectories(tmp_path: Path, files_of: Any) -> None:
    run, _ = selection(tmp_path)
    run.offer([{**run.trajectories[0], "files": files_of}])
    with pytest.raises(DataError, match=r"trajectories\.json"):
        run.plan()


def test_files_of_the_user_are_those_that_the_run_began_with(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text("Cu")
    name = add_file(tmp_path, tmp_path / "POSCAR")
    stored = tmp_path / DataSpace.files
    assert user_file(stored, name).read_text() == "Cu"
    other(stored / name)
    with pytest.raises(DataError, match=r"POSCAR: .*sha256 differs"):
        user_file(stored, name)
    with pytest.raises(DataError, match="missing"):
        user_file(stored, f"{'0' * 64}/POSCAR")


def nothing(path: Path) -> None:
    pass


def test_cp2k_reads_the_users_files_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "BASIS").write_text("Cu")
    name = add_file(tmp_path, tmp_path / "BASIS")
    for spoil, code in ((nothing, 0), (other, 70)):
        spoil(tmp_path / DataSpace.files / name)
        job = Job(tmp_path / str(code))
        (job.inputs / "user_files").write_text(f"{name} BASIS\n")
        (job.inputs / "once.sh").write_text(FETCH)
        command = f"cp BASIS result; touch output.log {job.root}/ran; true"
        script = PROGRAM.run_script(Cp2kConfig(input=UserFile("x.inp"), command=command))
        (job.inputs / "run.sh").write_text(script)
        assert job.start(JOB_FILES=str(tmp_path / DataSpace.files)) == code
        assert (job.root / "ran").exists() == (code == 0)
    assert job.said().startswith("error: a file that label names is not the one")


def test_lists_of_sums(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "x.npy", np.zeros(3))
    write_sums(tmp_path)
    verify(tmp_path, "a/x.npy", what="it")
    assert subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    with pytest.raises(DataError, match="does not list it"):
        verify(tmp_path, "b", what="it")
    outside = tmp_path.parent / "outside"
    outside.write_text("x")
    (tmp_path / SUMS).write_text(f"{'0' * 64}  ../outside\n")
    with pytest.raises(DataError, match="does not list it"):
        verify(tmp_path, "../outside", what="it")


def test_a_stage_lists_the_sums_of_its_product_and_its_report_the_list(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run(stage.plan())
    report = stage.reduce(0)
    assert set(report.files["product"]) == {"results.txt", SUMS}
    verify(tmp_path / stage.place.product, "results.txt", what="it")
