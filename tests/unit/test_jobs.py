"""Writing what jobs need, and reading what they left: the line of a log that says what went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from operators.core import ReduceContext
from operators.jobs import Script, Task, pack, read_tasks, telling_line, write_jobs

NOISE = """\
I0000 00:00:1795585073.551473    4893 port.cc:153] oneDNN custom operations are on. You may see slightly different \
numerical results due to floating-point round-off errors from different computation orders.
implib-gen: libcudart.so.12: failed to load library 'libcudart.so.12' via callback 'DP_cudart_dlopen'
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("1\nERROR: cannot open graph.002.pb\nLast command: pair_style\n", "ERROR: cannot open graph.002.pb"),
        ("step 1\nTraceback:\n  x\nValueError: no forces\nexit 1\n", "ValueError: no forces"),
        ("one\nKilled\n", "Killed"),
        ("", "the log is empty"),
    ],
)  # fmt: skip
def test_the_telling_line(tmp_path: Path, log: str, line: str) -> None:
    (tmp_path / "log").write_text(NOISE + log)
    assert telling_line(tmp_path / "log") == line
    assert telling_line(tmp_path / "none") == "there is no log"


def stage(root: Path, script: Script) -> ReduceContext:
    """A stage of one job in a folder, planned."""
    write_jobs(root / "job", root / "done", [Task({"name": "0"})], script, 1)
    return ReduceContext(
        config=root, jobs=root / "job", done=root / "done", undone=root, report=root / "r", product=root
    )


def test_what_is_run_once_is_no_part_of_a_jobs_identity(tmp_path: Path) -> None:
    for name, once in (("a", ""), ("b", "exit 1\n")):
        stage(tmp_path / name, Script("run\n", need=["x"], once=once))
    one, two = (tmp_path / name / "job/000000/in" for name in "ab")
    assert (one / "digest").read_bytes() == (two / "digest").read_bytes()
    assert not (one / "once.sh").exists() and (two / "once.sh").read_text() == "exit 1\n"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (None, "it left no completion marker"),
        ("", "it left no completion marker"),
        ("model: FAILED\nerror: no models\n", "it left no completion marker: error: no models"),
    ],
)
def test_a_job_that_ended_early_says_why(tmp_path: Path, said: str | None, problem: str) -> None:
    ctx = stage(tmp_path, Script("run\n", need=["x"]))
    if said is not None:
        log = tmp_path / "job/000000/log/job.log"
        log.parent.mkdir()
        log.write_text(said)
    (task,) = read_tasks(ctx, 1)
    assert task.error() == f"job 000000 task.000000: {problem}"


@pytest.mark.parametrize("name", ["a b", "-x", ".x", "../x", "a/b", "", "x"])
def test_outputs_have_names_that_a_marker_can_hold(name: str) -> None:
    with pytest.raises(ValueError, match="give each once"):
        Script("run\n", need=["x"], keep=[name])


def test_a_larger_group_than_asked_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(2000, 1) == 1 and pack(20_000, 10) == 10
    assert capsys.readouterr().err == ""
    assert pack(100_000, 10) == 50
    expected = "100,000 in jobs of 50: group_size 10 would make 10,000 jobs, and a stage has at most 2,000\n"
    assert capsys.readouterr() == ("", expected)
