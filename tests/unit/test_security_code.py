"""Nothing leaves its folder, nothing from the store is unpickled or evaluated, and only verified code runs."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from conventions.config import LabelledData
from conventions.errors import ConfigError, DataError, NotFound, StoreError
from conventions.space import DataSpace
from operators.frame_keys import dataset_keys
from operators.pod import scripts
from operators.pod.claim import claim
from operators.pod.runner import load
from operators.select.pool import load_scores
from operators.structures import read_file
from operators.workflow.shipping import ship
from statemachine.run.config_file import read_config
from statemachine.run.data import load_data
from statemachine.store import Store, open_store
from statemachine.store.file import FileStore
from tests import servers
from tests.unit.test_security_bytes import Stage

ROOT = Path(__file__).parents[2]

# --- what the code calls ------------------------------------------------------------------------------------------

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle", "cPickle", "dill", "cloudpickle", "jsonpickle", "marshal",
    "shelve",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "yaml.load", "yaml.full_load",
    "yaml.unsafe_load", "tarfile", "shutil.unpack_archive", "tempfile.mktemp", "joblib", "torch.load",
}  # fmt: skip
ALLOWED = {
    ("operators/workflow/shipping.py", "zipfile"): "packs our own code; nothing is unpacked",
    ("operators/train/dp_judge.py", "zipfile"): "the names in a model file of PyTorch's; nothing is unpacked",
    ("operators/train/dp_model.py", "zipfile"): "whether a checkpoint of PyTorch's is whole; nothing is unpacked",
    ("operators/train/mace_model.py", "zipfile"): "whether a checkpoint of PyTorch's is whole; nothing is unpacked",
    ("operators/select/pool.py", "zipfile"): "the name of an exception of np.load",
    ("statemachine/run/config_file.py", "yaml.load"): "the method of a ruamel.yaml.YAML(typ='safe')",
    ("statemachine/importer/reading.py", "yaml.load"): "the same, and three tags that read text",
}


def names_of(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every name, dotted name and import of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Name):
            yield node.id, node
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}", node


def dangers(path: Path, where: str) -> Iterator[str]:
    """What a module calls that runs or unpacks what others wrote."""
    tree = ast.parse(path.read_text("utf-8"))
    for name, node in names_of(tree):
        if (name in FORBIDDEN or name == "zipfile") and (where, name) not in ALLOWED:
            yield f"{where}:{getattr(node, 'lineno', 0)}: {name}"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {word.arg: word.value for word in call.keywords}
        called = ast.unparse(call.func)
        if called in ("np.load", "numpy.load") and ast.unparse(keywords.get("allow_pickle", call)) != "False":
            yield f"{where}:{call.lineno}: {called} without allow_pickle=False"
        if "shell" in keywords and ast.unparse(keywords["shell"]) != "False":
            yield f"{where}:{call.lineno}: a shell"
        if called.endswith((".extractall", ".extract")):
            yield f"{where}:{call.lineno}: {called}"


def modules() -> list[Path]:
    return [path for floor in ("conventions", "operators", "statemachine") for path in (ROOT / floor).rglob("*.py")]


def test_nothing_that_is_read_is_executed() -> None:
    assert len(modules()) > 80
    assert [found for path in modules() for found in dangers(path, str(path.relative_to(ROOT)))] == []


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')", "import pickle", "from pickle import loads", "import os\nos.system('x')",
        "import yaml\nyaml.load(x)",
        "import tarfile", "import numpy as np\nnp.load(p)", "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import subprocess as s\ns.run('x', shell=True)", "a.extractall(p)", "import zipfile", "exec(x)",
    ],
)  # fmt: skip
def test_the_search_for_dangers_sees_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.py").write_text(text)
    assert list(dangers(tmp_path / "m.py", "m.py"))


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.system", "!!python/object/new:os.mkdir"]
)
def test_configurations_make_no_objects(tmp_path: Path, tag: str) -> None:
    (tmp_path / "run.yaml").write_text(f"run: {tag} [{tmp_path / 'mark'}]\n")
    with pytest.raises(ConfigError):
        read_config(tmp_path / "run.yaml")
    assert not (tmp_path / "mark").exists()


# --- pickles in files ---------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def bomb(path: Path, mark: Path) -> None:
    array = np.empty(1, object)
    array[0] = Bomb(mark)
    np.save(path, array, allow_pickle=True)


def test_the_bomb_works(tmp_path: Path) -> None:
    bomb(tmp_path / "x.npy", tmp_path / "mark")
    np.load(tmp_path / "x.npy", allow_pickle=True)
    assert (tmp_path / "mark").is_dir()


def test_arrays_with_objects_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    system = tmp_path / "data" / "Cu1"
    (system / "set.000").mkdir(parents=True)
    (system / "type.raw").write_text("0\n")
    (system / "type_map.raw").write_text("Cu\n")
    for name in ("box", "coord", "energy", "force"):
        bomb(system / "set.000" / f"{name}.npy", mark)
    known, unreadable = dataset_keys(tmp_path / "data", ["Cu1"])
    assert not known and "Cu1" in unreadable[0]
    with pytest.raises(ConfigError, match="dpdata cannot read"):
        load_data(LabelledData(path="data/Cu1"), tmp_path, "init.data.x", ["Cu"])
    array = np.empty(1, object)
    array[0] = Bomb(mark)
    np.savez(tmp_path / "scores.npz", rows=array, problem=array)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_scores(tmp_path / "scores.npz", 1)
    assert not mark.exists()


@pytest.mark.parametrize("format", [None, "traj", "json", "extxyz", "vasp", "bundletrajectory", "db"])
@pytest.mark.parametrize("name", ["x.traj", "x.xyz", "x.bundle", "x.pckl", "POSCAR"])
def test_a_pickled_structure_file_is_refused(tmp_path: Path, name: str, format: str | None) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    with pytest.raises(ValueError, match="ASE cannot read it"):
        read_file(tmp_path / name, format)
    assert not (tmp_path / "mark").exists()


# --- what jobs leave ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return FileStore.of(tmp_path / "root")
    server: servers.Server = request.getfixturevalue("s3")
    return open_store(server.prefix(f"security/{tmp_path.name}"))


def test_links_that_a_job_left_are_not_followed(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "key").write_text("secret")
    store.put("state.json", b"the state")
    out = tmp_path / "out" / "task.000000"
    out.mkdir(parents=True)
    (out / "good").write_text("good")
    (out / "absolute").symlink_to(secret / "key")
    (out / "relative").symlink_to("../../outside/key")
    (out / "folder").symlink_to(secret)
    (out / "state").symlink_to("../../../../state.json")
    (out / "nowhere").symlink_to("nothing")
    os.mkfifo(out / "pipe")
    store.publish(tmp_path / "out", "job/000000/out")
    assert [entry.key for entry in store.list("job/")] == ["job/000000/out/task.000000/good"]
    assert not (tmp_path / "out").exists(), "nobody takes them for outputs later"
    assert (secret / "key").read_text() == "secret" and store.get("state.json").data == b"the state"
    (tmp_path / "done").symlink_to(secret / "key")
    (tmp_path / "dir").symlink_to(secret)
    for name in ("done", "dir"):
        with pytest.raises(StoreError, match="a symbolic link is not published"):
            store.publish(tmp_path / name, "job/000000/x")
    assert store.head("job/000000/x") is None and (secret / "key").exists()


@pytest.mark.parametrize("key", ["a/../../../x", "../x", "/x", "a//x", "./x", "a/./x"])
def test_keys_of_others_do_not_leave_the_folder_they_are_fetched_to(
    s3: servers.Server, tmp_path: Path, key: str
) -> None:
    store = open_store(s3.prefix(f"security/{tmp_path.name}"))
    store.put("job/good", b"1")
    place = store.place  # type: ignore[attr-defined]
    place.connect().put_object(Bucket=place.bucket, Key=f"{place.path}/job/{key}", Body=b"evil")
    scratch = tmp_path / "deep" / "scratch"
    try:
        store.fetch("job", scratch)
    except StoreError as error:
        assert "not a usable key" in str(error)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(scratch) for path in files)
    assert b"evil" not in [path.read_bytes() for path in files]


def test_names_that_differ_in_case_or_in_their_code_are_two(store: Store, tmp_path: Path) -> None:
    names = ["File", "file", "\u00e9", "e\u0301"]
    for name in names:
        store.put(f"odd/{name}", name.encode())
    folder = store.fetch("odd", tmp_path / "scratch")
    assert folder is not None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: name.encode() for name in names}


def test_a_key_that_is_a_file_and_a_prefix_is_an_error(s3: servers.Server, tmp_path: Path) -> None:
    store = open_store(s3.prefix(f"security/{tmp_path.name}"))
    store.put("job/a", b"1")
    store.put("job/a/b", b"2")
    with pytest.raises(StoreError, match="cannot fetch"):
        store.fetch("job", tmp_path / "scratch")


@pytest.mark.parametrize("name", ["../state.json", "/etc/passwd", "a/../../b", "..", "a//b", "-x", "a\nb", ".hidden"])
def test_markers_name_no_file_outside(tmp_path: Path, name: str) -> None:
    stage = Stage(tmp_path)
    stage.run(stage.plan())
    marker = tmp_path / stage.place.job("000001").job_done
    document = json.loads(marker.read_text())
    document["files"].append({"name": name, "size": 1, "sha256": "0" * 64})
    marker.write_text(json.dumps(document))
    report = stage.reduce(0)
    assert not report.complete and "files.1.name" in report.messages[0]
    assert stage.plan() == ["000001"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "-x", "a b", "{{x}}", "$(x)", "a\n", "x" * 129])
def test_names_of_keys_are_plain(name: str) -> None:
    space = DataSpace({})
    for make in (space.dataset_init, space.dataset_test, lambda text: space.file("0" * 64, text)):
        with pytest.raises(DataError, match="not a plain name"):
            make(name)


def test_file_prefixes_do_not_follow_dots(tmp_path: Path) -> None:
    store = FileStore.of(tmp_path / "root")
    (tmp_path / "secret").write_text("x")
    for key in ("../secret", "a/../../secret", str(tmp_path / "secret")):
        with pytest.raises(StoreError):
            store.get(key)
        with pytest.raises(StoreError):
            store.fetch(key, tmp_path / "scratch")
        with pytest.raises(StoreError):
            list(store.list(key))
    with pytest.raises(NotFound):
        store.get("secret")


# --- shipped code -------------------------------------------------------------------------------------------------


def shipped(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A shipped claim in a folder, as the store has it, and the environment that its pod gets."""
    found = ship(claim, DataSpace({}))
    folder = tmp_path / "fn"
    folder.mkdir()
    (folder / "fn.py").write_bytes(found.objects[found.function])
    env = {"FN": str(folder / "fn.py"), "FN_SHA256": found.digest, "PATH": os.environ["PATH"]}
    for name, key in found.packages.items():
        (tmp_path / f"{name}.zip").write_bytes(found.objects[key])
        env[f"PACKAGE_{name}"] = str(tmp_path / f"{name}.zip")
    env |= {"PARAM_prefix": f'"file://{tmp_path}/store"', "PARAM_key": '"claim/0"', "PARAM_owner": '"me"'}
    return folder, {**env, "RESULT_owner": str(tmp_path / "result"), "TMPDIR": str(tmp_path)}


def as_pod(env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**env, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
    return subprocess.run(["sh", "-c", scripts.OPERATOR], cwd=cwd, env=env, capture_output=True, text=True)


def test_verified_code_runs(tmp_path: Path) -> None:
    _, env = shipped(tmp_path)
    done = as_pod(env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store/claim/0").read_text() == "me"


@pytest.mark.parametrize("what", ["fn/fn.py", "operators.zip", "conventions.zip"])
def test_changed_code_does_not_run(tmp_path: Path, what: str) -> None:
    _, env = shipped(tmp_path)
    evil = f"open({str(tmp_path / 'mark')!r}, 'w')\n".encode()
    path = tmp_path / what
    path.write_bytes(evil + path.read_bytes() if what.endswith(".py") else path.read_bytes() + evil)
    done = as_pod(env, tmp_path)
    assert done.returncode != 0 and "submitted" in done.stderr
    assert not (tmp_path / "mark").exists() and not (tmp_path / "store").exists()


@pytest.mark.parametrize("module", ["hashlib", "json", "importlib", "operators", "tempfile", "typing"])
def test_modules_beside_the_shipped_code_are_not_imported(tmp_path: Path, module: str) -> None:
    """Whoever can write beside verified code must not get in by the name of a module that it imports."""
    folder, env = shipped(tmp_path)
    for place in (folder, tmp_path):
        (place / f"{module}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    done = as_pod(env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mark").exists()


def test_what_was_verified_is_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that is replaced after its hash was taken."""

    def archive(value: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as made:
            made.writestr("travelling_code.py", f"VALUE = {value}\n")
        return buffer.getvalue()

    good, evil, there = archive(1), archive(2), tmp_path / "travelling_code.zip"
    there.write_bytes(good)
    real = hashlib.sha256

    def sha256(data: bytes) -> object:
        there.write_bytes(evil)
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", sha256)
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "copies"
    folder.mkdir()
    pins = {"travelling_code": real(good).hexdigest()}
    assert load("travelling_code:VALUE", pins, {"travelling_code": str(there)}, folder) == 1
    del sys.modules["travelling_code"]


def test_every_package_that_travels_is_pinned() -> None:
    found = ship(claim, DataSpace({"label": "stub"}))
    source = found.objects[found.function].decode()
    for name, key in found.packages.items():
        digest = hashlib.sha256(found.objects[key]).hexdigest()
        assert f"'{name}': '{digest}'" in source and key == DataSpace({}).package(name, digest)
