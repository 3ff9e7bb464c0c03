"""Trains one model of a committee with DeePMD-kit: `dp train`, `freeze`, `compress` and `test`.

Runs inside a job, in the task's folder, with the Python beside `dp`. Standard library only, also on old Pythons.
`job.json` says what to do; the environment says how to call dp (DP_COMMAND, DP_HERE) and where the data are
(JOB_DATA, JOB_MODELS).

An interrupted training goes on from its newest checkpoint: the step counter and the optimizer's state continue,
the order of batches starts anew from the seed.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import traceback
import zipfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Dp = Callable[..., None]

CHECKPOINTS = Path("ckpt")  # training.save_ckpt is ckpt/model.ckpt
CURVE = Path("lcurve.out")
DIVERGED = Path("diverged.txt")
NEW = Path("new.json")  # the errors on labels that are new in this iteration
# The model's settings come from a pretrained one: dp writes them out, and needs them to go on from a checkpoint.
PRETRAINED = "--use-pretrain-script"
FILLED = CHECKPOINTS / "out.json"


class Backend(NamedTuple):
    """What dp is told, and what it leaves, with one of its backends."""

    title: str  # its name, and that of the package behind it
    package: str
    options: tuple[str, ...]  # of dp, before its command
    suffix: str  # of a frozen model
    last: str  # suffix of the file that is written last of a checkpoint


# TensorFlow is dp's default, and older dp know no option for it.
BACKENDS = {
    "tensorflow": Backend("TensorFlow", "tensorflow", (), ".pb", ".meta"),
    "pytorch": Backend("PyTorch", "torch", ("--pt",), ".pth", ".pt"),
}


def main() -> None:
    job = json.loads(Path("job.json").read_text())
    backend = BACKENDS[job.get("backend", "tensorflow")]
    graph, original = f"graph{backend.suffix}", f"original{backend.suffix}"
    for name in ("data", "models"):
        Path(name).unlink(missing_ok=True)
        if place := os.environ.get(f"JOB_{name.upper()}"):  # there are no models before the first training
            Path(name).symlink_to(place)
    head = job.get("head")
    check_once(sorted({Path(system).parent / "SHA256SUMS" for system in training_systems(head)}))
    if "weights" in job:
        weigh(job["weights"], head)
    if job.get("mixed"):
        from dp_mixed import join  # type: ignore[import-not-found]

        join(training_systems(head), head)
    for name in (graph, original, "test.json", str(NEW), str(DIVERGED)):
        Path(name).unlink(missing_ok=True)  # of an earlier attempt
    start = start_arguments(job, backend.suffix)
    tests = sorted(str(path.parent) for name in job["tests"] for path in Path(name).rglob("type.raw"))
    if job["tests"] and not tests:
        raise SystemExit(f"there are no test systems in {', '.join(job['tests'])}")
    dp = (not backend.options and imported_dp()) or called_dp(os.environ["DP_COMMAND"], *backend.options)

    train(dp, start, job["train_args"], backend)
    if DIVERGED.exists():
        return
    frozen = original if job["compress"] else graph
    dp("freeze", "-c", trained(backend), "-o", frozen, *(["--head", head] if head else []))
    if job["compress"]:
        dp("compress", "-i", frozen, "-o", graph)
    if not Path(graph).exists():
        raise SystemExit(f"error: dp ended well but left no {graph}")
    measure(dp, graph, tests, job.get("new", []))
    shutil.rmtree(CHECKPOINTS)


def check_once(lists: list[Path]) -> None:
    """Check what was recorded, once for all models of a stage that train on this machine.

    DPGEN2_SHARED is a folder that the jobs of a workflow share. In a pod there is none: each checks what it was given.
    """
    shared = os.environ.get("DPGEN2_SHARED")
    if not shared:
        check_recorded(lists)
        return
    Path(shared).mkdir(exist_ok=True)
    name = hashlib.sha256("".join(f"{path}\n" for path in lists).encode()).hexdigest()
    with open(Path(shared, f"checked-{name}"), "ab") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        if not note.tell():
            check_recorded(lists)
            note.write(b"as recorded\n")


def check_recorded(lists: list[Path]) -> None:
    """Refuse files that are not what the stage that wrote them has listed, and others among them."""
    for path in lists:
        if not path.exists():
            raise SystemExit(f"error: {path} is missing; put it back, or rewind to the stage that wrote it")
        lines = [line.split("  ", 1) for line in path.read_text().splitlines()]
        names = {name: sha256 for sha256, name in lines}
        for folder in sorted({path.parent / Path(name).parent for name in names}):
            for file in sorted(folder.iterdir()):
                if file.is_file() and file != path and file.relative_to(path.parent).as_posix() not in names:
                    raise SystemExit(f"error: {file} is not among what was recorded; remove it")
        for name, sha256 in names.items():
            digest = hashlib.sha256()
            with open(path.parent / name, "rb") as stream:
                for chunk in iter(lambda: stream.read(2**20), b""):
                    digest.update(chunk)
            if digest.hexdigest() != sha256:
                raise SystemExit(f"error: {path.parent / name} is not what was recorded (sha256 differs)")


def training_systems(head: str | None) -> list[str]:
    """The folders of the run's training data, as `plan` wrote them."""
    training = json.loads(Path("input.json").read_text())["training"]
    if head:
        training = training["data_dict"][head]
    systems: list[str] = training.get("training_data", training)["systems"]
    return systems


def weigh(weights: dict[str, Any], head: str | None) -> None:
    """Write into the input how often a batch is of old data: p = old / (old + N new), of numbers of frames."""
    found = json.loads(Path("input.json").read_text())
    training = found["training"]["data_dict"][head] if head else found["training"]
    data = training.get("training_data", training)
    old, new = ([(system, frames(Path(system))) for system in weights[name]] for name in ("old", "new"))
    before, added = (sum(count for _, count in part) for part in (old, new))
    ratio = before / (before + weights["new_to_old"] * added)
    data["systems"] = [system for system, _ in (*old, *new)]
    halves = f"0:{len(old)}:{ratio:g}; {len(old)}:{len(old) + len(new)}:{1 - ratio:g}"
    data["auto_prob" if "training_data" in training else "auto_prob_style"] = f"prob_sys_size; {halves}"
    Path("input.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def frames(system: Path) -> int:
    """Frames of a system: the length of its energies, as the heads of their files say it.

    The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    count = 0
    for file in sorted(system.glob("set.*/energy.npy")):
        with open(file, "rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(stream.read(2 if start[6] == 1 else 4), "little")
            head: dict[str, Any] = ast.literal_eval(stream.read(length).decode("latin-1"))
        count += int(head["shape"][0])
    return count


def start_file(model: str | None, suffix: str) -> str:
    """The name beside the input of a model of the user's; PyTorch goes by it, and fine-tunes checkpoints (.pt)."""
    return "start.pt" if suffix == ".pth" and str(model).endswith(".pt") else f"start{suffix}"


def start_arguments(job: dict[str, Any], suffix: str = ".pb") -> list[str]:
    """Options of `dp train` that say which weights to begin with; none for random ones."""
    if job["reuse"] is None:
        file = start_file(job.get("model"), suffix)
        return [job["start"], file, *job.get("start_args", [])] if job["start"] else []
    # A compressed model has no embedding net to go on with; reduce keeps the one before compression.
    index = job["reuse"]
    check_once([Path("models/SHA256SUMS")])
    for path in (f"models/original.{index:03d}{suffix}", f"models/graph.{index:03d}{suffix}"):
        if Path(path).exists():
            return ["--init-frz-model", path]
    raise SystemExit(
        f"training_reuse_iter: the last committee has no model {index}; keep numb_models, or raise training_reuse_iter"
    )


def train(dp: Dp, start: list[str], more: list[str], backend: Backend = BACKENDS["tensorflow"]) -> None:
    """Train from the newest checkpoint of this very training, or from the start."""
    identity = Path("input.json").read_bytes() + Path("job.json").read_bytes()
    mine, finished = CHECKPOINTS / "identity", CHECKPOINTS / "finished"
    if not mine.exists() or mine.read_bytes() != identity:
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    if finished.exists():
        return
    step = newest_checkpoint(backend)
    source = "input.json"
    if step is not None:
        mend_curve(step)
        start = ["--restart", f"{CHECKPOINTS}/model.ckpt-{step}"]
        source = str(FILLED) if FILLED.exists() else source
        print(f"continuing from the checkpoint of step {step}", flush=True)
    elif PRETRAINED in start:
        start = [*start, "--output", str(FILLED)]
    CHECKPOINTS.mkdir(exist_ok=True)
    mine.write_bytes(identity)
    log = Path("train.log")
    log.unlink(missing_ok=True)
    try:
        dp("train", source, "--log-path", str(log), *start, *more)
    except SystemExit:
        nan = re.search(r"^.*rmse\s*=\s*nan\b.*$", log.read_text() if log.exists() else "", re.M | re.I)
        if nan:  # dp 3.2 stops here, and would again: this is a result, to be judged
            DIVERGED.write_text(nan.group() + "\n")
            shutil.rmtree(CHECKPOINTS)
            return
        if step is not None and newest_checkpoint(backend) == step:
            shutil.rmtree(CHECKPOINTS)  # it may be damaged: the next attempt begins from the start
        raise
    mend_curve()
    finished.touch()


def newest_checkpoint(backend: Backend) -> int | None:
    """Step of the newest complete checkpoint.

    TensorFlow writes data, index, meta in this order; PyTorch one zip archive, which is none before its last bytes.
    """
    found = [re.fullmatch(rf"model\.ckpt-(\d+){re.escape(backend.last)}", path.name) for path in CHECKPOINTS.glob("*")]
    steps = [int(match.group(1)) for match in found if match]
    if backend.last == ".pt":
        steps = [step for step in steps if zipfile.is_zipfile(CHECKPOINTS / f"model.ckpt-{step}.pt")]
    return max(steps, default=None)


def trained(backend: Backend) -> str:
    """What `dp freeze -c` takes: TensorFlow's folder, or PyTorch's newest file, which has its pointer elsewhere."""
    if backend.last != ".pt":
        return str(CHECKPOINTS)
    step = newest_checkpoint(backend)
    if step is None:
        raise SystemExit(f"error: dp train ended well but left no checkpoint in {CHECKPOINTS}")
    return str(CHECKPOINTS / f"model.ckpt-{step}.pt")


def mend_curve(last: float = math.inf) -> None:
    """Drop from the learning curve what a restart repeats: headers, and rows of lost or repeated steps."""
    kept: list[str] = []
    before = -1
    for line in CURVE.read_text().splitlines() if CURVE.exists() else []:
        if line.startswith("#"):
            if line not in kept:
                kept.append(line)
            continue
        word = line.split(None, 1)[0] if line.strip() else ""
        if word.isdigit() and before < int(word) <= last:
            kept.append(line)
            before = int(word)
    CURVE.write_text("".join(f"{line}\n" for line in kept))


def measure(dp: Dp, graph: str, tests: list[str], new: list[str]) -> None:
    """Errors on the test data, and on the labels that are new: `dp test` once for both, as it loads the model.

    Those on new labels are for reports only: a model without them is as good.
    """
    if not tests and not new:
        return
    Path("tests.txt").write_text("".join(f"{system}\n" for system in [*tests, *new]))
    try:
        dp("test", "-m", graph, "-f", "tests.txt", "-n", "0", "-d", "detail")
    except SystemExit as error:
        if tests:
            raise
        print(f"not measured on the new labels: {error}", flush=True)
        return
    energies, forces = _rows(Path("detail.e_peratom.out")), _rows(Path("detail.f.out"))
    if tests:
        count = sum(frames(Path(system)) for system in tests)
        rows = sum(frames(Path(system)) * atoms(Path(system)) for system in tests)
        Path("test.json").write_text(json.dumps(errors(islice(energies, count), islice(forces, rows))))
    NEW.write_text(json.dumps({Path(system).name: frame_errors(forces, Path(system)) for system in new}))


def atoms(system: Path) -> int:
    return len((system / "type.raw").read_text().split())


def errors(energies: Iterable[list[float]], forces: Iterable[list[float]]) -> dict[str, Any]:
    """RMSE from rows of `dp test`'s detail files: half of the columns are data, half are predictions.

    Returns
    -------
    dict
        frames, rmse_e (eV/atom) and rmse_f (eV/Angstrom, over components); None where not finite.
    """
    count, rmse_e = _rmse(energies)
    _, rmse_f = _rmse(forces)
    return {"frames": count, "rmse_e": rmse_e, "rmse_f": rmse_f}


def frame_errors(forces: Iterator[list[float]], system: Path) -> dict[str, Any]:
    """Of each frame of a system the largest error of a force, and the RMSE over components; eV/Angstrom."""
    number = atoms(system)
    largest, rmse = [], []
    for _ in range(frames(system)):
        squares = [_squared(values) for values in islice(forces, number)]
        largest.append(short(math.sqrt(max(squares))))
        rmse.append(short(math.sqrt(sum(squares) / (3 * number))))
    return {"atoms": number, "max_error_f": largest, "rmse_f": rmse}


def short(value: float) -> float | None:
    """A figure, as it is kept; None where it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _squared(values: list[float]) -> float:
    half = len(values) // 2
    return sum((data - found) ** 2 for data, found in zip(values[:half], values[half:]))  # noqa: B905


def _rmse(table: Iterable[list[float]]) -> tuple[int, float | None]:
    rows, count, total = 0, 0, 0.0
    for values in table:
        total += _squared(values)
        rows, count = rows + 1, count + len(values) // 2
    rmse = math.sqrt(total / count) if count else math.nan
    return rows, rmse if math.isfinite(rmse) else None


def _rows(path: Path) -> Iterator[list[float]]:
    with open(path) as stream:
        for line in stream:
            if not line.startswith("#"):
                try:
                    yield [float(word) for word in line.split()]
                except ValueError as error:
                    raise SystemExit(f"error: dp test left an odd {path}: {error}") from None


def called_dp(command: str, *options: str) -> Dp:
    """dp through the user's command, whatever it is."""

    def dp(*args: str) -> None:
        code = subprocess.call(["sh", "-c", f'{command} "$@"', "dp", *options, *args])
        if code:
            raise SystemExit(f"{command} {' '.join(args)}: exit code {code}")

    return dp


def imported_dp() -> Dp | None:
    """dp in a forked child of this process, if it is installed here: TensorFlow is imported once, not every time.

    Not for PyTorch: its import may touch the GPUs, and then no forked child can use them.
    """
    if not os.environ.get("DP_HERE"):
        return None
    try:
        import deepmd.tf.entrypoints.main  # noqa: F401
        from deepmd.main import main
    except ImportError:
        return None

    def dp(*args: str) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                main(list(args))
                code = 0
            except BaseException as error:
                print(f"dp {args[0]}: {type(error).__name__}: {error}", file=sys.stderr)
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"dp {' '.join(args)}: wait status {status}")

    return dp


if __name__ == "__main__":
    main()
