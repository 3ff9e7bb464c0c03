"""What every runner of jobs must do. A test class inherits this and makes `runner`, and as `other` the other one."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Protocol

import pytest

from conventions.documents import DoneMarker

from .job_places import DIGEST, RUN, SPOIL, Job, three_tasks

# Ends when it has used a tenth of a second.
BUSY = f'{sys.executable} -c "from time import process_time as t\nwhile t() < 0.1: pass"'


class Runner(Protocol):
    """Something that runs jobs."""

    def run(self, env: dict[str, str]) -> int:
        """Run a job; its exit code."""

    def killed(self, env: dict[str, str], at: int) -> bool:
        """Run a job and kill the runner before its n-th effect; False when it has fewer of them."""

    def programs(self, env: dict[str, str]) -> list[str]:
        """Run a job; the programs that were started for it."""

    def hashed(self, env: dict[str, str]) -> list[str]:
        """Run a job; the files that were hashed for it."""

    def unprivileged(self, env: dict[str, str]) -> int:
        """Run a job as somebody who may not write everywhere; its exit code."""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder in which somebody without privileges may work."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    yield root
    for path in [root, *root.rglob("*")]:
        if path.is_dir():
            path.chmod(0o777)
    shutil.rmtree(root)


class RunnerContract:
    def test_several_tasks(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path)
        assert runner.run(job.env) == 0
        sums = [hashlib.sha256(f"{number}\n".encode()).hexdigest() for number in range(2)]
        marker = (
            f'{{"schema_version":2,"job_id":"000007","inputs":"{DIGEST}",'
            '"tasks":[{"id":"task.000000","code":0},{"id":"task.000001","code":0}],'
            f'"files":[{{"name":"task.000000/result","size":2,"sha256":"{sums[0]}"}},'
            f'{{"name":"task.000001/result","size":2,"sha256":"{sums[1]}"}}],USED}}\n'
        )
        assert job.left() == {
            "done": marker.encode(),
            "out/task.000000": "d", "out/task.000000/result": b"0\n", "log/task.000000.log": b"000007 0 C\n",
            "out/task.000001": "d", "out/task.000001/result": b"1\n", "log/task.000001.log": b"000007 1 C\n",
        }  # fmt: skip

    def test_what_the_job_used(self, runner: Runner, tmp_path: Path) -> None:
        """Also what the programs used that its tasks start, and what all tasks need once; not what is done already."""
        before = int(time.time())
        job = Job(tmp_path, RUN + f"sh -c '{BUSY}'\n", once=BUSY)
        assert runner.run(job.env) == 0
        used = DoneMarker.load(job.done.read_bytes()).used
        assert used is not None and used.queued is None
        assert before <= used.began <= used.began + used.wall <= int(time.time())
        assert used.cpu >= 3 * 0.1
        job.done.unlink()
        assert runner.run(job.env) == 0
        again = DoneMarker.load(job.done.read_bytes()).used
        assert again is not None and again.cpu < used.cpu

    def test_a_task_that_fails_does_so_alone(self, runner: Runner, tmp_path: Path) -> None:
        run = RUN + "mkdir save; cat name >save/x; [ $(cat name) != 0 ] || exit 7; [ $(cat name) != 1 ] || kill -9 $$\n"
        job = Job(tmp_path, run, "need result\nkeep save\nkeep none\n", tasks=3)
        assert runner.run(job.env) == 1
        assert job.codes() == [7, 137, 0]
        assert job.recorded() == [f"task.00000{n}/{name}" for n in range(3) for name in ("result", "save/x")]

    def test_an_output_that_is_missing(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path, RUN + "rm result\n", "need result\nneed second\nkeep third\n", tasks=1)
        assert runner.run(job.env) == 1
        assert job.codes() == [65] and job.recorded() == []
        said = b"000007 0 C\njob wrapper: the command ended well but left no result\n"
        assert job.left()["log/task.000000.log"] == said

    def test_a_job_without_a_whole_digest_is_not_run(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path)
        (job.inputs / "digest").write_text(DIGEST)
        assert runner.run(job.env) == 70
        assert job.executions() == [] and not job.done.exists()

    @pytest.mark.parametrize("finisher", ["runner", pytest.param("other", marks=pytest.mark.slow)])
    def test_killed_at_every_effect(self, runner: Runner, other: Runner, tmp_path: Path, finisher: str) -> None:
        whole = three_tasks(tmp_path / "whole")
        assert runner.run(whole.env) == 1
        assert whole.codes() == [0, 3, 0] and len(whole.recorded()) == 3 + 1 + 3
        expected = whole.left() | {"log/job.log": b""}
        for at in count(1):
            job = three_tasks(tmp_path / str(at))
            if not runner.killed(job.env, at):
                break
            assert not job.done.exists(), "the marker comes last"
            finished = [path.name[10] for path in (job.place / "work").glob("*.code") if path.read_text() == "0\n"]
            assert (other if finisher == "other" else runner).run(job.env) == 1
            left = job.left()
            assert left.pop("log/job.log") == f"{job.place}/work\n".encode()
            assert left | {"log/job.log": b""} == expected, at
            again = [name for name in "012" if job.executions().count(name) > 1]
            assert not set(again) & set(finished) and len(job.executions()) <= 5, (at, finished)
        assert at > 20

    @pytest.mark.parametrize("finisher", ["runner", "other"])
    def test_killed_while_a_task_works(self, runner: Runner, other: Runner, tmp_path: Path, finisher: str) -> None:
        """It goes on in the same folder, with inputs as they were: what stands in their way goes, and nothing else."""
        precious = tmp_path / "precious"
        precious.write_text("mine\n")
        run = (
            'echo + >>"$LEDGER"; echo step >>save; [ -e "$FLAG" ] || { : >"$FLAG"; rm name plain; mkdir name;'
            f" ln -s {precious} plain; : >sub/new; kill -9 $PPID; exit 1; }}; cat name sub/x plain >result\n"
        )
        job = Job(tmp_path / "job", run, "need result\nneed save\nneed sub\n", tasks=1)
        (job.task(0) / "sub").mkdir()
        (job.task(0) / "sub/x").write_text("sub\n")
        (job.task(0) / "plain").write_text("plain\n")
        assert runner.killed(job.env, 0)
        assert (other if finisher == "other" else runner).run(job.env) == 0
        assert (job.out / "task.000000/result").read_text() == "0\nsub\nplain\n"
        assert (job.out / "task.000000/save").read_text() == "step\n" * 2
        assert sorted(path.name for path in (job.out / "task.000000/sub").iterdir()) == ["new", "x"]
        assert precious.read_text() == "mine\n"

    @pytest.mark.parametrize("spoil", SPOIL)
    def test_a_finished_task_whose_output_is_damaged(
        self, runner: Runner, tmp_path: Path, spoil: Callable[[Path], object]
    ) -> None:
        job = Job(tmp_path)
        assert runner.run(job.env) == 0
        whole = job.left()
        job.done.unlink()
        assert runner.run(job.env) == 0 and job.executions() == ["0", "1"]
        spoil(job.out / "task.000001/result")
        assert runner.run(job.env) == 0 and job.executions() == ["0", "1", "1"]
        assert job.left() == whole

    @pytest.mark.parametrize("name", ["", "task.000000/a b", "task.000000/.x", "../../in/run.sh", "nothing"])
    def test_a_list_of_sums_that_cannot_be_right(self, runner: Runner, tmp_path: Path, name: str) -> None:
        """It was cut short, or is of an earlier version: names in it that this one would not have recorded."""
        job = Job(tmp_path, tasks=1)
        assert runner.run(job.env) == 0
        whole = job.left()
        if name.startswith("task"):
            (job.out / name).touch()
        found = job.out / name
        digest = hashlib.sha256(found.read_bytes() if found.is_file() else b"").hexdigest()
        sums = job.place / "work/task.000000.sums"
        sums.write_text(f"{sums.read_text()}{digest}  {name}\n" if name else "")
        assert runner.run(job.env) == 0
        assert job.executions() == ["0", "0"] and job.left() == whole

    def test_half_a_copy_of_what_an_attempt_saved_does_not_count(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path, RUN + "ls -A >result\n", tasks=1)
        for folder in (job.previous / "task.000000", job.place / "work/task.000000.new"):
            folder.mkdir(parents=True)
            (folder / f"of {folder.parent.name}").touch()
        assert runner.run(job.env) == 0
        assert (job.out / "task.000000/result").read_text().splitlines() == ["name", "of store", "result"]
        assert [path.name for path in (job.place / "work").glob("*.new")] == []

    @pytest.mark.parametrize("taken", [False, True])
    def test_a_failed_task_goes_on_from_what_it_kept(self, runner: Runner, tmp_path: Path, taken: bool) -> None:
        """And begins anew with all else, wherever its outputs are now."""
        run = 'echo step >>save; : >name; : >>rest; echo + >>rest; cat rest >count; [ -e "$FLAG" ]\n'
        job = Job(tmp_path, run, "keep save\nneed count\n", tasks=1)
        assert runner.run(job.env) == 1
        if taken:
            job.publish()
        (job.root / "flag").touch()
        assert runner.run(job.env) == 0
        assert (job.out / "task.000000/save").read_text() == "step\n" * 2
        assert (job.out / "task.000000/count").read_text() == "+\n"
        assert (job.place / "work/task.000000/name").read_text() == ""

    @pytest.mark.parametrize("spoil", [None, *SPOIL])
    def test_outputs_that_were_taken_away(
        self, runner: Runner, tmp_path: Path, spoil: Callable[[Path], object] | None
    ) -> None:
        """They come back if they are right, also with what nobody recorded; and are recorded."""
        job = Job(tmp_path, RUN + 'ln -s x link; mkdir box; : >box/x; [ $(cat name) = 0 ] || [ -e "$FLAG" ]\n')
        (job.inputs / "outputs").write_text("need result\nkeep box\n")
        assert runner.run(job.env) == 1
        job.publish()
        (job.previous / "task.000000/stale").write_text("of an earlier attempt")
        (job.root / "flag").touch()
        if spoil:
            spoil(job.previous / "task.000000/result")
        assert runner.run(job.env) == 0
        assert job.recorded() == [f"task.00000{n}/{name}" for n in range(2) for name in ("box/x", "result")]
        assert job.executions() == ["0", "1", *(["0"] if spoil else []), "1"]
        assert (job.out / "task.000000/result").read_text() == "0\n"

    @pytest.mark.parametrize("instead", ["true", "mkfifo", "ln -s ../task.000001/none"])
    def test_a_finished_tasks_output_that_goes_while_others_run(
        self, runner: Runner, tmp_path: Path, instead: str
    ) -> None:
        gone = f'rm "$JOB_OUT/task.000000/result"; {instead} "$JOB_OUT/task.000000/result"'
        job = Job(tmp_path, RUN + f'[ -e "$FLAG" ] || [ $(cat name) = 0 ] || {{ : >"$FLAG"; {gone}; }}\n')
        assert runner.run(job.env) == 74 and not job.done.exists()
        assert runner.run(job.env) == 0
        assert job.recorded() == ["task.000000/result", "task.000001/result"]

    def test_a_folder_of_outputs_that_has_become_a_link(self, runner: Runner, tmp_path: Path) -> None:
        """No store would follow it."""
        job = Job(tmp_path, RUN + "rm -rf box; mkdir box; : >box/x\n", "need box\n")
        assert runner.run(job.env) == 0
        whole = job.left()
        (job.out / "task.000001/box").rename(tmp_path / "elsewhere")
        (job.out / "task.000001/box").symlink_to(tmp_path / "elsewhere")
        job.done.unlink()
        assert runner.run(job.env) == 74 and not job.done.exists()
        assert runner.run(job.env) == 0 and job.left() == whole

    def test_what_a_task_puts_among_the_outputs_itself_is_not_kept(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path, RUN + 'mkdir "$JOB_OUT/task.000000"; : >"$JOB_OUT/task.000000/more"\n', tasks=1)
        assert runner.run(job.env) == 0
        assert job.recorded() == ["task.000000/result"]
        assert not (job.out / "task.000000/more").exists()

    def test_outputs_that_are_no_files(self, runner: Runner, tmp_path: Path) -> None:
        """Links and fifos count as missing; in a folder they stay what they are, and are not recorded."""
        run = "ln -s /etc/passwd link; mkfifo fifo; mkdir box; ln -s .. box/up; ln -s /etc box/etc; mkfifo box/fifo\n"
        job = Job(tmp_path, run + ": >box/x\n", "keep link\nkeep fifo\nneed box\n", tasks=1)
        assert runner.run(job.env) == 0
        left = job.left()
        assert {name: what for name, what in left.items() if name.startswith("out/")} == {
            "out/task.000000": "d", "out/task.000000/box": "d", "out/task.000000/box/x": b"",
            "out/task.000000/box/up": "link to ..", "out/task.000000/box/etc": "link to /etc",
            "out/task.000000/box/fifo": "p",
        }  # fmt: skip
        assert job.recorded() == ["task.000000/box/x"]
        for name in ("link", "fifo"):
            (job.inputs / "outputs").write_text(f"need {name}\n")
            shutil.rmtree(job.place)
            assert runner.run(job.env) == 1 and job.codes() == [65]

    def test_outputs_with_odd_names(self, runner: Runner, tmp_path: Path) -> None:
        """No app can ask for them; who does gets them, but not into a marker that nobody could read."""
        names = ["a b", ".x", "-x", "good"]
        job = Job(tmp_path, "for x in 'a b' .x ./-x good; do : >\"$x\"; done\n", tasks=1)
        (job.inputs / "outputs").write_text("".join(f"need {name}\n" for name in names))
        assert runner.run(job.env) == 0
        assert {path.name for path in (job.out / "task.000000").iterdir()} == {*names}
        assert job.recorded() == ["task.000000/good"]

    def test_odd_names_among_the_outputs(self, runner: Runner, tmp_path: Path) -> None:
        """What a marker cannot name stays and is not recorded; what no store can hold is not kept."""
        job = Job(tmp_path, "mkdir box; cp -R odd/. box/\n", "need box\n", tasks=1)
        odd = job.task(0) / "odd"
        stay = [
            "a b",
            "-x",
            ".hidden",
            "a,b",
            "*",
            "$(id)",
            "a'\"b",
            "#x~",
            "x=1",
            "a]b",
            "a[^b",
        ]
        gone = ["a\nb", "a\n77 task.000000", "back\\slash", "\u00fc", os.fsdecode(b"\xff\xfe"), "tab\tx"]
        for name in [*stay, *gone, "good"]:
            (odd / name).mkdir(parents=True)
            (odd / name / "x").write_text(name, "utf-8", "surrogateescape")
        (odd / "good/x y").write_text("of another size")
        assert runner.run(job.env) == 0
        assert job.recorded() == ["task.000000/box/good/x"] and job.marker()["files"][0]["size"] == 4
        assert {path.name for path in (job.out / "task.000000/box").iterdir()} == {*stay, "good"}
        job.done.unlink()
        assert runner.run(job.env) == 0, "finished, and not run again"
        assert job.recorded() == ["task.000000/box/good/x"]

    def test_many_files_are_recorded_in_order(self, runner: Runner, tmp_path: Path) -> None:
        names = sorted(f"box/{'abc'[n % 3]}{n * 7919 % 1009}" for n in range(300))
        job = Job(
            tmp_path, "mkdir box; while read -r x; do echo $x >$x; done <list\n", "need box\nneed list\n", tasks=1
        )
        (job.task(0) / "list").write_text("".join(f"{name}\n" for name in names[::-1]))
        assert runner.run(job.env) == 0
        assert job.recorded() == [f"task.000000/{name}" for name in [*names, "list"]]
        assert all(file["size"] == len(file["name"]) - 11 for file in job.marker()["files"][:-1])

    def test_once(self, runner: Runner, tmp_path: Path) -> None:
        once = 'read -r x || echo "$PWD"; echo once >>"$LEDGER"; echo both >shared\n'
        job = Job(tmp_path, RUN + 'cat ../shared; [ -e "$FLAG" ]\n', once=once)
        assert runner.run(job.env) == 1
        assert job.executions() == ["once", "0", "1"]
        assert job.left()["log/job.log"] == f"{job.place}/work\n".encode()
        assert job.left()["log/task.000001.log"] == b"000007 1 C\nboth\n"
        (job.root / "flag").touch()
        assert runner.run(job.env) == 0
        assert job.executions() == ["once", "0", "1"] * 2
        assert runner.run(job.env) == 0
        assert job.executions() == ["once", "0", "1"] * 2, "there was nothing to run"

    def test_once_fails(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path, once="echo error: no models; exit 3\n")
        assert runner.run(job.env) == 70
        assert job.left() == {"done": "none", "log/job.log": b"error: no models\n"} and job.executions() == []

    def test_a_task_finds_no_input_on_its_stdin(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path, "cat >result\n", once="cat\n")
        (tmp_path / "stdin").write_text("of somebody else\n")
        before = os.dup(0)
        with open(tmp_path / "stdin", "rb") as stream:
            os.dup2(stream.fileno(), 0)
            try:
                assert runner.run(job.env) == 0
            finally:
                os.dup2(before, 0)
                os.close(before)
        assert job.left()["log/job.log"] == b"" and [file["size"] for file in job.marker()["files"]] == [0, 0]

    def test_modes_are_those_of_the_umask_022(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path, RUN + ": >x; mkdir y; stat -c %a name x y; umask\n", once="umask\n", tasks=1)
        before = os.umask(0o077)
        try:
            assert runner.run(job.env) == 0
        finally:
            os.umask(before)
        assert job.left()["log/task.000000.log"] == b"000007 0 C\n644\n644\n755\n0022\n"
        made = [job.done, job.done.parent, job.out, job.out / "task.000000", job.log, job.log / "task.000000.log"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o644, 0o755, 0o755, 0o755, 0o755, 0o644]

    def test_what_a_task_left_read_only(self, runner: Runner, shared_folder: Path) -> None:
        run = (
            "mkdir -p box/in; : >box/in/x; : >result; chmod 0 result box/in/x; mkdir -p rest/in; : >rest/in/x\n"
            'chmod -R a-w .; chmod 0 box/in; [ -e "$FLAG" ]\n'
        )
        job = Job(shared_folder / "job", run, "need result\nneed box\n", tasks=1)
        job.place.mkdir()
        for path in (job.root, job.place):
            path.chmod(0o777)
        assert runner.unprivileged(job.env) == 1
        (job.root / "flag").touch()
        assert runner.unprivileged(job.env) == 0
        assert job.recorded() == ["task.000000/box/in/x", "task.000000/result"]
        assert os.access(job.out / "task.000000/box/in", os.W_OK)

    def test_every_file_is_hashed_once(self, runner: Runner, tmp_path: Path) -> None:
        job = Job(tmp_path, RUN + "mkdir box; : >box/x\n", "need result\nkeep box\n")
        files = [f"task.00000{n}/{name}" for n in range(2) for name in ("box/x", "result")]
        assert sorted(runner.hashed(job.env)) == files
        job.done.unlink()
        assert sorted(runner.hashed(job.env)) == files, "finished: checked against what was recorded, and that is all"
        assert job.executions() == ["0", "1"]
