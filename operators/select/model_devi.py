"""select/model_devi: frames on which the committee of models disagrees, chosen at random between the trust levels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from conventions.config import Name, StageConfig
from conventions.documents import StageReport, parse_json
from conventions.errors import ConfigError, DataError
from conventions.names import canonical_json, derive_seed
from operators.core import App, Input, JobContext, PlanContext, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Script, Task, job_counts, pack, read_tasks, settles, write_jobs, write_report
from operators.registry import load_config
from operators.setup import with_setup
from operators.sums import verify

from .adaptive import Adaptive, adapting
from .checks import LEVELS, PAIR, check

if TYPE_CHECKING:
    from .choose import Choice
    from .pool import Pool

DEVIATIONS = "model_devi.out"
DUMP = "traj.lammpstrj"
# What explore tells of every trajectory; the rest are the conditions of this one.
_FACTS = frozenset("job_id task_id class rows last_step files structure index group".split())
Distance = Annotated[float, Field(gt=0)]
Pair = Annotated[str, Field(pattern=PAIR)]
Trust = Annotated[float, Field(ge=0)] | dict[Name, Annotated[float, Field(ge=0)]]


class ModelDeviConfig(StageConfig):
    """Selection by model deviation.

    Each trust level is a number, or a number for each structure set (`{"bulk": 0.1, "surface": 0.2}`).
    """

    foreign: ClassVar[dict[str, str]] = dict.fromkeys(
        Adaptive.model_fields, "this key belongs below `adaptive`, which is below `select`"
    )

    app: Literal["model_devi"] = "model_devi"
    adaptive: Adaptive | None = Field(None, description="Find the lower trust levels in each iteration.")
    f_trust_lo: Trust | None = Field(
        None,
        validate_default=True,
        description="Frames whose largest force deviation is below are accurate, eV/A; required without `adaptive`.",
    )
    f_trust_hi: Trust = Field(description="From here on frames are failed: never labelled, eV/A.")
    v_trust_lo: Trust | None = Field(None, description="The same for the virial deviation, eV/atom; default: not used.")
    v_trust_hi: Trust | None = Field(None, description="The same for the virial deviation, eV/atom; default: not used.")
    fp_task_max: int = Field(ge=1, description="Most frames labelled in an iteration.")
    fp_task_max_per_system: int | None = Field(None, ge=1, description="Most frames of one structure set.")
    fp_task_min: int = Field(1, ge=1, description="If fewer frames would be labelled than that, none are.")
    fp_task_min_per_system: int = Field(
        1, ge=1, description="If a structure set has fewer candidates than that, none of it is labelled."
    )
    model_devi_skip: int = Field(0, ge=0, description="First frames of each trajectory that do not count.")
    cut_at_failed: bool = Field(
        False, description="After the first failed frame of a trajectory none is a candidate; they count as failed."
    )
    min_distance: Distance | dict[Pair, Distance] | None = Field(
        None,
        description="Frames with two atoms closer than that are not labelled, Angstrom; a number for all pairs, or by "
        'pair of elements ({"Cu-O": 1.2}), the others by min_distance_ratio.',
    )
    min_distance_ratio: Distance | None = Field(
        0.65,
        le=2,
        description="The same, as a fraction of the sum of the two covalent radii; not used where min_distance is one "
        "number.",
    )
    max_length_ratio: float | None = Field(
        None, ge=1, description="Largest ratio between the longest and the shortest cell vector of a labelled frame."
    )
    max_tilt_angle: float | None = Field(
        None, gt=0, lt=90, description="Largest tilt of the cell of a labelled frame, degrees (BoxSkewness of DPGEN2)."
    )
    group_size: int = Field(500, ge=1, description="Trajectories in one score job.")

    @field_validator("f_trust_lo", "v_trust_lo")
    @classmethod
    def _one_way_to_have_it(cls, value: Trust | None, info: ValidationInfo) -> Trust | None:
        adaptive = info.data.get("adaptive")
        if value is None and "adaptive" in info.data and adaptive is None and info.field_name == "f_trust_lo":
            raise PydanticCustomError("missing", "Field required")
        if value is not None and adaptive is not None:
            raise ValueError("`adaptive` finds this level in each iteration; leave one of the two out")
        return value

    def levels(self, structure: str) -> tuple[float | None, ...]:
        """f_trust_lo, f_trust_hi, v_trust_lo, v_trust_hi of a structure set, by which frames are classified.

        Where the lower ones are `adaptive`, all that is below the upper ones is a candidate at first.
        """
        found = []
        for name in LEVELS:
            value = getattr(self, name)
            if self.adaptive is not None and name.endswith("_lo"):
                value = None if getattr(self, f"{name[0]}_trust_hi") is None else 0.0
            if isinstance(value, dict):
                if structure not in value:
                    raise ConfigError(f"select.{name}: structure set {structure!r} is explored but has no level here")
                value = value[structure]
            found.append(value)
        return tuple(found)


class Trajectory(NamedTuple):
    """A trajectory that explore offers, in the order of job and task."""

    job_id: str
    task_id: str
    structure: str
    broken: bool
    files: dict[str, str]  # SHA-256 by name, as explore recorded it
    conditions: dict[str, Any]  # what differs between trajectories: temp, press, or values of a template

    @property
    def folder(self) -> str:
        """Where it lies below explore's jobs."""
        return f"{self.job_id}/out/{self.task_id}"


@dataclass(frozen=True)
class PlanParams:
    iteration: int


@dataclass(frozen=True)
class SelectPlan(PlanContext):
    trajectories: Annotated[Path, Input(lambda at: at.newest_product("explore"))]


@dataclass(frozen=True)
class ScoreContext(JobContext):
    explored: Annotated[Path, Input(lambda at: s.jobs if (s := at.of("explore")) else None)]


@dataclass(frozen=True)
class SelectParams(ReduceParams):
    systems: list[str]


@dataclass(frozen=True)
class SelectReduce(ReduceContext):
    trajectories: Annotated[Path, Input(lambda at: at.newest_product("explore"))]
    explored: Annotated[Path, Input(lambda at: s.jobs if (s := at.of("explore")) else None)]
    dataset: Annotated[Path, Input(lambda at: at.space.dataset, optional=True)]


def plan(params: PlanParams, ctx: SelectPlan) -> Planned:
    """One task for every `group_size` trajectories."""
    config: ModelDeviConfig = load_config(ctx.config.read_bytes()).select
    trajectories = read_trajectories(ctx.trajectories)
    tasks = []
    for group in _groups(trajectories, config.group_size):
        task = {
            "skip": config.model_devi_skip,
            **({"cut": True} if config.cut_at_failed else {}),
            "levels": {name: config.levels(name) for name in sorted({one.structure for one in group})},
            "trajectories": [
                # The hashes make the job another one when its trajectory was explored anew.
                {"folder": one.folder, "structure": one.structure, "broken": one.broken, "files": one.files}
                for one in group
            ],
        }
        tasks.append(Task({"task.json": canonical_json(task)}))
    return write_jobs(ctx.jobs, ctx.done, tasks, make_script(config), group_size=1)


def make_script(config: ModelDeviConfig) -> Script:
    """What every score job runs."""
    run = with_setup(config, f'{config.command or "python3"} "$JOB_JOB/score.py" task.json scores.npz\n')
    # Not by __file__: operators may have been imported from a zip.
    source = resources.files("operators.select").joinpath("score.py").read_bytes()
    return Script(run, need=["scores.npz"], files={"score.py": source})


def reduce(params: SelectParams, ctx: SelectReduce) -> Reduced:
    """Count the classes, choose candidates, write `frames.extxyz` and `manifest.json`."""
    from .pool import gather
    from .product import write_product

    config = load_config(ctx.config.read_bytes())
    settings: ModelDeviConfig = config.select
    trajectories = read_trajectories(ctx.trajectories)
    outputs = read_tasks(ctx, params.n_jobs)
    sizes = [len(group) for group in _groups(trajectories, settings.group_size)]
    pool = gather(outputs, sizes, adapting(settings, [one.structure for one in trajectories]))
    failed = [output for output in pool.outputs if output.folder is None]
    messages = list(dict.fromkeys(output.error() for output in failed))[:3]
    messages += _unusable(pool, trajectories)
    classes = {name: pool.counts[name] for name in ("accurate", "candidate", "failed", "invalid", "skipped")}
    summary = {name: float(classes[name]) for name in ("accurate", "candidate", "failed")}
    if failed:
        classes["lost"] = len(failed)
    settled = settles(pool.outputs, params, ctx)
    enough = settled and len(failed) <= settings.ratio_failed * len(pool.outputs) and len(failed) < len(pool.outputs)
    complete = not trajectories or (enough and sum(classes.values()) > 0)
    selected = 0
    if complete:
        choice, more = _choose(config, params, ctx, trajectories, pool)
        messages += more
        selected = len(choice.chosen)
        classes |= {"selected": selected, **dict(sorted(choice.rejected.items()))}
        summary["selected"] = float(selected)
        write_product(ctx.product, config, trajectories, pool, choice)
    if pool.level is not None:
        summary["level"] = pool.level
    if pool.lower:  # where structure sets have levels of their own, the largest ones: a row of the table is small
        names = sorted({name for level in pool.lower.values() for name in level})
        summary |= {name: max(level[name] for level in pool.lower.values() if name in level) for name in names}
    return write_report(
        ctx.report,
        StageReport(
            stage="select",
            app="model_devi",
            iteration=params.iteration,
            attempt=params.attempt,
            complete=complete,
            next=selected > 0,
            jobs=job_counts(params.n_jobs, pool.outputs, config.gpus("select")),
            classes=classes,
            summary=summary,
            messages=messages,
        ),
        product=ctx.product,
    )


def read_trajectories(product: Path) -> list[Trajectory]:
    """What explore offers, in the order of job and task whatever the order of the list.

    Raises
    ------
    DataError
        When `trajectories.json` is missing or is not what explore writes.
    """
    path = product / "trajectories.json"
    verify(product, path.name, what="the product of explore")
    try:
        document = parse_json(path.read_bytes(), path.name)
        found = [
            Trajectory(
                one["job_id"],
                one["task_id"],
                one["structure"],
                one["class"] != "ok",
                one.get("files", {}),
                {name: value for name, value in one.items() if name not in _FACTS},
            )
            for one in document["trajectories"]
        ]
        for one in found:
            if not re.fullmatch(r"[0-9]{6}/out/task\.[0-9]{6}", one.folder, re.ASCII) or not isinstance(
                one.structure, str
            ):
                raise DataError(f"{path.name}: {one.folder!r} is not the folder of a trajectory")
            if not all(re.fullmatch("[0-9a-f]{64}", str(sha256)) for sha256 in dict(one.files).values()):
                raise DataError(f"{path.name}: {one.folder}: a hash is not 64 hexadecimal digits")
            if odd := [
                name for name, value in one.conditions.items() if not isinstance(value, str | int | float | type(None))
            ]:
                raise DataError(f"{path.name}: {one.folder}: {odd[0]} is neither a number nor a text")
    except OSError as error:
        raise DataError(f"explore left no {path.name}: {error.strerror}; run its stage again") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path.name}: not a list of trajectories: {error!r}") from None
    if len({one.folder for one in found}) != len(found):
        raise DataError(f"{path.name}: a trajectory appears twice")
    return sorted(found)


def _groups(trajectories: list[Trajectory], size: int) -> Iterator[list[Trajectory]]:
    size = pack(len(trajectories), size)
    for start in range(0, len(trajectories), size):
        yield trajectories[start : start + size]


def _unusable(pool: Pool, trajectories: list[Trajectory]) -> list[str]:
    if not trajectories:
        return ["explore offered no trajectory: there is nothing to select from"]
    if not pool.unusable:
        return []
    number, problem = pool.unusable[0]
    return [
        f"{len(pool.unusable)} of {len(trajectories)} trajectories cannot be used; the first, "
        f"explore job {trajectories[number].job_id} {trajectories[number].task_id}: {problem}"
    ]


def _choose(
    config: Any, params: SelectParams, ctx: SelectReduce, trajectories: list[Trajectory], pool: Pool
) -> tuple[Choice, list[str]]:
    """Chosen frames, none if they are fewer than fp_task_min, and what a person should know about them."""
    from operators.frame_keys import atomic_numbers, dataset_keys

    from .choose import choose
    from .filters import distance_limits, rejection

    settings: ModelDeviConfig = config.select
    limits = distance_limits(config.type_map, settings.min_distance, settings.min_distance_ratio)
    known, unreadable = dataset_keys(ctx.dataset, params.systems) if len(pool.candidates) else (set(), [])
    messages = []
    if unreadable:
        messages.append(f"not compared with {len(unreadable)} unreadable training systems; the first: {unreadable[0]}")
    choice = choose(
        pool.candidates,
        [(ctx.explored / one.folder / DUMP, one.files.get(DUMP)) for one in trajectories],
        [one.structure for one in trajectories],
        atomic_numbers(config.type_map),
        seed=derive_seed(config.seed, "select", params.iteration),
        maximum=settings.fp_task_max,
        per_system=settings.fp_task_max_per_system,
        least=settings.fp_task_min_per_system,
        reject=lambda frame: rejection(frame, limits, settings.max_length_ratio, settings.max_tilt_angle),
        known=known,
    )
    if choice.corrupt:
        candidate, why = choice.corrupt[0]
        one = trajectories[pool.candidates.trajectory[candidate]]
        where = f"explore job {one.job_id} {one.task_id} step {pool.candidates.step[candidate]}"
        messages.append(f"{len(choice.corrupt)} corrupt frames; the first, {where}: {why}")
    if 0 < len(choice.chosen) < settings.fp_task_min:
        messages.append(f"only {len(choice.chosen)} frames to label, fewer than fp_task_min ({settings.fp_task_min})")
        choice.chosen.clear()
    elif len(pool.candidates) and not choice.chosen:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(choice.rejected.items()))
        messages.append(f"none of {len(pool.candidates)} candidates can be labelled: {counts}")
    return choice, messages


APP = App(
    stage="select",
    name="model_devi",
    config=ModelDeviConfig,
    plan=plan,
    reduce=reduce,
    job=ScoreContext,
    check=check,
    executables=lambda stage: [(stage.command or "python3").split()[0]],
    tiny=lambda stage: {"adaptive": None, "f_trust_lo": 1e3, "f_trust_hi": 1e4, "v_trust_lo": None, "v_trust_hi": None},
)
