"""Orders of users beyond pause, resume and cancel: go back (rewind), or continue with other settings (patch).

Nothing is undone. A rewind starts an iteration with a new number that replaces an earlier one: its keys, workflows and
claims are separate from those of the dropped iterations, whatever output of these still arrives. Results from the
stage that it goes back to, and later ones, are not used any more for training or exploration; they are not deleted.

A patched configuration is for the next iteration, or for the one that a rewind starts. Within an iteration all
attempts plan the same jobs; so `resume` adopts it only where it changes nothing but how jobs are run. The rules of the
machine (`Policy`) take effect at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conventions.errors import did_you_mean
from conventions.names import MAX_ID, STAGES
from conventions.state import IterationSummary, Policy, State


@dataclass(frozen=True)
class Order:
    """A user's command.

    Parameters
    ----------
    trigger
        `pause`, `resume`, `cancel`, `rewind`, `patch`, `take_over`, `fork` or `prune`.
    reason
        Kept in the history.
    iteration, stage
        Where a rewind goes back to; the first iteration that a `prune` leaves whole.
    config_sha256, policy
        A patch: the configuration, which is in the store, and what the machine needs of it.
    keeps_sha256
        For a patch that changes only how jobs are run: the configuration that plans the same jobs.
    home
        Where `take_over` brings the attempt: its own home is lost for good.
    run_uid, renamed
        A fork: its uid, and for each configuration that the state names the same one with the prefix of the fork.
    """

    trigger: str
    reason: str = ""
    iteration: int = 0
    stage: str = ""
    config_sha256: str = ""
    keeps_sha256: str = ""
    policy: Policy | None = None
    home: str = ""
    run_uid: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)


def adopted(state: State) -> dict[str, Any]:
    """The changes with which a patched configuration takes effect."""
    newest = state.next_config_sha256 or state.config_sha256
    return {"config_sha256": newest, "next_config_sha256": "", "next_keeps_sha256": ""}


def forked(state: State, order: Order) -> dict[str, Any]:
    """The changes of a fork: what works under the old names belongs to another run, so a new attempt begins."""
    names = ("config_sha256", "next_config_sha256", "next_keeps_sha256")
    configurations = {name: order.renamed.get(getattr(state, name), getattr(state, name)) for name in names}
    fresh = {} if state.ended else {"attempt": state.attempt + 1, "stalled": 0}
    return {"run_uid": order.run_uid, "home": "", "reason": order.reason, **configurations, **fresh}


def rewind_error(state: State, iteration: int, stage: str) -> str:
    """Why a run cannot go back there; "" when it can. The state's trail must reach back to that iteration."""
    if stage not in STAGES:
        return f"there is no stage {stage!r}; {did_you_mean(stage, STAGES)}"
    places = {row.iteration: row for row in _rows(state)}
    if iteration not in places:
        return f"there is no iteration {iteration}; the run is at iteration {state.iteration}"
    row = places[iteration]
    explored = _explored(state, iteration)
    if stage == "select" and explored < state.pruned:
        return f"the trajectories of iteration {explored} were deleted by `prune`; go back to an explore"
    if stage not in row.stages and (iteration, stage) != _further(state, row):
        done = ", ".join(row.stages) or "none"
        return (
            f"{stage} of iteration {iteration} was not done, or was dropped by a rewind (stages to go back to: {done})"
        )
    if row.explore_stage >= state.policy.explore_stages:
        return f"iteration {iteration} explored stage {row.explore_stage}; the configuration no longer has that stage"
    return "" if state.iteration < MAX_ID else "the largest iteration number is reached"


def rewound(state: State, order: Order) -> dict[str, Any]:
    """The changes of a rewind."""
    kept = STAGES[: STAGES.index(order.stage)]
    rows, trail = _rows(state), []
    place = next(row for row in rows if row.iteration == order.iteration)
    for row in rows:
        if row.iteration >= order.iteration:
            counts = [stage for stage in row.stages if row.iteration == order.iteration and stage in kept]
            row = row.model_copy(update={"stages": counts, "left": True})
        trail.append(row)
    return {
        "iteration": state.iteration + 1,
        "stage": order.stage,
        "attempt": 0,
        "stalled": 0,
        "finished": 0,
        "clean": place.clean,
        "explore_stage": place.explore_stage,
        "final": place.final if order.stage in ("label", "train") else "",
        "goal": None,
        "trail": trail,
        "systems": None,
        "reason": order.reason,
        **adopted(state),
    }


def needed_from(state: State) -> int:
    """The iteration of the newest trajectories, which a stage or a rewind may still read."""
    return min(state.newest.get("explore", 0), state.iteration)


def prune_error(state: State, iteration: int) -> str:
    """Why what the jobs before an iteration left cannot be deleted; "" when it can: no stage will read it."""
    if state.goal:  # whose trajectories it reads, may be in rows that this state does not hold
        return "a rewind is under way; prune when it is done"
    newest = needed_from(state)
    if iteration > newest:
        return f"the newest trajectories that are needed are those of iteration {newest}"
    return ""


def patch_error(state: State, policy: Policy) -> str:
    """Why a run cannot continue with these rules; "" when it can."""
    if policy.apps != state.policy.apps:
        return "the software of a stage cannot be changed"
    if state.explore_stage >= policy.explore_stages:
        return f"the run is in exploration stage {state.explore_stage}, which the patched configuration does not have"
    return ""


def patched(state: State, order: Order) -> dict[str, Any]:
    """The changes of a patch; a patch to the current configuration withdraws an earlier patch."""
    waits = order.config_sha256 != state.config_sha256
    return {
        "next_config_sha256": order.config_sha256 if waits else "",
        "next_keeps_sha256": order.keeps_sha256 if waits else "",
        "policy": order.policy,
        "reason": order.reason,
    }


def refusal(state: State, order: Order) -> str:
    """Why an order does not fit the state, for the user."""
    why = ""
    if order.trigger == "rewind":
        why = rewind_error(state, order.iteration, order.stage)
    if order.trigger == "patch" and order.policy is not None:
        why = patch_error(state, order.policy)
    if order.trigger == "prune":
        why = prune_error(state, order.iteration)
    if order.trigger == "take_over" and state.home in ("", order.home):
        why = "the run does not work elsewhere"
    return why or f"the run's state is {state.at}" + (" (paused)" if state.hold else "")


def _explored(state: State, iteration: int) -> int:
    """The iteration whose trajectories `select` of an iteration reads: after a rewind to `select` an earlier one."""
    rows = [row.iteration for row in state.trail if row.iteration <= iteration and "explore" in row.stages]
    return max(rows, default=state.earlier.newest.get("explore", 0) if state.earlier else 0)


def _rows(state: State) -> list[IterationSummary]:
    """The trail, with a row for an iteration that has not ended its first stage."""
    if state.trail and state.trail[-1].iteration == state.iteration:
        return list(state.trail)
    return [*state.trail, new_row(state)]


def new_row(state: State) -> IterationSummary:
    """The row of an iteration that has ended no stage yet."""
    return IterationSummary(
        iteration=state.iteration, explore_stage=state.explore_stage, clean=state.clean, final=state.final
    )


def _further(state: State, row: IterationSummary) -> tuple[int, str]:
    """The stage that the run is in, or would have entered next had it not ended."""
    after = STAGES[STAGES.index(state.stage) + 1 :]
    return state.iteration, after[0] if state.stage in row.stages and after else state.stage
