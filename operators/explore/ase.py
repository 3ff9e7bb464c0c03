"""explore/ase: molecular dynamics or relaxations by ASE, with the committee of any trainer that offers `App.models`.

One task is one trajectory; `ase_md.py` runs it, beside the trainer's own module that loads the models.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from importlib import import_module, resources
from inspect import getsource
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from conventions.config import RunConfig, StageConfig, Text
from conventions.documents import parse_json
from conventions.errors import ConfigError, DataError
from conventions.names import canonical_json
from operators.committee import committee_of
from operators.core import App, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Content, Script
from operators.registry import app, load_config
from operators.setup import with_setup
from operators.structures import CLOSEST, masses

from . import stage, trajectory
from .ase_group import AseGroup
from .live import INPUT_OF_ASE as INPUT
from .live import live_ase
from .stage import (
    CHECK_MODELS,
    ExploreJob,
    ExplorePlan,
    PlanParams,
    Points,
    check_molecules,
    collect,
    notes,
    tiny,
    write_tasks,
)
from .trajectory import BROKEN, LARGEST_VOLUME_RATIO, MODEL_DEVI, TRAJECTORY, Outcome

if TYPE_CHECKING:
    from ase import Atoms

END = "end.json"
PROGRAM = "ase_md.py"


class AseConfig(StageConfig):
    """Exploration by ASE."""

    app: Literal["ase"] = "ase"
    command: Text | None = Field(None, description="The Python that has ASE and the trainer's package: python3.")
    ratio_failed: float = Field(0.1, ge=0, le=1, description="Fraction of trajectories that may be missing.")
    stages: list[Annotated[list[AseGroup], Field(min_length=1)]] = Field(
        min_length=1,
        description="Exploration stages: lists of task groups that each iteration runs; the next stage begins when one "
        "has converged.",
    )


def plan(params: PlanParams, ctx: ExplorePlan) -> Planned:
    """One task a trajectory: md.json, and task.json, which says what it is."""
    config = load_config(ctx.config.read_bytes())
    script = Script(
        run=run_script(config.explore),
        need=[MODEL_DEVI, TRAJECTORY, END],
        files=programs(config),
        once=CHECK_MODELS,
    )
    mass_of = masses(config.type_map, config.mass_map)
    shared = {
        "models": committee_of(config).files,
        "type_map": config.type_map,
        "largest_volume_ratio": LARGEST_VOLUME_RATIO,
        "closest": CLOSEST,
    }

    def prepare(group: AseGroup, where: str) -> Callable[[Atoms, Points], Iterator[dict[str, Content]]]:
        settings = group.model_dump(
            include={"nsteps", "dt", "tau_t", "tau_p", "trj_freq", "fmax", "epsilon", "epsilon_v"}
        )

        def inputs_of(atoms: Atoms, points: Points) -> Iterator[dict[str, Content]]:
            symbols = atoms.get_chemical_symbols()
            frame = {
                "symbols": symbols,
                "masses": [mass_of[symbol] for symbol in symbols],
                "cell": atoms.cell.array.tolist(),
                "positions": atoms.positions.tolist(),
                "periodic": bool(atoms.pbc.all()),
            }
            for variant, seed in points:
                task = {**shared, **settings, **frame, **variant, "method": group.method, "seed": seed}
                yield {INPUT: canonical_json(task)}

        return inputs_of

    return write_tasks(config, params, ctx, script, prepare)


def programs(config: Any) -> dict[str, Content]:
    """`ase_md.py`, and the module of the trainer that loads its models."""
    models = app("train", config.train.app).models
    if models is None:
        raise ConfigError(_no_models(config))
    return {
        # Not by __file__: operators may have been imported from a zip.
        PROGRAM: resources.files("operators.explore").joinpath(PROGRAM).read_bytes(),
        "models.py": getsource(import_module(models.__module__)),
    }


def run_script(explore: AseConfig) -> str:
    """run.sh of a task: begun anew, whatever an earlier attempt left."""
    lines = [
        f"for old in {MODEL_DEVI} {TRAJECTORY} {END}; do",
        '  if [ -e "$old" ] || [ -h "$old" ]; then rm -rf "$old"; fi',
        "done",
        f'{explore.command or "python3"} "$JOB_JOB/{PROGRAM}" {INPUT} "$JOB_MODELS"',
        "",
    ]
    return with_setup(explore, "\n".join(lines))


def reduce(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    return collect(params, ctx, "ase", judge)


def judge(folder: Path) -> Outcome:
    """Classify the trajectory in a task's output folder: see `trajectory.judge`."""
    try:
        said = parse_json(trajectory.tail(folder / END).encode(), END).get("class")
    except (DataError, AttributeError):
        said = None
    return trajectory.judge(folder, said if said in ("ok", *BROKEN) else None)


def check(config: RunConfig) -> list[str]:
    """Problems between exploration and the rest of the configuration."""
    problems = stage.check(config)
    return problems if app("train", config.train.app).models else [*problems, _no_models(config)]


def _no_models(config: Any) -> str:
    return f"train.app {config.train.app}: explore/ase cannot load its models (it offers no App.models)"


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """Whether the jobs' Python has ASE with all that the ensembles need, and the trainer's package."""
    explore: Any = config.explore
    methods = sorted({group.method for stage in explore.stages for group in stage})
    run = f"{explore.command or 'python3'} {PROGRAM} probe {' '.join(methods)} 2>&1\n"
    contents = {name: content for name, content in programs(config).items() if isinstance(content, str | bytes)}
    return {"run.sh": with_setup(explore, run), **contents}


def executables(explore: AseConfig) -> list[str]:
    """Programs that must be there."""
    return shlex.split(explore.command or "python3")[:1]


APP = App(
    stage="explore",
    name="ase",
    config=AseConfig,
    plan=plan,
    reduce=reduce,
    job=ExploreJob,
    check=check,
    check_files=check_molecules,
    notes=notes,
    drives=frozenset({"deepmd", "mace"}),
    executables=executables,
    probe=probe,
    tiny=tiny,
    live=live_ase,
    explore_stages=lambda explore: len(explore.stages),
)
