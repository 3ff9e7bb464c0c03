"""select/model_devi: a structure set with few candidates gives none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from operators.select.checks import check
from tests.select_run import SelectRun, config, deviations, dump


def explored(root: Path, **select: Any) -> SelectRun:
    """Five candidates of bulk in two trajectories, three of surface."""
    run = SelectRun(root, **select)
    for seed, (structure, number) in enumerate([("bulk", 2), ("surface", 3), ("bulk", 3)]):
        steps = range(0, 10 * number, 10)
        run.add(deviations([*((step, 0.2) for step in steps), (900, 0.01)]), dump([*steps, 900], seed), structure)
    return run


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (1, {"bulk": 5, "surface": 3}),
        (3, {"bulk": 5, "surface": 3}),
        (4, {"bulk": 5}),
        (5, {"bulk": 5}),
        (6, {}),
    ],
)
def test_a_set_with_fewer_candidates_gives_none(tmp_path: Path, least: int, expected: dict[str, int]) -> None:
    run = explored(tmp_path, fp_task_min_per_system=least)
    report = run.stage()
    assert Counter(one["structure"] for one in run.manifest) == expected
    assert report.summary["candidate"] == 8 and report.next == bool(expected)
    assert report.classes.get("too_few") == ({1: None, 3: None, 4: 3, 5: 3}.get(least, 8))
    if not expected:
        assert report.messages == ["none of 8 candidates can be labelled: 8 too_few"]


def test_what_is_chosen_of_the_others_is_as_before(tmp_path: Path) -> None:
    """The order of the choice is that of all candidates."""
    chosen = {}
    for least in (1, 2, 4):
        run = explored(tmp_path / str(least), fp_task_min_per_system=least, fp_task_max=8)
        run.stage()
        chosen[least] = [(one["job_id"], one["step"]) for one in run.manifest]
    assert chosen[1] == chosen[2]
    assert chosen[4] == [one for one in chosen[1] if one[0] != "000001"]


def test_candidates_that_cannot_be_labelled_count(tmp_path: Path) -> None:
    run = SelectRun(tmp_path, fp_task_min_per_system=3)
    run.add(deviations([(step, 0.2) for step in (0, 10, 20)]), dump([0, 10]))  # the last frame was not written
    report = run.stage()
    assert (report.classes["selected"], report.classes["no_frame"], "too_few" in report.classes) == (2, 1, False)


@pytest.mark.parametrize(
    ("select", "refused"),
    [
        ({"fp_task_min_per_system": 100}, None),
        ({"fp_task_min_per_system": 101}, "101 is more than the frames of a structure set that may be labelled (100)"),
        ({"fp_task_min_per_system": 6, "fp_task_max_per_system": 5}, "6 is more than the frames .* labelled (5)"),
        ({"fp_task_min_per_system": 5, "fp_task_max_per_system": 5}, None),
    ],
)
def test_check(select: dict[str, Any], refused: str | None) -> None:
    found = check(config(**select))
    assert len(found) == (refused is not None)
    assert refused is None or found[0].startswith("select.fp_task_min_per_system: " + refused.split(" .* ")[0])
