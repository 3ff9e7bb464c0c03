"""label/cp2k: energies, forces and virials from CP2K.

One task labels one frame, with the user's own input as template. CP2K's data files (basis sets, potentials) come
from the installation unless `files` brings them.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from conventions.config import RunConfig, StageConfig, UserFile
from conventions.errors import ConfigError
from operators.core import App, Input, JobContext, Planned, Reduced, ReduceParams
from operators.jobs import Script, Task, TaskOutput, pack, write_jobs
from operators.registry import load_config
from operators.setup import with_setup
from operators.sums import user_file

from .frames import (
    FRAMES,
    Label,
    LabelPlan,
    LabelReduce,
    PlanParams,
    collect,
    dump_frames,
    explain_by_log,
    frames_to_label,
)

if TYPE_CHECKING:
    from ase import Atoms

    from .cp2k_input import Section

INPUT, OUTPUT = "input.inp", "output.log"

RUN = """\
# CP2K appends to an old output, and dies of an old wave function that does not fit: begin with the inputs alone.
set --
for file in * .[!.]* ..?*; do
  case $file in input.inp | frames.json) ;; *) [ ! -e "$file" ] && [ ! -h "$file" ] || set -- "$@" "./$file" ;; esac
done
[ $# = 0 ] || rm -rf "$@"
[ ! -s "$JOB_JOB/user_files" ] || cp -R ../files/. . || exit 70
COMMAND -i input.inp -o output.log
code=$?
tail -n 40 output.log # for the job's log; the whole output stays in out/
# Where CP2K itself gave up on this frame (no convergence, overlapping atoms), repeating would not help.
if [ "$code" != 0 ] && [ -f output.log ]; then
  awk '/^ *SCF PARAMETERS/ { begun = 1 }
    begun && /\\[ABORT\\]/ { gave_up = 1 }
    END { exit !gave_up }' output.log && exit 0
fi
exit "$code"
"""


# Debian and others compile the folder of the data files in; CP2K tells it in its flags, broken into lines.
PROBE = """\
COMMAND --version >version 2>&1 || { tail -n 3 version; exit 1; }
folder=$(sed -e :a -e N -e '$!ba' -e 's/\\n   //g' version | sed -n 's/.*__DATA_DIR="\\([^"]*\\)".*/\\1/p')
folder=${CP2K_DATA_DIR:-$folder}
while read -r file; do
  [ ! -d "$folder" ] || [ -e "$folder/$file" ] || {
    echo "$file, which label.input names, is not in CP2K's data folder $folder: give it in label.files"
    exit 1
  }
done <data_files
sed -n 's/^ *\\(CP2K version [^ ]*\\).*/\\1/p' version
"""

# once.sh of a job: the user's files, after they were found to be what their names say.
FETCH = """\
[ ! -e files ] || rm -rf files
mkdir files && cd files || exit
set --
while read -r file; do
  set -- "$@" "$JOB_FILES/$file"
  printf '%s  %s\\n' "${file%%/*}" "${file##*/}"
done <"$JOB_JOB/user_files" >../files.sums
[ $# = 0 ] || { cp "$@" . && sha256sum -c ../files.sums >/dev/null; } || {
  echo "error: a file of label.files is not the one that the run began with (sha256 differs)"
  exit 1
}
"""


class Cp2kConfig(StageConfig):
    """Labels from CP2K."""

    app: Literal["cp2k"] = "cp2k"
    input: UserFile = Field(
        description="Your CP2K input: any method, with &FORCE_EVAL / &PRINT / &FORCES ON. The run puts each frame's "
        "cell and coordinates into it and sets RUN_TYPE ENERGY_FORCE."
    )
    files: list[UserFile] = Field([], description="Further files: @INCLUDEs of the input, basis sets, potentials.")
    group_size: int = Field(1, ge=1, description="Frames in one job.")
    ratio_failed: float = Field(0.5, ge=0, le=1, description="Fraction of frames that may fail; they are left out.")


@dataclass(frozen=True)
class Cp2kJob(JobContext):
    """A CP2K job reads the user's files where they are, since a basis set is no small part of a job."""

    files: Annotated[Path, Input(lambda at: at.space.files)]


def plan(params: PlanParams, ctx: LabelPlan) -> Planned:
    """One task a frame."""
    from .cp2k_input import fill

    config = load_config(ctx.config.read_bytes())
    label: Cp2kConfig = config.label
    template = read_input(label, ctx.files)
    frames = frames_to_label(config, params, ctx)
    tasks = (Task({INPUT: fill(template, atoms), FRAMES: dump_frames([atoms])}) for atoms in frames)
    script = Script(
        run=with_setup(label, RUN.replace("COMMAND", label.command or "cp2k.psmp")),
        need=[OUTPUT],
        files={"user_files": "".join(f"{file.root}\n" for file in label.files)},
        once=FETCH if label.files else "",
    )
    return write_jobs(ctx.jobs, ctx.done, tasks, script, pack(len(frames), label.group_size))


def read_input(label: Cp2kConfig, files: Path) -> Section:
    """The user's input, ready to be filled."""
    from .cp2k_input import read_template

    # Latin-1 reads every byte: what a data file holds matters only if the input includes it.
    included = {_name(file): user_file(files, file.root).read_text("latin-1") for file in label.files}
    where = f"label.input ({_name(label.input)})"
    try:
        text = user_file(files, label.input.root).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: cannot be read as text: {error}; save it as UTF-8") from None
    return read_template(text, included, where)


def check_files(config: Any, files: Path) -> None:
    read_input(config.label, files)


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """CP2K's version, and whether its data files are there."""
    from .cp2k_input import data_files

    label: Any = config.label
    brought = {_name(file) for file in label.files}
    names = [name for name in data_files(read_input(label, files)) if name not in brought]
    return {
        "run.sh": with_setup(label, PROBE.replace("COMMAND", label.command or "cp2k.psmp")),
        "data_files": "".join(f"{name}\n" for name in names),
    }


def reduce(params: ReduceParams, ctx: LabelReduce) -> Reduced:
    return collect(params, ctx, "cp2k", read_results, explain)


def read_results(folder: Path, frames: list[Atoms]) -> list[Label]:
    """The label of the one frame of a task."""
    from .cp2k_output import read_output

    text = (folder / OUTPUT).read_text(errors="replace")
    return [read_output(text, atoms.get_chemical_symbols(), atoms.get_volume()) for atoms in frames]


def explain(task: TaskOutput, out: Path) -> str:
    """Why a task failed: what CP2K wrote into its output before it stopped, else the log."""
    from .cp2k_output import abort_message

    if task.problem:  # what lies in `out` is of an earlier attempt
        return task.problem
    try:
        said = abort_message((out / OUTPUT).read_text(errors="replace"))
    except OSError:
        said = ""
    return said or explain_by_log(task, out)


def check(config: RunConfig) -> list[str]:
    """Files that would take each other's place in a task's folder."""
    label = config.label
    assert isinstance(label, Cp2kConfig)
    names = Counter(_name(file) for file in label.files)
    problems = [f"label.files: {name} is given {count} times" for name, count in names.items() if count > 1]
    taken = [name for name in names if name in (INPUT, OUTPUT, FRAMES)]
    return problems + [f"label.files: {name} is a name that the run itself uses; rename the file" for name in taken]


def executables(label: Cp2kConfig) -> list[str]:
    return shlex.split(label.command or "cp2k.psmp")[:1]


def _name(file: UserFile) -> str:
    return Path(file.root).name


APP = App(
    stage="label",
    name="cp2k",
    config=Cp2kConfig,
    plan=plan,
    reduce=reduce,
    job=Cp2kJob,
    check=check,
    check_files=check_files,
    executables=executables,
    probe=probe,
)
