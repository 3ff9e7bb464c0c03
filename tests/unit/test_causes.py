"""What the figures of an exploration say of why frames cannot be labelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from conventions.figures import Explored, SelectFigures
from operators.select.figures import EDGES
from statemachine.report.causes import causes
from statemachine.report.explain import explain
from statemachine.report.figures import Reader
from statemachine.report.page import render
from tests.doubles import MemoryStore
from tests.report_run import SPACE, campaign


def explored(failed: dict[float | None, int]) -> SelectFigures:
    """100 frames at each temperature, so many of which failed."""
    groups = [
        Explored(
            structure="bulk",
            conditions={"temp": temp},
            trajectories=1,
            broken=0,
            classes={"accurate": 100 - number, "candidate": 0, "failed": number, "skipped": 7},
            histogram=[1] * (len(EDGES) + 1),
        )
        for temp, number in failed.items()
    ]
    return SelectFigures(edges=EDGES, groups=groups, levels={})


@pytest.mark.parametrize(
    ("failed", "says"),
    [
        ({}, []),
        ({300.0: 50, 900.0: 50}, []),
        ({300.0: 51, 900.0: 51}, ["poor start: 51% of the frames failed already at 300 K"]),
        ({900.0: 90, 300.0: 24}, ["too hot: 90% of the frames failed at 900 K, 24% at 300 K"]),
        ({300.0: 26, 900.0: 90}, ["poor start: 26% of the frames failed already at 300 K"]),
        ({None: 80}, ["poor start: 80% of the frames failed;"]),
        ({300.0: 80}, ["poor start: 80%"]),
    ],
)
def test_poor_start_or_too_hot(failed: dict[float | None, int], says: list[str]) -> None:
    found = causes(explored(failed), {})
    assert len(found) == len(says) and all(text.startswith(part) for text, part in zip(found, says, strict=True)), found


def test_too_close() -> None:
    assert causes(None, {"selected": 3, "too_close": 3}) == causes(None, {}) == []
    (text,) = causes(None, {"selected": 3, "too_close": 4})
    assert text.startswith("too close: 4 of 7 candidates")


def test_the_report_and_explain_tell_it(tmp_path: Path) -> None:
    store = MemoryStore()
    campaign(store, 1, tmp_path)
    store.put(SPACE.stage("select", 0).product + "/figures.json", explored({300.0: 10, 900.0: 95}).dump())
    figures = Reader(store).read()
    assert "too hot: 95% of the frames failed at 900 K" in render(figures, store)
    assert ("cause", causes(explored({300.0: 10, 900.0: 95}), {})[0]) in list(explain(store, figures, "0"))
