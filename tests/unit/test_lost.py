"""Failures of machines are no failures of physics: what left no result is repeated before `ratio_failed` counts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.build import bulk
from ase.io import write

from conventions.documents import StageReport
from tests.conftest import CONFIG, Cli
from tests.label_run import LabelRun
from tests.select_run import SelectRun
from tests.stage_harness import call, run_job
from tests.unit.test_explore_lammps import fake_run
from tests.unit.test_select import STEPS, dump, mixed

# What reduce is told of the machine, and whether it judges the stage although two of four jobs are lost.
JUDGED = [
    ({"last": False, "finished": 0}, False),
    ({"last": False, "finished": 10}, False),
    ({"last": True, "finished": 1}, False),  # this attempt finished one more: another one follows
    ({"last": True, "finished": 2}, True),
]


def label(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    settings = {"app": "ase", "calculator": "ase.calculators.emt:EMT", "group_size": 1, "ratio_failed": 0.5}
    run = LabelRun(root, settings, [bulk("Cu", cubic=True) for _ in range(4)], ["Cu"])
    return run, run.plan().n_jobs


def explore(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    return fake_run(root, ["good"] * 4, monkeypatch, ratio_failed=0.5), 4


def select(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    run = SelectRun(root, group_size=1, ratio_failed=0.5)
    for seed in range(4):
        run.add(mixed(), dump(STEPS, seed))
    return run, run.plan().n_jobs


@pytest.mark.parametrize("stage", [label, explore, select])
def test_lost_tasks_are_repeated_until_the_machine_would_give_up(
    stage: Callable[..., tuple[Any, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, n_jobs = stage(tmp_path, monkeypatch)
    app, product = run.app, tmp_path / run.place.product
    for job in ("000000", "000002"):
        assert run_job(app, run.place, tmp_path, job) == 0

    def reduce(**told: Any) -> StageReport:
        call(app.reduce, run.place, tmp_path, {**run.facts, "n_jobs": n_jobs, **told})
        return StageReport.load((tmp_path / run.place.report).read_bytes())

    for told, judged in JUDGED:
        report = reduce(**told)
        assert (report.complete, product.exists()) == (judged, judged), told
        assert (report.classes["lost"], report.jobs.failed) == (2, 2)
    for job in ("000001", "000003"):
        assert run_job(app, run.place, tmp_path, job) == 0
    report = reduce(last=False, finished=0)
    assert report.complete and "lost" not in report.classes and report.jobs.failed == 0


def test_what_was_judged_bad_is_not_repeated(tmp_path: Path) -> None:
    """A frame that the calculator refuses counts by ratio_failed at once."""
    settings = {"app": "ase", "calculator": "ase.calculators.emt:EMT", "group_size": 1, "ratio_failed": 0.5}
    run = LabelRun(tmp_path, settings, [bulk("Cu", cubic=True), bulk("Fe", cubic=True)], ["Cu", "Fe"])
    planned = run.plan()
    for job in planned.job_ids:
        run_job(run.app, run.place, tmp_path, job)
    call(run.app.reduce, run.place, tmp_path, {**run.facts, "n_jobs": 2, "last": False, "finished": 0})
    report = StageReport.load((tmp_path / run.place.report).read_bytes())
    assert report.complete and report.classes == {"exception": 1, "ok": 1}


KILLED_ONCE = """\
#!/bin/sh
[ "$JOB_ID" = 000000 ] || [ "$JOB_ID" = 000002 ] || exec python3 "$@"
[ -e {folder}/$JOB_ID ] && exec python3 "$@"
touch {folder}/$JOB_ID
kill -9 $$
"""


@pytest.mark.parametrize("retries", [3, 0])
def test_two_of_four_label_jobs_are_killed_and_no_label_is_lost(tmp_path: Path, cli: Cli, retries: int) -> None:
    """Also where no retry is allowed: an attempt that has finished something is followed by another."""
    write(tmp_path / "cu.extxyz", [bulk("Cu", cubic=True) for _ in range(4)])
    (tmp_path / "python").write_text(KILLED_ONCE.format(folder=tmp_path))
    (tmp_path / "python").chmod(0o755)
    document = yaml.safe_load(CONFIG)
    document["structures"]["start"]["files"] = "cu.extxyz"
    document["label"] = {
        "app": "ase", "calculator": "ase.calculators.emt:EMT", "group_size": 1, "retries": retries, "ratio_failed": 0.5,
        "command": str(tmp_path / "python"),
    }  # fmt: skip
    document["select"]["accurate_after"] = 0
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    code, output, _ = cli("run", tmp_path / "run.yaml")
    assert code == 0 and "2 of 4 frames have no result yet, and are tried again" in output
    assert "2 of 4 jobs are run again" in output
    (found,) = (tmp_path / "out").rglob("label*/**/report.json")
    report = json.loads(found.read_bytes())
    assert (report["classes"], report["attempt"]) == ({"ok": 4}, 1)
