"""The command `dp`: where its Python is, and whether it can be used."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from conventions.config import RunConfig
from operators.setup import with_setup

from .dp_model import BACKENDS

# Shell lines that set DP_HERE to the Python of DP_COMMAND where that is known. A command of one word named dp is a
# Python script: its interpreter can import what it runs.
FIND_PYTHON = [
    'dp=$(command -v "$DP_COMMAND")',
    "DP_HERE=",
    'case $dp in */dp) [ ! -x "${dp%/*}/python3" ] || DP_HERE=${dp%/*}/python3 ;; esac',
    "export DP_HERE",
]


def run_script(train: Any, program: str) -> str:
    """run.sh: the user's setup, one thread unless it says otherwise, and a program with the Python beside dp."""
    lines = "\n".join(
        [
            f"export DP_COMMAND={shlex.quote(train.command or 'dp')}",
            'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"',
            'export DP_INTRA_OP_PARALLELISM_THREADS="${DP_INTRA_OP_PARALLELISM_THREADS:-$OMP_NUM_THREADS}"',
            'export DP_INTER_OP_PARALLELISM_THREADS="${DP_INTER_OP_PARALLELISM_THREADS:-1}"',
            *FIND_PYTHON,
            f'exec "${{DP_HERE:-python3}}" "$JOB_JOB/{program}"',
            "",
        ]
    )
    return with_setup(train, lines)


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """The version of dp, and that of its backend where dp's Python is known."""
    train: Any = config.train
    backend = BACKENDS[train.backend]
    lines = [
        f"export DP_COMMAND={shlex.quote(train.command or 'dp')}",
        *FIND_PYTHON,
        '"$DP_COMMAND" --version >version 2>&1 || { tail -n 3 version; exit 1; }',
        f"PACKAGE={backend.package}",
        'of=; [ -z "$DP_HERE" ] || of=$("$DP_HERE" -c "import $PACKAGE; print($PACKAGE.__version__)" 2>error) || {',
        f'  echo "dp trains by {backend.title} here, which cannot be imported: $(tail -n 1 error)"',
        "  exit 1",
        "}",
        'echo "$(tail -n 1 version)${of:+, TITLE $of}"'.replace("TITLE", backend.title),
        "",
    ]
    return {"run.sh": with_setup(train, "\n".join(lines))}
