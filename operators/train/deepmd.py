"""train/deepmd: a committee of models trained by DeePMD-kit.

One task trains one model: `dp train`, `dp freeze`, optionally `dp compress`, and `dp test` on the independent
test data; the steps are in `dp_model.py`. The models differ by their seeds only.
"""

from __future__ import annotations

import json
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from conventions.config import Name, RunConfig, StageConfig, UserFile
from conventions.documents import Strict
from conventions.errors import ConfigError
from conventions.names import canonical_json, derive_seed
from operators.core import App, Committee, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Content, Script, Task, read_tasks, write_jobs
from operators.registry import load_config
from operators.sums import user_file

from .absorption import NEW
from .change_bias import check_bias, plan_bias
from .dp_command import probe, run_script
from .dp_infer import models
from .dp_input import AUTO, auto_weights, check_arguments, fill_input, read_input, with_seeds
from .dp_judge import is_frozen, is_saved, judge
from .dp_model import BACKENDS, PRETRAINED, start_file
from .live import live
from .neighbours import short_sel
from .stage import (
    DIVERGED,
    PlanParams,
    TrainJob,
    TrainPlan,
    check_deviation,
    check_validation,
    folders_of_tests,
    folders_to_watch,
    need_systems,
    new_systems,
    reuses,
    write_committee,
)

STARTS = ("training_init_frozen_model", "training_finetune_model")
Steps = Annotated[int, Field(ge=1, le=10**9)]


class Member(Strict):
    """One model of a committee whose models differ by more than their seeds."""

    input: UserFile = Field(description="Its input.json.")


class DeepmdConfig(StageConfig):
    """Training by DeePMD-kit."""

    app: Literal["deepmd"] = "deepmd"
    ratio_failed: float = Field(0.0, ge=0, le=0, description="Every model of the committee is needed.")
    backend: Literal["tensorflow", "pytorch"] = Field(
        "tensorflow", description="Of DeePMD-kit; frozen models are .pb with TensorFlow, .pth with PyTorch."
    )
    numb_models: int = Field(4, ge=1, le=1000, description="Models of the committee; they differ by their seeds.")
    input: UserFile | None = Field(
        None,
        description="DeePMD-kit's own input.json. Systems, seeds, type_map and file names are filled in; validation "
        "data are left out: dp test measures on init.test.",
    )
    validation_data: list[Name] = Field(
        [], description="Sets of init.test that dp train measures on as well; lcurve.out has them as val."
    )
    committee: list[Member] = Field(
        [], description="Instead of input: models of different kinds, an input for each; numb_models is their number."
    )
    change_bias: bool = Field(
        False,
        description="Instead of training, only shift the energies of the models of training_finetune_model to the data "
        "(dp change-bias; PyTorch). There is no input.",
    )
    numb_steps: Steps | Annotated[list[Steps], Field(min_length=1)] | None = Field(
        None, description="Steps of each iteration (the last number repeats); default: those of the input."
    )
    mixed_type: bool = Field(
        False,
        description="Join systems of equal numbers of atoms for training (deepmd/npy/mixed): for many compositions, "
        "not for descriptors with networks for each element, such as se_e2_a.",
    )
    skip_neighbor_stat: bool = Field(False, description="dp train --skip-neighbor-stat.")
    dp_compress: bool = Field(False, description="Compress the models (dp compress).")
    training_init_frozen_model: list[UserFile] = Field(
        [], description="Frozen models to begin with, one or numb_models, where the last committee is not reused."
    )
    training_finetune_model: list[UserFile] = Field(
        [],
        description="Pretrained models to fine-tune, one or numb_models, where the last committee is not reused; "
        "with PyTorch, checkpoints (.pt).",
    )
    model_branch: str | None = Field(
        None, min_length=1, description="dp train --model-branch: the head of the pretrained model to fine-tune."
    )
    use_pretrain_script: bool = Field(
        False, description="dp train --use-pretrain-script: the model's settings are those of the pretrained one."
    )
    head: str | None = Field(
        None,
        min_length=1,
        description="Of several (model.model_dict of the input): the one to freeze and explore with.",
    )
    training_reuse_iter: int | None = Field(
        None, ge=1, description="From this iteration on, model i goes on from model i of the last committee."
    )
    training_reuse_old_ratio: Annotated[float, Field(gt=0, lt=1)] | Annotated[str, Field(pattern=AUTO)] | None = Field(
        None,
        description="Probability there of a batch from the data of earlier iterations; auto:N (auto is auto:10): a new "
        "frame counts as much as N old ones, whose number is that of the dataset.",
    )
    training_reuse_numb_steps: Steps | None = Field(None, description="Steps where the last committee is reused.")
    training_reuse_start_lr: float | None = Field(None, gt=0, description="learning_rate.start_lr there.")
    training_reuse_start_pref_e: float | None = Field(None, ge=0, description="loss.start_pref_e there.")
    training_reuse_start_pref_f: float | None = Field(None, ge=0, description="loss.start_pref_f there.")

    @model_validator(mode="before")
    @classmethod
    def _count(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("committee"), list) and given["committee"]:
            return {"numb_models": len(given["committee"]), **given}
        return given

    @model_validator(mode="after")
    def _one_kind(self) -> DeepmdConfig:
        if self.change_bias and (self.input or self.committee):
            raise ValueError("change_bias: the models are not trained; remove input and committee")
        if not self.change_bias and (self.input is None) == (not self.committee):
            raise ValueError("give either input, for all models, or committee, with an input for each")
        if self.committee and len(self.committee) != self.numb_models:
            raise ValueError(
                f"numb_models is {self.numb_models}, but committee has {len(self.committee)}: leave it out"
            )
        return self

    def inputs(self) -> list[UserFile]:
        """The input of each model: one stands for all; none where they are not trained."""
        return [self.input] if self.input is not None else [member.input for member in self.committee]


def plan(params: PlanParams, ctx: TrainPlan) -> Planned:
    """One task a model: its input.json, and how to begin."""
    config = load_config(ctx.config.read_bytes())
    train: DeepmdConfig = config.train
    need_systems(params.systems)
    if train.change_bias:
        return plan_bias(config, params, ctx)
    reuse = reuses(train.training_reuse_iter, params)
    templates = [read_input(user_file(ctx.files, file.root), config.type_map, train.head) for file in train.inputs()]
    for template in templates:
        fill_input(template, train, params.iteration, params.systems, reuse, folders_to_watch(config))
    weights = auto_weights(train, params.iteration, params.systems) if reuse else None

    option = "--finetune" if train.training_finetune_model else "--init-frz-model"
    models = [] if reuse else train.training_finetune_model or train.training_init_frozen_model
    suffix = BACKENDS[train.backend].suffix
    job = {
        **({} if train.backend == "tensorflow" else {"backend": train.backend}),
        **({"head": train.head} if train.head else {}),
        **({"start_args": start_args(train)} if models and start_args(train) else {}),
        **({"weights": weights} if weights else {}),
        **({"mixed": True} if train.mixed_type else {}),
        "start": option if models else "",
        "train_args": ["--skip-neighbor-stat"] if train.skip_neighbor_stat else [],
        "compress": train.dp_compress,
        "tests": [f"data/{name}" for name in folders_of_tests(config)],
        "new": [f"data/{name}" for name in new_systems(params)],
    }

    def task(index: int) -> Task:
        template = templates[index % len(templates)]
        seeded = with_seeds(template, lambda part: derive_seed(config.seed, "train", params.iteration, index, part))
        model = models[index % len(models)].root if models else None
        contents: dict[str, Content] = {
            "input.json": json.dumps(seeded, indent=1, sort_keys=True) + "\n",
            "job.json": canonical_json({**job, "model": model, "reuse": index if reuse else None}),
        }
        if model:
            contents[start_file(model, suffix)] = user_file(ctx.files, model)
        return Task(contents)

    programs = ["dp_model.py", *(["dp_mixed.py"] if train.mixed_type else [])]
    script = Script(
        run=run_script(train, "dp_model.py"),
        need=["lcurve.out"],
        keep=[f"graph{suffix}", f"original{suffix}", "test.json", NEW, DIVERGED, "ckpt"],
        files={name: files("operators.train").joinpath(name).read_bytes() for name in programs},
    )
    return write_jobs(ctx.jobs, ctx.done, [task(index) for index in range(train.numb_models)], script, train.group_size)


def check_files(config: Any, files: Path) -> None:
    """Read the input as the first iteration will; where the dp of this installation trains, ask it as well."""
    train: DeepmdConfig = config.train
    for key in STARTS:
        for file in getattr(train, key):
            check_start(key, user_file(files, file.root), train.backend)
    for file in train.inputs():
        found = read_input(user_file(files, file.root), config.type_map, train.head)
        fill_input(found, train, iteration=0, systems=["system"], reuse=False, watched=folders_to_watch(config))
        if config.engine.type == "local" and not (train.command or train.setup or train.hpc):
            check_arguments(found, f"train.input ({Path(file.root).name})")


def start_args(train: DeepmdConfig) -> list[str]:
    """Options of dp train that say what of the model of the user's is taken over."""
    branch = ["--model-branch", train.model_branch] if train.model_branch else []
    return [*branch, *([PRETRAINED] if train.use_pretrain_script else [])]


def check_start(key: str, path: Path, backend: str) -> None:
    """Refuse a file that dp cannot begin with: with PyTorch it fine-tunes checkpoints only, also dp 3.2."""
    if key == "training_finetune_model" and backend == "pytorch":
        if not is_saved(path):
            raise ConfigError(
                f"train.{key}: {path.name} is not a checkpoint of PyTorch; give a .pt that dp --pt train wrote "
                "(a frozen .pth goes into training_init_frozen_model)"
            )
    elif not is_frozen(path, backend):
        raise ConfigError(f"train.{key}: {path.name} is not a frozen model; give what dp freeze wrote")


def reduce(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    config = load_config(ctx.config.read_bytes())
    train: DeepmdConfig = config.train
    suffix = BACKENDS[train.backend].suffix
    tasks = list(read_tasks(ctx, params.n_jobs))
    tested, curve = bool(config.init.test), not train.change_bias
    judged = [judge(task, tested, train.backend, train.head, curve) for task in tasks]
    compressed = [f"original{suffix}"] if train.dp_compress else []
    names = [f"graph{suffix}", *(["lcurve.out"] if curve else []), *compressed]
    return write_committee("deepmd", params, ctx, tasks, judged, train.numb_models, names)


def check(config: RunConfig) -> list[str]:
    """Problems that no file is needed to see."""
    train = config.train
    assert isinstance(train, DeepmdConfig)
    problems = [*check_deviation(train.numb_models, config.select.app), *check_validation(config)]
    if train.change_bias:
        problems += check_bias(train)
    if train.dp_compress and train.skip_neighbor_stat:
        problems.append("train.dp_compress: it needs the neighbor statistics; set skip_neighbor_stat to false")
    if all(getattr(train, name) for name in STARTS):
        problems.append(f"train.{STARTS[1]}: give either this or {STARTS[0]}")
    for name in STARTS:
        given = len(getattr(train, name))
        if given not in (0, 1, train.numb_models):
            problems.append(
                f"train.{name}: {given} models; give one, or one for each of {train.numb_models} (numb_models)"
            )
    if train.training_reuse_iter is None:
        for name in ("numb_steps", "start_lr", "start_pref_e", "start_pref_f", "old_ratio"):
            if getattr(train, f"training_reuse_{name}") is not None:
                problems.append(f"train.training_reuse_{name}: it has no effect without training_reuse_iter")
    elif train.head:
        problems.append("train.training_reuse_iter: a frozen head cannot start all heads again; take head or this out")
    if train.mixed_type and train.training_reuse_old_ratio is not None:
        problems.append(
            "train.mixed_type: joined systems are of all iterations; take it or training_reuse_old_ratio out"
        )
    if train.model_branch and not train.training_finetune_model:
        problems.append("train.model_branch: it is of a model to fine-tune; give training_finetune_model")
    if train.use_pretrain_script and not any(getattr(train, name) for name in STARTS):
        problems.append("train.use_pretrain_script: there is no pretrained model; give training_finetune_model")
    for name in ("model_branch", "use_pretrain_script", "head"):
        if getattr(train, name) and train.backend != "pytorch":
            problems.append(f"train.{name}: only PyTorch has it; set backend to pytorch")
    return problems


def misfits(config: RunConfig, files: Path) -> list[str]:
    """Elements with more neighbours than `sel` has places for."""
    train: Any = config.train
    inputs = [read_input(user_file(files, file.root), config.type_map, train.head) for file in train.inputs()]
    return list(dict.fromkeys(problem for found in inputs for problem in short_sel(found, config, files)))


def tiny(train: DeepmdConfig) -> dict[str, Any]:
    """Two models, ten steps."""
    if train.change_bias:
        return {"numb_models": 2, STARTS[1]: [file.root for file in train.training_finetune_model[:2]]}
    reuse = [name for name in DeepmdConfig.model_fields if name.startswith("training_reuse_")]
    begin = {name: [file.root for file in getattr(train, name)[:1]] for name in STARTS}
    committee = [member.model_dump() for member in train.committee[:2]]
    return {
        "numb_models": len(committee) or 2,
        "committee": committee,
        "numb_steps": 10,
        **begin,
        **dict.fromkeys(reuse),
    }


def committee(train: DeepmdConfig) -> Committee:
    suffix = BACKENDS[train.backend].suffix
    return Committee("deepmd", [f"graph.{index:03d}{suffix}" for index in range(train.numb_models)])


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
