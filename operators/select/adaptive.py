"""Lower trust levels that each iteration finds: a fixed number of the frames below the upper ones are candidates.

As DP-GEN's `model_devi_adapt_trust_lo` and DPGEN2's `adaptive-lower`. Frames are told from each other by their
deviations only: where several have the very value of the level, all of them are candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from conventions.config import Fraction
from conventions.documents import Strict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Level = dict[str, float]  # f_trust_lo (eV/A) and, where virials are used, v_trust_lo (eV/atom)


class Adaptive(Strict):
    """How many frames are candidates: of those below the upper trust levels, the ones with the largest deviations."""

    numb_candi_f: int = Field(200, ge=0, le=10**9, description="At least so many, by the force deviation.")
    rate_candi_f: Fraction = Field(
        0.01, description="At least this fraction of the frames below the upper levels, by the force deviation."
    )
    numb_candi_v: int = Field(0, ge=0, le=10**9, description="And at least so many, by the virial deviation.")
    rate_candi_v: Fraction = Field(0.0, description="And at least this fraction, by the virial deviation.")

    @model_validator(mode="after")
    def _some(self) -> Adaptive:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("no frame would ever be a candidate: give numb_candi_f or rate_candi_f")
        return self


@dataclass(frozen=True)
class Adapting:
    """The rule of an iteration.

    Attributes
    ----------
    rule
        How many frames are candidates, of each group.
    groups
        Of each trajectory, the group whose levels are used for it.
    highs
        Of each group, f_trust_hi (eV/A) and v_trust_hi (eV/atom; None where virials are not used).
    members
        Of each group, its structure sets.
    """

    rule: Adaptive
    groups: Sequence[int]
    highs: Sequence[tuple[float, float | None]]
    members: Sequence[Sequence[str]]

    def levels(self, group: int, devi_f: NDArray[np.float64], devi_v: NDArray[np.float64]) -> Level:
        """Lower levels of a group from its frames below the upper ones: their deviations, both of shape (frames,)."""
        high_f, high_v = self.highs[group]
        found = {"f_trust_lo": lower_level(devi_f, self.rule.numb_candi_f, self.rule.rate_candi_f, high_f)}
        if high_v is not None:
            found["v_trust_lo"] = lower_level(devi_v, self.rule.numb_candi_v, self.rule.rate_candi_v, high_v)
        return found


class Below:
    """The deviations of all frames below the upper levels, by group: 8 or 16 bytes a frame."""

    def __init__(self, adapt: Adapting) -> None:
        self.adapt = adapt
        self._parts: defaultdict[int, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = defaultdict(list)

    def add(self, trajectory: NDArray[np.int64], devi_f: NDArray[np.float64], devi_v: NDArray[np.float64]) -> None:
        """Frames, by number of the trajectory and deviations; all of shape (frames,)."""
        import numpy as np

        groups = np.array(self.adapt.groups, np.int64)[trajectory]
        for group in np.unique(groups).tolist():
            mine = groups == group
            virial = self.adapt.highs[group][1] is not None
            self._parts[group].append((devi_f[mine], devi_v[mine] if virial else devi_v[:0]))

    def levels(self) -> dict[int, Level]:
        """The lower levels of each group that has frames below the upper ones."""
        import numpy as np

        columns = {
            group: (np.concatenate(each) for each in zip(*parts, strict=True)) for group, parts in self._parts.items()
        }
        return {group: self.adapt.levels(group, *columns[group]) for group in sorted(columns)}


def adapting(settings: Any, structures: Sequence[str]) -> Adapting | None:
    """The rule for trajectories of these structure sets; None where the lower levels are given.

    All sets together are one group; where an upper level is given for each set, each set is one.
    """
    if settings.adaptive is None:
        return None
    sets = sorted(set(structures))
    own = isinstance(settings.f_trust_hi, dict) or isinstance(settings.v_trust_hi, dict)
    members = [[name] for name in sets] if own else [sets] if sets else []
    groups = {name: number for number, names in enumerate(members) for name in names}
    highs = [settings.levels(names[0]) for names in members]
    return Adapting(
        settings.adaptive, [groups[name] for name in structures], [(high[1], high[3]) for high in highs], members
    )


def lower_level(values: NDArray[np.float64], number: int, rate: float, high: float) -> float:
    """The deviation from which on `number` frames, or a fraction `rate` of them, are left; `high` where none is.

    >>> import numpy as np
    >>> lower_level(np.array([0.1, 0.4, 0.2, 0.3]), number=1, rate=0.5, high=0.5)
    0.3
    """
    import numpy as np

    count = min(len(values), max(number, int(rate * len(values))))
    if count == 0:
        return high
    place = len(values) - count
    return float(np.partition(values, place)[place])
