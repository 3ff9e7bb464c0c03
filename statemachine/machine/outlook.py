"""What the figures of the iterations say of where a run goes, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from conventions.state import IterationSummary, State

CLASSES = ("accurate", "candidate", "failed")
GROWN = 1.2  # a force RMSE larger than before by this factor is no noise any more
ALIKE = 0.8  # from this fraction of the test error on, the training error is about equal to it
HELPED = 0.95  # labels that leave more than this of the test error did not help
MORE = 0.1  # fewer new labels than this fraction of those before cannot be expected to help


def shares(figures: Mapping[str, float]) -> dict[str, float]:
    """Fractions of the explored frames by class; none where nothing was explored."""
    total = sum(figures.get(name, 0.0) for name in CLASSES)
    return {name: figures.get(name, 0.0) / total for name in CLASSES} if total else {}


def is_accurate(state: State, figures: Mapping[str, float]) -> bool:
    """Is an iteration's exploration accurate enough, and its level (95th percentile) stable?"""
    rules = state.policy.convergence
    accurate = shares(figures).get("accurate", 0.0) >= rules.accuracy
    if not accurate or rules.level_drift is None:
        return accurate
    previous, level = state.level_before, figures.get("level")
    return previous is not None and level is not None and abs(level - previous) <= rules.level_drift * previous


def rmse_problem(state: State, figures: Mapping[str, float]) -> str:
    """Why the force RMSE does not let the run converge; "" where it does, or where nothing is asked of it.

    Parameters
    ----------
    figures
        Of this iteration. The newest models may be of an earlier one; check frames are labelled in this one.
    """
    wanted = state.policy.convergence.rmse_f
    if wanted is None:
        return ""
    known = [figures, *(row.figures for row in reversed(state.trail) if "train" in row.stages)]
    found = next((each["rmse_f"] for each in known if "rmse_f" in each), None)
    of = "on the test set is"
    if found is None:
        found, of = figures.get("check_rmse_f_high"), "of accurate frames may be"
    if found is None:
        return "the force RMSE is not known: too few check frames have a label (convergence.rmse_f asks for it)"
    return f"the force RMSE {of} {found:.3g} eV/A (convergence.rmse_f: {wanted:g})" if found > wanted else ""


def needed(state: State) -> list[str]:
    """What the rule of convergence asks for, and how far the last exploration is from it; empty for an ended run."""
    rules, found = state.policy.convergence, [row for row in state.trail if not row.left and shares(row.figures)]
    if state.ended or not found or rules.repeat == "once":
        return []
    last = found[-1]
    share = shares(last.figures)["accurate"]
    lines = [f"accurate frames: {share:.1%} of {rules.accuracy:.1%} (iteration {last.iteration})"]
    if rules.clean_iterations > 1:
        lines.append(f"accurate iterations in a row: {state.clean} of {rules.clean_iterations}")
    level, before = last.figures.get("level"), [row.figures.get("level") for row in found[:-1]][-1:]
    if rules.level_drift is not None and level is not None and before and before[0]:
        drift = abs(level - before[0]) / before[0]
        lines.append(f"change of the level: {drift:.1%}, at most {rules.level_drift:.1%}")
    if problem := rmse_problem(state, state.figures):
        lines.append(problem)
    stages = state.policy.explore_stages
    return [*lines, f"exploration stage {state.explore_stage + 1} of {stages}"] if stages > 1 else lines


def force_rmse(figures: Mapping[str, float]) -> float | None:
    """Of the independent test set, else of the training set, eV/A."""
    return figures.get("rmse_f", figures.get("train_rmse_f"))


def compared(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each row what its errors are compared with: those of the newest models before it, and `labels` until then.

    Rows that a rewind dropped (`left`) are compared, and nothing is compared with them.
    """
    known: dict[str, Any] = {}
    for row in rows:
        yield dict(known)
        if row.get("left"):
            continue
        labels = known.get("labels", 0.0) + row.get("labelled", 0.0)
        if force_rmse(row) is not None:
            known = {name: row[name] for name in ("rmse_f", "train_rmse_f") if name in row}
        known["labels"] = labels


def training_limited(figures: Mapping[str, float], before: Mapping[str, float]) -> str:
    """Do the models lack steps of training, not labels? "" where not, or where it is not known.

    It is so where the errors on test and training data are about equal, so that nothing new is learned from more data
    of the kind, and a tenth more labels did not make the test error smaller.
    """
    test, train, then = figures.get("rmse_f"), figures.get("train_rmse_f"), before.get("rmse_f")
    new, labels = figures.get("labelled", 0.0), before.get("labels", 0.0)
    if test is None or train is None or then is None or not new or new < MORE * labels:
        return ""
    if train < ALIKE * test or test < HELPED * then:
        return ""
    return (
        f"training-limited: more steps, not more labels (rmse_f {then:.3f} -> {test:.3f} with {new:.0f} labels more, "
        f"{train:.3f} in training)"
    )


def warnings(figures: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """What in a row of the table is a bad sign, given what it is compared with."""
    found = []
    if shares(figures).get("failed", 0.0) > 0.5:
        found.append("more than half failed")
    now, then = force_rmse(figures), force_rmse(before)
    if now is not None and then is not None and now > GROWN * then and ("rmse_f" in figures) == ("rmse_f" in before):
        found.append("RMSE grew")
    if limited := training_limited(figures, before):
        found.append(limited)
    return found


def why_not_converged(rows: Iterable[IterationSummary], wanted: float) -> str:
    """The figures that tell why exploration has not converged, and what helps; "" where nothing was explored.

    Parameters
    ----------
    wanted
        `convergence.accuracy`.
    """
    counted = [row.figures for row in rows if not row.left]
    found = [each for each in map(shares, counted) if each]
    if not found:
        return ""
    last = found[-1]
    text = (
        f"{last['accurate']:.1%} of the frames were accurate ({wanted:.0%} are asked for), {last['failed']:.1%} failed"
    )
    if len(found) > 1:
        text += f"; an iteration before {found[-2]['accurate']:.1%} and {found[-2]['failed']:.1%}"
    errors = [error for error in map(force_rmse, counted) if error is not None]
    if len(errors) > 1:
        text += f"; the force RMSE went from {errors[0]:.3g} to {errors[-1]:.3g} eV/A"
    if last["failed"] > 0.5:
        text += ". More than half failed: lower the temperatures, or add initial data"
    elif len(errors) > 1 and errors[-1] > GROWN * errors[0]:
        text += ". The errors grow: look at the labels (`dpgen2-sm logs`) and at numb_steps of the training"
    return text
