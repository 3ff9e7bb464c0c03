"""The table of iterations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from statemachine.cli.show import COLUMNS, iteration_cells, iteration_line, table_line
from tests.conftest import Cli

ROW = {"iteration": 3, "explore_stage": 1, "labelled": 18.0, "discarded": 2.0}
TESTED = {"rmse_e": 0.00324, "rmse_f": 0.0518}
TRAINED = {f"train_{name}": value for name, value in TESTED.items()}
EXPLORED = {"accurate": 50.0, "candidate": 40.0, "failed": 10.0, "selected": 20.0}


@pytest.mark.parametrize(
    ("figures", "cells"),
    [
        (TESTED | EXPLORED, ["18", "2", "0.0032", "0.052", "100", "50.0%", "40.0%", "10.0%", "20"]),
        (TRAINED, ["18", "2", "(0.0032)", "(0.052)", *["-"] * 5]),
        ({"rmse_f": 0.0518}, ["18", "2", "-", "0.052", *["-"] * 5]),  # of a trainer that tells no more
    ],
)
def test_the_cells_of_a_row(figures: dict[str, Any], cells: list[str]) -> None:
    assert iteration_cells(ROW | figures) == ["3", "1", *cells]


def test_a_row_tells_of_accurate_frames() -> None:
    figures = {"check_labels": 2.0, "check_rmse_f": 0.0213}
    assert iteration_line(ROW | TESTED | figures, {}).endswith("accurate frames: rmse_f 0.021 (2 labels)")


def test_the_table_fits_80_columns() -> None:
    wide = {"iteration": 9999, "explore_stage": 10, "labelled": 99999.0, "discarded": 9999.0, "accurate": 999999.0}
    assert len(table_line(list(COLUMNS))) == 80
    for figures in (TESTED, TRAINED):
        assert len(iteration_line(wide | figures | {"selected": 99999.0}, {})) == 80


def test_a_reason_commands_no_terminal(stub_run: Path, cli: Cli) -> None:
    assert cli("init", stub_run)[0] == 0
    out = (stub_run.parent / "out").as_uri()
    assert cli("pause", stub_run, "--reason", "\x1b]0;owned\x07 and \x1b[2J é")[0] == 0
    for words in (("status", out), ("status", "--json", out), ("step", out)):
        _, output, _ = cli(*words)
        assert "\x1b" not in output and "\\u001b" not in output and "owned" in output, words
