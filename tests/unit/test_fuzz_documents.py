"""What people write and what the store holds, damaged: a value, or the project's own error."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from ase.build import bulk

from conventions.documents import DoneMarker, StageReport, parse_json
from conventions.errors import ConfigError, DataError, Dpgen2Error, EngineError, StateError, StoreError
from conventions.names import SPEC_HASH, canonical_json, sha256
from conventions.space import DataSpace, JobFile
from conventions.state import State
from operators.explore.lammps_input import fit_template, revise
from operators.label.cp2k_input import fill, read_template
from operators.pod.claim import ClaimContext, ClaimParams, claim
from statemachine.engine.local import LocalEngine
from statemachine.machine.orders import Order
from statemachine.machine.transitions import Observation, decide
from statemachine.run.begin import prepare
from statemachine.run.config_file import read_config, read_prefix
from statemachine.run.record import Record
from statemachine.run.restore import restore
from statemachine.store import check_key
from tests.conftest import CONFIG, STRUCTURE
from tests.doubles import APPS, FakeEngine, MemoryStore, first_state, poller_of
from tests.figures import Figures
from tests.mutations import LONG, Parser, check

GOLDEN = Path(__file__).parent / "golden"
SPACE = DataSpace(APPS)
STATE = first_state(reason="a word", at="train.running", stage="train").seal()
HPC = {
    "machine": {
        "batch_type": "Slurm",
        "context_type": "SSHContext",
        "remote_root": "/scratch",
        "remote_profile": {"hostname": "h", "username": "u"},
    },
    "resources": {"queue_name": "q", "custom_flags": ["#SBATCH -n 1"], "envs": {"A": 1}, "module_list": ["m"]},
}
DOCUMENT = {
    "run": "cu", "prefix": "s3://bucket/p", "type_map": ["Cu"], "mass_map": [63.5],
    "engine": {"type": "argo", "server": "https://argo.example.org:2746", "image": "r/i:1"},
    "structures": {"start": {"files": ["cu.xyz"], "pert_numb": 1, "scale": [1.0]}}, "init": {"label": ["start"]},
    "label": {"app": "ase", "calculator": "ase.calculators.emt:EMT", "kwargs": {"a": 1}, "hpc": HPC},
    "train": {"app": "deepmd", "input": "input.json", "numb_models": 4, "pod": {"cpu": 1, "env": {"A": "b"}}},
    "explore": {"app": "lammps", "stages": [[{
        "structures": ["start"], "ensemble": "npt", "temps": [300], "press": [1.0], "nsteps": 200, "trj_freq": 10,
    }]]},
    "select": {"app": "model_devi", "f_trust_lo": 0.1, "f_trust_hi": {"start": 0.3}, "fp_task_max": 4},
    "convergence": {"accuracy": 0.9}, "max_iterations": 3,
}  # fmt: skip
LOCAL = {
    "phase": "failed", "message": "x", "uid": "none-of-ours",
    "metadata": {"name": "w", "annotations": {SPEC_HASH: "0"}},
}  # fmt: skip
MARKER = DoneMarker(
    job_id="000000", inputs="0" * 64, tasks=[{"id": "task.000000", "code": 0}],
    files=[{"name": "task.000000/a", "size": 1, "sha256": "0" * 64}],
)  # fmt: skip
REPORT = StageReport(
    stage="label", app="ase", iteration=0, attempt=0, complete=True, next=True, jobs={"planned": 1, "finished": 1},
    files={"product": {"model": 3}}, classes={"ok": 1}, summary={"labelled": 1.0}, messages=["x"],
)  # fmt: skip


def configuration(data: bytes, folder: Path) -> None:
    """Reading, checking, and all that `init` does before it writes."""
    (folder / "cu.xyz").write_text(STRUCTURE)
    (folder / "input.json").write_text("{}")
    path = folder / "run.yaml"
    path.write_bytes(data)
    try:
        read_prefix(path)
    finally:
        prepare(read_config(path), folder)


def state(data: bytes, folder: Path) -> None:
    found = State.unseal(data)
    assert found.seal() == data


def resealed(data: bytes, folder: Path) -> None:
    """What a newer program, or a careful editor, could write: where it is taken, the machine can go on from it."""
    try:
        body = {key: value for key, value in dict(json.loads(data)).items() if key != "sha256"}
        sealed = canonical_json({**body, "sha256": sha256(canonical_json(body))}) + b"\n"
    except (ValueError, TypeError, RecursionError):
        return
    found = State.unseal(sealed)
    check_key(found.place.report)
    assert len(found.workflow) <= 63 + len(str(found.attempt)) and decide(found, Observation()).state.run == found.run


def document(kind: Any, data: bytes, folder: Path) -> None:
    found = kind.load(data, "it")
    assert kind.load(found.dump()) == found


def report_in_a_run(data: bytes, folder: Path) -> None:
    """The report decides where a run goes: whatever it says, the state stays readable and small."""
    store = MemoryStore()
    engine = FakeEngine(store)
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    place = poller.step().place
    engine.run()
    store.put(place.report, data)
    poller.step()
    again = Record(store).load()
    assert len(again.data) < 100_000 and again.state.version < 9


def claim_in_a_run(data: bytes, folder: Path) -> None:
    """A claim that nobody wrote is somebody's: the attempt is given up only when its workflow is dead."""
    store = MemoryStore()
    engine = FakeEngine(store, spoil=lambda state: "dies")
    poller = poller_of(store, engine)
    poller.record.create(first_state())
    state = poller.step()
    store.put(state.place.claim(0), data)
    engine.run()
    assert poller.step().attempt == 1


def claim_in_a_pod(data: bytes, folder: Path) -> None:
    (folder / "claim").write_bytes(data)
    claim(ClaimParams(folder.as_uri(), "claim", "me"), ClaimContext())


def history(data: bytes, folder: Path) -> None:
    """Damaged anywhere, a run is read, or restored, or refused."""
    for key in (SPACE.state, SPACE.event(1), SPACE.event(2), SPACE.event(3)):
        store = MemoryStore()
        store.put(SPACE.config(0), b"{}")
        poller = poller_of(store, FakeEngine(store))
        poller.record.create(first_state(config_sha256=sha256(b"{}")))
        poller.tell(Order("pause", "x"))
        store.put(key, data)
        try:
            Record(store).load()
        except StateError:
            restore(store)
            assert Record(store).load().state.run == "cu"


def key(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    found = SPACE.parse(text)
    if isinstance(found, JobFile):
        assert text.endswith(f"/{found.part}/{found.path}")
    version = SPACE.version(text)
    assert version is None or SPACE.event(version) == text
    SPACE.training_system(text)
    assert check_key(text) == text and ".." not in text.split("/") and not text.startswith("/")


def cp2k_input(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    fill(read_template(text, {"a": text}, "label.input"), bulk("Cu"))


def lammps_template(data: bytes, folder: Path) -> None:
    text = fit_template(
        data.decode("utf-8", "replace"), "template", models=["graph.000.pb"], trj_freq=10, type_map=["Cu"], plumed=False
    )
    revise(text, {"V_TEMP": 300, "V_SEED": 1}, "template")


def local_status(data: bytes, folder: Path) -> None:
    """A power cut leaves what it leaves in the files of the local engine."""
    engine = LocalEngine(folder, folder.as_uri())
    place = folder / "workflow" / "w"
    place.mkdir(parents=True, exist_ok=True)
    manifest = {"metadata": LOCAL["metadata"]}
    (place / "settings.json").write_text('{"uid": "none-of-ours"}')
    (place / "manifest.json").write_text(json.dumps(manifest))
    (place / "status.json").write_text('{"phase": "failed", "message": "x"}')
    (place / ("status.json", "settings.json", "manifest.json")[len(data) % 3]).write_bytes(data)
    with patch("statemachine.engine.local._members", lambda uid: []):  # not all processes of the machine, each time
        engine.status("w")
        try:
            engine.terminate("w")
        finally:
            engine.submit(manifest)


def text_of(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


HISTORY = [
    SPACE.event(12).encode(),
    SPACE.told("0-00000012-failed").encode(),
    SPACE.damaged("0" * 64).encode(),
    SPACE.dataset_init("a").encode() + b"/type.raw",
]
JOBS = [
    f"{part}/task.000000/x".encode()
    for at in [SPACE.stage("label", 1).job("000002")]
    for part in (at.job_in, at.job_log)
]
TEMPLATE = b"""units metal
atom_style atomic
read_data x.lmp
pair_style deepmd a.pb out_freq 10
pair_coeff * *
velocity all create V_TEMP V_SEED
dump dpgen_dump all custom 10 t id type x y z
run 100
"""

PARSERS: dict[str, Parser] = {
    "configuration": Parser(configuration, [CONFIG.encode()], [DOCUMENT], (ConfigError,)),
    "state.json": Parser(state, [STATE], errors=(StateError,)),
    "state.json, sealed": Parser(resealed, [], [json.loads(STATE)], (StateError,)),
    "completion marker": Parser(
        functools.partial(document, DoneMarker), [MARKER.dump()], [json.loads(MARKER.dump())], (DataError,)
    ),
    "report.json": Parser(
        functools.partial(document, StageReport), [REPORT.dump()], [json.loads(REPORT.dump())], (DataError,)
    ),
    "report.json in a run": Parser(report_in_a_run, [REPORT.dump()], [json.loads(REPORT.dump())]),
    "claim": Parser(claim_in_a_run, [b"0f3a99c1-d2e4"]),
    "claim in a pod": Parser(claim_in_a_pod, [b"me"], errors=(Dpgen2Error,)),
    "history": Parser(history, [STATE], errors=(StateError,)),
    "keys": Parser(key, [*HISTORY, *JOBS], errors=(StoreError,)),
    "input of CP2K": Parser(cp2k_input, [text_of("label/gfn1.inp"), text_of("label/pbe.inp")], errors=(ConfigError,)),
    "template of LAMMPS": Parser(lammps_template, [TEMPLATE], errors=(ConfigError,)),
    "files of the local engine": Parser(local_status, [], [LOCAL], (EngineError,)),
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_value_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    check(PARSERS[name], tmp_path)


@pytest.mark.slow
def test_many_more(tmp_path: Path, figure: Figures) -> None:
    tried = [check(parser, tmp_path, LONG) for parser in PARSERS.values()]
    figure("bad input: damaged documents tried", sum(tried), exact=False)


@pytest.mark.parametrize(
    "text",
    [
        "1e999",
        "-1E999",
        "1e+999",
        "[1, 1.5e0999]",
        "1" + "0" * 309 + ".0",
        f"-{'9' * 400}.5",
        '"\\ud800"',
        '{"\\uDFFF": 1}',
    ],
)
def test_what_becomes_an_infinity_or_half_a_character_is_refused(text: str) -> None:
    """Also where it is the only such thing in a large document."""
    for document in (text, f'{{"x": [0.25, 1e-300, "E = 5e-1 \\\\n"], "y": {text}}}'):
        with pytest.raises(DataError, match="not valid JSON"):
            parse_json(document.encode(), "x")


@pytest.mark.parametrize("text", ["1e-999", "1e308", "0.1", "1" + "0" * 308, '"\\ud83d\\ude00"', '"é"', "[]"])
def test_what_does_not_is_read(text: str) -> None:
    assert parse_json(text.encode(), "x") == json.loads(text)
