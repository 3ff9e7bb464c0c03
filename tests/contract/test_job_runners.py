"""Both runners of jobs: the shell wrapper of pods and batch systems, and the local engine's own."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest

from conventions.documents import DoneMarker
from operators import sums
from statemachine.engine import job_runner
from tests.fault.inject.kill_points import CHANGES, KillPoints

from .job_places import Job, three_tasks
from .runner_contract import Runner, RunnerContract, shared_folder

__all__ = ["shared_folder"]
PROGRAMS = "sh mkdir cp mv rm chmod find awk sha256sum wc date".split()
# Before each program: the call number KILL_AT does not happen, for all that was started for the job is killed.
COUNTING = """\
#!/bin/sh
echo "${0##*/}" >>"$PROGRAMS"
[ "${0##*/}" != sha256sum ] || echo "$@" >>"$HASHED"
lines=0
while read -r _; do lines=$((lines + 1)); done <"$PROGRAMS"
[ "$lines" != "$KILL_AT" ] || kill -9 0
exec "${0%/*}/real/${0##*/}" "$@"
"""
NOBODY = 65534


def counted(root: Path, env: dict[str, str]) -> dict[str, str]:
    """An environment in which each program that is started is written down."""
    bin_ = root / "bin"
    if not bin_.exists():
        (bin_ / "real").mkdir(parents=True)
        for name in PROGRAMS:
            (bin_ / "real" / name).symlink_to(str(shutil.which(name)))
        (bin_ / "sh").write_text(COUNTING)
        (bin_ / "sh").chmod(0o755)
        for name in PROGRAMS[1:]:
            (bin_ / name).symlink_to("sh")
    for name in ("programs", "hashed"):
        (root / name).write_text("")
    more = {"PROGRAMS": str(root / "programs"), "HASHED": str(root / "hashed"), "KILL_AT": "none"}
    return {**env, **more, "PATH": f"{bin_}{os.pathsep}{env['PATH']}"}


class Wrapper:
    """operators/pod/job.sh."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, env: dict[str, str], **more: int) -> int:
        script = str(files("operators.pod") / "job.sh")
        return subprocess.run(["/bin/sh", script], env=env, start_new_session=True, **more).returncode  # type: ignore[call-overload,no-any-return]

    def killed(self, env: dict[str, str], at: int) -> bool:
        return self.run({**counted(self.root, env), "KILL_AT": str(at)}) == -signal.SIGKILL

    def programs(self, env: dict[str, str]) -> list[str]:
        assert self.run(counted(self.root, env)) == 0
        return (self.root / "programs").read_text().split()

    def hashed(self, env: dict[str, str]) -> list[str]:
        self.programs(env)
        lines = (self.root / "hashed").read_text().splitlines()
        checked = [Path(line[3:]).read_text().splitlines() for line in lines if line.startswith("-c ")]
        return [name for line in lines if line[0] != "-" for name in line.split()] + [
            line.split()[1] for lines in checked for line in lines
        ]

    def unprivileged(self, env: dict[str, str]) -> int:
        return self.run(env, **({"user": NOBODY} if os.geteuid() == 0 else {}))


class Native:
    """statemachine/engine/job_runner.py."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, env: dict[str, str]) -> int:
        return job_runner.run_job(env, io.StringIO())

    def killed(self, env: dict[str, str], at: int) -> bool:
        def child() -> int:
            os.environ["TMPDIR"] = ""  # else what happens there would not count
            KillPoints(at or -1, os.open(os.devnull, os.O_WRONLY)).watch_files(CHANGES)
            return self.run(env)

        return forked(child) == -signal.SIGKILL

    def programs(self, env: dict[str, str]) -> list[str]:
        assert self.run(counted(self.root, env)) == 0
        return (self.root / "programs").read_text().split()

    def hashed(self, env: dict[str, str]) -> list[str]:
        found: list[str] = []
        sha256_of = sums.sha256_of

        def noted(path: Path) -> str:
            found.append(str(path.relative_to(env["JOB_OUT"])))
            return sha256_of(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(job_runner, "sha256_of", noted)
            patch.setattr(sums, "sha256_of", noted)
            assert self.run(env) == 0
        return found

    def unprivileged(self, env: dict[str, str]) -> int:
        def child() -> int:
            if os.geteuid() == 0:
                os.setresuid(NOBODY, NOBODY, NOBODY)
            return self.run(env)

        return forked(child)


def forked(work: Callable[[], int]) -> int:
    """The exit code of some work in a process of its own, as `subprocess` tells it."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(work())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class TestWrapper(RunnerContract):
    @pytest.fixture
    def runner(self, tmp_path_factory: pytest.TempPathFactory) -> Runner:
        return Wrapper(tmp_path_factory.mktemp("wrapper"))

    @pytest.fixture
    def other(self, tmp_path_factory: pytest.TempPathFactory) -> Runner:
        return Native(tmp_path_factory.mktemp("native"))

    def test_how_many_programs_it_starts(self, runner: Runner, tmp_path: Path) -> None:
        """They are what a short task costs."""
        counts = [len(runner.programs(Job(tmp_path / str(tasks), tasks=tasks).env)) for tasks in (1, 2, 9)]
        assert counts == [12, 17, 52]
        job = Job(tmp_path / "folders", RUN_FOLDER, "need result\nkeep box\n", tasks=1)
        assert len(runner.programs(job.env)) == 14, "find, and the task's own mkdir"

    def test_how_long_it_waited_in_a_queue(self, runner: Runner, tmp_path: Path) -> None:
        """In a clock that is behind, not at all."""
        for submitted, least in ((int(time.time()) - 500, 500), (int(time.time()) + 500, 0)):
            job = Job(tmp_path / str(submitted))
            assert runner.run({**job.env, "JOB_SUBMITTED": str(submitted)}) == 0
            used = DoneMarker.load(job.done.read_bytes()).used
            assert used is not None and used.queued is not None and least <= used.queued < least + 400

    def test_a_clock_that_cannot_be_asked(self, runner: Runner, tmp_path: Path) -> None:
        """The job is done all the same."""
        job = Job(tmp_path / "job")
        env = counted(tmp_path, job.env)
        (tmp_path / "bin/real/date").unlink()
        assert runner.run(env) == 0
        used = DoneMarker.load(job.done.read_bytes()).used
        assert used is not None and (used.began, used.wall) == (0, 0)

    def test_it_needs_no_other_programs(self, runner: Runner, tmp_path: Path) -> None:
        """They are promised in its first line, and with docs/cluster.md to whoever makes an image."""
        head = (files("operators.pod") / "job.sh").read_text().splitlines()[0]
        assert re.findall(r"\w+", head.partition("besides it:")[2]) == PROGRAMS[1:]
        job = three_tasks(tmp_path / "job")
        (job.inputs / "run.sh").write_text(": >result; : >more; mkdir save; : >save/x\n")
        (tmp_path / "bin").mkdir()
        for name in PROGRAMS:
            (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
        assert runner.run({**job.env, "PATH": str(tmp_path / "bin")}) == 0 and job.done.exists()


RUN_FOLDER = "mkdir box; : >box/x; : >result\n"


class TestNative(RunnerContract):
    @pytest.fixture
    def runner(self, tmp_path_factory: pytest.TempPathFactory) -> Runner:
        return Native(tmp_path_factory.mktemp("native"))

    @pytest.fixture
    def other(self, tmp_path_factory: pytest.TempPathFactory) -> Runner:
        return Wrapper(tmp_path_factory.mktemp("wrapper"))

    def test_it_starts_one_program_a_task(self, runner: Runner, tmp_path: Path) -> None:
        assert runner.programs(Job(tmp_path / "job", tasks=3).env) == ["sh"] * 3

    def test_threads_do_not_meet(self, runner: Runner, tmp_path: Path) -> None:
        made = [Job(tmp_path / str(number)) for number in range(16)]
        before = Path.cwd()
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda job: runner.run(job.env), made)) == [0] * 16
        assert all(job.left() == made[0].left() for job in made) and Path.cwd() == before

    def test_it_says_what_is_wrong(self, tmp_path: Path) -> None:
        errors = io.StringIO()
        job = Job(tmp_path, once="exit 1\n")
        assert job_runner.run_job(job.env, errors) == 70
        assert errors.getvalue() == "job runner: once.sh failed, see log/job.log\n"


@pytest.mark.parametrize("begin", [three_tasks, Job])
def test_both_leave_the_same(tmp_path: Path, begin: Callable[[Path], Job]) -> None:
    found = []
    for kind in (Wrapper, Native):
        (tmp_path / "helper").mkdir(exist_ok=True)
        job = begin(tmp_path / "job")
        kind(tmp_path / "helper").run(job.env)
        found.append(job.left())
        job.root.rename(tmp_path / kind.__name__)
    assert found[0] == found[1]
