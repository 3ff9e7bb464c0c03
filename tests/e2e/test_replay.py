"""dpgen2-sm replay --retrain on a campaign with the real programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.engines import need
from tests.e2e.test_campaigns import EXHAUSTED, copper
from tests.train_run import hot_frames, write_system

pytestmark = pytest.mark.engines


def test_models_of_a_part_of_the_labels(tmp_path: Path) -> None:
    for program in ("dp", "lmp"):
        need(program)
    campaign = copper(tmp_path)
    for name, frames in hot_frames().items():
        write_system(tmp_path / "hot" / name, frames)
    config = tmp_path / "run.yaml"
    text = config.read_text().replace("init: {label: [start]}", "init: {label: [start], test: {hot: {path: hot}}}")
    config.write_text(text.replace("[100, 600]", "300"))
    (tmp_path / "few.yaml").write_text("fp_task_max: 2\n")
    code, output = campaign.finish("run", "run.yaml")
    assert code == EXHAUSTED, output
    before = sorted(str(path) for path in campaign.prefix.rglob("*"))

    code, output = campaign.finish("replay", "out", "--rule", "few.yaml", "--retrain", "--json", "-o", "replay.svg")
    assert code == 0, output
    ours, few, everything = json.loads(output[output.index("[") : output.rindex("]") + 1])
    assert [each["labels"] for each in (ours, few, everything)] == [6, 2, 6]
    # All labels, and those of the run's own rule, are the same ones: equal data and seeds, equal models.
    assert ours["errors"] == everything["errors"] == ours["by_chance"]
    assert few["errors"]["rmse_f"] != ours["errors"]["rmse_f"] and 0 < few["by_chance"]["rmse_f"] < 5
    assert (tmp_path / "replay.svg").read_text().startswith("<?xml")
    assert sorted(str(path) for path in campaign.prefix.rglob("*")) == before
