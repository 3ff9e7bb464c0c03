"""Jobs: writing their `in/`, finding the unfinished ones, and reading what they left.

A job holds up to `group_size` tasks. Its `in/` is all that the wrapper (`job.sh`) needs::

    run.sh          runs one task, in a copy of the task's folder
    once.sh         what all tasks need once, in the folder above theirs; may be missing
    outputs         `need NAME` or `keep NAME` a line: what to move to out/task.NNNNNN/
    digest          SHA-256 over everything but run.sh and once.sh: the job's identity depends on its science, not
                    on where and by which command it runs
    task.NNNNNN/    one folder a task
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conventions.documents import DoneMarker, JobCounts, StageReport, StageUsed, TaskResult, Used
from conventions.errors import DataError
from conventions.names import format_id

from .core import Planned, ReduceContext, Reduced, ReduceParams
from .setup import SAID, SETUP_FAILED
from .sums import check_file, write_sums

Content = str | bytes | Path
# A stage is one workflow: above this many pods its status outgrows what Kubernetes stores of one object.
MAX_JOBS = 2000
_LARGEST_MARKER = 64 << 20  # bytes: some 400,000 files
# Of TensorFlow, on machines where nothing is wrong; it speaks of failures and of round-off errors.
_NOISE = ("libcudart", "implib-gen", "oneDNN custom operations")
_HOW = ("run.sh", "once.sh")
_OUTPUT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")  # what a marker can hold
_SPOILED = 74  # a task's code where what it left is not what it recorded


@dataclass(frozen=True)
class Task:
    """Files of a task by name; `Path` contents are copied."""

    files: dict[str, Content]


@dataclass(frozen=True)
class Script:
    """What all jobs of a stage run: a POSIX-sh script, the outputs to keep, and helper files beside it.

    `need` outputs make a task without them a failure; `keep` outputs are kept where they exist, also after
    a failure (checkpoints, logs of the software). `once` is run before the first task that has to be run, in the
    folder above the tasks': for what they share. Where it fails, none of them is run.
    """

    run: str
    need: Sequence[str]
    keep: Sequence[str] = ()
    files: Mapping[str, Content] | None = None
    once: str = ""

    def __post_init__(self) -> None:
        names = [*self.need, *self.keep]
        bad = [name for name in names if not _OUTPUT.fullmatch(name) or names.count(name) > 1]
        if bad:
            raise ValueError(f"output {bad[0]!r}: give each once, by a name of letters, digits and . _ + -")


@dataclass(frozen=True)
class TaskOutput:
    """A task as all_reduce sees it.

    Attributes
    ----------
    index
        Counts tasks over the whole stage.
    folder
        Its outputs; None where it failed.
    files
        SHA-256 of each file that the task recorded, by its name below `folder`. What else lies there, an earlier
        attempt has left: not to be used.
    used
        What its job used, with the first of the job's tasks.
    """

    index: int
    job_id: str
    task_id: str
    folder: Path | None
    log: Path
    problem: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    used: Used | None = None

    def error(self) -> str:
        """The line of the task's log that most likely says what went wrong."""
        return f"job {self.job_id} {self.task_id}: {self.problem or telling_line(self.log)}"


def write_jobs(jobs: Path, done: Path, tasks: Iterable[Task], script: Script, group_size: int) -> Planned:
    """Write `in/` of every job that has no good completion marker yet.

    Parameters
    ----------
    jobs
        The `job/` folder to write into.
    done
        The `done/` folder of earlier attempts; may be missing.
    tasks
        All tasks of the stage, in their fixed order.
    """
    outputs = "".join(f"need {name}\n" for name in script.need) + "".join(f"keep {name}\n" for name in script.keep)
    common: dict[str, Content] = {"run.sh": script.run, "outputs": outputs, **(script.files or {})}
    if script.once:
        common["once.sh"] = script.once
    todo: list[str] = []
    group: list[Task] = []
    count = 0

    def close() -> None:
        nonlocal count
        job_id = format_id(count)
        files = dict(common)
        for index, task in enumerate(group):
            files.update({f"task.{index:06d}/{name}": data for name, data in task.files.items()})
        digest = hashlib.sha256()
        contents = {name: _bytes(data) for name, data in sorted(files.items())}
        for name, data in contents.items():
            if name not in _HOW:
                digest.update(f"{name}\0{len(data)}\0".encode() + data)
        if not _finished(done / f"{job_id}.json", digest.hexdigest()):
            todo.append(job_id)
            folder = jobs / job_id / "in"
            for name, data in {**contents, "digest": f"{digest.hexdigest()}\n".encode()}.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        count += 1
        group.clear()

    for task in tasks:
        group.append(task)
        if len(group) == group_size:
            close()
    if group:
        close()
    jobs.mkdir(parents=True, exist_ok=True)
    return Planned(todo, count, len(todo))


def pack(total: int, group_size: int) -> int:
    """The `group_size` that keeps a stage below `MAX_JOBS` jobs: the one asked for, or a larger one, which is told.

    >>> pack(300, 10), pack(100_000, 10)
    (10, 50)
    """
    smallest = -(-total // MAX_JOBS)
    if smallest > group_size:
        print(
            f"{total:,} in jobs of {smallest:,}: group_size {group_size:,} would make {-(-total // group_size):,} "
            f"jobs, and a stage has at most {MAX_JOBS:,}",
            file=sys.stderr,
        )
    return max(group_size, smallest)


def read_tasks(ctx: ReduceContext, n_jobs: int) -> Iterator[TaskOutput]:
    """Every task of the stage in order, with its output folder if its marker and files are all there.

    Every file that a marker names is hashed: of a lost pod that wrote late and the one that took its place, one may
    have left the marker and the other a file. Such a job's marker is taken back (it is published anew, without a
    good task), so that the next attempt repeats the job. A job without a good marker is given as one task without a
    folder.
    """
    first = 0
    for job in range(n_jobs):
        job_id = format_id(job)
        inputs, log = ctx.jobs / job_id / "in", ctx.jobs / job_id / "log"
        try:
            marker = read_marker(ctx.done / f"{job_id}.json")
            check_inputs(marker, inputs)
            problem = check_outputs(marker, ctx.jobs / job_id / "out")
        except OSError:
            problem = f"it left no completion marker{_said(log / 'job.log')}"
        except DataError as error:
            problem = str(error)
        else:
            if problem:
                _take_back(marker, ctx.undone / f"{job_id}.json")
        if problem:
            yield TaskOutput(first, job_id, "task.000000", None, log / "task.000000.log", problem)
            first += len(list(inputs.glob("task.*")))
            continue
        for number, result in enumerate(marker.tasks):
            folder = ctx.jobs / job_id / "out" / result.id if result.code == 0 else None
            files = {name: file.sha256 for file in marker.files if (name := _below(file.name, result.id))}
            task_log = log / f"{result.id}.log"
            problem = telling_line(task_log) if result.code == SETUP_FAILED else ""
            used = None if number else marker.used
            yield TaskOutput(first + number, job_id, result.id, folder, task_log, problem, files, used)
        first += len(marker.tasks)


def settles(tasks: Iterable[TaskOutput], params: ReduceParams, ctx: ReduceContext) -> bool:
    """May the stage be judged now? Not while tasks are lost that a further attempt will repeat.

    A lost task left no result to judge: its job was killed, or its program ended with an error. `ratio_failed` is for
    results that are bad; it lets lost ones through only when the machine would give up.
    """
    if all(task.folder for task in tasks):
        return True
    return params.last and len(list(ctx.done.glob("*.json"))) <= params.finished


def job_counts(n_jobs: int, tasks: Sequence[TaskOutput], gpus: int | None = None) -> JobCounts:
    """Counts of jobs from their tasks, and what they used: a job with a failed task is failed.

    Parameters
    ----------
    gpus
        Of each job: `RunConfig.gpus`.
    """
    failed = {task.job_id for task in tasks if task.folder is None}
    return JobCounts(
        planned=n_jobs,
        finished=n_jobs - len(failed),
        failed=len(failed),
        used=_sum([task.used for task in tasks if task.used], gpus),
    )


def _sum(jobs: Sequence[Used], gpus: int | None) -> StageUsed | None:
    if not jobs:
        return None
    wall = sum(job.wall for job in jobs)
    queued = [job.queued for job in jobs if job.queued is not None]
    return StageUsed(
        began=min(job.began for job in jobs),
        wall=wall,
        cpu=round(sum(job.cpu for job in jobs), 3),
        gpu=None if gpus is None else gpus * wall,
        queued=round(sum(queued) / len(queued), 1) if queued else None,
    )


def write_report(path: Path, report: StageReport, **written: Path) -> Reduced:
    """Write `report.json` and return its flags.

    Parameters
    ----------
    written
        The folders `product` and `labels` as far as the stage wrote them. Each gets a list of its files' SHA-256 for
        whoever uses them. The report lists their files, since an upload may fail: a stage is complete when all of
        them are in the store.
    """
    for folder in written.values():
        if report.complete and folder.is_dir():
            write_sums(folder)
    files = {
        root: {
            str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()
        }
        for root, folder in written.items()
        if report.complete and folder.is_dir()
    }
    report = StageReport.from_json({**report.model_dump(mode="json"), "files": files})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(report.dump())
    return Reduced(report.complete, report.next)


def telling_line(log: Path, longest: int = 300) -> str:
    """The line of a log that a person would look for: a setup line that failed, a Python exception, the first error,
    else the last line.
    """
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, log.stat().st_size - 65536))
            lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return "there is no log"
    lines = [line for line in lines if not any(noise in line for noise in _NOISE)]
    if lines and lines[-1].startswith(SAID):
        why = re.sub(r"^\S*/run\.sh: (line )?\d+: ", "", lines[-2]) if len(lines) > 1 else "it said nothing"
        return f"{lines[-1].removeprefix('error: ')}: {why}"[:longest]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line)]
    errors = [line for line in lines if "error" in line.lower() or "abort" in line.lower()]
    found = raised[-1:] or errors[:1] or lines[-1:] or ["the log is empty"]
    return found[0][:longest]


def read_marker(path: Path) -> DoneMarker:
    """A job's completion marker; raise `DataError` where the file is none."""
    if (size := path.stat().st_size) > _LARGEST_MARKER:
        raise DataError(f"done/{path.name}: {size} bytes: this is no completion marker")
    return DoneMarker.load(path.read_bytes(), f"done/{path.name}")


def _finished(marker: Path, digest: str) -> bool:
    if marker.is_dir():  # the job would run, and could never say that it has
        raise DataError(f"done/{marker.name} is a folder where a completion marker belongs: move it away")
    try:
        found = read_marker(marker)
    except (OSError, DataError):
        return False
    return found.succeeded and found.inputs == digest


def check_inputs(marker: DoneMarker, inputs: Path) -> None:
    """Raise `DataError` unless a marker tells of a job's present inputs, `OSError` where it has none."""
    if (inputs / "digest").read_text(errors="replace").strip() != marker.inputs:
        raise DataError("its completion marker belongs to other inputs")


def check_outputs(marker: DoneMarker, out: Path) -> str:
    """What is wrong with the files that a marker names; empty if nothing is."""
    for file in marker.files:
        if problem := check_file(out / file.name, file.sha256, file.size):
            return f"out/{file.name}: {problem}"
    return ""


def _said(log: Path) -> str:
    """What a job's own log says; it has one when what its tasks share could not be prepared."""
    return f": {telling_line(log)}" if log.is_file() and log.stat().st_size else ""


def _take_back(marker: DoneMarker, path: Path) -> None:
    """The marker as it is when no task ended well: its job is unfinished."""
    tasks = [TaskResult(id=task.id, code=_SPOILED) for task in marker.tasks]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(marker.model_copy(update={"tasks": tasks, "files": []}).dump())


def _below(name: str, folder: str) -> str:
    """A file's name below a folder; empty where it is in another one."""
    return name[len(folder) + 1 :] if name.startswith(f"{folder}/") else ""


def _bytes(content: Content) -> bytes:
    if isinstance(content, Path):
        return content.read_bytes()
    return content.encode() if isinstance(content, str) else content
