"""What plan, reduce and checks of every explorer have in common: one task is one trajectory."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from conventions.config import RunConfig
from conventions.documents import StageReport, parse_json
from conventions.errors import ConfigError
from conventions.names import canonical_json, derive_seed, format_id
from operators.core import TRIAL, Input, JobContext, PlanContext, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import (
    Content,
    Script,
    Task,
    TaskOutput,
    job_counts,
    pack,
    read_tasks,
    settles,
    write_jobs,
    write_report,
)
from operators.registry import load_config
from operators.selected import selected_frames
from operators.structures import has_molecules, load_structures
from operators.sums import SUMS

from .task_group import MdGroup
from .trajectory import MODEL_DEVI, TRAJECTORY, Outcome

if TYPE_CHECKING:
    from ase import Atoms

Points = list[tuple[dict[str, Any], int]]  # of a grid: what differs between its trajectories, and their seeds
# (group, its place in the configuration) -> (structure, points of its grid) -> the input files of each point.
Prepare = Callable[[Any, str], Callable[["Atoms", Points], Iterable[dict[str, Content]]]]

# once.sh of a job: the models are the ones that train recorded.
CHECK_MODELS = f"""\
cd "$JOB_MODELS" || exit
sha256sum -c {SUMS} >/dev/null || {{
  echo "error: the models are not what was recorded"
  exit 1
}}
"""


@dataclass(frozen=True)
class PlanParams:
    iteration: int
    explore_stage: int


@dataclass(frozen=True)
class ExplorePlan(PlanContext):
    files: Annotated[Path, Input(lambda at: at.space.files, optional=True)]
    selected: Annotated[Path, Input(lambda at: at.newest_product("select"), optional=True)]


@dataclass(frozen=True)
class ExploreJob(JobContext):
    """A trajectory needs the committee."""

    models: Annotated[Path, Input(lambda at: at.newest_product("train"))]


def write_tasks(config: Any, params: PlanParams, ctx: ExplorePlan, script: Script, prepare: Prepare) -> Planned:
    """One task a trajectory: what `prepare` makes, and task.json, which says what it is."""
    groups = enumerate(config.explore.stages[params.explore_stage])
    total = sum(len(choose(config, params, number, ctx)) * len(group.replicas()) for number, group in groups)
    tasks = make_tasks(config, params, ctx, prepare)
    return write_jobs(ctx.jobs, ctx.done, tasks, script, pack(total, config.explore.group_size))


def make_tasks(config: Any, params: PlanParams, ctx: ExplorePlan, prepare: Prepare) -> Iterator[Task]:
    """The tasks of an exploration stage: groups, structures, temperatures (or revisions), pressures, in that order."""
    count = itertools.count()
    for number, group in enumerate(config.explore.stages[params.explore_stage]):
        inputs_of = prepare(group, f"explore.stages.{params.explore_stage}.{number}")
        for atoms, index in choose(config, params, number, ctx):
            facts = {"structure": atoms.info["structure"], "index": index, "group": number}
            points = [
                (variant, derive_seed(config.seed, "explore", params.iteration, next(count), "velocity"))
                for variant in group.replicas()
            ]
            for (variant, _), inputs in zip(points, inputs_of(atoms, points), strict=True):
                yield Task({**inputs, "task.json": canonical_json({**facts, **variant})})


def choose(config: Any, params: PlanParams, number: int, ctx: ExplorePlan) -> list[tuple[Atoms, int]]:
    """The structures of a group for this iteration, with their places in their sets.

    With n_sample, iterations take turns through a seeded order of all structures of the group.
    """
    group: MdGroup = config.explore.stages[params.explore_stage][number]
    found = []
    selected = selected_frames(ctx.selected) if group.start == "selected" else []
    for name in group.structures:
        # Not from check frames: these were accurate.
        going_on = [atoms for atoms in selected if atoms.info.get("structure") == name and not atoms.info.get("check")]
        frames = going_on or load_structures(config, [name], ctx.files)
        found += [(atoms, index) for index, atoms in enumerate(frames)]
    if group.n_sample is None or group.n_sample >= len(found):
        return found
    import numpy as np

    seed = derive_seed(config.seed, "explore", params.explore_stage, number, "n_sample")
    order = np.random.default_rng(seed).permutation(len(found))
    first = params.iteration * group.n_sample
    return [found[i] for i in sorted(order[(first + k) % len(found)] for k in range(group.n_sample))]


def collect(params: ReduceParams, ctx: ReduceContext, app: str, judge: Callable[[Path], Outcome]) -> Reduced:
    """Classify every trajectory and list those that exist in trajectories.json.

    Complete when none is lost, or no attempt follows and at most ratio_failed of all are; those that went wrong
    physically are there, with their class and the rows before the trouble.
    """
    config = load_config(ctx.config.read_bytes())
    tasks = list(read_tasks(ctx, params.n_jobs))
    trajectories = []
    for task in tasks:
        if task.folder is not None:
            outcome = judge(task.folder)
            facts = ctx.jobs / task.job_id / "in" / task.task_id / "task.json"
            trajectories.append(
                {
                    "job_id": task.job_id,
                    "task_id": task.task_id,
                    "class": outcome.kind,
                    "rows": outcome.rows,
                    "last_step": outcome.last_step,
                    # What select finds later must be what was judged here.
                    "files": {name: task.files[name] for name in (MODEL_DEVI, TRAJECTORY) if name in task.files},
                    **parse_json(facts.read_bytes(), f"{task.job_id}/{task.task_id}/task.json"),
                }
            )
    planned = sum(len(list((ctx.jobs / format_id(job) / "in").glob("task.*"))) for job in range(params.n_jobs))
    lost = planned - len(trajectories)
    complete = settles(tasks, params, ctx) and lost <= config.explore.ratio_failed * planned and bool(trajectories)
    if complete:
        ctx.product.mkdir(parents=True, exist_ok=True)
        document = {"schema_version": 1, "trajectories": trajectories}
        (ctx.product / "trajectories.json").write_bytes(canonical_json(document) + b"\n")
    classes = Counter(str(found["class"]) for found in trajectories)
    usable = any(found["rows"] for found in trajectories)
    return write_report(
        ctx.report,
        StageReport(
            stage="explore",
            app=app,
            iteration=params.iteration,
            attempt=params.attempt,
            complete=complete,
            next=usable,
            jobs=job_counts(params.n_jobs, tasks, config.gpus("explore")),
            classes={**classes, **({"lost": lost} if lost else {})},
            summary={"trajectories": len(trajectories), "broken": len(trajectories) - classes["ok"]},
            messages=messages(tasks, trajectories),
        ),
        product=ctx.product,
    )


def messages(tasks: list[TaskOutput], trajectories: list[dict[str, Any]]) -> list[str]:
    """What a person should know: why tasks failed, and whether the trajectories are of any use."""
    found = list(dict.fromkeys(task.error() for task in tasks if task.folder is None))[:4]
    if trajectories and not any(trajectory["rows"] for trajectory in trajectories):
        classes = ", ".join(sorted({str(trajectory["class"]) for trajectory in trajectories}))
        found.append(
            f"no trajectory has a usable frame ({classes}): check the models and the starting structures, "
            "lower temps or dt"
        )
    return found


def check(config: RunConfig) -> list[str]:
    """Problems between exploration and the rest of the configuration."""
    problems = []
    explore: Any = config.explore
    for number, stage in enumerate(explore.stages):
        for place, group in enumerate(stage):
            for name in group.structures:
                if name not in config.structures:
                    near = difflib.get_close_matches(name, config.structures, 1)
                    hint = (
                        f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(config.structures) or 'none'}"
                    )
                    where = f"explore.stages.{number}.{place}.structures"
                    problems.append(f"{where}: there is no structure set {name!r} in structures; {hint}")
    numb_models = getattr(config.train, "numb_models", None)
    if numb_models is None or numb_models < 2:
        problems.append(
            f"train.numb_models: {numb_models or 'none given'}; explore/{explore.app} needs a committee of at least 2 "
            "models, for one model has no deviation"
        )
    return problems


def check_molecules(config: Any, files: Path) -> None:
    """Refuse to couple a cell to a pressure where there is none; each set is read once."""
    coupled = {
        name: f"explore.stages.{number}.{place}: {group.ensemble}"
        for number, stage in reversed(list(enumerate(config.explore.stages)))
        for place, group in reversed(list(enumerate(stage)))
        if group.coupled
        for name in group.structures
    }  # with the first place of each
    for name, where in coupled.items():
        if has_molecules(config, name, files):
            raise ConfigError(
                f"{where} needs a cell, but structures.{name} has molecules (files without a cell): take another "
                "ensemble, or give the files their cell"
            )


def notes(config: RunConfig) -> list[str]:
    """Pressures that are given, as DP-GEN's inputs often do, where nothing is coupled to them; stages never reached."""
    explore: Any = config.explore
    few = config.convergence.repeat == "once" and config.max_iterations < len(explore.stages)
    return few * [
        f"max_iterations: {config.max_iterations}, but {len(explore.stages)} exploration stages take one iteration "
        "each (convergence.repeat: once); the last ones are not reached"
    ] + [
        f"explore.stages.{number}.{place}: press is not used with ensemble {group.ensemble}; npt uses it"
        for number, stage in enumerate(explore.stages)
        for place, group in enumerate(stage)
        if group.press is not None and not group.coupled
    ]


def tiny(explore: Any) -> dict[str, Any]:
    """One short trajectory, without the user's templates: how long those take, only they know."""
    group = explore.stages[0][0]
    settings = {"ensemble": "nvt", "temps": (group.temps or [300.0])[:1], "nsteps": 10, "dt": group.dt, "trj_freq": 5}
    return {"stages": [[{"structures": [TRIAL], **settings}]]}
