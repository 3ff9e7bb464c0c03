"""select/model_devi: frames on which the committee of models disagrees, chosen at random between the trust levels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from conventions.documents import StageReport, parse_json
from conventions.errors import DataError
from conventions.names import canonical_json, derive_seed
from operators.core import App, Input, JobContext, PlanContext, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Script, Task, job_counts, pack, read_tasks, settles, write_jobs, write_report
from operators.registry import load_config
from operators.setup import with_setup
from operators.sums import verify

from .adaptive import adapting
from .auto import resolved
from .checks import check
from .config import ModelDeviConfig

if TYPE_CHECKING:
    from .choose import Choice
    from .pool import Pool

DEVIATIONS = "model_devi.out"
DUMP = "traj.lammpstrj"
# What explore tells of every trajectory; the rest are the conditions of this one.
_FACTS = frozenset("job_id task_id class rows last_step files structure index group".split())


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
    calibration: dict[str, float]


@dataclass(frozen=True)
class SelectPlan(PlanContext):
    trajectories: Annotated[Path, Input(lambda at: at.newest_product("explore"))]


@dataclass(frozen=True)
class ScoreContext(JobContext):
    explored: Annotated[Path, Input(lambda at: s.jobs if (s := at.of("explore")) else None)]


@dataclass(frozen=True)
class SelectParams(ReduceParams):
    systems: list[str]
    calibration: dict[str, float]


@dataclass(frozen=True)
class SelectReduce(ReduceContext):
    trajectories: Annotated[Path, Input(lambda at: at.newest_product("explore"))]
    explored: Annotated[Path, Input(lambda at: s.jobs if (s := at.of("explore")) else None)]
    dataset: Annotated[Path, Input(lambda at: at.space.dataset, optional=True)]


def plan(params: PlanParams, ctx: SelectPlan) -> Planned:
    """One task for every `group_size` trajectories."""
    config: ModelDeviConfig = resolved(load_config(ctx.config.read_bytes()).select, params.calibration)
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
    from .sample import Sample

    config = load_config(ctx.config.read_bytes())
    rule = config.select.auto_trust_lo
    settings: ModelDeviConfig = resolved(config.select, params.calibration)
    config = config.model_copy(update={"select": settings})
    trajectories = read_trajectories(ctx.trajectories)
    outputs = read_tasks(ctx, params.n_jobs)
    sizes = [len(group) for group in _groups(trajectories, settings.group_size)]
    accurate = Sample(settings.check_frames, derive_seed(config.seed, "select", params.iteration, "sample"))
    pool = gather(outputs, sizes, adapting(settings, [one.structure for one in trajectories]), accurate)
    failed = [output for output in pool.outputs if output.folder is None]
    messages = list(dict.fromkeys(output.error() for output in failed))[:3]
    messages += _unusable(pool, trajectories)
    classes = {name: pool.counts[name] for name in ("accurate", "candidate", "failed", "invalid", "skipped")}
    summary = {name: float(classes[name]) for name in ("accurate", "candidate", "failed")}
    if failed:
        classes["lost"] = len(failed)
    settled = settles(pool.outputs, params, ctx)
    enough = settled and len(failed) <= settings.ratio_failed * len(pool.outputs) and len(failed) < len(pool.outputs)
    if enough and classes["skipped"] and not any(summary.values()):
        messages.append(
            f"no frame counts: {classes['skipped']} are among the first of their trajectories (model_devi_skip "
            f"{settings.model_devi_skip}; 0 counts all), {classes['invalid']} are invalid"
        )
        enough = False
    complete = not trajectories or (enough and sum(classes.values()) > 0)
    selected = 0
    if complete:
        choice, checks, more = _choose(config, params, ctx, trajectories, pool)
        messages += more
        selected = len(choice.chosen)
        classes |= {"selected": selected, **dict(sorted((choice.rejected + checks.rejected).items()))}
        summary["selected"] = float(selected)
        if settings.check_frames:
            classes["check"] = len(checks.chosen)
            summary["check"] = float(len(checks.chosen))
        found_by = {"auto_trust_lo": {**rule.model_dump(), **params.calibration}} if rule else {}
        write_product(ctx.product, config, trajectories, pool, choice, checks, found_by)
    if rule:
        assert isinstance(settings.f_trust_lo, float)
        summary["f_trust_lo"] = settings.f_trust_lo
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
) -> tuple[Choice, Choice, list[str]]:
    """Chosen candidates, none if they are fewer than fp_task_min; check frames among the accurate; messages."""
    from operators.frame_keys import atomic_numbers, dataset_keys

    from .choose import choose
    from .filters import distance_limits, rejection
    from .limits import limits

    settings: ModelDeviConfig = config.select
    systems = [one.structure for one in trajectories]
    distances = distance_limits(config.type_map, settings.min_distance, settings.min_distance_ratio)
    any_frame = len(pool.candidates) or len(pool.accurate)
    known, unreadable = dataset_keys(ctx.dataset, params.systems) if any_frame else (set(), [])
    messages = []
    if unreadable:
        messages.append(f"not compared with {len(unreadable)} unreadable training systems; the first: {unreadable[0]}")
    draw = partial(
        choose,
        dumps=[(ctx.explored / one.folder / DUMP, one.files.get(DUMP)) for one in trajectories],
        systems=systems,
        numbers=atomic_numbers(config.type_map),
        reject=lambda frame: rejection(frame, distances, settings.max_length_ratio, settings.max_tilt_angle),
        known=known,
    )
    checks = draw(
        pool.accurate,
        seed=derive_seed(config.seed, "select", params.iteration, "check"),
        maximum=settings.check_frames,
        limits=dict.fromkeys(systems, settings.fp_task_max),
    )
    choice = draw(
        pool.candidates,
        seed=derive_seed(config.seed, "select", params.iteration),
        maximum=settings.fp_task_max - len(checks.chosen),
        limits=limits(settings, systems, pool.seen.counts),
        least=settings.fp_task_min_per_system,
    )
    corrupt = [
        (rows, *each) for rows, of in ((pool.candidates, choice), (pool.accurate, checks)) for each in of.corrupt
    ]
    if corrupt:
        rows, number, why = corrupt[0]
        one = trajectories[rows.trajectory[number]]
        where = f"explore job {one.job_id} {one.task_id} step {rows.step[number]}"
        messages.append(f"{len(corrupt)} corrupt frames; the first, {where}: {why}")
    if 0 < len(choice.chosen) < settings.fp_task_min:
        messages.append(f"only {len(choice.chosen)} frames to label, fewer than fp_task_min ({settings.fp_task_min})")
        choice.chosen.clear()
    elif len(pool.candidates) and not choice.chosen:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(choice.rejected.items()))
        messages.append(f"none of {len(pool.candidates)} candidates can be labelled: {counts}")
    return choice, checks, messages


APP = App(
    stage="select",
    name="model_devi",
    config=ModelDeviConfig,
    plan=plan,
    reduce=reduce,
    job=ScoreContext,
    check=check,
    executables=lambda stage: [(stage.command or "python3").split()[0]],
    tiny=lambda stage: {
        "adaptive": None,
        "auto_trust_lo": None,
        "f_trust_lo": 1e3,
        "f_trust_hi": 1e4,
        "v_trust_lo": None,
        "v_trust_hi": None,
        "model_devi_skip": 0,
    },
)
