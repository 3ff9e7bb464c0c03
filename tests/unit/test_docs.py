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

from conventions import __version__
from conventions.cluster import ArgoConfig, LocalConfig, Pod, Repository
from conventions.config import Init, RunConfig, StageConfig, Structures
from conventions.hpc import Hpc, Machine, RemoteProfile, Resources
from operators import registry
from statemachine.cli.app import app
from statemachine.cli.ending import EXIT_CODES
from statemachine.machine.transitions import STATES, machine
from statemachine.run.config_file import read_config
from tests.conftest import Cli
from tests.label_run import LabelRun
from tests.unit.test_deploy import call, tool

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md"))
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


def test_the_page_of_all_keys_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["page"]()
    assert (ROOT / "docs" / "reference.md").read_text("utf-8") == made, "run `make docs`"


def test_every_key_is_in_the_page_of_all_keys() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    told = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    keys = set(RunConfig.model_fields) - {"schema_version"}
    for part in (LocalConfig, ArgoConfig, Repository, Pod, Hpc, Machine, RemoteProfile, Resources, Structures, Init):
        keys |= set(part.model_fields)
    for name in registry.APPS:
        sections = re.findall(rf"^### {name.replace('.', ' with app ')}\n(.*?)^#", text + "#", re.MULTILINE | re.DOTALL)
        assert len(sections) == 1, name
        own = set(registry.app(*name.split(".")).config.model_fields) - set(StageConfig.model_fields)
        assert own <= set(re.findall(r"^\| `(\w+)` \|", sections[0], re.MULTILINE)), name
    assert keys | set(StageConfig.model_fields) <= told


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


COPPER = "copper\n1.0\n3.6 0 0\n0 3.6 0\n0 0 3.6\nCu\n4\nDirect\n0 0 0\n0.5 0.5 0\n0.5 0 0.5\n0 0.5 0.5\n"


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """The folder of docs/your-own-data.md: what the page shows, and the files that it expects."""
    page = ROOT / "docs" / "your-own-data.md"
    (run,) = (text for text in blocks(page, "yaml") if text.startswith("run:"))
    (tree, incar) = blocks(page, "")
    (train,) = blocks(page, "json")
    potcar = "PAW_PBE Cu\n VRHFIN =Cu: d10 p1\n"
    files = {"run.yaml": run, "INCAR": incar, "input.json": train, "POSCAR": COPPER, "potcar/Cu/POTCAR": potcar}
    assert set(tree.split()[1:]) == set(files)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "run.yaml"


def told_commands(page: str, heading: str) -> list[list[str]]:
    """The commands below a heading."""
    section = (ROOT / "docs" / page).read_text("utf-8").partition(f". {heading}\n")[2].partition("\n## ")[0]
    return [line.split() for line in re.findall(r"^dpgen2-sm ([^#\n]*)", section, re.MULTILINE)]


@pytest.mark.slow
def test_the_first_commands_with_your_own_data(own_data: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that need no engine, in the page's order; of doctor what it says of the files."""
    monkeypatch.chdir(own_data.parent)
    commands = told_commands("your-own-data.md", "Check it")
    assert [name for name, _ in commands] == ["validate", "doctor", "init", "plan"]
    said = {}
    for command in commands:
        code, said[command[0]], errors = cli(*command)
        assert code == 0 or command[0] == "doctor", errors
    assert "structures.bulk: 10 structures" in said["validate"]
    assert "label/vasp" in said["doctor"] and "train.input" not in said["doctor"]
    assert "next: label/vasp of iteration 0" in said["plan"] and "10 jobs" in said["plan"]
    own_data.write_text(own_data.read_text().replace("f_trust_lo: 0.10", "f_trust_lo: 0.08"))
    (patch,) = (command for command in told_commands("your-own-data.md", "Run it") if command[0] == "patch")
    code, output, errors = cli(*patch)
    assert code == 0 and "f_trust_lo" in output + errors


def test_the_variants_for_your_own_data(own_data: Path) -> None:
    """The page's other pieces of run.yaml fit into it."""
    whole = own_data.read_text()
    pieces = [text for text in blocks(ROOT / "docs" / "your-own-data.md", "yaml") if not text.startswith("run:")]
    assert [text.partition(":")[0] for text in pieces] == ["init", "label"]
    for piece in pieces:
        name = piece.partition(":")[0]
        own_data.write_text(re.sub(rf"^{name}:\n( .*\n)*", piece, whole, flags=re.MULTILINE))
        config = read_config(own_data)
        assert (config.init.data.keys() == {"aimd"}) if name == "init" else (config.label.app == "ase")


def test_the_citation_is_valid_and_of_this_version() -> None:
    path = ROOT / "CITATION.cff"
    call(tool("check-jsonschema"), "--builtin-schema", "vendor.citation-file-format", path)
    assert f"\nversion: {__version__}\n" in path.read_text("utf-8")


def test_the_changelog_has_its_form() -> None:
    """Versions from the newest to the oldest, each with its date, what is unreleased above; known kinds of changes."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    first, *versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "Unreleased"
    found = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d", version) for version in versions]
    assert all(found)
    numbers = [tuple(map(int, match.groups())) for match in found if match]
    assert numbers == sorted(set(numbers), reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for section in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        told = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert told and len(told) == len(set(told)) and set(told) <= kinds


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
