"""What plan and reduce of every trainer have in common: one task is one model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from conventions.config import RunConfig
from conventions.documents import StageReport
from conventions.errors import ConfigError, did_you_mean
from conventions.space import DataSpace
from operators.core import Input, JobContext, PlanContext, ReduceContext, Reduced, ReduceParams
from operators.jobs import TaskOutput, job_counts, write_report
from operators.registry import load_config

from .absorption import write_figures

# Class of a model (ok, diverged, broken, failed), its figures (eV/atom, eV/Angstrom), and what a person should know.
Judged = tuple[str, dict[str, float], str]
DIVERGED = "diverged.txt"  # what a task leaves instead of a model where the loss became NaN


@dataclass(frozen=True)
class PlanParams:
    iteration: int
    has_models: bool
    systems: list[str]


@dataclass(frozen=True)
class TrainPlan(PlanContext):
    files: Annotated[Path, Input(lambda at: at.space.files, optional=True)]


@dataclass(frozen=True)
class TrainJob(JobContext):
    """A training job reads all data, and the last committee where there is one."""

    data: Annotated[Path, Input(lambda at: at.space.dataset)]
    models: Annotated[Path, Input(lambda at: at.newest_product("train"), optional=True)]


def reuses(training_reuse_iter: int | None, params: PlanParams) -> bool:
    """Does model i go on from model i of the last committee?"""
    return training_reuse_iter is not None and params.iteration >= training_reuse_iter and params.has_models


def need_systems(systems: Sequence[str]) -> None:
    """Raise `ConfigError` where there is nothing to train on."""
    if not systems:
        raise ConfigError("train: there are no training systems; give init.label or init.data something to train on")


def folders_of_tests(config: RunConfig) -> list[str]:
    """The folders of the data that the figures are of, relative to the dataset.

    A training that watches data may stop at what is best on them: they are no test where there are others.
    """
    return _folders(set(config.init.test) - set(_watched(config)) or config.init.test)


def folders_to_watch(config: RunConfig) -> list[str]:
    """The folders of the data that the training program is given to watch, relative to the dataset."""
    return _folders(_watched(config))


def _watched(config: RunConfig) -> list[str]:
    names: list[str] = getattr(config.train, "validation_data", [])  # not every trainer has it
    return names


def _folders(names: Iterable[str]) -> list[str]:
    space = DataSpace({})
    return [space.dataset_test(name)[len(space.dataset) + 1 :] for name in sorted(names)]


def check_validation(config: RunConfig) -> list[str]:
    """Sets to watch that are not there."""
    tests = config.init.test
    return [
        f"train.validation_data: there is no set {name!r} in init.test; {did_you_mean(name, tests)}"
        for name in _watched(config)
        if name not in tests
    ]


def labelled_in(iteration: int) -> str:
    """How the names of the systems begin that an iteration labelled, relative to the dataset."""
    space = DataSpace({})
    return f"{space.dataset_iter(iteration)[len(space.dataset) + 1 :]}/"


def new_systems(params: PlanParams) -> list[str]:
    """The systems that this iteration labelled, relative to the dataset."""
    return sorted(name for name in params.systems if name.startswith(labelled_in(params.iteration)))


def of_iteration(numbers: int | list[int] | None, iteration: int) -> int | None:
    """One number for all iterations, or that of this one; the last repeats."""
    return numbers[min(iteration, len(numbers) - 1)] if isinstance(numbers, list) else numbers


def check_deviation(numb_models: int, select: str) -> list[str]:
    """A committee of one has no deviation."""
    if numb_models < 2 and select == "model_devi":
        return ["train.numb_models: one model has no deviation; select.model_devi needs at least 2"]
    return []


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
        summary |= write_figures(tasks, figures, ctx.product)
    report = StageReport(
        stage="train",
        app=app,
        iteration=params.iteration,
        attempt=params.attempt,
        complete=complete,
        next=complete,
        jobs=job_counts(params.n_jobs, tasks, load_config(ctx.config.read_bytes()).gpus("train")),
        classes={kind: number for kind, number in sorted(classes.items()) if number},
        summary=summary,
        messages=list(dict.fromkeys(message for _, _, message in judged if message))[:5],
    )
    return write_report(ctx.report, report, product=ctx.product)
