"""A lost pod writes late: its file is not the one that the marker tells of. The job is repeated, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from conventions.names import STAGES
from conventions.space import DataSpace
from conventions.state import State
from statemachine.store.file import FileStore

from .test_kills import ALL_TASKS, Campaign

SPACE = DataSpace(dict.fromkeys(STAGES, "stub"))


@pytest.mark.slow
def test_a_file_that_was_written_late_costs_its_job_once_more(stub_run: Path) -> None:
    campaign = Campaign(stub_run)
    process = campaign.start("run", str(campaign.config), gate_at="explore-0-2")
    assert (campaign.gate / "entered").read_text() == "entered\n"  # one job at a time: the first two have ended
    store = FileStore.of(campaign.root / "out")
    result = f"{SPACE.stage('explore', 0).job('000000').job_out}/task.000000/result"
    whole = store.get(result).data
    store.put(result, whole[::-1])
    (campaign.gate / "go").write_text("go\n")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert campaign.executions() == {name: 2 if name == "explore-0-0" else 1 for name in ALL_TASKS}
    assert store.get(result).data == whole
    attempts = [State.unseal(store.get(entry.key).data) for entry in store.list(SPACE.events + "/")]
    assert max(state.attempt for state in attempts if state.stage == "explore") == 1
    assert any("sha256 differs" in state.reason for state in attempts)
