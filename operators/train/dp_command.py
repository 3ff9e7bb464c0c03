"""The command `dp`: where its Python is, and whether it can be used."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from conventions.config import RunConfig
from operators.setup import with_setup

# Shell lines that set DP_HERE to the Python of DP_COMMAND where that is known. A command of one word named dp is a
# Python script: its interpreter can import what it runs.
FIND_PYTHON = [
    'dp=$(command -v "$DP_COMMAND")',
    "DP_HERE=",
    'case $dp in */dp) [ ! -x "${dp%/*}/python3" ] || DP_HERE=${dp%/*}/python3 ;; esac',
    "export DP_HERE",
]


def probe(config: RunConfig, files: Path) -> dict[str, str | bytes]:
    """The version of dp, and that of TensorFlow where its Python is known."""
    train: Any = config.train
    lines = [
        f"export DP_COMMAND={shlex.quote(train.command or 'dp')}",
        *FIND_PYTHON,
        '"$DP_COMMAND" --version >version 2>&1 || { tail -n 3 version; exit 1; }',
        'tf=; [ -z "$DP_HERE" ] || tf=$("$DP_HERE" -c "import tensorflow; print(tensorflow.__version__)" 2>error) || {',
        '  echo "dp trains by TensorFlow here, which cannot be imported: $(tail -n 1 error)"',
        "  exit 1",
        "}",
        'echo "$(tail -n 1 version)${tf:+, TensorFlow $tf}"',
        "",
    ]
    return {"run.sh": with_setup(train, "\n".join(lines))}
