"""Whether the settings of select/model_devi fit each other and the rest of a configuration."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any

from conventions.config import RunConfig
from conventions.forms import form
from operators.selected import CHECKS_ENOUGH

PAIR = form(r"^[A-Z][a-z]?-[A-Z][a-z]?$", "two elements: Cu-O")
LEVELS = ("f_trust_lo", "f_trust_hi", "v_trust_lo", "v_trust_hi")


def check(config: RunConfig) -> list[str]:
    """Problems between the trust levels, the structure sets and the committee."""
    settings: Any = config.select
    problems = []
    if getattr(config.train, "numb_models", 2) < 2:
        problems.append("train.numb_models: select/model_devi compares models, so it needs at least 2 (4 is usual)")
    if settings.adaptive is None and (settings.v_trust_lo is None) != (settings.v_trust_hi is None):
        problems.append("select.v_trust_lo and select.v_trust_hi: give both or none")
    if settings.fp_task_min > settings.fp_task_max:
        problems.append(
            f"select.fp_task_min: {settings.fp_task_min} is more than fp_task_max ({settings.fp_task_max}), "
            "so nothing would ever be labelled"
        )
    most = min(settings.fp_task_max, settings.fp_task_max_per_system or settings.fp_task_max)
    if settings.fp_task_min_per_system > most:
        problems.append(
            f"select.fp_task_min_per_system: {settings.fp_task_min_per_system} is more than the frames of a "
            f"structure set that may be labelled ({most})"
        )
    soft, threshold = settings.fp_accurate_soft_threshold, settings.fp_accurate_threshold
    if soft is not None and (threshold is None or soft > threshold):
        problems.append(
            f"select.fp_accurate_soft_threshold: {soft} is where fewer frames begin to be labelled; give an "
            f"fp_accurate_threshold above it, where none are{f', not {threshold}' if threshold is not None else ''}"
        )
    if settings.check_fraction and not settings.check_frames:
        problems.append("select.check_fraction: fp_task_max 1 leaves no room for a check frame; make it 2 or more")
    if config.convergence.rmse_f is not None and not config.init.test and settings.check_frames < CHECKS_ENOUGH:
        problems.append(
            "convergence.rmse_f: nothing tells the RMSE: give a test set (init.test), or make select.check_fraction "
            f"so large that there are {CHECKS_ENOUGH} check frames (now {settings.check_frames} of fp_task_max "
            f"{settings.fp_task_max})"
        )
    for pair in settings.min_distance if isinstance(settings.min_distance, dict) else ():
        if unknown := [element for element in pair.split("-") if element not in config.type_map]:
            problems.append(f"select.min_distance.{pair}: {unknown[0]} is not in type_map")
    if settings.auto_trust_lo is not None:
        problems += [
            f"select.auto_trust_lo: the deviations of {place} are relative (epsilon) and tell no error; give f_trust_lo"
            for place, group in _groups(config)
            if getattr(group, "epsilon", None) is not None
        ]
    for name in LEVELS:
        value = getattr(settings, name)
        for structure in value if isinstance(value, dict) else ():
            if structure not in config.structures:
                near = difflib.get_close_matches(structure, config.structures, 1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(config.structures) or 'none'}"
                problems.append(f"select.{name}: there is no structure set {structure!r}; {hint}")
    for place, group in _groups(config):
        rows = group.nsteps // group.trj_freq + 1 if getattr(group, "nsteps", None) else math.inf
        if settings.model_devi_skip >= rows:
            problems.append(
                f"select.model_devi_skip: {settings.model_devi_skip} is all that a trajectory of {place} has ({rows} "
                "frames), so nothing would ever count"
            )
    problems += [text for kind in "fv" for text in _unfit_levels(f"{kind}_trust_lo", f"{kind}_trust_hi", config)]
    return problems + (list(_unfit_rule(config)) if settings.adaptive else [])


def _groups(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """The task groups of all exploration stages, and where the configuration has them."""
    for stage, groups in enumerate(getattr(config.explore, "stages", [])):
        yield from ((f"explore.stages.{stage}.{number}", group) for number, group in enumerate(groups))


def _unfit_levels(low: str, high: str, config: RunConfig) -> Iterator[str]:
    """Lower trust levels that are not below the upper ones, and explored structure sets without a level."""
    settings: Any = config.select
    levels = {name: getattr(settings, name) for name in (low, high)}
    if settings.adaptive is not None:
        levels[low] = 0.0  # at its lowest
    if settings.auto_trust_lo is not None and low == "f_trust_lo":
        levels = {"auto_trust_lo.start": settings.auto_trust_lo.start, high: levels[high]}
        low = "auto_trust_lo.start"
    if None in levels.values():
        return
    explored = [name for _, group in _groups(config) for name in group.structures]
    named = [name for value in levels.values() if isinstance(value, dict) for name in value]
    for structure in dict.fromkeys(explored + named) or [""]:
        found: dict[str, Any] = {
            name: value.get(structure) if isinstance(value, dict) else value for name, value in levels.items()
        }
        missing = [name for name, value in found.items() if value is None]
        of = f" of {structure!r}" if named else ""
        if missing:
            if structure in explored:
                yield f"select.{missing[0]}: structure set {structure!r} is explored but has no level here; add one"
            continue
        if found[low] < found[high]:
            continue
        if settings.adaptive is None:
            yield f"select.{low}: {found[low]}{of} is not below {high} ({found[high]})"
        else:
            yield f"select.{high}: no frame is below {found[high]}{of}, so nothing would ever be labelled"
        if not named:
            return


def _unfit_rule(config: RunConfig) -> Iterator[str]:
    """Numbers of candidates that do not fit the other settings, and a rule of convergence that they make void."""
    settings: Any = config.select
    rule, rules = settings.adaptive, config.convergence
    for name in ("numb_candi_v", "rate_candi_v"):
        if getattr(rule, name) and settings.v_trust_hi is None:
            yield f"select.adaptive.{name}: it needs v_trust_hi: virials are not compared without it"
    most = rule.numb_candi_f + rule.numb_candi_v
    own = isinstance(settings.f_trust_hi, dict) or isinstance(settings.v_trust_hi, dict)
    # Of all sets together there are more where each one has its own number.
    for name in ("fp_task_min_per_system", *([] if own else ["fp_task_min"])):
        least = getattr(settings, name)
        if not rule.rate_candi_f and not rule.rate_candi_v and most < least:
            yield (
                f"select.{name}: {least} is more than adaptive.numb_candi_f and numb_candi_v allow ({most}), "
                "so nothing would ever be labelled"
            )
    if rules.repeat == "once":
        return
    if rules.level_drift is None:
        yield (
            "convergence.level_drift: give it with select.adaptive, such as 0.1: whether the lower level still changes "
            "is the only sign that exploration has converged"
        )
    share = max(rule.rate_candi_f, rule.rate_candi_v)
    if "accuracy" not in rules.model_fields_set:
        yield (
            "convergence.accuracy: give it with select.adaptive: so many frames are candidates however good the models "
            f"are that {rules.accuracy:g} may be out of reach; with 0.01 level_drift alone decides"
        )
    elif share + rules.accuracy > 1 + 1e-9:
        yield (
            f"convergence.accuracy: {rules.accuracy:g} is never reached where {share:g} of the frames are candidates "
            "(select.adaptive); with 0.01 level_drift alone decides"
        )
