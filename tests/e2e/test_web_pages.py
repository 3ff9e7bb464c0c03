"""The live pages in a real browser, from the real server: by axe, with the keyboard, on a phone, without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conventions.state import State
from statemachine.cli.show import status_of
from statemachine.store import Store, open_store
from statemachine.web.app import Site
from statemachine.web.board import Looking, Seen
from statemachine.web.lanes import Lanes
from statemachine.web.server import HttpServer
from tests.browser import PHONE, Page, chromium
from tests.report_run import SPACE, campaign, moved

pytestmark = pytest.mark.servers
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>{{7*7}}"
WAIT = 60_000  # ms


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@contextmanager
def served(*prefixes: str, every: float = 3600.0) -> Iterator[str]:
    """The URL of the pages of some runs."""
    lanes = Lanes()
    server = HttpServer(("127.0.0.1", 0), Site(Looking(prefixes, (), lanes), lanes, every=every).app)
    try:
        yield server.url
    finally:
        server.stop()


def made(folder: Path, iterations: int = 3, **campaign_of: Any) -> tuple[Store, State]:
    folder.mkdir()
    store = open_store(f"file://{folder}/run")
    state = campaign(store, iterations, folder, **campaign_of)
    place = SPACE.stage("explore", 1)
    store.put(f"{place.job('000000').job_in}/run.sh", b"true")
    store.put(f"{place.job('000000').job_log}/task.000000.txt", b"step 1\n")
    store.put(f"{SPACE.dataset_iter(0)}/Cu4/type.raw", b"0 0 0 0\n")
    return store, state


def paths(store: Store) -> list[str]:
    run = f"/run/{Seen(store.url).name}"
    return ["/", run, f"{run}/jobs/explore/1", f"{run}/models/", f"{run}/data/iter/000000/", "/run/none"]


def test_the_numbers_are_those_of_status(browser: Any, tmp_path: Path) -> None:
    store, _ = made(tmp_path / "a")
    found = status_of(store.url)
    with served(store.url) as url, Page(browser, url) as page:
        row = page.page.locator("#runs ~ .wide tbody tr").first
        cells = [cell.inner_text() for cell in row.locator("th, td").all()]
        shown = [found[name] for name in ("run", "at", "iteration", "stage", "attempt", "version", "updated_at")]
        assert cells[:7] == [str(value) for value in shown]
        row.locator("a").click()
        page.page.wait_for_url("**/run/*")
        rows = page.page.locator("#iterations ~ .wide tbody tr").all()
        table = [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]
        assert len(table) == len(found["iterations"]) == 3
        for cells, row in zip(table, found["iterations"], strict=True):
            assert cells[:4] == [str(row["iteration"]), str(row["explore_stage"]), f"{row['labelled']:.0f}", "1"]
            assert [float(text) for text in cells[4:6]] == pytest.approx([row["rmse_e"], row["rmse_f"]], rel=1e-2)
        assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_the_browser_does_not_complain(browser: Any, tmp_path: Path, scheme: str) -> None:
    store, _ = made(tmp_path / "a")
    with served(store.url, f"file://{tmp_path}/none") as url:
        for path in paths(store):
            with Page(browser, url + path, color_scheme=scheme) as page:
                assert page.violations() == [], path
                expected = 1 if path == "/run/none" else 0  # that it is not there
                assert len(page.complaints) == expected, page.complaints
                assert all(request.startswith(url) for request in page.requests)


def test_on_a_phone_tables_scroll_not_pages(browser: Any, tmp_path: Path) -> None:
    store, _ = made(tmp_path / "a", sets=("x" * 2000, "bulk"))
    with served(store.url) as url:
        for path in paths(store):
            with Page(browser, url + path, viewport=PHONE) as page:
                assert page.overflow() <= 0, path


def test_without_scripts(browser: Any, tmp_path: Path) -> None:
    store, _ = made(tmp_path / "a")
    with served(store.url) as url:
        for path in paths(store):
            texts = []
            for scripts in (True, False):
                with Page(browser, url + path, java_script_enabled=scripts) as page:
                    texts.append(page.page.locator("body").inner_text())
            assert texts[0] == texts[1], path


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    store, _ = made(tmp_path / "a", sets=(HOSTILE, "bulk"), reason=HOSTILE, at="failed")
    with served(store.url) as url, Page(browser, url + paths(store)[1]) as page:
        assert page.page.title() == "cu – dpgen2-sm"
        assert HOSTILE in page.page.locator("body").inner_text()
        assert page.complaints == []


def test_a_change_is_shown_without_a_reload(browser: Any, tmp_path: Path) -> None:
    store, state = made(tmp_path / "a", 30)
    with served(store.url, every=0.05) as url, Page(browser, url + paths(store)[1]) as page:
        page.page.evaluate("window.marker = 'same page'")
        page.page.locator("summary").first.click()
        page.page.locator("nav a").nth(1).focus()
        plots = page.page.locator("#plots").element_handle()
        state = moved(store, state, hold=True, reason=HOSTILE)
        store.put(SPACE.state, state.seal())
        page.page.get_by_text("label.running, paused").wait_for(timeout=WAIT)
        assert HOSTILE in page.page.locator("header").inner_text()
        assert page.page.evaluate("window.marker") == "same page"
        assert page.page.title() == "cu – dpgen2-sm"
        assert page.page.locator("details").first.evaluate("one => one.open")
        assert page.page.evaluate("document.activeElement.textContent") == "Report"
        assert page.page.evaluate("one => !!one", plots)
        assert page.complaints == []


def test_a_server_that_is_gone_is_told_of(browser: Any, tmp_path: Path) -> None:
    store, _ = made(tmp_path / "a")
    with served(store.url, every=0.05) as url:
        page = Page(browser, url)
    with page:
        page.page.get_by_text("the server does not answer").wait_for(timeout=WAIT)
        assert "label.running" in page.page.locator("main").inner_text()


def test_the_keyboard_reaches_everything(browser: Any, tmp_path: Path) -> None:
    store, _ = made(tmp_path / "a", 30)
    with served(store.url) as url, Page(browser, url + paths(store)[1]) as page:
        names = []
        for _ in range(20):
            page.page.keyboard.press("Tab")
            names.append(
                page.page.evaluate(
                    "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
                )
            )
        assert names[:6] == ["All runs", "Report", "Jobs", "Models", "Data", "JSON"]
        assert {"Iterations", "Earlier iterations", "Explored", "Time"} <= set(names)


def test_a_file_is_downloaded(browser: Any, tmp_path: Path) -> None:
    store, _ = made(tmp_path / "a")
    with served(store.url) as url, Page(browser, url + paths(store)[4].replace("000000/", "000000/Cu4/")) as page:
        with page.page.expect_download() as found:
            page.page.get_by_role("link", name="type.raw").click()
        assert found.value.suggested_filename == "type.raw"
        assert Path(found.value.path()).read_bytes() == b"0 0 0 0\n"
