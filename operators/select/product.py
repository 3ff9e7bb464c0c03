"""The product of a select stage: the chosen frames, where each is from, and figures for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.names import canonical_json

from .checks import LEVELS
from .extxyz import write_frames
from .figures import figures

if TYPE_CHECKING:
    from .choose import Candidates, Choice
    from .pool import Pool

MOST_REJECTED = 1000  # that the manifest lists one by one; the report counts all


def write_product(
    product: Path,
    config: Any,
    trajectories: Sequence[Any],
    pool: Pool,
    choice: Choice,
    checks: Choice,
    found_by: Mapping[str, Any],
) -> None:
    """Write `frames.extxyz`, `manifest.json` (where each frame is from, what was rejected) and `figures.json`.

    The check frames come last. `found_by` is what the lower trust level was found from, if it was.
    """
    frames, named, rejected = [], [], []
    for rows, found in ((pool.candidates, choice), (pool.accurate, checks)):
        for number, atoms in found.chosen:
            one = trajectories[rows.trajectory[number]]
            frame = {**_place(rows, number, trajectories), "structure": one.structure}
            frame["max_devi_f"] = float(rows.max_devi_f[number])
            if config.select.v_trust_hi is not None:
                frame["max_devi_v"] = float(rows.max_devi_v[number])
            if found is checks:
                frame["check"] = True
            frames.append(frame)
            named.append((one.structure, frame["max_devi_f"], atoms))
        rejected += [{**_place(rows, number, trajectories), "class": kind} for number, kind in found.refused]
    product.mkdir(parents=True, exist_ok=True)
    write_frames(product / "frames.extxyz", named, config.type_map, checks=len(checks.chosen))
    manifest: dict[str, Any] = {"schema_version": 1, "frames": frames, **found_by}
    if rejected:
        manifest["rejected"] = rejected[:MOST_REJECTED]
    if pool.lower:
        manifest["levels"] = pool.lower
    (product / "manifest.json").write_bytes(canonical_json(manifest) + b"\n")
    levels = {name: _levels(config.select, name, pool) for name in sorted({one.structure for one in trajectories})}
    (product / "figures.json").write_bytes(figures(pool.seen, trajectories, levels).dump())


def _place(rows: Candidates, number: int, trajectories: Sequence[Any]) -> dict[str, Any]:
    """Where a frame is from."""
    one = trajectories[rows.trajectory[number]]
    return {"job_id": one.job_id, "task_id": one.task_id, "step": int(rows.step[number])}


def _levels(settings: Any, structure: str, pool: Pool) -> dict[str, float]:
    """The trust levels that counted for a structure set."""
    given = zip(LEVELS, settings.levels(structure), strict=True)
    return {name: value for name, value in given if value is not None} | pool.lower.get(structure, {})
