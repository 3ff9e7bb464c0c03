"""Real engines: those beside this Python come first; in CI a missing one is a failure, never a skip."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def need(*programs: str) -> None:
    """Skip the test where one of the programs is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"there is no {program} on PATH")


def need_venv(variable: str, program: str) -> Path:
    """The `bin` of a virtual environment that an environment variable names; the test is skipped where it is not set.

    PyTorch's packages are large, and each wants its own torch: they do not live beside this Python.
    """
    venv = os.environ.get(variable)
    if not venv:
        pytest.skip(f"{variable} is not set: let it name the folder of a virtual environment with {program}")
    path = Path(venv).absolute() / "bin"
    if not (path / program).exists():
        pytest.fail(f"{variable}={venv}: there is no bin/{program} in it")
    return path
