"""label/ase: energies, forces and virials from any calculator of ASE.

One task labels a batch of `group_size` frames, since frames are cheap here and starting Python is not;
`ase_job.py` does it.
"""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue

from conventions.config import RunConfig
from conventions.documents import parse_json
from conventions.errors import DataError
from conventions.forms import form
from conventions.names import canonical_json
from operators.core import App, Planned, Reduced, ReduceParams
from operators.jobs import Script, Task, pack, write_jobs
from operators.registry import load_config
from operators.setup import with_setup

from .frames import FRAMES, Label, LabelPlan, LabelReduce, PlanParams, batches, collect, dump_frames, frames_to_label
from .label_config import LabelConfig

if TYPE_CHECKING:
    from ase import Atoms

RESULTS = "labels.jsonl"
JOB = f'"$JOB_JOB/ase_job.py" "$JOB_JOB/calculator.json" {FRAMES} {RESULTS}'
_CALCULATOR = form(
    r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*$",
    "module:Class, as Python imports it: ase.calculators.emt:EMT, tblite.ase:TBLite",
)


class AseConfig(LabelConfig):
    """Labels from a calculator of ASE."""

    app: Literal["ase"] = "ase"
    calculator: str = Field(
        pattern=_CALCULATOR,
        description="Import path of the calculator: ase.calculators.emt:EMT, tblite.ase:TBLite, ...",
    )
    kwargs: dict[str, JsonValue] = Field({}, description="Its keyword arguments.")
    group_size: int = Field(50, ge=1, description="Frames in one job.")


def plan(params: PlanParams, ctx: LabelPlan) -> Planned:
    """One task a batch of frames."""
    config = load_config(ctx.config.read_bytes())
    label: AseConfig = config.label
    return write_batches(config, params, ctx, f"{label.command or 'python3'} {JOB}", programs(label))


def write_batches(
    config: RunConfig, params: PlanParams, ctx: LabelPlan, run: str, files: dict[str, bytes], once: str = ""
) -> Planned:
    """Jobs of one task each, a batch of frames that `run` labels: the Python of a job with `JOB`."""
    frames = frames_to_label(config, params, ctx)
    size = pack(len(frames), config.label.group_size)
    tasks = [Task({FRAMES: dump_frames(batch)}) for batch in batches(frames, size)]
    lines = f"[ ! -e {RESULTS} ] || rm -f {RESULTS}\n{run}\n"
    script = Script(run=with_setup(config.label, lines), need=[RESULTS], files=files, once=once)
    return write_jobs(ctx.jobs, ctx.done, tasks, script, group_size=1)


def programs(label: AseConfig) -> dict[str, bytes]:
    """What runs the calculator, and which one."""
    return runs(label.calculator, label.kwargs)


def runs(calculator: str, kwargs: dict[str, Any]) -> dict[str, bytes]:
    """`ase_job.py`, and the calculator that it makes."""
    return {
        "ase_job.py": resources.files("operators.label").joinpath("ase_job.py").read_bytes(),
        "calculator.json": canonical_json({"calculator": calculator, "kwargs": kwargs}),
    }


def reduce(params: ReduceParams, ctx: LabelReduce) -> Reduced:
    return collect(params, ctx, "ase", read_results)


def read_results(folder: Path, frames: list[Atoms]) -> list[Label]:
    """The labels that `ase_job.py` wrote, one line a frame; `unreadable` for lines that are no label."""
    lines = (folder / RESULTS).read_text(errors="replace").splitlines()
    labels = [read_label(line) for line in lines[: len(frames)]]
    return labels + [Label("truncated", f"{RESULTS} has {len(lines)} lines")] * (len(frames) - len(labels))


def read_label(line: str) -> Label:
    import numpy as np

    try:
        found = parse_json(line.encode(), RESULTS)
        if "error" in found:
            return Label(str(found["error"]), str(found["message"]))
        virial = None if found["virial"] is None else np.array(found["virial"], dtype=np.float64).reshape(3, 3)
        return Label("ok", "", float(found["energy"]), np.array(found["forces"], dtype=np.float64), virial)
    except (DataError, KeyError, TypeError, ValueError) as error:
        return Label("unreadable", f"a line of {RESULTS} is no label: {error}")


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """Make the calculator, as a job does."""
    label: Any = config.label
    make = 'import ase, ase_job, json; ase_job.make(json.load(open("calculator.json"))); print("ASE", ase.__version__)'
    return {"run.sh": with_setup(label, f"{label.command or 'python3'} -c '{make}'\n"), **programs(label)}


def executables(label: AseConfig) -> list[str]:
    return shlex.split(label.command or "python3")[:1]


APP = App(stage="label", name="ase", config=AseConfig, plan=plan, reduce=reduce, executables=executables, probe=probe)
