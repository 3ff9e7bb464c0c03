"""Why frames cannot be labelled, as far as the figures of an exploration tell: poor start, too hot, too close. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from conventions.figures import SelectFigures
from statemachine.machine.outlook import CLASSES

MANY = 0.5  # of the frames
FEW = 0.25


def causes(explored: SelectFigures | None, classes: Mapping[str, int]) -> list[str]:
    """The likely causes, and what helps; empty where most frames are accurate or candidates that can be labelled.

    Parameters
    ----------
    classes
        Of the frames that select looked at: selected, too_close, ...
    """
    found = []
    close, looked = classes.get("too_close", 0), classes.get("too_close", 0) + classes.get("selected", 0)
    if close > MANY * looked:
        found.append(
            f"too close: {close} of {looked} candidates have atoms on top of each other (min_distance_ratio); "
            "cut_at_failed leaves out what comes after a broken frame, dt may be too large"
        )
    by_temp = _failed(explored) if explored else {}
    total = [sum(part) for part in zip(*by_temp.values(), strict=True)]
    if not total or total[0] <= MANY * total[1]:
        return found
    share = {temp: failed / frames for temp, (failed, frames) in sorted(by_temp.items())}
    (coldest, least), (hottest, most) = next(iter(share.items())), list(share.items())[-1]
    if len(share) > 1 and least < FEW and most > MANY:
        found.append(
            f"too hot: {most:.0%} of the frames failed at {hottest:g} K, {least:.0%} at {coldest:g} K; leave the hot "
            "ones to a later exploration stage"
        )
    else:
        at = f" already at {coldest:g} K" if coldest else ""
        found.append(
            f"poor start: {least:.0%} of the frames failed{at}; add initial data that are like what is explored, or "
            "begin with shorter trajectories"
        )
    return found


def _failed(explored: SelectFigures) -> dict[float, tuple[int, int]]:
    """By temperature (0 where there is none), how many frames failed, and how many there are."""
    found: dict[float, tuple[int, int]] = {}
    for group in explored.groups:
        temp = group.conditions.get("temp")
        key = float(temp) if isinstance(temp, int | float) else 0.0
        failed, frames = found.get(key, (0, 0))
        more = sum(group.classes.get(name, 0) for name in CLASSES)
        if more:
            found[key] = failed + group.classes.get("failed", 0), frames + more
    return found
