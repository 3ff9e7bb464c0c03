"""What jobs use: from their markers through the reports of stages into the table, the report and the totals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conventions.documents import DoneMarker, JobCounts, StageReport, StageUsed, Used
from conventions.errors import DataError
from conventions.hpc import Resources
from conventions.names import STAGES
from operators.jobs import TaskOutput, job_counts
from statemachine.machine.observation import Observation, Phase
from statemachine.machine.transitions import decide
from statemachine.report.figures import Figures, Reader
from statemachine.report.page import render
from statemachine.report.times import waits
from statemachine.run.config_file import read_config
from tests.conftest import Cli
from tests.doubles import MemoryStore, first_state
from tests.report_run import SPACE, campaign

HPC = "{machine: {batch_type: Slurm, context_type: LocalContext, remote_root: /scratch}, resources: {%s}}"


def task(number: int, job: str, used: Used | None) -> TaskOutput:
    return TaskOutput(number, job, "task.000000", Path(), Path(), used=used)


def test_the_jobs_of_a_stage_together() -> None:
    tasks = [
        task(0, "000000", Used(began=1010, wall=7200, cpu=14000.25, queued=10)),
        task(1, "000000", None),
        task(2, "000001", Used(began=1000, wall=3600, cpu=0.5)),
        task(3, "000002", Used(began=1020, wall=0, cpu=0.0, queued=20)),
    ]
    used = job_counts(3, tasks, gpus=2).used
    assert used == StageUsed(began=1000, wall=10800, cpu=14000.75, gpu=21600, queued=15.0)
    assert used.hours == {"job_hours": 3.0, "cpu_hours": 14000.75 / 3600, "gpu_hours": 6.0}
    unknown = job_counts(3, tasks).used
    assert unknown is not None and unknown.gpu is None and "gpu_hours" not in unknown.hours
    assert job_counts(1, [task(0, "000000", None)]).used is None


def test_documents_of_the_version_before_are_read() -> None:
    marker = {"schema_version": 1, "job_id": "000000", "inputs": "0" * 64, "tasks": [], "files": []}
    assert DoneMarker.load(json.dumps(marker).encode()).used is None
    report = {"stage": "train", "app": "stub", "iteration": 0, "attempt": 0, "complete": True, "next": True}
    found = StageReport.load(
        json.dumps({"schema_version": 1, **report, "jobs": {"planned": 1, "finished": 1}}).encode()
    )
    assert found.jobs.used is None


@pytest.mark.parametrize("name", ["began", "wall", "cpu", "queued"])
@pytest.mark.parametrize("value", [-1, 10**400, "NaN", "1"])
def test_times_that_cannot_be_are_no_marker(name: str, value: object) -> None:
    """A job writes them: what is summed of them must be a number of hours."""
    used = {"began": 1, "wall": 1, "cpu": 1.0, "queued": 1, name: value}
    marker = {"schema_version": 2, "job_id": "000000", "inputs": "0" * 64, "tasks": [], "files": [], "used": used}
    with pytest.raises(DataError):
        DoneMarker.load(json.dumps(marker).encode())


@pytest.mark.parametrize(
    ("engine", "stage", "keys", "gpus"),
    [
        ("type: local", "train", "", None),
        ("type: local, gpus: 2", "train", "", 1),
        ("type: local, gpus: 2", "label", "", 0),
        ("type: local, gpus: 2", "train", f"hpc: {HPC % 'number_node: 2, gpu_per_node: 4'}", 8),
        ("type: local", "train", f"hpc: [{HPC % 'gpu_per_node: 4'}, {HPC % 'gpu_per_node: 4'}]", 4),
        ("type: local", "train", f"hpc: [{HPC % 'gpu_per_node: 4'}, {HPC % 'gpu_per_node: 1'}]", None),
        ("type: argo, server: 'https://argo:2746'", "train", "pod: {gpu: 3}", 3),
        ("type: argo, server: 'https://argo:2746'", "train", "", 0),
    ],
)
def test_the_gpus_of_a_job(stub_run: Path, engine: str, stage: str, keys: str, gpus: int | None) -> None:
    text = stub_run.read_text().replace("type: local, slots: 2", engine)
    text = text.replace(f"{stage}: {{", f"{stage}: {{{keys}{', ' * bool(keys)}")
    if "argo" in engine:
        text = text.replace("prefix: out", "prefix: s3://bucket/run")
    stub_run.write_text(text)
    assert read_config(stub_run).gpus(stage) == gpus


def test_gpus_that_directives_of_ones_own_ask_for_are_not_known() -> None:
    assert Resources(custom_flags=["#SBATCH --gres=gpu:1"]).gpus is None
    assert Resources(kwargs={"custom_gpu_line": ["#SBATCH -G 1"]}).gpus is None
    assert Resources(gpu_per_node=2, kwargs={"custom_gpu_line": ["#SBATCH -G 2"]}).gpus == 2
    assert Resources(custom_flags=["#SBATCH --time=1:00:00"]).gpus == 0


def finished(stage: Any, **changes: Any) -> Observation:
    used = StageUsed(began=0, wall=3600, cpu=1800.0, gpu=None)
    report = StageReport(
        stage=stage, app="stub", iteration=0, attempt=0, complete=True, next=True,
        jobs=JobCounts(planned=1, finished=1, used=used),
    )  # fmt: skip
    return replace(
        Observation(phase=Phase.succeeded, looked=True, finished=1, report=report, revoked=False, checks=3), **changes
    )


def test_the_stages_of_an_iteration_are_summed_in_its_row() -> None:
    state = decide(first_state(at="label.running"), finished("label")).state
    assert state.figures == {"job_hours": 1.0, "cpu_hours": 0.5}
    state = decide(state.model_copy(update={"at": "train.running"}), finished("train")).state
    assert state.figures == {"job_hours": 2.0, "cpu_hours": 1.0}


@pytest.fixture
def figures(tmp_path: Path) -> tuple[MemoryStore, Figures]:
    store = MemoryStore()
    campaign(store, 2, tmp_path)
    return store, Reader(store).read()


def test_an_attempt_waits_until_the_first_job_begins(figures: tuple[MemoryStore, Figures]) -> None:
    """Of an attempt that had jobs of an earlier one it is not known."""
    _, found = figures
    waited = waits(found.iterations, found.spans)
    told = [(span.iteration, span.stage, span.attempt) for span in found.spans if span not in waited]
    assert told == [(1, "train", 1), (2, "label", 0)] and set(waited.values()) == {15.0}


@pytest.mark.parametrize(("shift", "waited"), [(-15.5, 0.0), (-17, None), (45, 60.0), (50, None)])
def test_the_clock_of_a_job_may_be_another(
    figures: tuple[MemoryStore, Figures], shift: float, waited: float | None
) -> None:
    """What cannot have been is not told."""
    _, found = figures
    one, span = found.iterations[0], found.spans[0]
    outcome = one.stages["label"]
    assert outcome.used is not None
    used = outcome.used.model_copy(update={"began": outcome.used.began + shift})
    moved = replace(one, stages={"label": replace(outcome, used=used)})
    assert waits([moved], [span]).get(span) == waited


def test_the_table_of_times(figures: tuple[MemoryStore, Figures]) -> None:
    store, found = figures
    label, train, *_ = found.times
    assert (label.attempts, label.waited, label.wall, label.cpu, label.gpu, label.queued) == (3, 30, 320, 1280, 0, None)
    assert (train.attempts, train.waited, train.gpu) == (3, 30, 320)
    page = render(found, store)
    assert "<td>30 s<td>–<td>0.0889<td>0.356<td>0.0889</tr>" in page
    assert found.costs == pytest.approx(
        {"job_hours": 8 * 160 / 3600, "cpu_hours": 8 * 640 / 3600, "gpu_hours": 4 * 160 / 3600}, abs=1e-6
    )
    assert "1.42 CPU hours, 0.178 GPU hours" in page


def test_a_run_of_an_earlier_version_shows_nothing_of_it(tmp_path: Path) -> None:
    store = MemoryStore()
    state = campaign(store, 1, tmp_path)
    for stage in STAGES:
        key = SPACE.stage(stage, 0).report
        report = json.loads(store.objects[key])
        del report["jobs"]["used"]
        store.objects[key] = json.dumps({**report, "schema_version": 1}).encode()
    rows = [row.model_copy(update={"figures": {}}) for row in state.trail]
    before = state.model_copy(update={"trail": rows}).seal()
    store.objects |= {SPACE.state: before, SPACE.event(state.version): before}
    found = Reader(store).read()
    assert found.costs == {} and {(one.waited, one.queued, one.wall, one.cpu, one.gpu) for one in found.times} == {
        (None,) * 5
    }
    page = render(found, store)
    assert "<td>–<td>–<td>–<td>–<td>–</tr>" in page and "hours," not in page


def test_a_run_of_the_local_engine_tells_what_it_used(cli: Cli, stub_run: Path) -> None:
    assert cli("run", stub_run)[0] == 0
    rows = json.loads(cli("status", "--json", stub_run)[1])["iterations"]
    assert all(0 < row["cpu_hours"] < 0.1 for row in rows)
    told = json.loads(cli("report", "--json", stub_run)[1])
    assert told["costs"]["cpu_hours"] == pytest.approx(sum(row["cpu_hours"] for row in rows))
    assert [one["stage"] for one in told["times"]] == list(STAGES) and all(one["cpu"] > 0 for one in told["times"])
    assert told["times"][0]["waited"] is not None
