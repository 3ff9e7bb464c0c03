"""The keys of select/model_devi."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from conventions.config import Name, StageConfig
from conventions.errors import ConfigError

from .adaptive import Adaptive
from .auto import AutoTrust
from .checks import LEVELS, PAIR

Distance = Annotated[float, Field(gt=0)]
Pair = Annotated[str, Field(pattern=PAIR)]
Trust = Annotated[float, Field(ge=0)] | dict[Name, Annotated[float, Field(ge=0)]]


class ModelDeviConfig(StageConfig):
    """Selection by model deviation.

    Each trust level is a number, or a number for each structure set (`{"bulk": 0.1, "surface": 0.2}`).
    """

    foreign: ClassVar[dict[str, str]] = dict.fromkeys(
        Adaptive.model_fields, "this key belongs below `adaptive`, which is below `select`"
    ) | dict.fromkeys(AutoTrust.model_fields, "this key belongs below `auto_trust_lo`, which is below `select`")

    app: Literal["model_devi"] = "model_devi"
    adaptive: Adaptive | None = Field(None, description="Find the lower trust levels in each iteration.")
    auto_trust_lo: AutoTrust | None = Field(
        None, description="Find f_trust_lo in each iteration, from the errors of the newest labels."
    )
    f_trust_lo: Trust | None = Field(
        None,
        validate_default=True,
        description="Frames whose largest force deviation is below are accurate, eV/A; required without `adaptive` or "
        "`auto_trust_lo`.",
    )
    f_trust_hi: Trust = Field(description="From here on frames are failed: never labelled, eV/A.")
    v_trust_lo: Trust | None = Field(None, description="The same for the virial deviation, eV/atom; default: not used.")
    v_trust_hi: Trust | None = Field(None, description="The same for the virial deviation, eV/atom; default: not used.")
    fp_task_max: int = Field(ge=1, description="Most frames labelled in an iteration.")
    check_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="This share of fp_task_max (at least one frame) goes to frames drawn at random among the accurate: "
        "their labels tell the true error of what is not labelled otherwise. 0.1 is a good choice.",
    )
    fp_task_max_per_system: int | None = Field(None, ge=1, description="Most candidates of one structure set.")
    fp_task_min: int = Field(1, ge=1, description="If fewer frames would be labelled than that, none are.")
    fp_task_min_per_system: int = Field(
        1, ge=1, description="If a structure set has fewer candidates than that, none of it is labelled."
    )
    fp_accurate_threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Of a structure set with at least this fraction of accurate frames nothing is labelled; default: "
        "its candidates are labelled whatever the fraction.",
    )
    fp_accurate_soft_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="From this fraction of accurate frames on fewer of a structure set are labelled: the most at this "
        "one, none at fp_accurate_threshold.",
    )
    model_devi_skip: int = Field(
        1,
        ge=0,
        description="First frames of each trajectory that are neither counted nor chosen. By default the very first, "
        "from which it starts: nothing was explored yet. 0 counts it, as DP-GEN does.",
    )
    cut_at_failed: bool = Field(
        False, description="After the first failed frame of a trajectory none is a candidate; they count as failed."
    )
    min_distance: Distance | dict[Pair, Distance] | None = Field(
        None,
        description="Frames with two atoms closer than that are not labelled, Angstrom; a number for all pairs, or by "
        'pair of elements ({"Cu-O": 1.2}), the others by min_distance_ratio.',
    )
    min_distance_ratio: Distance | None = Field(
        0.65,
        le=2,
        description="The same, as a fraction of the sum of the two covalent radii; not used where min_distance is one "
        "number.",
    )
    max_length_ratio: float | None = Field(
        None, ge=1, description="Largest ratio between the longest and the shortest cell vector of a labelled frame."
    )
    max_tilt_angle: float | None = Field(
        None, gt=0, lt=90, description="Largest tilt of the cell of a labelled frame, degrees (BoxSkewness of DPGEN2)."
    )
    group_size: int = Field(500, ge=1, description="Trajectories in one score job.")

    @field_validator("f_trust_lo", mode="before")
    @classmethod
    def _no_word(cls, value: Any) -> Any:
        if value == "auto":
            raise ValueError("write auto_trust_lo: {error: 0.1, start: 0.05} (eV/A) in place of f_trust_lo")
        return value

    @field_validator("auto_trust_lo", "f_trust_lo", "v_trust_lo")
    @classmethod
    def _one_way_to_have_it(cls, value: Any, info: ValidationInfo) -> Any:
        force = info.field_name == "f_trust_lo"
        names = ("adaptive", "auto_trust_lo") if force else ("adaptive",)
        rules = [name for name in names if info.data.get(name) is not None]
        known = {"adaptive", "auto_trust_lo"} <= set(info.data)  # they are no errors themselves
        if force and value is None and known and not rules:
            raise PydanticCustomError("missing", "Field required")
        if value is not None and rules:
            raise ValueError(f"`{rules[0]}` finds this level in each iteration; leave one of the two out")
        return value

    @property
    def check_frames(self) -> int:
        """Most frames that are drawn among the accurate; a candidate has room beside them."""
        return min(math.ceil(round(self.check_fraction * self.fp_task_max, 9)), self.fp_task_max - 1)

    def levels(self, structure: str) -> tuple[float | None, ...]:
        """f_trust_lo, f_trust_hi, v_trust_lo, v_trust_hi of a structure set, by which frames are classified.

        Where the lower ones are `adaptive`, all that is below the upper ones is a candidate at first. `auto_trust_lo`
        is resolved before.
        """
        found = []
        for name in LEVELS:
            value = getattr(self, name)
            if self.adaptive is not None and name.endswith("_lo"):
                value = None if getattr(self, f"{name[0]}_trust_hi") is None else 0.0
            if isinstance(value, dict):
                if structure not in value:
                    raise ConfigError(f"select.{name}: structure set {structure!r} is explored but has no level here")
                value = value[structure]
            found.append(value)
        return tuple(found)
