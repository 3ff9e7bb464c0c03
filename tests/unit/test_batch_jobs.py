"""Batch jobs of a workflow: one process for all of them, and what follows when it dies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from operators.pod import scripts
from statemachine.engine.batch_jobs import BatchJobs
from statemachine.engine.scripts import Runner

# Answers the jobs in reverse order when it has both, with the last digit of their ids; dies of the job 000009.
WAITER = """\
import json, os, sys
print("one more", file=sys.stderr, flush=True)
jobs = []
for line in sys.stdin:
    job = json.loads(line)
    assert os.environ["COMMON"] == "c" and "JOB_ID" not in os.environ
    with open(job["LOG"], "a") as log:
        log.write(job["JOB_OUT"])
    if job["JOB_ID"] == "000009":
        os._exit(3)
    jobs.append(job["JOB_ID"])
    if len(jobs) == 2:
        while jobs:
            job = jobs.pop()
            print(job, job[-1], flush=True)
"""


@pytest.fixture
def batch_jobs() -> Iterator[BatchJobs]:
    made = BatchJobs()
    yield made
    made.close()


def run(batch_jobs: BatchJobs, root: Path, *jobs: str) -> list[int]:
    script: dict[str, Any] = {"source": WAITER, "command": [sys.executable]}

    def one(job: str) -> int:
        env = {"JOB_ID": job, "JOB_OUT": f"out of {job}\n", "COMMON": "c"}
        return batch_jobs.run(script, env, root / f"jobs-{job}.log")

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(one, jobs))


def test_all_jobs_share_a_process(batch_jobs: BatchJobs, tmp_path: Path) -> None:
    assert run(batch_jobs, tmp_path, "000001", "000002") == [1, 2]
    assert run(batch_jobs, tmp_path, "000003", "000000") == [3, 0]
    assert (tmp_path / "batch-jobs.log").read_text() == "one more\n"
    assert (tmp_path / "jobs-000003.log").read_text() == "out of 000003\n"


def test_the_process_ends_when_there_are_no_more_jobs(tmp_path: Path) -> None:
    batch_jobs = BatchJobs()
    batch_jobs.close()
    run(batch_jobs, tmp_path, "000001", "000002")
    assert batch_jobs._waiter and batch_jobs._waiter.process.poll() is None
    batch_jobs.close()
    assert batch_jobs._waiter.process.returncode == 0


def test_its_death_fails_the_jobs_it_had_and_no_others(batch_jobs: BatchJobs, tmp_path: Path) -> None:
    assert run(batch_jobs, tmp_path, "000001", "000009") == [1, 1]
    assert "the next attempt finds them again" in (tmp_path / "jobs-000001.log").read_text()
    assert run(batch_jobs, tmp_path, "000004", "000005") == [4, 5]
    assert (tmp_path / "batch-jobs.log").read_text() == "one more\n" * 2


def test_the_runner_hands_over_what_is_for_a_batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchJobs, "run", lambda self, script, env, log: 42)
    script = {"source": f"HPC = {{}}\n{scripts.BATCH}", "command": ["python3"]}
    assert Runner(-1).run(script, {}, tmp_path, tmp_path / "log") == 42
