"""The site as `make site` builds it: complete, all links lead somewhere, and nothing comes from another host."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from conventions.config import StageConfig

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # some ten seconds


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if "href" in given:
            (self.links if tag == "a" else self.loads).add(given["href"])
        if "src" in given:
            self.loads.add(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages, by their files."""
    folder = tmp_path_factory.mktemp("site")
    (recipe,) = re.findall(r"^\t\$\(BIN\)/sphinx-build (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    options = recipe.replace("build/doctrees", f"{folder}/doctrees").replace("build/site", f"{folder}/site").split()
    done = subprocess.run([sys.executable, "-m", "sphinx", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "-W" in options, done.stdout + done.stderr
    pages = (path for path in (folder / "site").rglob("*.html") if "_static" not in path.parts)  # the theme's macros
    return {path: Page(path.read_text("utf-8")) for path in pages}


def test_links_lead_somewhere(site: dict[Path, Page]) -> None:
    lost = []
    for path, page in site.items():
        for link in sorted(page.links | page.loads):
            if re.match(r"https?:|mailto:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not target.is_file() or (anchor and target in site and unquote(anchor) not in site[target].anchors):
                lost.append((path.name, link))
    assert lost == []


def test_nothing_is_loaded_from_another_host(site: dict[Path, Page]) -> None:
    assert {load for page in site.values() for load in page.loads if re.match(r"(https?:)?//", load)} == set()
    (root,) = {path.parent for path in site if path.name == "search.html"}
    for style in root.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text("utf-8")), style


def test_every_page_is_there(site: dict[Path, Page]) -> None:
    pages = {path.stem for path in site}
    assert pages >= {path.stem for path in (ROOT / "docs").glob("*.md")} | {"README", "CONTRIBUTING", "CHANGELOG"}


def test_the_api_has_fields_and_what_they_are_for(site: dict[Path, Page]) -> None:
    (api,) = (path for path in site if path.name == "api.html")
    text = re.sub(r"<[^>]*>", "", api.read_text("utf-8"))
    assert "conventions.config.StageConfig.group_size" in site[api].anchors
    assert str(StageConfig.model_fields["group_size"].description) in text
    assert "Annotated[" not in text.replace("Annotated[Path, Input(lambda", "").replace(
        "Annotated[Path, Output(lambda", ""
    )
