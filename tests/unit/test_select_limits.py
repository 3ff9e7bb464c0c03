"""select/model_devi: of a structure set that is accurate enough fewer frames are labelled, or none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.select.checks import check
from operators.select.limits import limits
from tests.select_run import SelectRun, config, deviations, dump


def explored(root: Path, **select: Any) -> SelectRun:
    """Of bulk (in two trajectories) 12 of 20 frames are accurate, of surface 2 of 10; the others are candidates."""
    run = SelectRun(root, **select)
    for seed, (structure, accurate) in enumerate([("bulk", 4), ("surface", 2), ("bulk", 8)]):
        rows = [(10 * row, 0.01 if row < accurate else 0.2) for row in range(10)]
        run.add(deviations(rows), dump([step for step, _ in rows], seed), structure)
    return run


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({}, {"bulk": 8, "surface": 8}),
        ({"fp_accurate_threshold": 0.61}, {"bulk": 8, "surface": 8}),
        ({"fp_accurate_threshold": 0.6}, {"surface": 8}),
        ({"fp_accurate_threshold": 0.2}, {}),
        ({"fp_accurate_threshold": 0.8, "fp_accurate_soft_threshold": 0.4}, {"bulk": 5, "surface": 8}),
        ({"fp_accurate_threshold": 0.8, "fp_accurate_soft_threshold": 0.0}, {"bulk": 2, "surface": 7}),
        (
            {"fp_accurate_threshold": 0.8, "fp_accurate_soft_threshold": 0.4, "fp_task_min_per_system": 6},
            {"surface": 8},
        ),
    ],
)
def test_how_many_of_each_set_are_labelled(tmp_path: Path, select: dict[str, Any], expected: dict[str, int]) -> None:
    run = explored(tmp_path, fp_task_max_per_system=10, **select)
    report = run.stage()
    assert Counter(one["structure"] for one in run.manifest) == expected
    assert report.summary["candidate"] == 16 and report.next == bool(expected)
    dropped = 8 * (2 - len(expected))
    assert report.classes.get("accurate_set", 0) == dropped
    if not expected:
        assert report.messages == ["none of 16 candidates can be labelled: 16 accurate_set"]


def test_frames_that_could_not_be_judged_do_not_count() -> None:
    counts = np.array([[9, 1, 0, 90, 90]])
    assert limits(config(fp_accurate_threshold=0.9).select, ["bulk"], counts) == {"bulk": 0}


def test_a_set_without_a_frame_has_the_usual_limit() -> None:
    counts = np.zeros((1, 5), np.int64)
    assert limits(config(fp_accurate_threshold=0.9, fp_task_max=7).select, ["bulk"], counts) == {"bulk": 7}


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ({"fp_accurate_threshold": 0.9, "fp_accurate_soft_threshold": 0.9}, []),
        ({"fp_accurate_soft_threshold": 0.9}, ["give an fp_accurate_threshold above it, where none are"]),
        ({"fp_accurate_threshold": 0.8, "fp_accurate_soft_threshold": 0.9}, ["where none are, not 0.8"]),
    ],
)
def test_check(select: dict[str, Any], said: list[str]) -> None:
    found = check(config(**select))
    assert len(found) == len(said) and all(part in problem for part, problem in zip(said, found, strict=True))
