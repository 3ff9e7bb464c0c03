"""The product of a select stage: the chosen frames, where each is from, and figures for reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.names import canonical_json

from .checks import LEVELS
from .extxyz import write_frames
from .figures import figures

if TYPE_CHECKING:
    from .choose import Choice
    from .pool import Pool

MOST_REJECTED = 1000  # that the manifest lists one by one; the report counts all


def write_product(product: Path, config: Any, trajectories: Sequence[Any], pool: Pool, choice: Choice) -> None:
    """Write `frames.extxyz`, `manifest.json` (where each frame is from, what was rejected) and `figures.json`."""
    found = pool.candidates
    frames = []
    for number, _ in choice.chosen:
        one = trajectories[found.trajectory[number]]
        frame = {
            "job_id": one.job_id,
            "task_id": one.task_id,
            "structure": one.structure,
            "step": int(found.step[number]),
        }
        frame["max_devi_f"] = float(found.max_devi_f[number])
        if config.select.v_trust_hi is not None:
            frame["max_devi_v"] = float(found.max_devi_v[number])
        frames.append(frame)
    product.mkdir(parents=True, exist_ok=True)
    named = [
        (trajectories[found.trajectory[number]].structure, float(found.max_devi_f[number]), frame)
        for number, frame in choice.chosen
    ]
    write_frames(product / "frames.extxyz", named, config.type_map)
    manifest: dict[str, Any] = {"schema_version": 1, "frames": frames}
    if choice.refused:
        manifest["rejected"] = [
            {
                "job_id": trajectories[found.trajectory[number]].job_id,
                "task_id": trajectories[found.trajectory[number]].task_id,
                "step": int(found.step[number]),
                "class": kind,
            }
            for number, kind in choice.refused[:MOST_REJECTED]
        ]
    if pool.lower:
        manifest["levels"] = pool.lower
    (product / "manifest.json").write_bytes(canonical_json(manifest) + b"\n")
    levels = {name: _levels(config.select, name, pool) for name in sorted({one.structure for one in trajectories})}
    (product / "figures.json").write_bytes(figures(pool.seen, trajectories, levels).dump())


def _levels(settings: Any, structure: str, pool: Pool) -> dict[str, float]:
    """The trust levels that counted for a structure set."""
    given = zip(LEVELS, settings.levels(structure), strict=True)
    return {name: value for name, value in given if value is not None} | pool.lower.get(structure, {})
