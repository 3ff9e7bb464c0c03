"""DP-GEN's trust levels and limits."""

from __future__ import annotations

import math
from typing import Any

from conventions.errors import ConfigError

from ..draft import Draft
from ..source import Section
from .explore import LEVELS, Job

_OFF = 1e9  # DP-GEN's default of a virial's level is 1e10


def selection(param: Section, draft: Draft, jobs: Job) -> None:
    """The whole select stage."""
    draft.put("select.app", "model_devi", "")
    _levels(param, draft, jobs)
    most = int(param.need_number("fp_task_max"))
    draft.put("select.fp_task_max_per_system", most, "fp_task_max, which DP-GEN counts for each system")
    draft.put("select.fp_task_max", most * jobs.most, f"fp_task_max times {jobs.most}, the most systems of one job")
    fewest = max(1, int(param.number("fp_task_min", 1)))
    draft.put("select.fp_task_min_per_system", fewest, "fp_task_min, which DP-GEN counts for each system")
    _skip(param, draft)
    _accurate(param, draft)
    _boxes(param, draft)


def _accurate(param: Section, draft: Draft) -> None:
    """From which fraction of accurate frames on fewer of a system are labelled, and none."""
    threshold = float(param.number("fp_accurate_threshold", 1.0))
    soft = float(param.number("fp_accurate_soft_threshold", threshold))
    begin, end = min(soft, 1.0), min(max(soft, threshold), 1.0)
    if soft > threshold:
        param.change("fp_accurate_soft_threshold", "it is above fp_accurate_threshold, and counts in its place")
    for key in ("fp_accurate_threshold", "fp_accurate_soft_threshold"):
        if key in param and begin >= 1:
            param.drop(key, "1: all candidates are labelled")
        elif key in param and end <= 0:
            param.lose(key, "0: nothing would ever be labelled")
    if begin >= 1 or end <= 0:
        return
    draft.put("select.fp_accurate_threshold", end, param.origin("fp_accurate_threshold", "DP-GEN"))
    if begin < end:
        draft.put("select.fp_accurate_soft_threshold", begin, "fp_accurate_soft_threshold")
    if end < 1:  # else a set of which nothing is labelled might still count as not converged
        draft.put("convergence.accuracy", end, "fp_accurate_threshold")


def _skip(param: Section, draft: Draft) -> None:
    """Frames for DP-GEN's steps: it skips what comes before that step, and counts the start where that is 0."""
    steps = int(param.number("model_devi_skip", 0))
    groups = [group for stage in draft.config["explore"].get("stages", []) for group in stage]
    frames = {math.ceil(steps / group["trj_freq"]) for group in groups} or {steps}
    draft.put(
        "select.model_devi_skip", max(frames), "model_devi_skip, from steps to frames" if steps else "model_devi_skip"
    )
    if len(frames) > 1:
        param.change(
            "model_devi_skip", f"steps; with the trj_freq of the jobs these are {min(frames)} to {max(frames)} frames"
        )


def _levels(param: Section, draft: Draft, jobs: Job) -> None:
    """One level for all sets where all have the same, else one for each."""
    adaptive = param.flag("model_devi_adapt_trust_lo")
    if adaptive:
        _adaptive(param, draft)
    else:
        for key in ("model_devi_adapt_trust_lo", *_CANDIDATES):
            if key in param:
                param.drop(key, "model_devi_adapt_trust_lo is off")
    for name in LEVELS:
        key = f"model_devi_{name}"
        if adaptive and name.endswith("lo"):
            param.drop(key, "model_devi_adapt_trust_lo finds it, in DP-GEN too")
            continue
        given = param.take(key, 1e10) if name[0] == "v" else param.need(key)
        values = {
            set_name: _level(own.get(name, given), index, param.at(key)) for set_name, (index, own) in jobs.sets.items()
        }
        distinct: set[Any] = set(values.values()) or {_level(given, 0, param.at(key))}
        if all(value >= _OFF for value in distinct):
            if key in param:
                param.drop(key, "so large that it decides nothing")
            continue
        # Each set finds a lower level of its own where it has an upper one of its own.
        one = len(distinct) == 1 and not (adaptive and len(values) > 1)
        draft.put(f"select.{name}", distinct.pop() if one else values, key)
    if adaptive:
        return
    low, high = (f"v_trust_{end}" in draft.config["select"] for end in ("lo", "hi"))
    if low != high:  # DP-GEN's default stands for the other one
        draft.put(f"select.v_trust_{'hi' if low else 'lo'}", 1e10, "DP-GEN's default")


# DP-GEN's key -> (key of select.adaptive, DP-GEN's default, factor): what it gives in per cent is a fraction here.
_CANDIDATES = {
    "model_devi_numb_candi_f": ("numb_candi_f", 10, 1),
    "model_devi_numb_candi_v": ("numb_candi_v", 0, 1),
    "model_devi_perc_candi_f": ("rate_candi_f", 0.0, 0.01),
    "model_devi_perc_candi_v": ("rate_candi_v", 0.0, 0.01),
}


def _adaptive(param: Section, draft: Draft) -> None:
    """How many frames of each system are candidates."""
    found = {}
    for key, (name, default, factor) in _CANDIDATES.items():
        value = param.number(key, default) * factor
        found[name] = float(value) if name.startswith("rate") else int(value)
    draft.put("select.adaptive", found, "model_devi_numb_candi_f, model_devi_perc_candi_f, ...")


def _level(given: Any, index: int, where: str) -> float:
    """The level of a system: of a number, of a list by its number, of a mapping by its number as text."""
    try:
        found = given[index] if isinstance(given, list) else given[str(index)] if isinstance(given, dict) else given
        return float(found)
    except (IndexError, KeyError):
        raise ConfigError(f"{where}: it has no level for system {index}, which is explored") from None
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: a number is expected, or one for each system, not {given!r}") from None


def _boxes(param: Section, draft: Draft) -> None:
    """fp_skip_bad_box: "length_ratio:5;tilt_ratio:1"."""
    text = param.text("fp_skip_bad_box")
    if text is None:
        return
    left = []
    for part in str(text).split(";"):
        name, _, value = part.partition(":")
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"{param.at('fp_skip_bad_box')}: {part!r} is not a name and a number") from None
        if name.strip() == "length_ratio":
            draft.put("select.max_length_ratio", max(1.0, number), "fp_skip_bad_box: length_ratio")
        elif name.strip() == "tilt_ratio":
            angle = math.degrees(math.atan(number))
            draft.put("select.max_tilt_angle", angle, "fp_skip_bad_box: arctan of tilt_ratio, degrees")
        else:
            left.append(name.strip())
    if left:
        param.lose(
            "fp_skip_bad_box", f"{', '.join(left)}: no such filter; max_length_ratio and max_tilt_angle are there"
        )
