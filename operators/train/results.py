"""From judged models to the product and the report of a train stage: the same for every trainer."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence

from conventions.documents import StageReport
from operators.core import ReduceContext, Reduced, ReduceParams
from operators.jobs import TaskOutput, job_counts, write_report

# Class of a model (ok, diverged, broken, failed), its figures (eV/atom, eV/Angstrom), and what a person should know.
Judged = tuple[str, dict[str, float], str]
DIVERGED = "diverged.txt"  # what a task leaves instead of a model where the loss became NaN


def who(task: TaskOutput) -> str:
    """How a message names a model."""
    return f"model {task.index} (job {task.job_id} {task.task_id})"


def write_committee(
    app: str,
    params: ReduceParams,
    ctx: ReduceContext,
    tasks: Sequence[TaskOutput],
    judged: Sequence[Judged],
    numb_models: int,
    names: Sequence[str],
) -> Reduced:
    """All models, or none: a committee with a diverged member is not used.

    Parameters
    ----------
    names
        The files of each task that make the product: `graph.pb` of task 1 becomes `graph.001.pb`.
    """
    classes = Counter(kind for kind, _, _ in judged)
    classes["failed"] += numb_models - len(tasks)  # a job without a marker stands for all its tasks
    complete = classes["ok"] == numb_models
    summary: dict[str, float] = {}
    if complete:
        ctx.product.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            assert task.folder is not None
            for name in names:
                stem, suffix = name.split(".")
                shutil.copyfile(task.folder / name, ctx.product / f"{stem}.{task.index:03d}.{suffix}")
        figures = [figures for _, figures, _ in judged]
        summary = {key: sum(each[key] for each in figures) / len(figures) for key in figures[0]}
    report = StageReport(
        stage="train",
        app=app,
        iteration=params.iteration,
        attempt=params.attempt,
        complete=complete,
        next=complete,
        jobs=job_counts(params.n_jobs, tasks),
        classes={kind: number for kind, number in sorted(classes.items()) if number},
        summary=summary,
        messages=list(dict.fromkeys(message for _, _, message in judged if message))[:5],
    )
    return write_report(ctx.report, report, product=ctx.product)
