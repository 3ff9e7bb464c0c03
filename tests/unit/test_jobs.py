"""Reading what jobs left: the line of a log that says what went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from operators.jobs import telling_line

NOISE = """\
I0000 00:00:1795585073.551473    4893 port.cc:153] oneDNN custom operations are on. You may see slightly different \
numerical results due to floating-point round-off errors from different computation orders.
implib-gen: libcudart.so.12: failed to load library 'libcudart.so.12' via callback 'DP_cudart_dlopen'
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("1\nERROR: cannot open graph.002.pb\nLast command: pair_style\n", "ERROR: cannot open graph.002.pb"),
        ("step 1\nTraceback:\n  x\nValueError: no forces\nexit 1\n", "ValueError: no forces"),
        ("one\nKilled\n", "Killed"),
        ("", "the log is empty"),
    ],
)  # fmt: skip
def test_the_telling_line(tmp_path: Path, log: str, line: str) -> None:
    (tmp_path / "log").write_text(NOISE + log)
    assert telling_line(tmp_path / "log") == line
    assert telling_line(tmp_path / "none") == "there is no log"
