"""Others have packages of our names: ours are the ones that our processes import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import CONFIG, STUBS

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from dpgen2_sm import main; main()"]


def test_a_run_beside_packages_of_our_names(stub_run: Path, tmp_path: Path) -> None:
    """The command line, the interpreter of a workflow, and its operators."""
    others = tmp_path / "others"
    others.mkdir()
    for name in ("conventions", "operators", "statemachine"):
        (others / f"{name}.py").write_text("raise ImportError('this is the package of another')\n")
    stub_run.write_text(CONFIG.replace("accurate_after: 1", "accurate_after: 0"))  # each operator once
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (others, STUBS, ROOT)))}
    done = subprocess.run([*COMMAND, "run", stub_run], cwd=others, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "converged" in done.stdout
