"""DPGEN2's `convergence` and `filters`, and how many frames are labelled."""

from __future__ import annotations

from typing import Any

from conventions.errors import ConfigError

from ..draft import Draft
from ..source import Section
from .keys import ADAPTIVE, FILTERS, SELECT

_BOHR = 0.529 / 1.2  # DPGEN2's factor on a safe distance
_SAFE = "other pairs of elements go by select.min_distance_ratio: of the sum of their covalent radii"


def selection(explore: Section, fp: Section, draft: Draft) -> None:
    """The whole select stage, and when the run has converged."""
    draft.put("select.app", "model_devi", "")
    given = explore.need("convergence")
    where = explore.at("convergence")
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "adaptive-lower":
        _adaptive(Section(given, (ADAPTIVE,), explore.report, where), draft)
    elif kind in ("fixed-levels", "fixed-levels-max-select"):
        _levels(Section(given, (SELECT,), explore.report, where), draft)
    else:
        raise ConfigError(
            f"{where}.type: {kind!r}; DPGEN2 has fixed-levels, fixed-levels-max-select and adaptive-lower"
        )
    most = int(fp.number("task_max", 10))
    draft.put("select.fp_task_max", most, "fp.task_max" if "task_max" in fp else "DPGEN2's default of fp.task_max")
    draft.put("select.model_devi_skip", 0, "DPGEN2 counts the start of a trajectory, too")
    for number, each in enumerate(explore.of("filters", list, [])):
        _filter(Section(each, (FILTERS,), explore.report, f"{explore.at('filters')}[]"), number, draft)


def _levels(source: Section, draft: Draft) -> None:
    """Levels that are given."""
    if source.take("type") == "fixed-levels-max-select":
        source.change("type", "candidates are drawn at random, not those with the largest deviations")
    for ours, name in (("f_trust_lo", "level_f_lo"), ("f_trust_hi", "level_f_hi")):
        source.need(name)
        draft.put(f"select.{ours}", float(source.number(name)), source.at(name))
    _virial(source, draft, "lo", "hi")
    accuracy = float(source.number("conv_accuracy", 0.9))
    origin = source.at("conv_accuracy") if "conv_accuracy" in source else "DPGEN2's default of conv_accuracy"
    draft.put("convergence.accuracy", accuracy, origin)
    source.finish()


def _adaptive(source: Section, draft: Draft) -> None:
    """Lower levels that each iteration finds."""
    source.take("type")
    highest = float(source.number("level_f_hi", 0.5))
    found: dict[str, Any] = {}
    for kind, numb, rate in (("f", 200, 0.01), ("v", 0, 0.0)):
        found[f"numb_candi_{kind}"] = int(source.number(f"numb_candi_{kind}", numb))
        found[f"rate_candi_{kind}"] = float(source.number(f"rate_candi_{kind}", rate))
    draft.put("select.adaptive", found, "explore.convergence: adaptive-lower")
    draft.put("select.f_trust_hi", highest, source.at("level_f_hi"))
    _virial(source, draft, "hi")
    steps = int(source.number("n_checked_steps", 2))
    draft.put("convergence.accuracy", 0.01, "the level says when it has converged")
    draft.put("convergence.clean_iterations", max(1, steps - 1), source.at("n_checked_steps"))
    tolerance = float(source.number("conv_tolerance", 0.05))
    if highest <= 0 or tolerance <= 0:
        raise ConfigError(f"{source.at('conv_tolerance')} and level_f_hi: numbers above 0 are expected")
    draft.put("convergence.level_drift", tolerance / highest, f"{source.at('conv_tolerance')} / level_f_hi")
    chosen = str(source.text("candi_sel_prob", "uniform"))
    if chosen == "uniform":
        source.drop("candi_sel_prob", "uniform: candidates are drawn so")
    else:
        source.lose("candi_sel_prob", f"{chosen}: candidates are drawn at random, each as likely as the others")
    source.finish()


def _virial(source: Section, draft: Draft, *ends: str) -> None:
    """Levels of virials, where there are all."""
    values = {end: source.number(f"level_v_{end}") for end in ends}
    if all(value is not None for value in values.values()):
        for end, value in values.items():
            draft.put(f"select.v_trust_{end}", float(value), source.at(f"level_v_{end}"))
        return
    for end, value in values.items():
        source.drop(f"level_v_{end}", "not given" if value is None else "the other level of virials is not given")


def _filter(source: Section, number: int, draft: Draft) -> None:
    """One of the filters."""
    kind = source.text("type")
    if kind == "box_skewness":
        draft.put("select.max_tilt_angle", float(source.number("theta", 60.0)), f"explore.filters[{number}]")
    elif kind == "box_length":
        draft.put("select.max_length_ratio", float(source.number("length_ratio", 5.0)), f"explore.filters[{number}]")
    elif kind == "distance":
        _distance(source, draft)
    else:
        source.lose("type", f"there is no filter {kind}; min_distance, max_length_ratio and max_tilt_angle are there")
    for name in ("theta", "length_ratio", "custom_safe_dist", "safe_dist_ratio"):
        if name in source and source.untaken(name):
            source.drop(name, f"filter {kind} does not read it")
    source.finish()


def _distance(source: Section, draft: Draft) -> None:
    """The shortest distances of pairs of elements: the sum of their radii, where the source gives both."""
    own = source.of("custom_safe_dist", dict, {})
    ratio = float(source.number("safe_dist_ratio", 1.0))
    elements = draft.config["type_map"]
    radii = {element: own[element] for element in elements if isinstance(own.get(element), int | float)}
    pairs = {
        f"{one}-{other}": round((radii[one] + radii[other]) * _BOHR * ratio, 4)
        for place, one in enumerate(elements)
        for other in elements[place:]
        if one in radii and other in radii
    }
    if pairs:
        draft.put("select.min_distance", pairs, "explore.filters: sums of custom_safe_dist")
    if len(radii) < len(elements):
        draft.report.warn(f"explore.filters: distance: {_SAFE}")
        source.change("type", _SAFE)
