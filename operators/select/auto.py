"""A lower trust level that follows the labels: so low that errors of accurate frames stay below a number.

Deviations understate errors, and by how much changes from iteration to iteration. Each label tells it anew: the largest
error of a force on its frame, over the deviation by which that was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from conventions.documents import Strict

ENOUGH = 10  # labels that a trust level can be said from


class AutoTrust(Strict):
    """The force level below which 95 % of such frames had smaller errors, by the newest labels of candidates."""

    error: float = Field(
        gt=0,
        description="Largest error of a force that an accurate frame should have, eV/A: f_trust_lo is this over the "
        "95th percentile of error / deviation.",
    )
    start: float = Field(
        gt=0, description=f"f_trust_lo as long as no iteration has labelled {ENOUGH} chosen candidates, eV/A."
    )


def resolved(settings: Any, calibration: Mapping[str, float]) -> Any:
    """The settings of select with the level of this iteration in place of the rule; others as they are.

    Parameters
    ----------
    calibration
        iteration, labels, and ratio, the 95th percentile of error / deviation, of the newest labels that are enough;
        empty where there are none.
    """
    rule: AutoTrust | None = settings.auto_trust_lo
    if rule is None:
        return settings
    level = rule.error / calibration["ratio"] if calibration else rule.start
    highest = settings.f_trust_hi
    level = min([level, *(highest.values() if isinstance(highest, dict) else [highest])])
    return settings.model_copy(update={"auto_trust_lo": None, "f_trust_lo": float(f"{level:.6g}")})
