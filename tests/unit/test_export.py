"""`export`: what other programs read is what was labelled; what does not count, or is damaged, is not exported."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
import pytest

from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import IterationSummary
from operators.sums import SUMS, parse, sha256_of, write_sums
from statemachine.cli.bring import DataFormat
from statemachine.run import export as module
from statemachine.run import export_dpgen, export_models, formats, labelled
from statemachine.run.data import write_data
from statemachine.run.formats import WRITERS
from statemachine.run.record import Record
from statemachine.store import Store, open_store
from tests.conftest import HEAD, Cli
from tests.servers import Server
from tests.train_run import INPUT

SPACE = DataSpace({"label": "stub", "train": "deepmd", "explore": "stub", "select": "stub"})
CONFIG = (
    HEAD.replace("[Cu]", "[O, Cu]").replace(
        "init: {label: [start]}",
        "init: {label: [start], data: {bulk: {path: data}}, test: {apart: {path: apart}}}",
    )
    + """\
label: {app: stub}
train: {app: deepmd, input: input.json, numb_models: 2}
explore: {app: stub}
select: {app: stub}
"""
)
MODELS = {"graph.000.pb": b"\x0athe first", "graph.001.pb": b"\x0athe second"}


def system(atoms: dict[str, int], frames: int, seed: int, virials: bool = True, cells: bool = True) -> Any:
    """Frames with labels at random, each number with all its digits."""
    random = np.random.default_rng(seed)
    counts = [atoms.get(element, 0) for element in ("O", "Cu")]
    data: dict[str, Any] = {
        "atom_names": ["O", "Cu"],
        "atom_numbs": counts,
        "atom_types": np.repeat([0, 1], counts),
        "orig": np.zeros(3),
        "cells": 4 * np.eye(3) + random.random((frames, 3, 3)) if cells else np.tile(100 * np.eye(3), (frames, 1, 1)),
        "coords": 4 * random.random((frames, sum(counts), 3)),
        "energies": -random.random(frames),
        "forces": random.normal(size=(frames, sum(counts), 3)),
    }
    if virials:
        half = random.normal(size=(frames, 3, 3))
        data["virials"] = half + half.transpose(0, 2, 1)  # as every stress is
    return dpdata.LabeledSystem(data={**data, "nopbc": not cells} if not cells else data)


# What each folder of the dataset has; iteration 2 was dropped by a rewind, 4 is not labelled to its end.
LABELS: dict[int, dict[str, Any]] = {
    0: {"O1Cu1": system({"O": 1, "Cu": 1}, 3, 1), "Cu2": system({"Cu": 2}, 2, 2)},
    1: {"Cu2": system({"Cu": 2}, 2, 3), "Cu2.novirial": system({"Cu": 2}, 4, 4, virials=False)},
    2: {"Cu2": system({"Cu": 2}, 5, 5)},
    3: {"O2": system({"O": 2}, 2, 6, virials=False, cells=False)},
    4: {"Cu2": system({"Cu": 2}, 1, 7)},
}
BULK, APART = system({"Cu": 4}, 2, 8), system({"Cu": 2}, 1, 9)
COUNTED = {
    "init/bulk/O0Cu4": BULK,
    **{f"iter/{n:06d}/{name}": each for n in (0, 1, 3) for name, each in LABELS[n].items()},
}


def write_labels(folder: Path, iteration: int) -> None:
    write_data(LABELS[iteration], folder / SPACE.dataset_iter(iteration))


@pytest.fixture
def run(cli: Cli, stub_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that labels in iteration 4, which stands in the place of iteration 2; its models are of iteration 3."""
    folder = stub_run.parent
    monkeypatch.chdir(folder)
    BULK.to("deepmd/npy", "data", prec=np.float64)
    APART.to("deepmd/npy", "apart", prec=np.float64)
    given = copy.deepcopy(INPUT)
    given["model"]["descriptor"]["sel"] = [60, 60]  # for O and Cu
    (folder / "input.json").write_text(json.dumps(given))
    stub_run.write_text(CONFIG)
    code, _, errors = cli("init", stub_run)
    assert code == 0, errors
    for iteration in LABELS:
        write_labels(folder / "out", iteration)
    product = folder / "out" / SPACE.stage("train", 3).product
    product.mkdir(parents=True)
    for name, data in MODELS.items():
        (product / name).write_bytes(data)
    (product / "lcurve.000.out").write_text("x")
    write_sums(product)
    set_state(open_store(f"file://{folder}/out"))
    return stub_run


def set_state(store: Store, **changes: Any) -> None:
    record = Record(store)
    loaded = record.load()
    every = ["label", "train", "explore", "select"]
    rows = [
        IterationSummary(iteration=0, stages=every),
        IterationSummary(iteration=1, stages=["label"], left=True),
        IterationSummary(iteration=2, stages=[], left=True),
        IterationSummary(iteration=3, stages=every),
    ]
    where = {"iteration": 4, "stage": "label", "at": "label.submitting", "trail": rows, **changes}
    assert record.commit(loaded, loaded.state.model_copy(update=where))


def read_npy(path: Path, name: str) -> list[Any]:
    return [dpdata.LabeledSystem(str(path), fmt="deepmd/npy")]


def read_mixed(path: Path, name: str) -> list[Any]:
    found = dpdata.MultiSystems().load_systems_from_file(str(path.parent), fmt="deepmd/npy/mixed")
    return list(found.systems.values())


def read_hdf5(path: Path, name: str) -> list[Any]:
    return [dpdata.LabeledSystem(f"{path}#{name}", fmt="deepmd/hdf5")]


def read_extxyz(path: Path, name: str) -> list[Any]:
    """By ASE's own words: stress is -virial / volume."""
    found = []
    for atoms in ase.io.read(path, ":"):
        results = atoms.calc.results
        data = {
            "atom_names": ["O", "Cu"],
            "atom_numbs": [atoms.get_chemical_symbols().count(element) for element in ("O", "Cu")],
            "atom_types": np.array([["O", "Cu"].index(symbol) for symbol in atoms.symbols]),
            "orig": np.zeros(3),
            "cells": atoms.cell.array[None],
            "coords": atoms.positions[None],
            "energies": np.array([results["energy"]]),
            "forces": results["forces"][None],
        }
        if "stress" in results:
            data["virials"] = -atoms.get_volume() * atoms.get_stress(voigt=False)[None]
        if not atoms.pbc.any():
            assert atoms.cell.rank == 0
            data["nopbc"] = True
        found.append(dpdata.LabeledSystem(data=data))
    return found


def read_quip(path: Path, name: str) -> list[Any]:
    found = dpdata.MultiSystems(type_map=["O", "Cu"])
    found.load_systems_from_file(str(path), fmt="quip/gap/xyz")
    return list(found.systems.values())


READERS: dict[str, Callable[[Path, str], list[Any]]] = {
    "deepmd/npy": read_npy,
    "deepmd/npy/mixed": read_mixed,
    "deepmd/hdf5": read_hdf5,
    "extxyz": read_extxyz,
    "quip/gap/xyz": read_quip,
}
DIGITS = {"extxyz": 1e-7, "quip/gap/xyz": 1e-10}  # text; the others are exact


def frames(systems: list[Any], digits: float) -> list[tuple[Any, ...]]:
    """Every frame with its labels, in an order of its own."""
    found = []
    for each in systems:
        data = each.data
        symbols = tuple(data["atom_names"][number] for number in data["atom_types"])
        assert not digits or data["coords"].dtype == np.float64
        for n in range(len(data["energies"])):
            virial = data["virials"][n].ravel().tolist() if "virials" in data else []
            cell = [] if each.nopbc else data["cells"][n].ravel().tolist()
            numbers = [data["energies"][n], *data["forces"][n].ravel(), *data["coords"][n].ravel()]
            found.append((symbols, len(virial), len(cell), [*numbers, *virial, *cell]))
    return sorted(found, key=lambda frame: frame[3][0])


def same(found: list[Any], expected: list[Any], digits: float = 0.0) -> None:
    for one, other in zip(frames(found, digits), frames(expected, digits), strict=True):
        assert one[:3] == other[:3], "element by element; with and without virial and cell"
        assert one[3] == pytest.approx(other[3], abs=digits, rel=digits)


# --- data ---------------------------------------------------------------------------------------------------


def test_the_command_line_offers_what_can_be_written() -> None:
    assert [each.value for each in DataFormat] == list(WRITERS) == list(READERS)


@pytest.mark.parametrize("format", READERS)
def test_what_is_read_back_is_what_was_labelled(cli: Cli, run: Path, format: str) -> None:
    code, output, errors = cli("export", run, "exported", "--data", format, "--json")
    assert code == 0, errors
    told = json.loads(output)
    assert told["data"] == {"format": format, "systems": 6, "frames": 15} and told["test"]["frames"] == 1
    out = Path("exported")
    about = json.loads((out / "provenance.json").read_bytes())
    rows = {f"{row['dataset']}/{row['system']}": row for row in about["systems"]}
    assert set(rows) == {*COUNTED, "test/apart/O0Cu2"}, "nothing of iteration 2, and of 4"
    digits = DIGITS.get(format, 0.0)
    whole = {row["path"]: row["system"] for name, row in rows.items() if not name.startswith("test/")}
    if format in ("deepmd/npy", "deepmd/hdf5"):
        for name, expected in COUNTED.items():
            same(READERS[format](out / rows[name]["path"], rows[name]["system"]), [expected])
    else:
        found = [each for path, name in whole.items() for each in READERS[format](out / path, name)]
        same(found, list(COUNTED.values()), digits)
    same(READERS[format](out / rows["test/apart/O0Cu2"]["path"], "O0Cu2"), [APART], digits)
    for name, row in rows.items():
        expected = COUNTED.get(name, APART)
        assert (row["frames"], row["periodic"]) == (len(expected), not expected.nopbc)
        assert row["virials"] == expected.has_virial()
    assert [path for path in out.iterdir() if path.name.startswith(".")] == []


def test_where_each_system_is_from(cli: Cli, run: Path) -> None:
    state = Record(open_store(f"file://{run.parent}/out")).load().state
    document = (run.parent / "out" / SPACE.configuration(state.config_sha256)).read_bytes()
    frozen = run.parent / "out" / SPACE.config(1)
    frozen.parent.mkdir()
    frozen.write_bytes(document.replace(b'"run":"stub"', b'"run":"stub" '))
    assert cli("export", run, "exported", "--data", "deepmd/npy")[0] == 0
    about = json.loads(Path("exported/provenance.json").read_bytes())
    assert {key: about[key] for key in ("run", "run_uid", "state_version", "label_app", "config_sha256")} == {
        "run": "stub",
        "run_uid": state.run_uid,
        "state_version": state.version,
        "label_app": "stub",
        "config_sha256": state.config_sha256,
    }
    rows = {row["path"]: row for row in about["systems"]}
    one = rows["data/iter/000001/Cu2.novirial"]
    assert (one["iteration"], one["frames"], one["config_sha256"]) == (1, 4, sha256(frozen.read_bytes()))
    assert rows["data/init/bulk/O0Cu4"]["iteration"] is rows["data/init/bulk/O0Cu4"]["config_sha256"] is None
    source = run.parent / "out" / SPACE.dataset_iter(1) / "Cu2.novirial"
    assert one["sha256"]["set.000/force.npy"] == sha256_of(source / "set.000" / "force.npy")
    listed = parse(Path("exported", SUMS).read_bytes())
    assert set(listed) == {
        path.relative_to("exported").as_posix() for path in Path("exported").rglob("*") if path.is_file()
    } - {SUMS}


def test_labels_that_were_just_finished_are_exported(cli: Cli, run: Path) -> None:
    store = open_store(f"file://{run.parent}/out")
    row = IterationSummary(iteration=4, stages=["label"])
    trail = Record(store).load().state.trail
    set_state(store, stage="train", at="train.submitting", trail=[*trail, row])
    told = json.loads(cli("export", run, "exported", "--data", "deepmd/npy", "--json")[1])
    assert told["data"]["frames"] == 16


def test_from_s3(cli: Cli, run: Path, s3: Server, tmp_path: Path) -> None:
    store = open_store(s3.prefix(f"export/{tmp_path.name}"))
    local = open_store(f"file://{tmp_path}/out")
    for entry in local.list(""):
        store.put(entry.key, local.get(entry.key).data)
    code, _, errors = cli("export", store.url, "there", "--data", "extxyz", "--models", "--dpgen")
    assert code == 0, errors
    assert cli("export", "out", "here", "--data", "extxyz", "--models", "--dpgen")[0] == 0
    there, here = (
        {path.relative_to(top): path.read_bytes() for path in Path(top).rglob("*") if path.is_file()}
        for top in ("there", "here")
    )
    assert {path for path in here if here[path] != there.pop(path)} == {Path("provenance.json"), Path(SUMS)}
    assert there == {}


# --- models, and DP-GEN -------------------------------------------------------------------------------------


def test_the_newest_models(cli: Cli, run: Path) -> None:
    code, output, errors = cli("export", run, "exported", "--models")
    assert code == 0 and output.splitlines()[1] == "models/: 2 of iteration 3", errors
    assert {path.name: path.read_bytes() for path in Path("exported/models").glob("graph.*")} == MODELS
    about = json.loads(Path("exported/models/models.json").read_bytes())
    assert {key: about[key] for key in ("iteration", "app", "type_map", "files")} == {
        "iteration": 3,
        "app": "deepmd",
        "type_map": ["O", "Cu"],
        "files": list(MODELS),
    }
    assert not Path("exported/data").exists()


def test_models_of_a_trainer_that_does_not_say_them(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    assert cli("run", stub_run)[0] == 0
    assert cli("export", stub_run, tmp_path / "exported", "--models")[0] == 0
    folder = tmp_path / "exported" / "models"
    assert json.loads((folder / "models.json").read_bytes())["files"] == ["results.txt"]
    code, output, _ = cli("export", stub_run, tmp_path / "other", "--models", "--json")
    assert code == 0 and json.loads(output)["models"] == {"iteration": 1, "files": ["results.txt"]}


def dpgen_reads(folder: Path, iteration: int) -> list[Any]:
    """The labels that DP-GEN trains an iteration with: as its `make_train` looks for them."""
    found = []
    for number in range(iteration):
        for data in sorted((folder / f"iter.{number:06d}" / "02.fp").glob("data.*")):
            int(data.name.split(".")[-1])  # the index of its batch size
            systems = [path.parent for path in data.rglob("type.raw")]
            assert systems, "it raises an error where there is none"
            found += [dpdata.LabeledSystem(str(each), fmt="deepmd/npy") for each in systems]
    return found


def test_dpgen_goes_on_with_the_next_iteration(cli: Cli, run: Path) -> None:
    code, output, errors = cli("export", run, "exported", "--dpgen", "--json")
    assert code == 0, errors
    told, folder = json.loads(output)["dpgen"], Path("exported/dpgen")
    lines = [[int(word) for word in line.split()] for line in (folder / "record.dpgen").read_text().splitlines()]
    assert lines == [[number, task] for number in range(4) for task in range(9)]
    assert told["next_iteration"] == 4 and told["init_data_sys"] == ["bulk"] and told["models_of"] == 3
    same(dpgen_reads(folder, 4), [each for name, each in COUNTED.items() if name.startswith("iter/")])
    same([dpdata.LabeledSystem(str(folder / "data.init/bulk/O0Cu4"), fmt="deepmd/npy")], [BULK])
    work = folder / "iter.000003" / "00.train"
    for number, data in enumerate(MODELS.values()):
        assert (work / f"graph.{number:03d}.pb").resolve() == (work / f"{number:03d}" / "frozen_model.pb").resolve()
        assert (work / f"graph.{number:03d}.pb").read_bytes() == data
    assert [path.name for path in folder.glob("iter.*/00.train")] == ["00.train"], "the newest models only"
    number = {path.parent.parent.parent.name: path.parent.name for path in folder.glob("iter.*/02.fp/data.*/Cu2")}
    assert number == {"iter.000000": "data.000", "iter.000001": "data.000"}
    assert any("skip_training" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("train", "models", "expected"),
    [
        (4, None, "DP-GEN begins iteration 5, with a training: model_devi_jobs needs 5 entries"),
        (None, None, "DP-GEN begins with iteration 0"),
        (2, export_models.Models(1, "deepmd", "deepmd", ["Cu"], ["graph.000.pth"]), "train_backend: pytorch"),
        (2, export_models.Models(1, "deepmd", "deepmd", ["Cu"], ["graph.000.pb"]), "newer labels are not trained on"),
        (2, export_models.Models(2, "mace", "mace", ["Cu"], ["mace.000.model"]), "train/mace are not those of DP-GEN"),
    ],
)
def test_what_a_person_has_to_do(train: int | None, models: Any, expected: str) -> None:
    assert expected in "\n".join(export_dpgen.notes(train, [], models, ["Cu"]))


def test_what_dpgen_takes_as_done() -> None:
    init, third = labelled.Source("init", "a", ("Cu",)), labelled.Source("iter", "000003", ("Cu",))
    models = export_models.Models(5, "deepmd", "deepmd", [], [])
    assert export_dpgen.last_of([init], None) is None
    assert export_dpgen.last_of([init, third], None) == 3 and export_dpgen.last_of([third], models) == 5


# --- what is refused ----------------------------------------------------------------------------------------


def spoil(run: Path, what: str) -> None:
    folder = run.parent / "out" / SPACE.dataset_iter(1)
    path = folder / "Cu2" / "set.000" / "energy.npy"
    if what == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif what == "gone":
        path.unlink()
    elif what == "more":
        (folder / "Cu2" / "set.001").mkdir()
        (folder / "Cu2" / "set.001" / "energy.npy").write_bytes(path.read_bytes())
    elif what == "unreadable":
        (folder / "Cu2" / "type.raw").write_text("words\n")
        write_sums(folder)
    else:
        path = run.parent / "out" / SPACE.stage("train", 3).product / "graph.001.pb"
        path.write_bytes(b"another")


@pytest.mark.parametrize(
    ("what", "option", "seen"),
    [
        ("changed", "--data=extxyz", "Cu2/set.000/energy.npy: its content is not the one that was recorded"),
        ("gone", "--data=deepmd/npy", "Cu2/set.000/energy.npy: missing"),
        ("more", "--data=deepmd/npy", "Cu2/set.001/energy.npy: SHA256SUMS does not list it"),
        ("unreadable", "--dpgen", "iter/000001/Cu2: dpdata cannot read it"),
        ("model", "--models", "graph.001.pb: its content is not the one that was recorded"),
        ("model", "--dpgen", "graph.001.pb: its content is not the one that was recorded"),
    ],
)
def test_damage_is_not_exported(cli: Cli, run: Path, what: str, option: str, seen: str) -> None:
    spoil(run, what)
    before = set(run.parent.iterdir())
    code, output, errors = cli("export", run, "exported", option)
    assert code == 2 and seen in errors and output == ""
    assert set(run.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (("out", "new"), "say what to export"),
        (("out", "new", "--data", "vasp"), "'vasp' is not one of"),
        (("out", "full", "--models"), "full is not empty"),
        (("out", "run.yaml", "--models"), "run.yaml is not a folder"),
        (("out", "run.yaml/new", "--models"), "run.yaml/new: "),
        (("out", "out/new", "--models"), "out/new is inside the run"),
        (("out", "s3://bucket/x", "--models"), "name a folder on this machine"),
        (("nowhere", "new", "--models"), "there is no run"),
    ],
)
def test_bad_input_writes_nothing(cli: Cli, run: Path, arguments: tuple[str, ...], seen: str) -> None:
    Path("full").mkdir()
    Path("full/x").touch()
    before = {path: path.stat().st_mtime_ns for path in run.parent.rglob("*") if path.name != ".lock"}
    code, output, errors = cli("export", *arguments)
    assert (code, output) == (2, "") and seen in errors, errors
    assert {path: path.stat().st_mtime_ns for path in run.parent.rglob("*") if path.name != ".lock"} == before


@pytest.mark.parametrize("option", ["--models", "--data=extxyz", "--dpgen"])
def test_there_is_nothing_yet(cli: Cli, stub_run: Path, tmp_path: Path, option: str) -> None:
    assert cli("init", stub_run)[0] == 0
    code, _, errors = cli("export", stub_run, tmp_path / "new", option)
    assert code == 2 and "yet: its state is label.submitting of iteration 0" in errors
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("out", ["new", "empty"])
def test_what_was_interrupted_does_not_look_whole(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    Path("empty").mkdir()
    before = set(run.parent.iterdir())

    def interrupted(*_: Any) -> None:
        (part,) = set(Path.cwd().iterdir()) - before
        assert part.name.startswith(f".{out}.part-") and list(part.rglob("coord.npy"))
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(module, "write_models", interrupted)
        assert cli("export", run, out, "--data", "deepmd/npy", "--models")[0] == 130
    assert set(run.parent.iterdir()) == before and list(Path("empty").iterdir()) == []
    assert cli("export", run, out, "--data", "deepmd/npy", "--models")[0] == 0
    assert Path(out, "models", "models.json").exists()


def test_an_old_dpdata_is_said(cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(self: Any, fmt: str, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(dpdata.LabeledSystem, "to", no)
    code, _, errors = cli("export", run, "new", "--data", "quip/gap/xyz")
    assert code == 2 and "pip install -U dpdata" in errors and not Path("new").exists()
    assert formats.WRITERS["quip/gap/xyz"] is formats.quip
