"""train/mace: a committee of models trained by MACE, from random weights or from a model of yours.

One task trains one model: `mace_run_train`, and the errors on the independent test data; the steps are in
`mace_model.py`. The models differ by their seeds, which also choose the frames that MACE holds back for validation.
"""

from __future__ import annotations

import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from conventions.config import Name, RunConfig, StageConfig, UserFile
from conventions.documents import parse_json
from conventions.errors import ConfigError, DataError
from conventions.names import canonical_json, derive_seed
from operators.core import App, Committee, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Content, Script, Task, TaskOutput, read_tasks, write_jobs
from operators.live import TASK_LOG, Read
from operators.registry import load_config
from operators.setup import with_setup
from operators.sums import user_file

from .absorption import NEW
from .dp_judge import is_saved
from .mace_infer import models
from .mace_model import START
from .stage import (
    Judged,
    PlanParams,
    TrainJob,
    TrainPlan,
    check_deviation,
    check_validation,
    folders_of_tests,
    folders_to_watch,
    need_systems,
    new_systems,
    of_iteration,
    reuses,
    who,
    write_committee,
)

Epochs = Annotated[int, Field(ge=1, le=10**9)]
# What the run decides; the rest of MACE's options is the user's, and MACE refuses the ones that it does not know.
DECIDED = frozenset(
    "name seed train_file valid_file test_file test_dir work_dir log_dir model_dir checkpoints_dir results_dir "
    "energy_key forces_key stress_key virials_key atomic_numbers restart_latest foundation_model heads "
    "pt_train_file pt_valid_file statistics_file".split()
)
_KEY = re.compile(r"""^["']?([A-Za-z][\w-]*)["']?[ \t]*:""", re.M)
_EPOCH = re.compile(r"Epoch (\d+): .*?RMSE_E_per_atom= *([\d.naninf]+) meV.*?RMSE_F= *([\d.naninf]+) meV")


class MaceConfig(StageConfig):
    """Training by MACE."""

    app: Literal["mace"] = "mace"
    ratio_failed: float = Field(0.0, ge=0, le=0, description="Every model of the committee is needed.")
    numb_models: int = Field(4, ge=1, le=1000, description="Models of the committee; they differ by their seeds.")
    input: UserFile = Field(
        description="MACE's own configuration (mace_run_train --config; YAML, a key a line). Data, seeds and file "
        "names are given by the run. Without E0s: average (with foundation_model it must say them)."
    )
    validation_data: list[Name] = Field(
        [], description="Sets of init.test that MACE chooses the best epoch by, instead of a part of the training data."
    )
    max_num_epochs: Epochs | Annotated[list[Epochs], Field(min_length=1)] | None = Field(
        None, description="Epochs of each iteration (the last number repeats); default: those of the input."
    )
    foundation_model: UserFile | None = Field(
        None,
        description="A model of MACE to fine-tune (.model); every iteration begins with it, where the last committee "
        "is not reused.",
    )
    training_reuse_iter: int | None = Field(
        None, ge=1, description="From this iteration on, model i goes on from model i of the last committee."
    )
    training_reuse_max_num_epochs: Epochs | None = Field(None, description="Epochs where the last committee is reused.")
    training_reuse_lr: float | None = Field(None, gt=0, description="Learning rate (lr) there.")


def plan(params: PlanParams, ctx: TrainPlan) -> Planned:
    """One task a model: the user's input, and the options that the run adds to it."""
    config = load_config(ctx.config.read_bytes())
    train: MaceConfig = config.train
    need_systems(params.systems)
    source = user_file(ctx.files, train.input.root)
    reuse = reuses(train.training_reuse_iter, params)
    fixed = options(train, params.iteration, config.type_map, read_keys(source), reuse)
    start = None if reuse else train.foundation_model
    job = {
        "systems": sorted(params.systems),
        "tests": folders_of_tests(config),
        "new": new_systems(params),
        **({"watched": watched} if (watched := folders_to_watch(config)) else {}),
        "model": start.root if start else None,
    }

    def task(index: int) -> Task:
        seed = derive_seed(config.seed, "train", params.iteration, index, "mace")
        contents: dict[str, Content] = {
            "input.yaml": source,
            "job.json": canonical_json(
                {**job, **({"reuse": index} if reuse else {}), "options": [*fixed, "--seed", str(seed)]}
            ),
        }
        if start:
            contents[START] = user_file(ctx.files, start.root)
        return Task(contents)

    here = files("operators.train")
    script = Script(
        run=run_script(train),
        need=["test.json", "lcurve.jsonl"],
        keep=["mace.model", NEW, "ckpt"],
        files={name: here.joinpath(name).read_bytes() for name in ("mace_model.py", "mace_infer.py", "dp_model.py")},
    )
    return write_jobs(ctx.jobs, ctx.done, [task(index) for index in range(train.numb_models)], script, train.group_size)


def read_keys(path: Path) -> set[str]:
    """The keys that a configuration of MACE's gives.

    Raises
    ------
    ConfigError
        When it is no such file, or gives what the run decides.
    """
    where = f"train.input ({path.name})"
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: it is not UTF-8 text") from None
    keys = set(_KEY.findall(text))
    if not keys:
        raise ConfigError(f"{where}: it has no line 'key: value'; give a configuration of mace_run_train (YAML)")
    for key in sorted(keys & DECIDED):
        instead = "give it as train.foundation_model" if key == "foundation_model" else "take it out"
        raise ConfigError(f"{where}: {key} is for the run to decide; {instead}")
    return keys


def options(train: MaceConfig, iteration: int, type_map: list[str], given: set[str], reuse: bool = False) -> list[str]:
    """What is added to the user's input: on the command line, which is stronger than the file."""
    from ase.data import atomic_numbers

    numbers = sorted(atomic_numbers[symbol] for symbol in type_map)
    found = {
        "name": "mace",
        "train_file": "train.xyz",
        **({"valid_file": "valid.xyz"} if train.validation_data else {}),
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "stress_key": "REF_stress",
        "virials_key": "REF_virials",
        # Every model knows every element, also before there are data of it.
        "atomic_numbers": str(numbers),
        "model_dir": ".",
        "checkpoints_dir": "ckpt",
        "results_dir": "ckpt",
        "log_dir": "ckpt/log",
    }
    defaults = {"plot": "False"}
    epochs = of_iteration(train.max_num_epochs, iteration)
    if reuse or train.foundation_model:
        # Fine-tuning with a second head wants data of the first training, which a run does not have.
        found["foundation_model"], defaults["multiheads_finetuning"] = START, "False"
    if reuse:  # the job adds E0s, those of the model: another zero would have to be learned again
        epochs = train.training_reuse_max_num_epochs or epochs
        if train.training_reuse_lr is not None:
            found["lr"] = repr(train.training_reuse_lr)
    elif train.foundation_model:
        if "E0s" not in given:
            raise ConfigError(
                "train.input: it has no E0s, the energies of the atoms: with foundation_model say whether they are the "
                "model's (foundation), fitted anew (average, estimated), or give those of your method"
            )
    else:
        defaults["E0s"] = "average"
    if epochs is not None:
        found["max_num_epochs"] = str(epochs)
    elif "max_num_epochs" not in given:
        raise ConfigError("train.max_num_epochs: neither the run nor train.input says how many epochs to train")
    found.update({key: value for key, value in defaults.items() if key not in given})
    return [
        "--restart_latest",
        "--keep_checkpoints",
        *(word for key, value in found.items() for word in (f"--{key}", value)),
    ]


def run_script(train: MaceConfig) -> str:
    """run.sh: the user's setup, one thread unless it says otherwise, and mace_model.py with the Python beside MACE."""
    lines = [
        *find_python(train),
        'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"',
        'exec "${MACE_HERE:-python3}" "$JOB_JOB/mace_model.py"',
        "",
    ]
    return with_setup(train, "\n".join(lines))


def find_python(train: MaceConfig) -> list[str]:
    """Shell lines that set MACE_COMMAND, and MACE_HERE to the Python that can import MACE where that is known."""
    return [
        f"export MACE_COMMAND={shlex.quote(train.command or 'mace_run_train')}",
        'mace=$(command -v "$MACE_COMMAND")',
        "MACE_HERE=",
        'case $mace in */mace_run_train) [ ! -x "${mace%/*}/python3" ] || MACE_HERE=${mace%/*}/python3 ;; esac',
    ]


def reduce(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    config = load_config(ctx.config.read_bytes())
    train: MaceConfig = config.train
    tasks = list(read_tasks(ctx, params.n_jobs))
    judged = [judge(task, bool(config.init.test)) for task in tasks]
    return write_committee("mace", params, ctx, tasks, judged, train.numb_models, ["mace.model", "lcurve.jsonl"])


def judge(task: TaskOutput, tested: bool) -> Judged:
    """Class of a trained model (ok, diverged, broken, failed), its figures, and what a person should know.

    MACE trains a diverged model to its end and exits with 0: the errors of the model tell it.
    """
    if task.folder is None:
        return "failed", {}, task.error()
    try:
        if not is_saved(task.folder / "mace.model"):
            return "broken", {}, f"{who(task)}: mace.model is not a model that PyTorch has saved"
        test = parse_json((task.folder / "test.json").read_bytes(), "test.json")
        found = {key: test[key] for key in ("rmse_e", "rmse_f")}
        if None in found.values():
            return "diverged", {}, f"{who(task)}: the training diverged; lower lr, or look for bad frames in the data"
        return "ok", {key if tested else f"train_{key}": float(value) for key, value in found.items()}, ""
    except KeyError as error:
        return "broken", {}, f"{who(task)}: test.json has no {error}"
    except OSError as error:
        return "broken", {}, f"{who(task)}: {Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError, OverflowError, DataError) as error:
        return "broken", {}, f"{who(task)}: {error}"


def check(config: RunConfig) -> list[str]:
    """Problems that no file is needed to see."""
    train: Any = config.train
    problems = [*check_deviation(train.numb_models, config.select.app), *check_validation(config)]
    if train.training_reuse_iter is None:
        for name in ("max_num_epochs", "lr"):
            if getattr(train, f"training_reuse_{name}") is not None:
                problems.append(f"train.training_reuse_{name}: it has no effect without training_reuse_iter")
    return problems


def check_files(config: Any, files: Path) -> None:
    """Read the input and the model as the first iteration will."""
    train: MaceConfig = config.train
    options(train, 0, config.type_map, read_keys(user_file(files, train.input.root)))
    model = train.foundation_model
    if model and not is_saved(user_file(files, model.root)):
        raise ConfigError(
            f"train.foundation_model: {Path(model.root).name} is not a model that PyTorch has saved; "
            "give what mace_run_train wrote (.model)"
        )


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """The versions of MACE and PyTorch where their Python is known; else whether the command runs at all."""
    train: Any = config.train
    lines = [
        *find_python(train),
        'if [ -n "$MACE_HERE" ]; then',
        """  exec "$MACE_HERE" -c 'import mace, torch as t; print("MACE", mace.__version__, "torch", t.__version__)'""",
        "fi",
        "$MACE_COMMAND --help >said 2>&1 || { tail -n 1 said; exit 1; }",
        'echo "$MACE_COMMAND"',
        "",
    ]
    return {"run.sh": with_setup(train, "\n".join(lines))}


def live(read: Read) -> str:
    """The epoch, and the errors on the frames held back for validation; "" before the first one.

    >>> log = "Epoch 3: head: Default, loss=0.9, RMSE_E_per_atom=  642.61 meV, RMSE_F=  117.82 meV / A"
    >>> live({TASK_LOG: log}.get)
    'epoch 3, rmse_e 0.64261 eV/atom, rmse_f 0.11782 eV/Angstrom'
    """
    found = _EPOCH.findall(read(TASK_LOG) or "")
    if not found:
        return ""
    epoch, energy, force = found[-1]
    return f"epoch {epoch}, rmse_e {float(energy) / 1000:.5f} eV/atom, rmse_f {float(force) / 1000:.5f} eV/Angstrom"


def tiny(train: MaceConfig) -> dict[str, Any]:
    """Two models, one epoch."""
    return {"numb_models": 2, "max_num_epochs": 1}


def committee(train: MaceConfig) -> Committee:
    return Committee("mace", [f"mace.{index:03d}.model" for index in range(train.numb_models)])


def executables(train: MaceConfig) -> list[str]:
    return shlex.split(train.command or "mace_run_train")[:1]


APP = App(
    stage="train",
    name="mace",
    config=MaceConfig,
    plan=plan,
    reduce=reduce,
    job=TrainJob,
    check=check,
    check_files=check_files,
    executables=executables,
    probe=probe,
    tiny=tiny,
    committee=committee,
    models=models,
    live=live,
)
