"""The rules of the house, checked on the source: see CONTRIBUTING.md."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conventions.names import STAGES
from tests.conftest import STUBS

ROOT = Path(__file__).parents[2]
FLOORS = ("conventions", "operators", "statemachine")
LONGEST = 400
HEAVY = ("numpy", "ase", "dpdata", "dflow", "boto3", "kubernetes", "transitions", "apscheduler", "starlette", "uvicorn")

# What a key of the data space looks like: its fixed words between slashes, or a whole name of one.
KEY = re.compile(
    r"state\.json|report\.json"
    r"|config/(iter|file)|dataset/deepmd|event/|\.dflow/python"
    rf"|/(iter|job|done|claim)/|^({'|'.join(STAGES)})/\{{"
)


def modules() -> list[Path]:
    return [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), name(path))


def imported(path: Path) -> set[str]:
    """Top-level packages that a module imports, also inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level]
            assert above, f"{name(path)}: a relative import leaves its package"
    return found


def test_imports_point_down_only() -> None:
    paths = modules()
    assert {name(path).partition("/")[0] for path in paths} == set(FLOORS)
    for path in paths:
        above = FLOORS[FLOORS.index(name(path).partition("/")[0]) + 1 :]
        assert not imported(path) & {*above, "tests"}, name(path)


def arrows(path: Path) -> set[str]:
    """Files of ours that a file imports, wherever it does: at the top, in a function, under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {file for alias in node.names if (file := file_of(alias.name))}
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            targets = (file_of(f"{module}.{alias.name}") or file_of(module) for alias in node.names)
            found |= {file for file in targets if file}
    return found - {name(path)}


def file_of(module: str) -> str | None:
    """The file of a module of ours; None where there is none."""
    place = ROOT.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((name(file) for file in files if module.split(".")[0] in FLOORS and file.is_file()), None)


def test_there_are_no_circles() -> None:
    """Files on a circle cannot be read one after the other: what closes it is in the wrong room."""
    graph = {name(path): arrows(path) for path in modules()}
    while free := {file for file, below in graph.items() if not below & set(graph)}:
        graph = {file: below for file, below in graph.items() if file not in free}
    assert graph == {}


ROOMS = {  # what a room of statemachine may import of the others
    "machine": set(),
    "store": {"logs.py"},
    "engine": {"machine", "store", "logs.py"},
    "run": {"machine", "store", "engine", "logs.py"},
    "notify": {"machine", "store", "run", "logs.py", "environment.py"},
    "daemon": {"machine", "store", "engine", "run", "notify", "web", "logs.py", "environment.py"},
    "importer": {"machine", "store", "run"},
    "report": {"machine", "store", "run"},
    "web": {"machine", "store", "engine", "run", "report", "logs.py", "environment.py"},
    "replay": {"machine", "store", "engine", "run", "report"},
    "cli": {"machine", "store", "engine", "run", "notify", "daemon", "importer", "report", "web", "replay", "logs.py"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_point_down_only(room: str) -> None:
    paths = (ROOT / "statemachine" / room).rglob("*.py")
    found = {file.split("/")[1] for path in paths for file in arrows(path) if file.startswith("statemachine/")}
    assert found - {room, "__init__.py"} <= ROOMS[room]


def test_every_folder_says_what_lives_there() -> None:
    folders = [path for floor in FLOORS for path in (ROOT / floor).rglob("*") if list(path.glob("*.py"))]
    for folder in [*folders, *(ROOT / floor for floor in FLOORS)]:
        assert len((ast.get_docstring(tree(folder / "__init__.py")) or "").split()) > 8, name(folder)
    rooms = {path.name for path in (ROOT / "statemachine").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(ROOMS)


def test_the_pod_needs_the_standard_library_and_boto3_only() -> None:
    for path in (ROOT / "operators" / "pod").glob("*.py"):
        allowed = {
            "boto3",
            "botocore",
            "conventions",
            "operators",
            *(["dpdispatcher", "paramiko"] if "batch" in path.name else []),
        }
        assert imported(path) - set(sys.stdlib_module_names) <= allowed, name(path)
        ours = {file for file in arrows(path) if not file.startswith("operators/pod/")}
        assert ours <= {"conventions/errors.py", "conventions/endpoint.py"}, name(path)


def test_conventions_need_pydantic_only() -> None:
    for path in (ROOT / "conventions").glob("*.py"):
        assert imported(path) - set(sys.stdlib_module_names) <= {"conventions", "pydantic"}, name(path)


def texts(module: ast.Module) -> Iterator[tuple[int, str]]:
    """String constants that are not docstrings; an f-string is one text, with {} for its values."""
    skip: set[int] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skip.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            skip |= {id(value) for value in node.values}
            parts = (str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield node.lineno, "".join(parts)
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip:
            yield node.lineno, node.value


@pytest.mark.parametrize(
    "text",
    ["state.json", "label/{}/iter/{}", "config/iter/000001", "{}/job/{}/in", "event/{}.json", ".dflow/python/fn"],
)
def test_a_key_is_recognised(text: str) -> None:
    assert KEY.search(text)


def test_keys_are_made_in_one_place() -> None:
    found = [
        f"{name(path)}:{line}: {text!r}"
        for path in modules()
        if name(path) != "conventions/space.py"
        for line, text in texts(tree(path))
        if KEY.search(text)
    ]
    assert found == []


def test_files_are_short() -> None:
    long = {name(path): lines for path in modules() if (lines := len(path.read_text("utf-8").splitlines())) > LONGEST}
    assert long == {}


# Runs a command and prints, as its last line, what it has imported.
CALL = """\
import json, sys
from statemachine.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_status_is_light(stub_run: Path) -> None:
    """`status` begins with every shell prompt and every look: it pays for no heavy package."""
    env = {**os.environ, "PYTHONPATH": str(STUBS)}

    def call(command: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CALL, command, stub_run], env=env, cwd=ROOT, stdout=subprocess.PIPE
        )
        assert done.returncode == 0
        return done.stdout.decode().splitlines()

    call("init")
    *shown, loaded = call("status")
    assert shown[0] == "stub  iteration 0  label.submitting"
    assert set(json.loads(loaded)) & set(HEAVY) == set()


def test_no_place_of_one_machine_is_tracked() -> None:
    """Paths and addresses of a developer's machine stay out of the repository."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    # Put together here, so that this file does not find itself.
    places = [f"/{root}/" for root in ("work", "root", "home", "Users")] + [f"/tmp/{'env'}", "--index" + "-url"]
    pattern = re.compile("|".join(rf"(?<![\w.}}\]-]){re.escape(place)}" for place in places))
    found = []
    for entry in listed.decode().split("\0"):
        path = ROOT / entry
        if entry and path.is_file():
            for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
                if pattern.search(line):
                    found.append(f"{entry}:{number}: {line.strip()[:120]}")
    assert found == []
