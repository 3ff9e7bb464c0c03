"""The wheel and the source distribution, as an index would get them, and what a user's environment has of each."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from conventions import __version__
from tests.conftest import STUBS
from tests.deploy.test_wheel import PIP, ROOT, call

pytestmark = pytest.mark.slow  # builds with the hatchling of a package index, and installs all dependencies from it

PACKAGES = ("conventions", "operators", "statemachine")
STRAYS = (  # what lies about in a checkout: made by the targets of the Makefile, or by its user
    ".venv/bin/python", ".mypy_cache/a.json", "build/site/index.html", "dist/dpgen2_sm-0.0.0.tar.gz",
    "runs/cu/state.json", "conventions/__pycache__/space.cpython-311.pyc", "examples/copper/test/type.raw",
    "notes.txt", "out/POTCAR",
)  # fmt: skip

# An app's author: the types of ours are seen, and a mistake is found.
USER = """\
import dpgen2_sm

dpgen2_sm.use()
from conventions.config import StageConfig
from operators.core import Planned


class ProgramConfig(StageConfig):
    command: str


planned = Planned(job_ids=["000000"], n_jobs=1, n_todo=1)
reveal_type(planned.job_ids)
reveal_type(ProgramConfig(app="program", command="x").group_size)
planned.jobs
"""


def tracked() -> set[str]:
    """The files of this checkout that are, or are to be, in its repository."""
    try:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        found = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return {name for name in found.decode().split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built in a copy of the checkout in which other things lie about; the wheel from the source distribution."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    for name in STRAYS:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("stray\n")
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, copy)
    return folder


def distribution(built: Path, kind: str) -> Path:
    (path,) = built.glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[kind])
    return path


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def environment(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that was empty, with one of the two and what it asks for."""
    root = tmp_path_factory.mktemp(request.param)
    venv.create(root)
    call(*PIP, "--python", root / "bin/python", "install", "-q", distribution(built, request.param))
    return root


def test_an_index_would_take_them(built: Path) -> None:
    said = call(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *sorted(built.iterdir()))
    assert said.count("PASSED") == 2, said  # its lines are as long as a terminal


def test_the_source_distribution_is_the_repository(built: Path) -> None:
    """All that is tracked, nothing else: no output of a build, no environment, no run, no note."""
    with tarfile.open(distribution(built, "sdist")) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert names == tracked() | {"PKG-INFO"}


def test_the_wheel_is_the_packages(built: Path) -> None:
    with zipfile.ZipFile(distribution(built, "wheel")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {name for name in tracked() if name.startswith((*(f"{package}/" for package in PACKAGES), "dpgen2_sm/"))}
    assert names == {name if name.startswith("dpgen2_sm/") else f"dpgen2_sm/{name}" for name in ours}
    assert {name for name in names if name.endswith("py.typed")} == {
        "dpgen2_sm/py.typed", *(f"dpgen2_sm/{package}/py.typed" for package in PACKAGES)
    }  # fmt: skip


def test_it_works_in_an_empty_environment(environment: Path, stub_run: Path) -> None:
    program = environment / "bin/dpgen2-sm"
    assert call(program, "--version") == f"dpgen2-sm {__version__}\n"
    checked = subprocess.run([*PIP, "--python", environment / "bin/python", "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert "label.submitting" in call(program, "init", stub_run, PYTHONPATH=str(STUBS))
    assert "iteration 0  label.submitting" in call(program, "status", stub_run, PYTHONPATH=str(STUBS))


def test_types_are_seen_by_an_apps_author(environment: Path, tmp_path: Path) -> None:
    """As docs/api.md says; without the link mypy finds none of the packages."""
    (settings,) = re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "api.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "mypy.ini").write_text(f"{settings}strict = true\n")
    (tmp_path / "program.py").write_text(USER)
    (installed,) = environment.glob("lib/python*/site-packages/dpgen2_sm")
    command = [sys.executable, "-m", "mypy", "--python-executable", environment / "bin/python", "program.py"]

    def said() -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout

    assert 'Cannot find implementation or library stub for module named "operators.core"' in said()
    (tmp_path / "typed").symlink_to(installed)
    assert re.findall(r"^program.py:\d+: (.*)$", said(), re.MULTILINE) == [
        'note: Revealed type is "list[str]"',
        'note: Revealed type is "int"',
        'error: "Planned" has no attribute "jobs"; maybe "n_jobs"?  [attr-defined]',
    ]
