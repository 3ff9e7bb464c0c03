"""What a job of the local engine sees of the poller's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from conventions.secrets import POLLERS
from statemachine.run.opening import open_poller
from tests.conftest import Cli
from tests.unit.test_orders import edit


def test_no_secret_of_the_poller_is_in_a_jobs_environment(
    cli: Cli, stub_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in POLLERS:
        monkeypatch.setenv(name, "hunter22-hunter22")
    monkeypatch.setenv("LICENCE_OF_OURS", "kept")
    edit(stub_run, label={"setup": [f"env > {tmp_path}/seen"]})
    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{tmp_path}/out")
    poller.engine.wait(poller.step().workflow, 60)
    seen = (tmp_path / "seen").read_text()
    assert "LICENCE_OF_OURS=kept" in seen and "hunter22" not in seen
    (shared,) = (line.partition("=")[2] for line in seen.splitlines() if line.startswith("DPGEN2_SHARED="))
    assert shared.startswith(f"{tmp_path}/out/.engine/workflow/"), "it goes with the workflow"
