"""label/deepmd: energies, forces and virials from a model of DeePMD-kit, a teacher; there is no DFT at all.

Made for distillation: a large model labels what a small and fast one is trained on. As with label/ase one task labels a
batch of frames, by DeePMD-kit's own calculator for ASE.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from conventions.config import RunConfig, StageConfig, UserFile
from conventions.names import canonical_json
from operators.core import App, Planned, Reduced, ReduceParams
from operators.registry import load_config
from operators.setup import with_setup
from operators.sums import user_file
from operators.train.dp_command import FIND_PYTHON

from .ase import JOB, read_results, runs, write_batches
from .frames import LabelReduce, PlanParams, collect
from .label_config import LabelConfig
from .program import FETCH, ProgramJob, ProgramPlan, give

_MAKE = """\
import json, ase_job
found = ase_job.make(json.load(open("calculator.json")))
missing = sorted(set(json.load(open("type_map.json"))) - set(found.type_dict))
if missing: raise SystemExit("the teacher of label.teacher_model_path does not know " + ", ".join(missing))
import deepmd; print("DeePMD-kit", deepmd.__version__)
"""


class DeepmdLabelConfig(LabelConfig):
    """Labels from a model of DeePMD-kit."""

    app: Literal["deepmd"] = "deepmd"
    teacher_model_path: UserFile = Field(
        description="The teacher: a frozen model of DeePMD-kit (.pb, .pth, .pt2, ...)."
    )
    head: str | None = Field(None, description="The head of a multi-task model.")
    group_size: int = Field(200, ge=1, description="Frames in one job.")


def plan(params: PlanParams, ctx: ProgramPlan) -> Planned:
    """One task a batch of frames."""
    config = load_config(ctx.config.read_bytes())
    label: DeepmdLabelConfig = config.label
    give([label.teacher_model_path], ctx)
    files = {**model(label, "../files/"), "user_files": f"{label.teacher_model_path.root} {_name(label)}\n".encode()}
    return write_batches(config, params, ctx, f"{python(label)} {JOB}", files, FETCH)


def python(label: StageConfig) -> str:
    """Shell lines that end in the Python of the jobs: the one beside dp, unless `command` names another."""
    lines = [
        'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"',
        'export DP_INTRA_OP_PARALLELISM_THREADS="${DP_INTRA_OP_PARALLELISM_THREADS:-$OMP_NUM_THREADS}"',
        'export DP_INTER_OP_PARALLELISM_THREADS="${DP_INTER_OP_PARALLELISM_THREADS:-1}"',
    ]
    if label.command:
        return "\n".join([*lines, label.command])
    return "\n".join([*lines, "DP_COMMAND=dp", *FIND_PYTHON, '"${DP_HERE:-python3}"'])


def model(label: DeepmdLabelConfig, folder: str) -> dict[str, bytes]:
    """What labels with the teacher in that folder."""
    head = {} if label.head is None else {"head": label.head}
    return runs("deepmd.calculator:DP", {"model": folder + _name(label), **head})


def _name(label: DeepmdLabelConfig) -> str:
    """The teacher's name beside the tasks; its suffix tells DeePMD-kit the backend."""
    return f"teacher{Path(label.teacher_model_path.root).suffix}"


def reduce(params: ReduceParams, ctx: LabelReduce) -> Reduced:
    return collect(params, ctx, "deepmd", read_results)


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """Open the teacher as a job does, and ask for its elements."""
    label: Any = config.label
    run = f"{python(label)} make.py\n"
    teacher = user_file(files, label.teacher_model_path.root).read_bytes()
    contents: dict[str, str | bytes] = {"run.sh": with_setup(label, run), "make.py": _MAKE, _name(label): teacher}
    return {**contents, **model(label, ""), "type_map.json": canonical_json(config.type_map)}


def executables(label: StageConfig) -> list[str]:
    return shlex.split(label.command or "dp")[:1]


APP = App(
    stage="label",
    name="deepmd",
    config=DeepmdLabelConfig,
    plan=plan,
    reduce=reduce,
    job=ProgramJob,
    executables=executables,
    probe=probe,
)
