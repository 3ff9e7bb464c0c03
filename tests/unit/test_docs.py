"""The documentation says what is there: commands, options, targets, links, configurations, the diagram."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from operators import registry
from statemachine.cli.app import app
from statemachine.cli.ending import EXIT_CODES
from statemachine.machine.transitions import STATES, machine
from statemachine.run.config_file import read_config
from tests.label_run import LabelRun

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md"))
PAGES += sorted((ROOT / "docs").glob("*.md"))
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def test_the_diagram_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_diagram.py"))["page"]()
    assert (ROOT / "docs" / "machine.md").read_text("utf-8") == made, "run `make docs`"


@pytest.mark.parametrize(
    ("page", "name"), [("page", "from-dpgen.md"), ("page2", "from-dpgen2.md"), ("page3", "from-ai2kit.md")]
)
def test_the_pages_of_other_programs_keys_are_up_to_date(page: str, name: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_from_dpgen.py"))[page]()
    assert (ROOT / "docs" / name).read_text("utf-8") == made, "run `make docs`"


def test_the_diagram_shows_every_state() -> None:
    text = (ROOT / "docs" / "machine.md").read_text("utf-8")
    first = text.partition("```mermaid")[2].partition("```")[0]
    assert set(re.findall(r'state "(.*?)"', first)) == set(STATES) == set(machine().states)


def test_commands_and_options_exist(page: Path) -> None:
    for line in page.read_text("utf-8").splitlines():
        for name, rest in re.findall(r"\bdpgen2-sm ([a-z]+)\b([^`|;#]*)", line):
            assert name in COMMANDS, line
            known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, line


def test_the_readme_tells_of_the_commands_that_run_things() -> None:
    told = set(re.findall(r"dpgen2-sm ([a-z]+)", (ROOT / "README.md").read_text("utf-8")))
    assert told >= set(COMMANDS)


def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = page.read_text("utf-8")
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets


def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text("utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


def test_the_module_tree_is_whole() -> None:
    """The README's tree names every module of conventions and statemachine, and every app."""
    tree = next(block for block in blocks(ROOT / "README.md", "") if block.startswith("conventions/    names"))
    words = set(re.findall(r"[a-z_0-9]+", tree))
    paths = [path for floor in ("conventions", "statemachine") for path in (ROOT / floor).rglob("*.py")]
    paths += [path for room in (".", "workflow", "pod") for path in (ROOT / "operators" / room).glob("*.py")]
    names = {path.stem for path in paths} - {"__init__"}
    assert names | set(re.findall(r"\w+", " ".join(registry.APPS))) <= words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    """A path in backticks, below one of the packages or the tests."""
    for path in re.findall(r"`((?:conventions|operators|statemachine|tests)/[\w./]*\w)/?`", page.read_text("utf-8")):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_configurations_are_valid(name: str, tmp_path: Path) -> None:
    whole = [text for text in blocks(ROOT / name, "yaml") if text.startswith("run:")]
    assert len(whole) == 1
    path = tmp_path / "run.yaml"
    path.write_text(whole[0])
    assert read_config(path).type_map == ["Si"]


def test_exit_codes() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    words = {"converged": "converged", "failed": "failed", "exhausted": "without convergence", "cancelled": "cancelled"}
    for end, code in EXIT_CODES.items():
        assert words[end] in rows[str(code)]


def test_the_example_app_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's own app, installed as a third party would, runs a label stage."""
    (source,) = blocks(ROOT / "README.md", "python")
    (entry,) = blocks(ROOT / "README.md", "toml")
    (name, value) = re.findall(r'^"(.*)" = "(.*)"$', entry, re.MULTILINE)[0]
    site = tmp_path / "site"
    info = site / "label_program-1.dist-info"
    info.mkdir(parents=True)
    (site / "label_program.py").write_text(source)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: label-program\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[dpgen2_sm.apps]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    for cache in (registry.known, registry.app, registry._model):
        cache.cache_clear()
    program = tmp_path / "program.py"
    program.write_text(
        "import json\n"
        "(frame,) = json.load(open('frames.json'))\n"
        "zeros = [[0.0] * 3 for _ in frame['positions']]\n"
        "json.dump({'energy': -1.0, 'forces': zeros}, open('label.json', 'w'))\n"
    )
    from ase import Atoms

    root = tmp_path / "run"
    root.mkdir()
    frames = [Atoms("Cu", cell=[side] * 3, pbc=True) for side in (3.5, 3.6)]
    label = {"app": "program", "command": f"{sys.executable} {program}"}
    try:
        report = LabelRun(root, label, frames, ["Cu"]).stage()
    finally:
        for cache in (registry.known, registry.app, registry._model):
            cache.cache_clear()
    assert report.complete and report.summary["labelled"] == 2
