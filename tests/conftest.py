"""Shared fixtures: the stub apps on the path, and a run of them in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from statemachine.cli import main
from statemachine.engine import local
from statemachine.logs import known
from tests import figures, servers
from tests.figures import figure as figure
from tests.leftovers import nothing_is_left
from tests.warm import Warm, warm_workflows

Cli = Callable[..., tuple[int, str, str]]

STUBS = Path(__file__).parent / "stubapps"
sys.path.insert(0, str(STUBS))

HEAD = """\
run: stub
prefix: out
engine: {type: local, slots: 2}
type_map: [Cu]
structures:
  start: {files: cu.xyz}
init: {label: [start]}
"""
CONFIG = (
    HEAD
    + """\
label: {app: stub}
train: {app: stub}
explore: {app: stub, tasks: 3}
select: {app: stub, accurate_after: 1}
"""
)
STRUCTURE = """\
1
Lattice="3.6 0 0 0 3.6 0 0 0 3.6" Properties=species:S:1:pos:R:3
Cu 0 0 0
"""


pytest_addoption = figures.option
pytest_sessionstart = figures.begin
pytest_sessionfinish = figures.finish


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_the_tests() -> Iterator[None]:
    """Torn down last; with xdist, in each process for what it has started."""
    with nothing_is_left():
        yield


@pytest.fixture(scope="session", autouse=True)
def _nobody_is_trusted_yet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the runs of the tests are trusted with is not kept in the user's own folder."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True)
def _secrets_of_other_tests_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command keeps what it has learned out of its texts until its process ends, which is that of all tests."""
    monkeypatch.setattr(known, "_forms", known._forms)


@pytest.fixture
def stub_run(tmp_path: Path) -> Path:
    """A configuration file of a run of instant stub apps (2 iterations)."""
    (tmp_path / "cu.xyz").write_text(STRUCTURE)
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A real S3 server, once for all tests of a process."""
    with servers.ministack(tmp_path_factory.mktemp("ministack")) as server:
        yield server


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of the tests' S3 servers, and nothing else that boto3 would look at."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)


@pytest.fixture
def s3(ministack: servers.Server, aws: None) -> servers.Server:
    """The S3 server, with its credentials in the environment."""
    return ministack


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that workflows are forked from, once for all tests of a process."""
    with closing(Warm()) as server:
        yield server


def command(*arguments: str | Path) -> int:
    """Run a command line in this process, and return its exit code."""
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dpgen2-sm", *map(str, arguments)])
        try:
            main()
        except SystemExit as ending:
            code = ending.code
    return int(str(code or 0))


@pytest.fixture
def cli(warm: Warm, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Run a command line in this process; returns exit code, stdout and stderr. A traceback fails the test.

    Its workflows begin with our code imported; where a test is about that, `started` starts each as the engine does.
    """

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = command(*arguments)
        output, errors = capsys.readouterr()
        return code, output, errors

    with warm_workflows(warm):
        yield run


class Kept:
    """A run, and a copy of all that it has: tests share what it took to come so far.

    Parameters
    ----------
    folder
        An empty folder.
    text
        Its configuration.
    code
        With which exit code it ends.
    """

    def __init__(self, folder: Path, text: str = CONFIG, code: int = 0) -> None:
        self.path = folder / "run.yaml"
        self.path.write_text(text)
        (folder / "cu.xyz").write_text(STRUCTURE)
        assert command("run", self.path) == code
        shutil.copytree(folder / "out", folder / "kept")

    def again(self) -> Path:
        """The run as it was then, and where it was: anywhere else it would be a copy."""
        shutil.rmtree(self.path.parent / "out")
        shutil.copytree(self.path.parent / "kept", self.path.parent / "out")
        return self.path


@pytest.fixture
def started(cli: Cli) -> Iterator[None]:
    """Workflows are started as the engine does it, also by `cli`, and the apps of others as shipped code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "subprocess", subprocess)
        yield
