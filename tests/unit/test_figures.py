"""The table of figures is written by a run, and a figure that has drifted fails its test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import figures
from tests.figures import BEGIN, END, Figures


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "page.md"
    path.write_text(f"# Page\n\n{BEGIN}{END}after\n")
    monkeypatch.setattr(figures, "PAGE", path)
    return path


def told(added: Path, **counts: int) -> None:
    writer = Figures(True, added)
    for name, count in counts.items():
        writer(f"search: {name}", count)
    figures.write(added)
    added.unlink()


def test_figures_are_written_and_others_stay(page: Path, tmp_path: Path) -> None:
    told(tmp_path / "added", states=1234567, mutants=3)
    told(tmp_path / "added", mutants=4)
    assert figures.table() == {"search: mutants": 4, "search: states": 1234567}
    text = page.read_text()
    assert "| search | states | 1,234,567 |\n" in text
    assert text.startswith("# Page\n\n") and text.endswith(f"{END}after\n")


def test_drift_is_seen(page: Path, tmp_path: Path) -> None:
    told(tmp_path / "added", states=3)
    check = Figures(False, tmp_path / "added")
    check("search: states", 3)
    check("search: states", 4, exact=False)
    with pytest.raises(AssertionError, match="make figures"):
        check("search: states", 4)
    with pytest.raises(AssertionError, match="make figures"):
        check("search: kills", 1, exact=False)
