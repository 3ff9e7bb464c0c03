"""train/deepmd: a committee of models trained by DeePMD-kit (TensorFlow).

One task trains one model: `dp train`, `dp freeze`, optionally `dp compress`, and `dp test` on the independent
test data; the steps are in `dp_model.py`. The models differ by their seeds only.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from conventions.config import RunConfig, StageConfig, UserFile
from conventions.documents import StageReport, parse_json
from conventions.errors import ConfigError, DataError
from conventions.names import canonical_json, derive_seed
from conventions.space import DataSpace
from operators.core import App, Committee, Input, JobContext, PlanContext, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Content, Script, Task, TaskOutput, job_counts, read_tasks, write_jobs, write_report
from operators.registry import load_config
from operators.setup import with_setup
from operators.sums import user_file

from .dp_command import FIND_PYTHON, probe
from .dp_infer import models
from .dp_input import EPOCHS, STEPS, check_arguments, read_input, with_seeds
from .live import live
from .neighbours import short_sel

Steps = Annotated[int, Field(ge=1, le=10**9)]


class DeepmdConfig(StageConfig):
    """Training by DeePMD-kit."""

    app: Literal["deepmd"] = "deepmd"
    ratio_failed: float = Field(0.0, ge=0, le=0, description="Every model of the committee is needed.")
    numb_models: int = Field(4, ge=1, le=1000, description="Models of the committee; they differ by their seeds.")
    input: UserFile = Field(
        description="DeePMD-kit's own input.json. Systems, seeds, type_map and file names are filled in; validation "
        "data are left out: dp test measures on init.test."
    )
    numb_steps: Steps | Annotated[list[Steps], Field(min_length=1)] | None = Field(
        None, description="Steps of each iteration (the last number repeats); default: those of the input."
    )
    skip_neighbor_stat: bool = Field(False, description="dp train --skip-neighbor-stat.")
    dp_compress: bool = Field(False, description="Compress the models (dp compress).")
    training_init_frozen_model: list[UserFile] = Field(
        [], description="Frozen models to begin with, one or numb_models, where the last committee is not reused."
    )
    training_finetune_model: list[UserFile] = Field(
        [], description="Pretrained models to fine-tune, one or numb_models, where the last committee is not reused."
    )
    training_reuse_iter: int | None = Field(
        None, ge=1, description="From this iteration on, model i goes on from model i of the last committee."
    )
    training_reuse_numb_steps: Steps | None = Field(None, description="Steps where the last committee is reused.")
    training_reuse_start_lr: float | None = Field(None, gt=0, description="learning_rate.start_lr there.")
    training_reuse_start_pref_e: float | None = Field(None, ge=0, description="loss.start_pref_e there.")
    training_reuse_start_pref_f: float | None = Field(None, ge=0, description="loss.start_pref_f there.")


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


def plan(params: PlanParams, ctx: TrainPlan) -> Planned:
    """One task a model: its input.json, and how to begin."""
    config = load_config(ctx.config.read_bytes())
    train: DeepmdConfig = config.train
    if not params.systems:
        raise ConfigError("train: there are no training systems; give init.label or init.data something to train on")
    reuse = train.training_reuse_iter is not None and params.iteration >= train.training_reuse_iter
    reuse = reuse and params.has_models
    template = read_input(user_file(ctx.files, train.input.root), config.type_map)
    fill_input(template, train, params.iteration, params.systems, reuse)

    option = "--finetune" if train.training_finetune_model else "--init-frz-model"
    models = [] if reuse else train.training_finetune_model or train.training_init_frozen_model
    space = DataSpace({})
    job = {
        "start": option if models else "",
        "train_args": ["--skip-neighbor-stat"] if train.skip_neighbor_stat else [],
        "compress": train.dp_compress,
        "tests": [f"data/{space.dataset_test(name)[len(space.dataset) + 1 :]}" for name in sorted(config.init.test)],
    }

    def task(index: int) -> Task:
        seeded = with_seeds(template, lambda part: derive_seed(config.seed, "train", params.iteration, index, part))
        model = models[index % len(models)].root if models else None
        contents: dict[str, Content] = {
            "input.json": json.dumps(seeded, indent=1, sort_keys=True) + "\n",
            "job.json": canonical_json({**job, "model": model, "reuse": index if reuse else None}),
        }
        if model:
            contents["start.pb"] = user_file(ctx.files, model)
        return Task(contents)

    script = Script(
        run=run_script(train),
        need=["lcurve.out"],
        keep=["graph.pb", "original.pb", "test.json", "diverged.txt", "ckpt"],
        files={"dp_model.py": files("operators.train").joinpath("dp_model.py").read_bytes()},
    )
    return write_jobs(ctx.jobs, ctx.done, [task(index) for index in range(train.numb_models)], script, train.group_size)


def check_files(config: Any, files: Path) -> None:
    """Read the input as the first iteration will; where the dp of this installation trains, ask it as well."""
    train: DeepmdConfig = config.train
    for key in ("training_init_frozen_model", "training_finetune_model"):
        for file in getattr(train, key):
            if not _is_frozen(user_file(files, file.root)):
                raise ConfigError(
                    f"train.{key}: {Path(file.root).name} is not a frozen model; give what dp freeze wrote"
                )
    found = read_input(user_file(files, train.input.root), config.type_map)
    fill_input(found, train, iteration=0, systems=["system"], reuse=False)
    if config.engine.type == "local" and not (train.command or train.setup or train.hpc):
        check_arguments(found, f"train.input ({Path(train.input.root).name})")


def _is_frozen(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(1) == b"\n"  # the first field of a GraphDef


def fill_input(found: dict[str, Any], train: DeepmdConfig, iteration: int, systems: list[str], reuse: bool) -> None:
    """Write into the input what the run decides: data, steps, file names, and DP-GEN's options of reuse."""
    training = found["training"]
    paths = [f"data/{system}" for system in sorted(systems)]
    # DeePMD-kit 1 had the keys of training_data in training itself; dp still converts that.
    training.get("training_data", training)["systems"] = paths
    training.pop("validation_data", None)

    steps = train.numb_steps
    if isinstance(steps, list):
        steps = steps[min(iteration, len(steps) - 1)]
    if reuse and train.training_reuse_numb_steps is not None:
        steps = train.training_reuse_numb_steps
    key = next((name for name in STEPS if name in training), "numb_steps")
    if steps is not None:
        training[key] = steps
        for name in EPOCHS:
            training.pop(name, None)
    elif key not in training and not any(name in training for name in EPOCHS):
        raise ConfigError("train.numb_steps: neither the run nor train.input says how many steps to train")
    # dp writes checkpoints only where it writes a row of the curve, and judging a model needs a row near its end.
    training["disp_training"] = True
    if key in training:
        training["disp_freq"] = min(training.get("disp_freq", 1000), training[key])
    training["disp_file"] = "lcurve.out"
    training["save_ckpt"] = "ckpt/model.ckpt"

    if reuse:
        for section, name in (("learning_rate", "start_lr"), ("loss", "start_pref_e"), ("loss", "start_pref_f")):
            value = getattr(train, f"training_reuse_{name}")
            if value is not None:
                found.setdefault(section, {})[name] = value


def run_script(train: DeepmdConfig) -> str:
    """run.sh: the user's setup, one thread unless it says otherwise, and dp_model.py with the Python beside dp."""
    lines = "\n".join(
        [
            f"export DP_COMMAND={shlex.quote(train.command or 'dp')}",
            'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"',
            'export DP_INTRA_OP_PARALLELISM_THREADS="${DP_INTRA_OP_PARALLELISM_THREADS:-$OMP_NUM_THREADS}"',
            'export DP_INTER_OP_PARALLELISM_THREADS="${DP_INTER_OP_PARALLELISM_THREADS:-1}"',
            *FIND_PYTHON,
            'exec "${DP_HERE:-python3}" "$JOB_JOB/dp_model.py"',
            "",
        ]
    )
    return with_setup(train, lines)


def reduce(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    """All models, or none: a committee with a diverged member is not used."""
    config = load_config(ctx.config.read_bytes())
    train: DeepmdConfig = config.train
    tasks = list(read_tasks(ctx, params.n_jobs))
    judged = [judge(task, bool(config.init.test)) for task in tasks]
    classes = Counter(kind for kind, _, _ in judged)
    classes["failed"] += train.numb_models - len(tasks)  # a job without a marker stands for all its tasks
    complete = classes["ok"] == train.numb_models
    summary: dict[str, float] = {}
    if complete:
        ctx.product.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            assert task.folder is not None
            for name in ("graph.pb", "lcurve.out", *(["original.pb"] if train.dp_compress else [])):
                stem, suffix = name.split(".")
                shutil.copyfile(task.folder / name, ctx.product / f"{stem}.{task.index:03d}.{suffix}")
        figures = [figures for _, figures, _ in judged]
        summary = {key: sum(each[key] for each in figures) / len(figures) for key in figures[0]}
    report = StageReport(
        stage="train",
        app="deepmd",
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


def judge(task: TaskOutput, tested: bool) -> tuple[str, dict[str, float], str]:
    """Class of a trained model (ok, diverged, broken, failed), its figures, and what a person should know.

    Older versions of dp train a diverged model to its end and exit with 0; newer ones stop at the first NaN.
    """
    if task.folder is None:
        return "failed", {}, task.error()
    who = f"model {task.index} (job {task.job_id} {task.task_id})"
    advice = "the training diverged; lower start_lr, or look for bad frames in the data"
    if "diverged.txt" in task.files:
        return "diverged", {}, f"{who}: {advice}"
    try:
        if not _is_frozen(task.folder / "graph.pb"):
            return "broken", {}, f"{who}: graph.pb is not a frozen model"
        row = last_row((task.folder / "lcurve.out").read_text())
        test = parse_json((task.folder / "test.json").read_bytes(), "test.json") if tested else None
        if test is None:
            figures = {f"train_{key}": row[f"{key}_trn"] for key in ("rmse_e", "rmse_f")}
        else:
            figures = {key: math.nan if test[key] is None else float(test[key]) for key in ("rmse_e", "rmse_f")}
    except KeyError as error:
        return "broken", {}, f"{who}: lcurve.out or test.json has no {error}"
    except OSError as error:
        return "broken", {}, f"{who}: {Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError, OverflowError, DataError) as error:
        return "broken", {}, f"{who}: {error}"
    if not all(math.isfinite(value) for value in (row["rmse_trn"], *figures.values())):
        return "diverged", {}, f"{who}: {advice}"
    return "ok", figures, ""


def last_row(curve: str) -> dict[str, float]:
    """The last row of DeePMD-kit's lcurve.out by column name (`step`, `rmse_trn`, `rmse_e_trn`, ...; eV, Angstrom).

    Raises
    ------
    ValueError
        When there is no header or the last row does not fit it.
    """
    lines = curve.splitlines()
    header = next((line.split()[1:] for line in lines if line.startswith("#")), [])
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if "step" not in header or "rmse_trn" not in header:
        raise ValueError("lcurve.out has no header with the columns step and rmse_trn")
    if not rows or len(rows[-1]) != len(header):
        raise ValueError("lcurve.out is cut off" if rows else "lcurve.out has no rows")
    return dict(zip(header, (float(word) for word in rows[-1]), strict=True))


def check(config: RunConfig) -> list[str]:
    """Problems that no file is needed to see."""
    train = config.train
    assert isinstance(train, DeepmdConfig)
    problems = []
    if train.numb_models < 2 and config.select.app == "model_devi":
        problems.append("train.numb_models: one model has no deviation; select.model_devi needs at least 2")
    if train.dp_compress and train.skip_neighbor_stat:
        problems.append("train.dp_compress: it needs the neighbor statistics; set skip_neighbor_stat to false")
    starts = ("training_init_frozen_model", "training_finetune_model")
    if all(getattr(train, name) for name in starts):
        problems.append(f"train.{starts[1]}: give either this or {starts[0]}")
    for name in starts:
        given = len(getattr(train, name))
        if given not in (0, 1, train.numb_models):
            problems.append(
                f"train.{name}: {given} models; give one, or one for each of {train.numb_models} (numb_models)"
            )
    if train.training_reuse_iter is None:
        for name in ("numb_steps", "start_lr", "start_pref_e", "start_pref_f"):
            if getattr(train, f"training_reuse_{name}") is not None:
                problems.append(f"train.training_reuse_{name}: it has no effect without training_reuse_iter")
    return problems


def misfits(config: RunConfig, files: Path) -> list[str]:
    """Elements with more neighbours than `sel` has places for."""
    train: Any = config.train
    return short_sel(read_input(user_file(files, train.input.root), config.type_map), config, files)


def tiny(train: DeepmdConfig) -> dict[str, Any]:
    """Two models, ten steps."""
    starts = ("training_init_frozen_model", "training_finetune_model")
    reuse = [name for name in DeepmdConfig.model_fields if name.startswith("training_reuse_")]
    begin = {name: [file.root for file in getattr(train, name)[:1]] for name in starts}
    return {"numb_models": 2, "numb_steps": 10, **begin, **dict.fromkeys(reuse)}


def committee(train: DeepmdConfig) -> Committee:
    return Committee("deepmd", [f"graph.{index:03d}.pb" for index in range(train.numb_models)])


def executables(train: DeepmdConfig) -> list[str]:
    return shlex.split(train.command or "dp")[:1]


APP = App(
    stage="train",
    name="deepmd",
    config=DeepmdConfig,
    plan=plan,
    reduce=reduce,
    job=TrainJob,
    check=check,
    check_files=check_files,
    executables=executables,
    probe=probe,
    misfits=misfits,
    tiny=tiny,
    committee=committee,
    models=models,
    live=live,
)
