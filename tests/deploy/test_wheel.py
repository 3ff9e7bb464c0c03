"""The wheel, installed beside python-statemachine, which has a package `statemachine` too."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import CONFIG, STUBS

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip"]
THEIRS = "from statemachine import State, StateChart; print(State.__module__)"
pytestmark = pytest.mark.slow  # builds with the hatchling of a package index


def call(*command: str | Path, **more: str) -> str:
    """Run a command that sees nothing of this checkout; return what it prints."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd="/", env={**env, **more}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    call(*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    call(*PIP, "download", "--no-deps", "--dest", folder, "python-statemachine==3.*")
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module", params=["ours first", "theirs first"])
def site(request: pytest.FixtureRequest, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of a new environment with both; the dependencies are those of the tests."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root)
    (site,) = root.glob("lib/python*/site-packages")
    for name in sorted(wheels, reverse=request.param == "theirs first"):
        call(*PIP, "--python", root / "bin/python", "install", "--no-deps", "--no-index", wheels[name])
    more = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "dependencies.pth").write_text("\n".join(more))
    return site


def recorded(site: Path, name: str) -> set[str]:
    """The files of an installed distribution."""
    (record,) = site.glob(f"{name}-*.dist-info/RECORD")
    return {line.split(",")[0] for line in record.read_text().splitlines()}


def test_every_file_is_below_our_name(site: Path) -> None:
    ours, theirs = recorded(site, "dpgen2_sm"), recorded(site, "python_statemachine")
    assert "statemachine/__init__.py" in theirs and "dpgen2_sm/statemachine/__init__.py" in ours
    assert not ours & theirs
    assert {file for file in ours if not re.match(r"dpgen2_sm[/-]|\.\./\.\./\.\./bin/dpgen2-", file)} == set()
    for file in ours | theirs:
        assert (site / file).is_file(), file


def test_the_other_package_is_the_one_that_others_import(site: Path) -> None:
    python = site.parents[2] / "bin/python"
    assert call(python, "-c", THEIRS) == "statemachine.state\n"
    checked = subprocess.run([*PIP, "--python", python, "check"], capture_output=True, text=True).stdout
    assert not re.search("^(dpgen2-sm|python-statemachine) ", checked, re.MULTILINE), checked


def test_a_campaign_beside_it(site: Path, stub_run: Path) -> None:
    """To its end, with a job that imports the other package."""
    program = site.parents[2] / "bin/dpgen2-sm"
    assert "rewind" in call(program, "--help")
    setup = f"python3 -c '{THEIRS}' || exit 9"
    stub_run.write_text(CONFIG.replace("label: {app: stub}", f'label: {{app: stub, setup: ["{setup}"]}}'))
    assert "converged" in call(program, "run", stub_run, PYTHONPATH=str(STUBS))


def test_an_app_of_a_third_party_is_tested_with_ours(site: Path) -> None:
    """As the README says: first `use()`."""
    source = "import dpgen2_sm; dpgen2_sm.use(); import operators.core, statemachine; print(statemachine.__file__)"
    assert call(site.parents[2] / "bin/python", "-c", source).strip() == str(
        site / "dpgen2_sm/statemachine/__init__.py"
    )


def test_the_readme_of_an_index_has_no_link_to_a_file(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["dpgen2_sm"]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = str(email.message_from_bytes(archive.read(name)).get_payload())
    assert text.startswith("# dpgen2-sm") and "docs/tutorial.md" in text
    assert re.findall(r"\]\((?!https?:|#).*?\)", text) == []
