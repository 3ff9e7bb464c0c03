"""What an operator is::

    def operator(in_params, ctx) -> out_params

`in_params` and `out_params` are frozen dataclasses of plain data. `ctx` is a frozen dataclass of paths:
every file that the operator reads or writes. `Annotated` says where in the data space each one lives;
the workflow template is generated from that.

Examples
--------
>>> @dataclass(frozen=True)
... class Params:
...     iteration: int
>>> @dataclass(frozen=True)
... class Context:
...     config: Annotated[Path, Input(lambda at: at.config)]
...     report: Annotated[Path, Output(lambda at: at.report)]
>>> def reduce(params: Params, ctx: Context) -> Reduced: ...
>>> sorted(artifacts(Context))
['config', 'report']
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from conventions.config import RunConfig, StageConfig
from conventions.space import StageSpace

from .live import Read


@dataclass(frozen=True)
class Input:
    """An artifact to read: a file, or all that lies under a prefix. `at` returns its key, or None for none."""

    at: Callable[[StageSpace], str | None]
    optional: bool = False


@dataclass(frozen=True)
class Output:
    """An artifact to write: a file or a directory, merged into what is there."""

    at: Callable[[StageSpace], str]


Artifact = Input | Output
Operator = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Signature:
    """The dataclasses of an operator, and the artifacts of its context.

    `texts` and `lists` are the names of its parameters: lists travel as files, since an environment variable, and a
    parameter of Argo, may be too short for them.
    """

    params: type
    context: type
    result: type
    artifacts: dict[str, Artifact]

    @property
    def lists(self) -> list[str]:
        return [name for name, hint in get_type_hints(self.params).items() if get_origin(hint) is list]

    @property
    def texts(self) -> list[str]:
        return [name for name in get_type_hints(self.params) if name not in self.lists]


def artifacts(context: type) -> dict[str, Artifact]:
    """The artifact of each field of a context, by name."""
    found: dict[str, Artifact] = {}
    for name, hint in get_type_hints(context, include_extras=True).items():
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Input | Output)]
        if len(marks) != 1:
            raise TypeError(f"{context.__name__}.{name}: annotate it with one Input(...) or Output(...)")
        found[name] = marks[0]
    return found


def signature(operator: Operator) -> Signature:
    """Check an operator's form and return its parts.

    Raises
    ------
    TypeError
        When it does not take (in_params, ctx) of frozen dataclasses, or returns something else.
    """
    hints = get_type_hints(operator)
    result = hints.pop("return", None)
    types = [*hints.values(), result]
    for kind in types:
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen):  # type: ignore[attr-defined]
            raise TypeError(f"{operator.__module__}.{operator.__qualname__}: {kind!r} is not a frozen dataclass")
    if len(types) != 3:
        raise TypeError(f"{operator.__module__}.{operator.__qualname__}: the form is operator(in_params, ctx)")
    return Signature(types[0], types[1], types[2], artifacts(types[1]))


@dataclass(frozen=True)
class Planned:
    """What a plan returns: the `n_todo` jobs still to run, out of `n_jobs` (ids `000000` to `n_jobs - 1`)."""

    job_ids: list[str]
    n_jobs: int
    n_todo: int


@dataclass(frozen=True)
class PlanContext:
    """The artifacts of every plan; an app adds what its jobs are made from."""

    config: Annotated[Path, Input(lambda at: at.config)]
    done: Annotated[Path, Input(lambda at: at.done, optional=True)]
    jobs: Annotated[Path, Output(lambda at: at.jobs)]


@dataclass(frozen=True)
class ReduceParams:
    """What every all_reduce is told; `n_jobs` comes from the plan of the same workflow.

    `last`: no attempt follows this one, unless it brings the stage to more than `finished` jobs.
    """

    iteration: int
    attempt: int
    n_jobs: int
    last: bool
    finished: int


@dataclass(frozen=True)
class Reduced:
    """What an all_reduce returns: is the stage complete, and has the next one work?"""

    complete: bool
    next: bool


@dataclass(frozen=True)
class ReduceContext:
    """The artifacts of every all_reduce; an app adds what else it reads or writes.

    `undone` gets the markers of jobs whose outputs are not what they recorded: see `operators.jobs.read_tasks`.
    """

    config: Annotated[Path, Input(lambda at: at.config)]
    jobs: Annotated[Path, Input(lambda at: at.jobs, optional=True)]
    done: Annotated[Path, Input(lambda at: at.done, optional=True)]
    undone: Annotated[Path, Output(lambda at: at.done)]
    report: Annotated[Path, Output(lambda at: at.report)]
    product: Annotated[Path, Output(lambda at: at.product)]


@dataclass(frozen=True)
class JobContext:
    """The artifacts of every command job; an app adds what its jobs share (data, models)."""

    job: Annotated[Path, Input(lambda at: at.job_in)]
    previous: Annotated[Path, Input(lambda at: at.job_out, optional=True)]
    out: Annotated[Path, Output(lambda at: at.job_out)]
    log: Annotated[Path, Output(lambda at: at.job_log)]
    done: Annotated[Path, Output(lambda at: at.job_done)]


# A trained model: (symbols, positions of n x atoms x 3, cells of n x 3 x 3 or None) -> energies of n frames in eV,
# forces of n x atoms x 3 in eV/Angstrom, virials of n x 3 x 3 in eV.
Model = Callable[[list[str], Any, Any], tuple[Any, Any, Any]]


@dataclass(frozen=True)
class Committee:
    """The models that a trainer leaves in its product.

    `kind` is what an explorer says that it drives (`deepmd`, `mace`); `files` are their names, that of model 0 first.
    """

    kind: str
    files: list[str]


TRIAL = "trial"  # the structure set of the campaign that `doctor --try` runs


@dataclass(frozen=True)
class App:
    """One software for one stage: what `operators/{stage}/{name}.py` offers as `APP`.

    The last three are for `doctor`; `files` is the folder of the user's files as the store holds them. `probe` returns
    the files of a folder where `sh run.sh` ends well if the software can be used, and says last which one it is, or
    why not. `misfits` are problems that take too long to look for in `validate`. `tiny` are the keys of the stage with
    which it does as little as it can, with the structure set `TRIAL`.
    """

    stage: str
    name: str
    config: type[StageConfig]
    plan: Operator
    reduce: Operator
    job: type[JobContext] = JobContext
    check: Callable[[RunConfig], list[str]] = lambda config: []  # problems: the configuration is refused
    # Reads the files that the configuration names, below config/file, as plan will; raises ConfigError.
    check_files: Callable[[Any, Path], None] = lambda config, files: None
    notes: Callable[[RunConfig], list[str]] = lambda config: []  # what a person should know of a good one
    executables: Callable[[Any], list[str]] = lambda stage: []
    explore_stages: Callable[[Any], int] = lambda stage: 1
    # Of a trainer: what it will leave, from its settings.
    committee: Callable[[Any], Committee] | None = None
    # Of a trainer: the models in its product, by file name. Its module imports nothing of ours at run time, since
    # explore/ase takes it along into jobs; RuntimeError says why a model cannot be used.
    models: Callable[[Path], dict[str, Model]] | None = None
    drives: frozenset[str] = frozenset()  # of an explorer: the kinds of models; empty: it does not say
    live: Callable[[Read], str] = lambda read: ""  # how far a task is that runs now, for the line that `run` shows
    probe: Callable[[RunConfig, Path], Mapping[str, str | bytes]] = lambda config, files: {}
    misfits: Callable[[RunConfig, Path], list[str]] = lambda config, files: []
    tiny: Callable[[Any], dict[str, Any]] = lambda stage: {}
