"""What programs have in common that label one frame a task: files of the user, run.sh, retries, why one stopped.

A file of this folder says of its program what `Program` asks, and has `APP = PROGRAM.app()`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from conventions.config import RunConfig, StageConfig, UserFile
from conventions.errors import ConfigError
from operators.core import App, Input, JobContext, Output, Planned, Reduced, ReduceParams
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
from .label_config import LabelConfig
from .outputs import Problem

if TYPE_CHECKING:
    from ase import Atoms

# A program of Debian's Open MPI that is started without mpirun looks for a daemon first, for up to 5 s.
_ALONE = 'export OMPI_MCA_ess_singleton_isolated="${OMPI_MCA_ess_singleton_isolated:-1}"\n'

_RUN = """\
# Programs append to an old output, and die of an old wave function that does not fit: begin with the inputs alone.
set --
for file in * .[!.]* ..?*; do
  case $file in INPUTS) ;; *) [ ! -e "$file" ] && [ ! -h "$file" ] || set -- "$@" "./$file" ;; esac
done
[ $# = 0 ] || rm -rf "$@"
[ ! -s "$JOB_JOB/user_files" ] || cp -R ../files/. . || exit 70
CALL
code=$?
[ ! -f OUTPUT ] || tail -n TAIL OUTPUT # for the job's log; the whole output stays in out/
# Where the program itself gave up on this frame (no convergence, overlapping atoms), repeating would not help.
if [ "$code" != 0 ] && [ -f OUTPUT ]; then
  awk 'GAVE_UP' OUTPUT && exit 0
fi
exit "$code"
"""

# once.sh of a job: the user's files, after they were found to be what their names say.
FETCH = """\
[ ! -e files ] || rm -rf files
mkdir files && cd files || exit
while read -r file name; do
  cp "$JOB_FILES/$file" "$name"
  printf '%s  %s\\n' "${file%%/*}" "$name"
done <"$JOB_JOB/user_files" >../files.sums
sha256sum -c ../files.sums >/dev/null || {
  echo "error: a file that label names is not the one that the run began with (sha256 differs)"
  exit 1
}
"""


class ProgramConfig(LabelConfig):
    """The keys of every program that labels one frame a task."""

    group_size: int = Field(1, ge=1, description="Frames in one job.")
    files: list[UserFile] = Field([], description="Further files that the program reads, by their own names.")


@dataclass(frozen=True)
class ProgramPlan(LabelPlan):
    """Plan puts the files that jobs read into a folder for all jobs: a basis set is no small part of one."""

    given: Annotated[Path, Output(lambda at: at.files)]


@dataclass(frozen=True)
class ProgramJob(JobContext):
    """Of the user's files a job gets those that it reads: in a cluster each one costs each job two requests."""

    files: Annotated[Path, Input(lambda at: at.files, optional=True)]


# The input files of a frame's task, by name.
Fill = Callable[["Atoms"], dict[str, str]]


@dataclass(frozen=True)
class Program:
    """A program that labels one frame a task.

    Attributes
    ----------
    command
        The default one: a single rank, without mpirun.
    call
        The lines of run.sh that run it; `COMMAND` stands for the command. The exit code of the last one counts: where a
        program ends with 0 also after an error, add `&& grep -q END-OF-A-GOOD-OUTPUT`. With another exit code the task
        is run again, unless the program gave up.
    inputs
        Names of the files that `fill` may write into a task's folder. run.sh removes all others before the call.
    output
        The one file to read and to keep. Results in a second one: let `call` append that to it.
    gave_up
        An awk program, without single quotes, that ends well where the output says that the program itself gave up on
        the frame: repeating would not help. None is needed for one that ends with 0 where it does not converge.
    fill
        (configuration, folder of the user's files) -> what writes the inputs of a frame. Reads what the user gave, and
        raises `ConfigError` where that gives no labels.
    read
        (output, frame) -> its label; raises `Problem` where it is none.
    said
        What the program said when it stopped, by its output; empty where it said nothing.
    element_files
        Keys that hold a file for each element -> its name in a task's folder, of {element} and the file's {suffix}.
    tail
        How many lines of the output go to the job's log; the program's stdout does as a whole.
    probe
        run.sh of `doctor`, with `COMMAND`; and what else of its folder.
    """

    name: str
    config: type[ProgramConfig]
    command: str
    call: str
    inputs: tuple[str, ...]
    output: str
    fill: Callable[[Any, Path], Fill]
    read: Callable[[str, Atoms], Label]
    gave_up: str = "END { exit 1 }"
    said: Callable[[str], str] = lambda text: ""
    element_files: Mapping[str, str] | None = None
    tail: int = 40
    probe: str = ""
    probe_files: Callable[[Any, Path], dict[str, str | bytes]] = lambda config, files: {}

    def app(self) -> App:
        """The app of this program, which can be planned and reduced from now on."""
        _PROGRAMS[self.config] = self
        return App(
            stage="label",
            name=self.name,
            config=self.config,
            plan=plan,
            reduce=reduce,
            job=ProgramJob,
            check=self.check,
            check_files=self.check_files,
            executables=lambda label: shlex.split(label.command or self.command)[:1],
            probe=self.probe_folder,
        )

    def run_script(self, label: ProgramConfig) -> str:
        """run.sh of every job."""
        parts = {
            "INPUTS": " | ".join((*self.inputs, FRAMES)),
            "CALL": self._with_command(label, self.call),
            "OUTPUT": self.output,
            "TAIL": str(self.tail),
            "GAVE_UP": self.gave_up,
        }
        script = re.sub("|".join(parts), lambda found: parts[found[0]], _RUN)  # at once: a part may hold such words
        return self._started(label, script)

    def _with_command(self, label: StageConfig, lines: str) -> str:
        return lines.replace("COMMAND", label.command or self.command)

    def _started(self, label: StageConfig, script: str) -> str:
        return with_setup(label, script if label.command else _ALONE + script)

    def brought(self, label: Any) -> list[tuple[str, UserFile]]:
        """The user's files that a task needs beside its inputs, each with its name in the task's folder."""
        found = [(file.name, file) for file in label.files]
        for key, pattern in (self.element_files or {}).items():
            files = getattr(label, key)
            found += [(name, files[element]) for element, name in names_by_element(pattern, files).items()]
        return found

    def check(self, config: RunConfig) -> list[str]:
        """Files that would take each other's place in a task's folder, and elements without a file."""
        label: Any = config.label
        names = Counter(name for name, _ in self.brought(label))
        problems = [f"label.files: {name} is given {count} times" for name, count in names.items() if count > 1]
        taken = [name for name in names if name in (*self.inputs, self.output, FRAMES)]
        strange = [file.root for file in label.files if not file.keeps_name]
        problems += [f"label.files: {name}: use letters, digits, '.', '_', '-' in its name" for name in strange]
        problems += [f"label.files: {name} is a name that the run itself uses; rename the file" for name in taken]
        for key in self.element_files or {}:
            given = getattr(label, key)
            missing = [element for element in config.type_map if element not in given]
            if given and missing:
                problems.append(f"label.{key}: it has no file for {', '.join(missing)} of type_map; add one")
        return problems

    def check_files(self, config: Any, files: Path) -> None:
        self.fill(config, files)

    def probe_folder(self, config: RunConfig, files: Path) -> dict[str, str | bytes]:
        found, label = self.probe_files(config, files), config.label
        return {"run.sh": self._started(label, self._with_command(label, self.probe)), **found} if self.probe else {}

    def label(self, text: str, atoms: Atoms) -> Label:
        """The label that an output gives a frame, or the class of its failure."""
        try:
            return self.read(text, atoms)
        except Problem as problem:
            return problem.label

    def explain(self, task: TaskOutput, out: Path) -> str:
        """Why a task failed: what the program wrote into its output before it stopped, else the log."""
        if task.problem:  # what lies in `out` is of an earlier attempt
            return task.problem
        try:
            said = self.said((out / self.output).read_text(errors="replace"))
        except OSError:
            said = ""
        return said or explain_by_log(task, out)


# By the class of its configuration: a configuration that can be loaded has imported the file of its program.
_PROGRAMS: dict[type[StageConfig], Program] = {}


def give(files: Iterable[UserFile], ctx: ProgramPlan) -> None:
    """Put files of the user's where the jobs read them."""
    for file in files:
        place = ctx.given / file.root
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(user_file(ctx.files, file.root), place)


def plan(params: PlanParams, ctx: ProgramPlan) -> Planned:
    """One task a frame."""
    config = load_config(ctx.config.read_bytes())
    label: ProgramConfig = config.label
    program = _PROGRAMS[type(label)]
    fill = program.fill(config, ctx.files)
    frames = frames_to_label(config, params, ctx)
    tasks = (Task({**fill(atoms), FRAMES: dump_frames([atoms])}) for atoms in frames)
    brought = program.brought(label)
    give((file for _, file in brought), ctx)
    script = Script(
        run=program.run_script(label),
        need=[program.output],
        files={"user_files": "".join(f"{file.root} {name}\n" for name, file in brought)},
        once=FETCH if brought else "",
    )
    return write_jobs(ctx.jobs, ctx.done, tasks, script, pack(len(frames), label.group_size))


def reduce(params: ReduceParams, ctx: LabelReduce) -> Reduced:
    """The labels of all frames."""
    program = _PROGRAMS[type(load_config(ctx.config.read_bytes()).label)]

    def read(folder: Path, frames: list[Atoms]) -> list[Label]:
        text = (folder / program.output).read_text(errors="replace")
        return [program.label(text, atoms) for atoms in frames]

    return collect(params, ctx, program.name, read, program.explain)


def read_text(file: UserFile, files: Path, where: str) -> str:
    """The text of a user's file; `where` is what an error calls it."""
    try:
        return user_file(files, file.root).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: cannot be read as text: {error}; save it as UTF-8") from None


def names_by_element(pattern: str, files: Mapping[str, UserFile]) -> dict[str, str]:
    """The name in a task's folder of each element's file: see `Program.element_files`."""
    return {name: pattern.format(element=name, suffix=Path(file.root).suffix) for name, file in files.items()}


def program_of(label: StageConfig) -> Program | None:
    """The program of a label stage; None for apps that call none."""
    return _PROGRAMS.get(type(label))
