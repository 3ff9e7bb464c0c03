"""The lines of `setup`: where one fails, the task ends and says so; `source` and `module` need bash."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conventions.config import StageConfig
from operators.jobs import telling_line
from operators.setup import SETUP_FAILED, with_setup
from tests.conftest import CONFIG, Cli

BODY = 'echo "the command, $# arguments, A=${A:-}"; false; exit 3\n'
SHELLS = [name for name in ("sh", "bash", "busybox sh") if shutil.which(name.split()[0])]


def run(
    tmp_path: Path, *lines: str, with_: str = "sh", env: dict[str, str] | None = None, **more: Any
) -> tuple[int, str]:
    """Run a script with these setup lines; its exit code, and what a person is told of its log."""
    stage = StageConfig.model_validate({"app": "x", "setup": list(lines), **more})
    (tmp_path / "run.sh").write_text(with_setup(stage, BODY))
    with open(tmp_path / "log", "wb") as log:
        done = subprocess.run(
            [*with_.split(), str(tmp_path / "run.sh")],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            stdout=log,
            stderr=log,
        )
    return done.returncode, telling_line(tmp_path / "log")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "code", "why"),
    [
        ("false", 1, "it said nothing"),
        ("no-such-program --now", 127, "no-such-program.*not found"),
        (". ./no-such-file", r"\d+", "no-such-file"),
        (". ./broken", r"\d+", "(?i)syntax error"),
        ("if true", 2, "(?i)syntax error"),
        ('echo "never closed', 2, "(?i)unterminated|unexpected EOF"),
        ("exit 5", 5, "it said nothing"),
        ("exit 0", 0, "it said nothing"),
        ("set -u; echo $NO_SUCH_VARIABLE", r"\d+", "NO_SUCH_VARIABLE"),
        ("echo before; false; echo after", 1, "before"),
        ("false\ntrue", 1, "it said nothing"),
        ("cd no-such-folder", r"\d+", "no-such-folder"),
    ],
)
def test_a_line_that_fails(tmp_path: Path, shell: str, line: str, code: Any, why: str) -> None:
    (tmp_path / "broken").write_text("if (\n")
    ended, said = run(tmp_path, "true", line, "echo not reached", with_=shell)
    assert ended == SETUP_FAILED
    shown = re.escape(" ".join(line.split()))
    assert re.match(rf"the setup line '{shown}' ended with exit code {code}: ", said) and re.search(why, said), said
    log = (tmp_path / "log").read_text()
    assert "not reached" not in log and "the command" not in log


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "line",
    [
        "false || true",
        "[ -d no-such-folder ] && echo there",
        "if false; then exit 1; fi",
        "trap 'echo mine' EXIT",
        "set -e",
        "# a note",
        "f() { return 1; }; f || :",
        "shift 0; : $1",
    ],
)
def test_a_line_that_does_not(tmp_path: Path, shell: str, line: str) -> None:
    assert run(tmp_path, line, "A=here; export A", with_=shell)[0] == 3
    assert "the command, 0 arguments, A=here" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("shell", ["sh", "bash --posix"])
def test_with_bash_source_is_there_whatever_sh_is(tmp_path: Path, shell: str) -> None:
    (tmp_path / "env.sh").write_text('A=(of bash)\nexport A="${A[*]} $#"\n')
    assert run(tmp_path, "source env.sh", with_=shell, shell="bash")[0] == 3
    assert "the command, 0 arguments, A=of bash 0" in (tmp_path / "log").read_text()
    assert run(tmp_path, with_=shell, shell="bash")[0] == 3
    assert run(tmp_path, "source no-such-file", with_=shell, shell="bash")[0] == SETUP_FAILED


def test_where_there_is_no_bash(tmp_path: Path) -> None:
    assert run(tmp_path, "true", with_="/bin/sh", env={"PATH": str(tmp_path)}, shell="bash") == (
        SETUP_FAILED,
        "the setup line was not run: shell is bash, and there is no bash here: it said nothing",
    )


MODULES = """\
module() {
  [ "$2" = cp2k ] || { echo "ERROR: Unable to locate a modulefile for '$2'" >&2; return 1; }
  export A="$2 is loaded"
}
false # a line of the centre's own that fails is not the user's
"""


def test_module_is_there_in_bash_where_the_machine_has_it(tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init/bash").write_text(MODULES)
    env = {"MODULESHOME": str(tmp_path)}
    assert run(tmp_path, "module load cp2k", shell="bash", env=env)[0] == 3
    assert "A=cp2k is loaded" in (tmp_path / "log").read_text()
    code, said = run(tmp_path, "module load cp2q", shell="bash", env=env)
    assert (code, said) == (
        SETUP_FAILED,
        "the setup line 'module load cp2q' ended with exit code 1: ERROR: Unable to locate a modulefile for 'cp2q'",
    )


def test_what_looks_like_a_secret_is_not_shown(tmp_path: Path) -> None:
    _, said = run(tmp_path, "export LICENSE_TOKEN='hunter 22' API_KEY=hunter33 B=1; false")
    assert said.startswith("the setup line 'export LICENSE_TOKEN=... API_KEY=... B=1; false' ended")


def test_a_stage_without_setup_starts_nothing_more() -> None:
    assert with_setup(StageConfig(app="x"), BODY) == BODY


@pytest.mark.parametrize(
    ("setup", "seen"),
    [
        (
            "source ~/venv/bin/activate",
            r"label.setup.1: `source` is not known to every sh; write `. FILE` .*shell: bash",
        ),
        ("module load cp2k/2024", r"label.setup.1: `module` is not known to every sh; set label.shell: bash$"),
        ("ml cp2k", "label.setup.1: `ml` is not known"),
        ("cd x && source y; true", "label.setup.1: `source`"),
        ("true\nmodule load x", "label.setup.1: `module`"),
    ],
)
def test_source_and_module_are_refused_by_name_where_the_shell_is_sh(
    cli: Cli, stub_run: Path, setup: str, seen: str
) -> None:
    text = CONFIG.replace(
        "label: {app: stub}", f"label: {{app: stub, setup: [true, {setup!r}]}}".replace("true,", "'true',")
    )
    text = text.replace(repr(setup), '"' + setup.replace("\n", "\\n") + '"')
    stub_run.write_text(text)
    code, _, errors = cli("validate", stub_run)
    assert code == 2 and len(errors.splitlines()) == 1 and re.search(seen, errors), errors
    stub_run.write_text(text.replace("label: {", "label: {shell: bash, "))
    assert cli("validate", stub_run)[0] == 0


def test_these_are_other_words(cli: Cli, stub_run: Path) -> None:
    lines = ["echo source of energy", "export module=x", ". ./source", "./module load", "resource x", "# module load"]
    stub_run.write_text(CONFIG.replace("label: {app: stub}", f"label: {{app: stub, setup: {lines}}}"))
    assert cli("validate", stub_run)[0] == 0
