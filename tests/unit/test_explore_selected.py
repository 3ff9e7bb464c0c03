"""Task groups that go on from what select chose last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from conventions.errors import DataError
from operators.select.dump import Frame
from operators.select.extxyz import write_frames
from operators.sums import write_sums
from tests.explore_run import ExploreRun

CU = bulk("Cu", "fcc", a=3.6, cubic=True)
GROUP: dict[str, Any] = {"structures": ["cu", "hot"], "ensemble": "nve", "temps": [300.0], "nsteps": 10}


def select(run: ExploreRun, iteration: int, frames: list[tuple[str, Atoms]]) -> Path:
    """What select left in an iteration."""
    place = run.space.stage("select", iteration, dict.fromkeys(("label", "train", "explore"), iteration))
    product = run.root / place.product
    product.mkdir(parents=True)
    chosen = [(name, 0.2, Frame(one.cell.array, np.zeros(len(one), int), one.positions)) for name, one in frames]
    write_frames(product / "frames.extxyz", chosen, ["Cu"])
    write_sums(product)
    return product


def explored(run: ExploreRun, iteration: int) -> list[tuple[str, int, int]]:
    """Set, place and number of atoms of each task."""
    found = []
    for job in range(run.plan(iteration).n_jobs):
        facts = json.loads((run.task(job) / "task.json").read_bytes())
        atoms = int((run.task(job) / "conf.lmp").read_text().partition(" atoms")[0].split()[-1])
        found.append((facts["structure"], facts["index"], atoms))
    return found


def test_goes_on_from_the_selected_frames_of_its_sets(tmp_path: Path) -> None:
    sets = {"cu": [CU], "hot": [CU.repeat((2, 1, 1))]}
    run = ExploreRun(tmp_path, sets, [[{**GROUP, "start": "selected"}, GROUP]], ["Cu"])
    files = [("cu", 0, 4), ("hot", 0, 8)]
    assert explored(run, 0) == files * 2, "nothing is selected yet"
    select(run, 0, [("cu", CU.repeat((3, 1, 1))), ("other", CU), ("cu", CU.repeat((4, 1, 1)))])
    assert explored(run, 1) == [("cu", 0, 12), ("cu", 1, 16), ("hot", 0, 8), *files]


def test_none_selected_is_the_beginning_again(tmp_path: Path) -> None:
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[{**GROUP, "structures": ["cu"], "start": "selected"}]], ["Cu"])
    select(run, 0, [])
    assert explored(run, 1) == [("cu", 0, 4)]


def test_n_sample_takes_turns_through_them(tmp_path: Path) -> None:
    group = {**GROUP, "structures": ["cu"], "start": "selected", "n_sample": 1}
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[group]], ["Cu"])
    select(run, 0, [("cu", CU.repeat((2, 1, 1))), ("cu", CU.repeat((3, 1, 1)))])
    ((name, index, atoms),) = explored(run, 1)
    assert name == "cu" and atoms == 4 * (index + 2)


def test_frames_that_select_did_not_record_are_refused(tmp_path: Path) -> None:
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[{**GROUP, "structures": ["cu"], "start": "selected"}]], ["Cu"])
    path = select(run, 0, [("cu", CU)]) / "frames.extxyz"
    path.write_text(path.read_text().replace("Cu 0.0", "Cu 0.5"))
    with pytest.raises(DataError, match=r"frames\.extxyz.*select|select.*frames\.extxyz"):
        run.plan(1)
    path.write_text("1\nno lattice\nCu 0 0 nan\n")
    write_sums(path.parent)
    with pytest.raises(DataError, match=r"frames\.extxyz of the select stage: "):
        run.plan(1)
