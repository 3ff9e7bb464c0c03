"""`dpgen2-sm logs`: what a newcomer typed while a job ran, and what is seen."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from statemachine.run.opening import open_poller
from tests.conftest import Cli
from tests.unit.test_orders import edit


@pytest.fixture
def running(cli: Cli, stub_run: Path, tmp_path: Path) -> Path:
    """A run whose first label job has printed a line, and waits for the fifo `go`."""
    for name in ("here", "go"):
        os.mkfifo(tmp_path / name)
    wait = f"echo step 100 of 200; echo >{tmp_path}/here; read -r go <{tmp_path}/go; echo step 200 of 200"
    wait = f"touch {tmp_path}/once; {wait}"
    edit(stub_run, label={"setup": [f"if [ ! -e {tmp_path}/once ]; then {wait}; fi"]}, engine={"slots": 1})
    assert cli("init", stub_run)[0] == 0
    open_poller(f"file://{tmp_path}/out").step()
    (tmp_path / "here").read_text()
    return stub_run


def test_logs_of_a_job_that_runs(cli: Cli, running: Path, tmp_path: Path) -> None:
    """`dpgen2-sm logs run.yaml --stage label --job 0`"""
    code, output, _ = cli("logs", running, "--stage", "label", "--job", "0")
    assert (code, output) == (0, "step 100 of 200\n")
    code, _, errors = cli("logs", running, "--job", "1")
    assert code == 2 and "it does not run yet" in errors
    release = threading.Thread(target=(tmp_path / "go").write_text, args=("go\n",))
    release.start()
    code, output, _ = cli("logs", running, "--job", "0", "--follow")
    release.join()
    assert (code, output) == (0, "step 100 of 200\nstep 200 of 200\n"), "also what was printed between two looks"
    code, output, _ = cli("logs", running, "--stage", "label", "--iter", "0", "--job", "0")
    assert (code, output) == (0, "step 100 of 200\nstep 200 of 200\n")
    shutil.rmtree(tmp_path / "out/.engine/workflow")
    code, output, errors = cli("logs", running)
    assert code == 0 and output.startswith("job 0: label/stub/iter/000000/job/000000/log/") and "is gone" in errors
    code, _, errors = cli("logs", running, "--follow")
    assert code == 2 and "name the job with --job" in errors
