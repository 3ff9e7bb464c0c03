"""What jobs leave behind, damaged: a value, or the project's own error, and never a poison number in a dataset."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from conventions.config import Structures, UserFile
from conventions.errors import ConfigError, DataError
from conventions.names import canonical_json, sha256
from operators.explore.ase import judge as judge_ase
from operators.explore.lammps_log import judge as judge_trajectory
from operators.explore.trajectory import BROKEN
from operators.frame_keys import atomic_numbers, dataset_keys
from operators.jobs import TaskOutput, telling_line
from operators.label import frames as label_frames
from operators.label.ase import read_label
from operators.label.cp2k_output import read_output
from operators.select.choose import Candidates, choose
from operators.select.dump import CorruptFrame, DumpIndex, Frame, parse_frame, read_frames
from operators.select.filters import rejection
from operators.select.model_devi import read_trajectories
from operators.select.pool import SCORES, gather
from operators.select.score import CLASSES, score
from operators.structures import check_structures, load_structures
from operators.sums import SUMS, verify, write_sums
from operators.train.dp_input import read_input
from operators.train.dp_judge import judge as judge_model
from tests.figures import Figures
from tests.label_samples import SAMPLES, Sample, text_of
from tests.mutations import LONG, Parser, check
from tests.select_run import config as select_config
from tests.select_run import deviations, dump

GOLDEN = Path(__file__).parent / "golden"

DUMP = dump(range(0, 50, 10)).encode()
TRICLINIC = DUMP.replace(b"pp pp pp\n0 4\n0 4\n0 4", b"xy xz yz pp pp pp\n0 4.1 0.1\n0 4 0\n0 4 0")
DEVIATIONS = [
    deviations((step, 0.05 * step) for step in range(0, 50, 10)).encode(),
    deviations([(0, 0.2)], "").encode(),
]
LOG = b"Step Temp\n 0 300 -3.5\n 40 301 nan\nLoop time of 1\nTotal wall time: 0:00:01\n"
CURVE = b"# step rmse_val rmse_trn rmse_e_trn rmse_f_trn lr\n 0 1e0 1e0 1e-1 1e-1 1e-3\n 10 2e-1 2e-1 1e-2 5e-2 1e-3\n"
FRAMES = label_frames.dump_frames([bulk("Cu", cubic=True), bulk("Cu")])
LABEL = canonical_json(
    {"energy": -1.5, "forces": [[0.1, 0.2, 0.3]] * 4, "virial": np.eye(3).tolist(), "index": 0, "message": ""}
)
OUTPUTS = [path.read_bytes() for path in sorted((GOLDEN / "label").glob("cp2k-*.log"))]
POSCAR = b"Cu O\n1.0\n4 0 0\n0 4 0\n0 0 4\nCu O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def scores() -> bytes:
    data = io.BytesIO()
    rows = {"rows": np.array([3]), "problem": np.array([""], "U300"), "step": np.arange(3)}
    more = {"max_devi_f": np.full(3, 0.2), "max_devi_v": np.full(3, np.nan), "cls": np.full(3, 1, np.uint8)}
    np.savez(data, **rows, **more)
    return data.getvalue()


def npy(values: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, np.asarray(values))
    return data.getvalue()


def extxyz() -> bytes:
    text = io.StringIO()
    ase.io.write(text, [bulk("Cu"), bulk("Cu", cubic=True)], format="extxyz")
    return text.getvalue().encode()


TRAJECTORIES = {
    "schema_version": 1,
    "trajectories": [
        {"job_id": "000000", "task_id": f"task.00000{n}", "structure": "bulk", "class": "ok", "files": {"a": "0" * 64}}
        for n in range(2)
    ],
}


# --- the parsers: a sample, and what is done with a damaged one. An error that is not named here fails the test. ---


def model_devi(data: bytes, folder: Path) -> None:
    """Through the score job, which knows no errors: a file that cannot be used is a trajectory with a problem."""
    (folder / "model_devi.out").write_bytes(data)
    (folder / "traj.lammpstrj").write_bytes(DUMP)
    one = {"folder": ".", "structure": "bulk", "files": {}}
    levels = [0.1, 0.3, 0.1, 0.3]
    task = {"trajectories": [{**one, "broken": False}, {**one, "broken": True}], "levels": {"bulk": levels}, "skip": 1}
    found = score(task, folder)
    candidates = found["cls"] == CLASSES.index("candidate")
    assert np.isfinite(found["max_devi_f"][candidates]).all() and (found["step"][candidates] >= 0).all()
    assert (found["max_devi_f"][candidates] < 0.3).all()


def dumped(data: bytes, folder: Path) -> None:
    """Every frame that select may choose from has finite numbers, and atoms of known types."""
    path = folder / "traj.lammpstrj"
    path.write_bytes(data)
    index = DumpIndex.of(path)
    for _, frame in read_frames(path, index, range(0, 50, 10), 2):
        if isinstance(frame, Frame):
            assert np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all() and len(frame.types) == 4
            assert rejection(frame, np.full((9, 9), 0.5), 5.0, 60.0) in ("", "bad_box", "too_close")
    with_one = Candidates(np.zeros(5, int), np.arange(0, 50, 10), np.full(5, 0.2), np.full(5, np.nan))
    choice = choose(
        with_one, [(path, None)], ["bulk"], atomic_numbers(["Cu", "O"]), seed=1, maximum=5, limits={"bulk": 5},
        reject=lambda frame: rejection(frame, np.full((9, 9), 0.5), None, None), known=set(),
    )  # fmt: skip
    assert len(choice.chosen) + sum(choice.rejected.values()) == 5


def one_frame(data: bytes, folder: Path) -> None:
    parse_frame(data, 1)


def cp2k(data: bytes, folder: Path) -> None:
    symbols = ["O", "H", "H", "O", "H", "H"]
    label = label_frames.judge(read_output(data.decode("utf-8", "replace"), symbols, 512.0), len(symbols))
    check_label(label, len(symbols))


def output_of(sample: Sample) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        label = sample.program.label(data.decode("utf-8", "replace"), sample.frame)
        check_label(label_frames.judge(label, len(sample.frame)), len(sample.frame))

    return read


def ase_line(data: bytes, folder: Path) -> None:
    check_label(label_frames.judge(read_label(data.decode("utf-8", "replace")), 4), 4)


def check_label(label: label_frames.Label, atoms: int) -> None:
    if label.kind == "ok":
        assert (
            abs(label.energy) <= label_frames.ABSURD_ENERGY * atoms
            and label.forces is not None
            and label.forces.shape == (atoms, 3)
        )
        assert np.isfinite(label.forces).all() and np.abs(label.forces).max() <= label_frames.ABSURD_FORCE
        assert label.virial is None or (label.virial.shape == (3, 3) and np.isfinite(label.virial).all())
    else:
        assert label.kind.isidentifier()


def frames_json(data: bytes, folder: Path) -> None:
    (folder / "frames.json").write_bytes(data)
    label_frames.load_frames(folder / "frames.json")


def selected(data: bytes, folder: Path) -> None:
    (folder / "frames.extxyz").write_bytes(data)
    write_sums(folder)
    context: Any = type("Context", (), {"selected": folder})
    for atoms in label_frames.frames_to_label(CONFIG, label_frames.PlanParams(True), context):
        assert set(atoms.get_chemical_symbols()) <= {"Cu", "O"} and np.isfinite(atoms.positions).all()


def structures(data: bytes, folder: Path) -> None:
    (folder / sha256(data)).mkdir(exist_ok=True)
    (folder / sha256(data) / "bulk.vasp").write_bytes(data)
    files = [UserFile(f"{sha256(data)}/bulk.vasp")]
    config = CONFIG.model_copy(update={"structures": {"bulk": Structures(files=files, pert_numb=2, pert_box=0.03)}})
    check_structures(config, "bulk", folder)
    for atoms in load_structures(config, ["bulk"], folder):
        assert np.isfinite(atoms.positions).all() and atoms.cell.rank == 3


def log_of_lammps(data: bytes, folder: Path) -> None:
    trajectory(folder, log=data)


END = {"class": "ok", "step": 20, "why": ""}


def end_of_ase(data: bytes, folder: Path) -> None:
    (folder / "end.json").write_bytes(data)
    found = judge_ase(folder)
    assert found.kind in ("ok", "truncated", *BROKEN)


def devi_in_explore(data: bytes, folder: Path) -> None:
    trajectory(folder, devi=data)


def dump_in_explore(data: bytes, folder: Path) -> None:
    trajectory(folder, traj=data)


def trajectory(folder: Path, devi: bytes = DEVIATIONS[0], traj: bytes = DUMP, log: bytes = LOG) -> None:
    for name, data in {"model_devi.out": devi, "traj.lammpstrj": traj, "log.lammps": log}.items():
        (folder / name).write_bytes(data)
    found = judge_trajectory(folder)
    canonical_json({"class": found.kind, "rows": found.rows, "last_step": found.last_step})


def offered(data: bytes, folder: Path) -> None:
    (folder / "trajectories.json").write_bytes(data)
    write_sums(folder)
    for one in read_trajectories(folder):
        assert ".." not in one.folder and one.folder == one.folder.strip()


def scores_npz(data: bytes, folder: Path) -> None:
    (folder / SCORES).write_bytes(data)
    output = TaskOutput(0, "000000", "task.000000", folder, folder / "log")
    pool = gather([output], [1])
    assert len(pool.candidates) <= 3 and (pool.outputs[0].folder is None or sum(pool.counts.values()) <= 3)


def curve(data: bytes, folder: Path) -> None:
    (folder / "graph.pb").write_bytes(b"\nx")
    (folder / "lcurve.out").write_bytes(data)
    judged(folder, False)


def dp_test(data: bytes, folder: Path) -> None:
    (folder / "graph.pb").write_bytes(b"\nx")
    (folder / "lcurve.out").write_bytes(CURVE)
    (folder / "test.json").write_bytes(data)
    judged(folder, True)


def judged(folder: Path, tested: bool) -> None:
    kind, figures, message = judge_model(TaskOutput(0, "000000", "task.000000", folder, folder / "log"), tested)
    assert (kind == "ok") == bool(figures) == (not message)
    assert all(map(math.isfinite, figures.values()))


def log_of_job(data: bytes, folder: Path) -> None:
    (folder / "log").write_bytes(data)
    assert len(telling_line(folder / "log")) <= 300


def training_set(data: bytes, folder: Path) -> None:
    system = folder / "bulk"
    (system / "set.000").mkdir(parents=True, exist_ok=True)
    for name, content in {
        "type.raw": b"0\n0\n",
        "type_map.raw": b"Cu\n",
        "set.000/coord.npy": npy(np.zeros((1, 6))),
    }.items():
        (system / name).write_bytes(content)
    (system / "set.000" / "box.npy").write_bytes(npy(np.eye(3).reshape(1, 9)))
    for name in ("type.raw", "set.000/box.npy", "set.000/coord.npy"):
        kept = (system / name).read_bytes()
        (system / name).write_bytes(data)
        dataset_keys(folder, ["bulk"])
        (system / name).write_bytes(kept)


def sums(data: bytes, folder: Path) -> None:
    (folder / "a").write_bytes(b"a")
    (folder / SUMS).write_bytes(data)
    verify(folder, "a", what="the product")


def dp_input(data: bytes, folder: Path) -> None:
    (folder / "input.json").write_bytes(data)
    read_input(folder / "input.json", ["Cu"])


def sums_of_a() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_bytes(b"a")
        write_sums(Path(folder))
        return (Path(folder) / SUMS).read_bytes()


CONFIG: Any = select_config()


PARSERS: dict[str, Parser] = {
    "model_devi.out (select)": Parser(model_devi, DEVIATIONS),
    "model_devi.out (explore)": Parser(devi_in_explore, DEVIATIONS),
    "traj.lammpstrj (select)": Parser(dumped, [DUMP, TRICLINIC]),
    "traj.lammpstrj (explore)": Parser(dump_in_explore, [DUMP, TRICLINIC]),
    "a frame of a dump": Parser(one_frame, [DUMP, TRICLINIC], errors=(CorruptFrame,)),
    "log.lammps": Parser(log_of_lammps, [LOG]),
    "end.json": Parser(end_of_ase, [canonical_json(END)], [END]),
    "output of CP2K": Parser(cp2k, OUTPUTS),
    "labels.jsonl": Parser(ase_line, [LABEL], [json.loads(LABEL)]),
    "frames.json": Parser(frames_json, [FRAMES], [json.loads(FRAMES)], (DataError,)),
    "frames.extxyz": Parser(selected, [extxyz()], errors=(DataError,)),
    "a structure file": Parser(structures, [POSCAR], errors=(ConfigError,)),
    "trajectories.json": Parser(offered, [canonical_json(TRAJECTORIES)], [TRAJECTORIES], (DataError,)),
    "scores.npz": Parser(scores_npz, [scores()]),
    "lcurve.out": Parser(curve, [CURVE]),
    "test.json": Parser(dp_test, [], [{"rmse_e": 0.1, "rmse_f": 0.2}]),
    "a job's log": Parser(log_of_job, [LOG, CURVE]),
    "a training set": Parser(training_set, [npy(np.eye(3).reshape(1, 9)), b"0\n0\n"]),
    "SHA256SUMS": Parser(sums, [sums_of_a()], errors=(DataError,)),
    "input.json of DeePMD-kit": Parser(
        dp_input, [], [json.loads((GOLDEN / "train_deepmd" / "input.json").read_bytes())], (ConfigError,)
    ),
}

PARSERS |= {
    f"output of {app}": Parser(
        output_of(sample), [text_of(name).encode() for name in (*sample.good, *sample.bad, *sample.lost)]
    )
    for app, sample in SAMPLES.items()
}


@pytest.mark.parametrize("name", PARSERS)
def test_a_value_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    check(PARSERS[name], tmp_path)


@pytest.mark.slow
def test_many_more(tmp_path: Path, figure: Figures) -> None:
    tried = [check(parser, tmp_path, LONG) for parser in PARSERS.values()]
    figure("bad input: damaged outputs tried", sum(tried), exact=False)
