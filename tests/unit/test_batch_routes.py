"""Several batch systems for one stage: which of them a job goes to, and where it is found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conventions.config import StageConfig
from conventions.hpc import Hpc
from operators.pod.batch_routes import Route, Routes
from operators.workflow.hpc import settings_of
from tests.unit.test_hpc import job, made

REFUSES = "#!/bin/sh\necho 'sbatch: error: Invalid account' >&2\nexit 1\n"
RUN = """\
echo "$PWD" >>"$ROOT/ledger"
n=$(cat name)
[ ! -e "$ROOT/entered$n" ] || { echo >"$ROOT/entered$n"; read -r go <"$ROOT/go$n"; }
cp name result
"""


def route(root: str, batch_type: str = "Shell", **more: Any) -> Hpc:
    machine = {"batch_type": batch_type, "context_type": "LocalContext", "remote_root": root}
    return Hpc.model_validate_json(json.dumps({"machine": machine, "poll": 1, **more}))


def routes(*capacities: int | None, alone: bool = False) -> Routes:
    found = [settings_of(route(f"/{number}", capacity=capacity)) for number, capacity in enumerate(capacities)]
    return Routes({"routes": found}, alone)


def test_a_job_takes_the_route_with_the_most_room() -> None:
    found = routes(2, 3)
    chosen = []
    for number in range(5):
        taken = found.choose(f"{number:06d}", [])
        assert taken
        taken.jobs.add(str(number))
        chosen.append(found.all.index(taken))
    assert chosen == [1, 0, 1, 0, 1]
    assert found.choose("000005", []) is None, "all are full"
    found.all[0].jobs.discard("1")
    assert found.choose("000005", []) is found.all[0]
    assert found.choose("000005", [found.all[0]]) is None


def test_without_capacities_they_share() -> None:
    found = routes(None, None)
    for number in range(4):
        taken = found.choose(f"{number:06d}", [])
        assert taken
        taken.jobs.add(str(number))
    assert [len(each.jobs) for each in found.all] == [2, 2]


def test_a_route_that_refused_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    found = routes(None, 1)
    now = 1000.0
    monkeypatch.setattr("operators.pod.batch_routes.time.monotonic", lambda: now)
    found.all[0].close()
    assert found.choose("000000", []) is found.all[1]
    now += 301
    assert found.choose("000000", []) is found.all[0]


def test_jobs_that_know_nothing_of_each_other_are_dealt_out_by_capacity() -> None:
    found = routes(1, 3, alone=True)
    chosen = [found.choose(f"{number:06d}", []) for number in range(8)]
    assert [chosen.count(each) for each in found.all] == [2, 6]
    assert found.choose("000000", [found.all[0]]) is found.all[1]


def test_a_list_of_machines_in_the_configuration() -> None:
    machine = {"batch_type": "Slurm", "context_type": "LocalContext", "remote_root": "/scratch"}
    several = [{"machine": machine, "capacity": 3}, {"machine": machine}]
    stage = StageConfig.model_validate_json(json.dumps({"app": "x", "hpc": several}))
    assert [found.capacity for found in stage.routes] == [3, None]
    one = StageConfig.model_validate_json(json.dumps({"app": "x", "hpc": {"machine": machine}}))
    assert len(one.routes) == 1 and StageConfig(app="x").routes == []
    assert str(Route(settings_of(one.routes[0]))) == "Slurm of this machine"


class Jobs:
    """Jobs of one task each, whose script has the routes; as the process for all jobs of a workflow, or as a pod."""

    def __init__(self, root: Path, *given: Hpc) -> None:
        self.root = root
        (root / "script").write_text(job(made(*given))["script"]["source"])
        (root / "bin").mkdir()
        (root / "bin/sbatch").write_text(REFUSES)
        (root / "bin/sbatch").chmod(0o755)
        path = f"{root / 'bin'}:{os.environ['PATH']}"
        self.env = {**os.environ, "ROOT": str(root), "HOME": str(root), "PATH": path}

    def places(self, number: int) -> dict[str, str]:
        given, home = self.root / f"given{number}", self.root / f"job{number}"
        if not given.exists():
            (given / "task.000000").mkdir(parents=True)
            (given / "task.000000/name").write_text(f"{number}\n")
            (given / "digest").write_text(f"{number}" * 64 + "\n")
            (given / "outputs").write_text("1 result\n")
            (given / "run.sh").write_text(RUN)
        home.mkdir(exist_ok=True)
        places = {name: str(home / "out" / name.lower()) for name in ("OUT", "LOG", "DONE")}
        places |= {"JOB": str(given), "PREVIOUS": str(self.root / "none"), "MODELS": str(self.root / "none")}
        return {"JOB_ID": f"{number:06d}", **{f"JOB_{name}": place for name, place in places.items()}}

    def alone(self, number: int) -> tuple[int, str]:
        places = self.places(number)
        done = subprocess.run(
            [sys.executable, str(self.root / "script")],
            cwd=self.root / f"job{number}",
            env={**self.env, **places},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.returncode, done.stdout

    def serve(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, str(self.root / "script")], cwd=self.root, env=self.env, text=True, stdin=pipe, stdout=pipe
        )

    def give(self, process: subprocess.Popen[str], *numbers: int) -> None:
        assert process.stdin
        for number in numbers:
            process.stdin.write(json.dumps({**self.places(number), "LOG": str(self.root / f"log{number}")}) + "\n")
        process.stdin.flush()

    def end(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        process.stdin.close()

    def answers(self, process: subprocess.Popen[str], count: int) -> list[str]:
        assert process.stdout
        return [process.stdout.readline().strip() for _ in range(count)]

    def gates(self, *numbers: int) -> None:
        for number in numbers:
            for name in ("entered", "go"):
                os.mkfifo(self.root / f"{name}{number}")

    def wait_for(self, *numbers: int) -> None:
        for number in numbers:
            (self.root / f"entered{number}").read_text()

    def go(self, number: int) -> None:
        (self.root / f"go{number}").write_text("go\n")

    def ran_at(self) -> list[str]:
        """The roots of the routes, one a job that ran."""
        return [Path(line).relative_to(self.root).parts[0] for line in (self.root / "ledger").read_text().split()]


def test_a_job_that_is_refused_goes_to_another_route(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, route(f"{tmp_path}/a", "Slurm", capacity=5), route(f"{tmp_path}/b"))
    code, output = jobs.alone(0)
    assert code == 0, output
    assert "job 000000 goes elsewhere: Slurm of this machine: " in output and "Invalid account" in output
    assert "submitted on Shell of this machine" in output
    assert jobs.ran_at() == ["b"]


def test_every_route_refuses(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, route(f"{tmp_path}/a", "Slurm"), route(f"{tmp_path}/b", "Slurm"))
    code, output = jobs.alone(0)
    assert code == 1
    assert "error: every route refused the job: Slurm of this machine: " in output
    assert output.rpartition("error: every")[2].count("Invalid account") == 2


@pytest.mark.slow
def test_jobs_spread_by_room_and_wait_for_it(tmp_path: Path) -> None:
    """Two routes with room for one job each, and three jobs."""
    jobs = Jobs(tmp_path, route(f"{tmp_path}/a", capacity=1), route(f"{tmp_path}/b", capacity=1))
    jobs.gates(0, 1)
    with jobs.serve() as process:
        jobs.give(process, 0, 1, 2)
        jobs.wait_for(0, 1)
        assert sorted(jobs.ran_at()) == ["a", "b"]
        jobs.go(0)
        assert jobs.answers(process, 2) == ["000000 0", "000002 0"], "the third took the place of the first"
        jobs.go(1)
        assert jobs.answers(process, 1) == ["000001 0"]
        jobs.end(process)
    assert jobs.ran_at()[2] == jobs.ran_at()[0]


@pytest.mark.slow
def test_a_job_is_found_again_on_the_route_that_has_it(tmp_path: Path) -> None:
    """Its waiter is killed while it runs on the second route; the first has room again then."""
    jobs = Jobs(tmp_path, route(f"{tmp_path}/a", capacity=1), route(f"{tmp_path}/b", capacity=1))
    jobs.gates(0, 1)
    with jobs.serve() as process:
        jobs.give(process, 0, 1)
        jobs.wait_for(0, 1)
        process.send_signal(signal.SIGKILL)
    ran = jobs.ran_at()
    with jobs.serve() as process:
        jobs.give(process, 1, 0)
        jobs.go(0)
        jobs.go(1)
        assert sorted(jobs.answers(process, 2)) == ["000000 0", "000001 0"]
        jobs.end(process)
    assert jobs.ran_at() == ran, "nothing ran twice"
    assert all("taken up again on Shell" in (tmp_path / f"log{number}").read_text() for number in (0, 1))
