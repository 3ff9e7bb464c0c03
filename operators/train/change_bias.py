"""train.change_bias: the models of the user's are not trained, their energies are shifted to the run's data."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from conventions.config import RunConfig
from conventions.names import canonical_json
from operators.core import Planned
from operators.jobs import Script, Task, write_jobs
from operators.sums import user_file

from .absorption import NEW
from .dp_bias import GRAPH, START
from .dp_command import run_script
from .stage import PlanParams, TrainPlan, folders_of_tests, new_systems


def plan_bias(config: RunConfig, params: PlanParams, ctx: TrainPlan) -> Planned:
    """One task a model, whose energies are shifted to the data."""
    train: Any = config.train
    job = {
        "systems": [f"data/{system}" for system in sorted(params.systems)],
        "tests": [f"data/{name}" for name in folders_of_tests(config)],
        "new": [f"data/{name}" for name in new_systems(params)],
        "branch": train.model_branch,
    }
    models = [file.root for file in train.training_finetune_model]
    tasks = [
        Task({"job.json": canonical_json({**job, "model": model}), START: user_file(ctx.files, model)})
        for model in models
    ]
    scripts = files("operators.train")
    script = Script(
        run=run_script(train, "dp_bias.py"),
        need=["test.json"],
        keep=[GRAPH, NEW],
        files={name: scripts.joinpath(name).read_bytes() for name in ("dp_bias.py", "dp_model.py")},
    )
    return write_jobs(ctx.jobs, ctx.done, tasks, script, train.group_size)


def check_bias(train: Any) -> list[str]:
    """Why energies cannot be shifted, or what would have no effect on it."""
    models = [file.root for file in train.training_finetune_model]
    problems = []
    if train.backend != "pytorch":
        problems.append("train.change_bias: only PyTorch has it; set backend to pytorch")
    if len(models) != train.numb_models or len(set(models)) != len(models):
        problems.append(
            f"train.change_bias: training_finetune_model has {len(set(models))} different models, and numb_models is "
            f"{train.numb_models}: give one for each, for a committee of equal models has no deviation"
        )
    others = ("numb_steps", "dp_compress", "training_reuse_iter", "use_pretrain_script", "head", "validation_data")
    problems += [f"train.{name}: it has no effect with change_bias" for name in others if getattr(train, name)]
    return problems
