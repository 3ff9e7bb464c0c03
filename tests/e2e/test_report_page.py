"""The report in a real browser: on a desk, a phone, in the dark, on paper, without scripts, by axe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from statemachine.cli.show import iteration_rows, status_of
from statemachine.report.figures import Reader
from statemachine.report.page import configuration_text, render
from statemachine.store import open_store
from tests.browser import PHONE, Page, chromium
from tests.report_run import campaign

pytestmark = pytest.mark.servers
HOSTILE = "<script>document.title='taken'</script>{{7*7}}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def written(folder: Path, iterations: int = 4, **campaign_of: Any) -> str:
    """The URL of a report."""
    store = open_store(f"file://{folder}/run")
    campaign(store, iterations, folder, **campaign_of)
    figures = Reader(store).read()
    (folder / "report.html").write_text(render(figures, store, configuration_text(store, figures.state)), "utf-8")
    return f"file://{folder}/report.html"


def test_the_numbers_are_those_of_status(browser: Any, tmp_path: Path) -> None:
    with Page(browser, written(tmp_path)) as page:
        rows = page.page.locator("#iterations ~ .wide tbody tr").all()
        cells = [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]
        found = status_of(f"file://{tmp_path}/run")["iterations"]
        assert len(cells) == len(found) == 4
        for shown, row in zip(cells, found, strict=True):
            assert shown[:4] == [str(row["iteration"]), str(row["explore_stage"]), f"{row['labelled']:.0f}", "1"]
            assert [float(text) for text in shown[4:6]] == pytest.approx([row["rmse_e"], row["rmse_f"]], rel=1e-2)
            assert shown[11:14] == ["80.0%", "19.0%", "1.0%"]
        assert (page.complaints, len(page.requests)) == ([], 1)  # the page itself, and nothing else
    assert iteration_rows(Reader(open_store(f"file://{tmp_path}/run")).read().state.trail) == found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, tmp_path: Path, scheme: str) -> None:
    with Page(browser, written(tmp_path, 30), color_scheme=scheme) as page:
        assert page.violations() == []


def test_a_phone_scrolls_tables_not_the_page(browser: Any, tmp_path: Path) -> None:
    with Page(browser, written(tmp_path, 3, sets=("x" * 2000, "bulk")), viewport=PHONE) as page:
        assert page.overflow() <= 0


def test_without_scripts(browser: Any, tmp_path: Path) -> None:
    url = written(tmp_path)
    texts = []
    for scripts in (True, False):
        with Page(browser, url, java_script_enabled=scripts) as page:
            texts.append(page.page.locator("body").inner_text())
    assert texts[0] == texts[1]


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    url = written(tmp_path, 3, sets=(HOSTILE, "bulk"), reason=HOSTILE, at="failed")
    with Page(browser, url) as page:
        assert page.page.title() == "cu – dpgen2-sm"
        assert HOSTILE in page.page.locator("body").inner_text()
        assert page.complaints == []


def test_it_prints(browser: Any, tmp_path: Path) -> None:
    with Page(browser, written(tmp_path)) as page:
        paper = page.page.pdf(format="A4")
    assert paper.startswith(b"%PDF") and len(paper) > 20_000
