"""What a person sees of a training and of an exploration that run, with the real programs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from operators.registry import app
from statemachine.run.opening import open_poller
from statemachine.run.progress import Watch
from tests.e2e.test_campaigns import Campaign, copper

pytestmark = pytest.mark.engines
LONG = 100_000_000  # steps: nothing of that ends by itself


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    found = copper(tmp_path)
    yield found
    found.finish("cancel", "run.yaml", "--yes")


def note(campaign: Campaign, process: subprocess.Popen[str], stage: str, pattern: str) -> None:
    """Until the bar would show that of a job of the stage."""
    campaign.wait_for(process, f"{stage}/*/iter/000000/job")
    poller = open_poller(f"file://{campaign.prefix}")
    while (state := poller.record.load().state).at != f"{stage}.running":
        assert process.poll() is None
    watch = Watch(poller.store, poller.engine, state, app(stage, state.place.app).live)
    found = watch.look()
    while not any(re.fullmatch(pattern, told) for told in found.notes):
        assert process.poll() is None
        found = watch.look()
    assert found.total == 2 and found.running and not found.failed


def test_a_training_that_runs(campaign: Campaign) -> None:
    """`dpgen2-sm run run.yaml`, and `dpgen2-sm logs run.yaml --job 0` beside it."""
    config = campaign.root / "run.yaml"
    config.write_text(config.read_text().replace("numb_steps: [100, 600]", f"numb_steps: {LONG}"))
    process = campaign.start("run", "run.yaml")
    figures = r"rmse_e [0-9.e+-]+ eV/atom, rmse_f [0-9.e+-]+ eV/Angstrom"
    note(campaign, process, "train", rf"job 0: step [0-9]+ of {LONG}, {figures}")
    code, output = campaign.finish("logs", "run.yaml", "--job", "0")
    assert code == 0 and "rmse_f" in output
    process.terminate()
    process.communicate()


def test_a_trajectory_that_runs(campaign: Campaign) -> None:
    config = campaign.root / "run.yaml"
    config.write_text(config.read_text().replace("nsteps: 60", f"nsteps: {LONG}").replace("[100, 600]", "50"))
    process = campaign.start("run", "run.yaml")
    note(campaign, process, "explore", rf"job [01]: step [0-9]+ of {LONG}, max_devi_f [0-9.e+-]+ eV/Angstrom")
    process.terminate()
    process.communicate()
