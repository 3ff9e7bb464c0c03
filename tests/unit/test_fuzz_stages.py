"""Poison in the outputs of label jobs: all_reduce counts it, leaves it out, and keeps every other frame."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given

from operators.label.frames import ABSURD_ENERGY, ABSURD_FORCE
from tests.figures import Figures
from tests.label_run import LabelRun
from tests.mutations import LONG, QUICK, examples, mutated, small_memory
from tests.stage_harness import record, run_job
from tests.unit.test_label_cp2k import GOLDEN, make, waters

FRAMES = 3  # one in a job; the first job's output is spoiled


def emt(root: Path) -> LabelRun:
    frames = [bulk("Cu", a=3.5 + 0.05 * number) for number in range(FRAMES)]
    label = {"app": "ase", "calculator": "ase.calculators.emt:EMT", "group_size": 1, "ratio_failed": 1.0}
    return LabelRun(root, label, frames, ["Cu"])


def cp2k(root: Path) -> LabelRun:
    return make(root, [waters(0) for _ in range(FRAMES)], ratio_failed=1.0)


RUNS: dict[str, Any] = {"ase": (emt, "labels.jsonl"), "cp2k": (cp2k, "output.log")}


def check(root: Path, app: str, count: int) -> int:
    """Reduce a stage with so many damaged outputs of its first job."""
    make_run, name = RUNS[app]
    run: LabelRun = make_run(root)
    for job_id in run.plan().job_ids:
        run_job(run.app, run.place, run.root, job_id)
    output = root / run.place.job("000000").job_out / "task.000000" / name
    good = output.read_bytes()
    whole = systems(run, FRAMES)
    samples: Sequence[bytes] = [good, *(path.read_bytes() for path in GOLDEN.glob("cp2k-*.log") if app == "cp2k")]
    tried = 0

    @examples(count)
    @given(mutated(samples))
    def go(data: bytes) -> None:
        nonlocal tried
        tried += 1
        output.write_bytes(data)
        record(run.place, root, "000000")
        for folder in (run.labels, root / run.place.product):
            shutil.rmtree(folder, ignore_errors=True)
        report = run.reduce(FRAMES)
        labelled, discarded = report.summary["labelled"], report.summary["discarded"]
        assert report.complete and labelled + discarded == FRAMES == sum(report.classes.values())
        found = systems(run, 0)
        assert len(found) == labelled >= FRAMES - 1
        for values in found:
            assert np.isfinite(values).all() and np.abs(values[1:]).max() <= ABSURD_FORCE
            assert abs(values[0]) <= ABSURD_ENERGY * len(values)
        for values in whole[1:]:  # the other frames, to the last bit
            assert any(np.array_equal(values, each) for each in found)

    with small_memory():
        go()
    return tried


def systems(run: LabelRun, reduce: int) -> list[Any]:
    """Energy and forces of each frame in the dataset."""
    if reduce:
        run.reduce(reduce)
    frames = []
    for folder in sorted({raw.parent for raw in run.labels.rglob("type.raw")}):
        data = dpdata.LabeledSystem(str(folder), fmt="deepmd/npy").data
        frames += [np.append(e, f) for e, f in zip(data["energies"], data["forces"], strict=True)]
    return frames


@pytest.mark.parametrize("app", RUNS)
def test_poison_is_counted_and_left_out(app: str, tmp_path: Path) -> None:
    assert check(tmp_path, app, QUICK) > 0


@pytest.mark.slow
def test_much_poison(tmp_path: Path, figure: Figures) -> None:
    tried = [check(tmp_path / app, app, LONG) for app in RUNS if not (tmp_path / app).mkdir()]
    figure("bad input: poison outputs reduced", sum(tried), exact=False)
