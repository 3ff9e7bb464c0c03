"""Four instant apps, registered as a third party would: an entry point each. Put this folder on PYTHONPATH.

Each execution of a task is written to the ledger (a folder named by STUB_LEDGER), so that a test can prove
that nothing ran twice. A task named STUB_GATE_AT waits at a gate: the fifos `entered` and `go` in STUB_GATE.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from conventions.config import StageConfig
from conventions.documents import StageReport
from operators.core import App, JobContext, Model, Output, PlanContext, Planned, ReduceContext, Reduced, ReduceParams
from operators.jobs import Script, Task, job_counts, read_tasks, write_jobs, write_report
from operators.registry import load_config
from operators.setup import with_setup

RUN = """\
[ -z "${STUB_LEDGER:-}" ] || echo "$JOB_ID" >>"$STUB_LEDGER/$(cat name)"
if [ "$(cat name)" = "${STUB_GATE_AT:-}" ]; then
  echo entered >"$STUB_GATE/entered"
  read -r go <"$STUB_GATE/go"
fi
[ ! -e "${STUB_FAIL:-/nonexistent}" ] || exit 7
cat name >result
"""


class StubConfig(StageConfig):
    app: Literal["stub"] = "stub"
    tasks: int = 2
    accurate_after: int = 2


@dataclass(frozen=True)
class PlanParams:
    iteration: int


@dataclass(frozen=True)
class TrainPlanParams(PlanParams):
    systems: list[str]


@dataclass(frozen=True)
class LabelReduceContext(ReduceContext):
    labels: Annotated[Path, Output(lambda at: at.labels)]


def _plan(stage: str, params: PlanParams, ctx: PlanContext) -> Planned:
    config = getattr(load_config(ctx.config.read_bytes()), stage)
    tasks = [Task({"name": f"{stage}-{params.iteration}-{index}"}) for index in range(config.tasks)]
    script = Script(with_setup(config, RUN), need=["result"])
    return write_jobs(ctx.jobs, ctx.done, tasks, script, config.group_size)


def _reduce(
    stage: str, params: ReduceParams, ctx: ReduceContext, summary: dict[str, float], more: bool, **written: Path
) -> Reduced:
    tasks = list(read_tasks(ctx, params.n_jobs))
    counts = job_counts(params.n_jobs, tasks)
    complete = counts.failed == 0
    ctx.product.mkdir(parents=True, exist_ok=True)
    if complete:
        names = [(task.folder / "result").read_text() for task in tasks if task.folder]
        (ctx.product / "results.txt").write_text("\n".join(names))
    messages = [task.error() for task in tasks if task.folder is None][:3]
    report = StageReport(
        stage=stage,
        app="stub",
        iteration=params.iteration,
        attempt=params.attempt,
        complete=complete,
        next=complete and more,
        jobs=counts,
        summary=summary,
        messages=messages,
    )
    return write_report(ctx.report, report, product=ctx.product, **written)


def plan_label(params: PlanParams, ctx: PlanContext) -> Planned:
    return _plan("label", params, ctx)


def plan_train(params: TrainPlanParams, ctx: PlanContext) -> Planned:
    print(f"{len(params.systems)} systems")
    return _plan("train", params, ctx)


def plan_explore(params: PlanParams, ctx: PlanContext) -> Planned:
    return _plan("explore", params, ctx)


def plan_select(params: PlanParams, ctx: PlanContext) -> Planned:
    return _plan("select", params, ctx)


def reduce_label(params: ReduceParams, ctx: LabelReduceContext) -> Reduced:
    system = ctx.labels / "Cu1"
    system.mkdir(parents=True)
    (system / "type.raw").write_text("0\n")
    return _reduce("label", params, ctx, {"labelled": float(params.n_jobs)}, True, labels=ctx.labels)


def reduce_train(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    return _reduce("train", params, ctx, {"rmse_f": 1.0 / (1 + params.iteration)}, True)


def reduce_explore(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    return _reduce("explore", params, ctx, {"trajectories": float(params.n_jobs)}, True)


def reduce_select(params: ReduceParams, ctx: ReduceContext) -> Reduced:
    config = load_config(ctx.config.read_bytes()).select
    good = params.iteration >= config.accurate_after
    figures = {"accurate": 100.0 if good else 50.0, "candidate": 0.0 if good else 50.0, "failed": 0.0}
    return _reduce("select", params, ctx, {**figures, "selected": 0.0 if good else 2.0}, not good)


def committee(product: Path) -> dict[str, Model]:
    """One model, which says that there are no forces, and no energies."""

    def model(symbols: list[str], positions: Any, cells: Any) -> tuple[Any, Any, Any]:
        return 0 * positions[:, 0, 0], 0 * positions, 0 * cells

    return {"results.txt": model}


LABEL = App("label", "stub", StubConfig, plan_label, reduce_label, JobContext)
TRAIN = App("train", "stub", StubConfig, plan_train, reduce_train, JobContext, models=committee)
EXPLORE = App("explore", "stub", StubConfig, plan_explore, reduce_explore, JobContext)
SELECT = App("select", "stub", StubConfig, plan_select, reduce_select, JobContext)
