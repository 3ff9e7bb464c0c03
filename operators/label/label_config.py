"""The keys that every label app has beside those of a stage."""

from __future__ import annotations

from pydantic import Field

from conventions.config import StageConfig


class LabelConfig(StageConfig):
    """What of the labels may be left out."""

    ratio_failed: float = Field(0.5, ge=0, le=1, description="Fraction of frames that may fail; they are left out.")
    max_force: float | None = Field(
        None,
        gt=0,
        description="Frames with a larger force on an atom are left out as `too_strong`, eV/Angstrom; they count as "
        "failed.",
    )
