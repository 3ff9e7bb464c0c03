"""Trains one model of a committee with MACE, and measures its errors.

Runs inside a job, in the task's folder, with the Python beside `mace_run_train`, which has NumPy and ASE;
`mace_infer.py` and `dp_model.py` lie beside it. `job.json` says what to do; the environment says how to call
mace_run_train (MACE_COMMAND) and where the data are (JOB_DATA).

An interrupted training goes on from its newest checkpoint, which MACE writes where the validation loss has fallen.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

CHECKPOINTS = Path("ckpt")
PATIENCE = 30  # seconds between two looks at the checkpoints
LABELS = ("coord", "energy", "force", "virial")
MODEL, CURVE, TEST = Path("mace.model"), Path("lcurve.jsonl"), Path("test.json")
TRAIN, VALID = Path("train.xyz"), Path("valid.xyz")
START = "start.model"  # the model to go on from
NEW = Path("new.json")  # the errors on labels that are new in this iteration


def main() -> None:
    from dp_model import check_once  # type: ignore[import-not-found]
    from mace_infer import energies_of_atoms, model  # type: ignore[import-not-found]

    job = json.loads(Path("job.json").read_text())
    data = Path("data")
    data.unlink(missing_ok=True)
    data.symlink_to(os.environ["JOB_DATA"])
    options = job["options"]
    if "reuse" in job:
        last_model(Path(os.environ["JOB_MODELS"]), job["reuse"])
        # MACE 0.3.16 has a name for these (foundation), and fails there with a single element.
        options = [*options, "--E0s", str(energies_of_atoms(Path(START)))]
    check_once(sorted({(data / name).parent / "SHA256SUMS" for name in job["systems"]}))
    for path in (MODEL, CURVE, TEST, NEW):
        path.unlink(missing_ok=True)  # of an earlier attempt
    systems = [data / name for name in job["systems"]]
    tests, watched = (systems_in(data, job.get(name, [])) for name in ("tests", "watched"))
    for path, part in ((TRAIN, systems), (VALID, watched)):
        with open(path, "w") as stream:
            stream.writelines(extxyz(*frame) for system in part for frame in frames(system))

    train(options)
    trained = model(MODEL)
    TEST.write_text(json.dumps(errors(trained, tests or systems)))
    NEW.write_text(json.dumps({Path(name).name: frame_errors(trained, data / name) for name in job["new"]}))
    shutil.rmtree(CHECKPOINTS)


def systems_in(data: Path, folders: list[str]) -> list[Path]:
    """The systems in folders of the dataset."""
    found = sorted(path.parent for name in folders for path in (data / name).rglob("type.raw"))
    if folders and not found:
        raise SystemExit(f"there are no systems in {', '.join(folders)}")
    return found


def last_model(committee: Path, index: int) -> None:
    """Put the model of the last committee that this one goes on from beside the input."""
    from dp_model import check_once

    check_once([committee / "SHA256SUMS"])
    path = committee / f"mace.{index:03d}.model"
    if not path.exists():
        raise SystemExit(
            f"training_reuse_iter: the last committee has no model {index}; keep numb_models, or raise "
            "training_reuse_iter"
        )
    shutil.copyfile(path, START)


def train(options: list[str]) -> None:
    """Train from the newest checkpoint of this very training, or from the start."""
    identity = Path("job.json").read_bytes() + Path("input.yaml").read_bytes()
    mine = CHECKPOINTS / "identity"
    if not mine.exists() or mine.read_bytes() != identity:
        shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    CHECKPOINTS.mkdir(exist_ok=True)
    mine.write_bytes(identity)
    prune(keep_cut=False)  # the job may have been killed while it wrote one
    before = newest()
    if before:
        print(f"continuing from the checkpoint {before}", flush=True)
    command = os.environ["MACE_COMMAND"]
    with subprocess.Popen(["sh", "-c", f'{command} "$@"', "mace", "--config", "input.yaml", *options]) as mace:
        while (code := ended(mace)) is None:
            prune()
    if code:
        if before and newest() == before:
            shutil.rmtree(CHECKPOINTS)  # it may be damaged: the next attempt begins from the start
        raise SystemExit(f"{command}: exit code {code}")
    second = Path("mace_stagetwo.model")  # what is better in energies, where the input asks for it
    if second.exists():
        second.replace(MODEL)
    curves = sorted(CHECKPOINTS.glob("*_train.txt"))
    if not MODEL.exists() or not curves:
        raise SystemExit(f"error: {command} ended well but left no {MODEL if curves else 'curve'}")
    shutil.copyfile(curves[0], CURVE)


def ended(mace: subprocess.Popen[bytes]) -> int | None:
    """The exit code of MACE; None where it still runs after PATIENCE seconds."""
    try:
        return mace.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return None


def prune(keep_cut: bool = True) -> None:
    """Drop all checkpoints but the last two of each stage of a training.

    MACE would drop the last one itself, but before it writes the next: a kill between the two would lose all.
    """
    for second in (False, True):
        paths = [path for path in CHECKPOINTS.glob("*_epoch-*.pt") if path.stem.endswith("_swa") == second]
        paths.sort(key=lambda path: path.stat().st_mtime_ns)
        whole = [path for path in paths if zipfile.is_zipfile(path)]
        cut = [] if keep_cut else [path for path in paths if path not in whole]
        for path in [*whole[:-2], *cut]:
            path.unlink()


def newest() -> str:
    """The name of the checkpoint that MACE goes on from, or "" where there is none."""
    paths = sorted(CHECKPOINTS.glob("*_epoch-*.pt"), key=lambda path: path.stat().st_mtime_ns)
    return paths[-1].name if paths else ""


def frames(system: Path) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Symbols, and arrays by DeePMD-kit's names, of each frame of a folder of deepmd/npy (Angstrom, eV)."""
    import numpy as np

    names = (system / "type_map.raw").read_text().split()
    symbols = [names[number] for number in np.loadtxt(system / "type.raw", dtype=int, ndmin=1)]
    for folder in sorted(system.glob("set.*")):
        arrays = {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
        for number in range(len(arrays["coord"])):
            found = {name: array[number] for name, array in arrays.items() if name in LABELS}
            if not (system / "nopbc").exists():
                found["box"] = arrays["box"][number].reshape(3, 3)
            for name in ("coord", "force"):
                found[name] = found[name].reshape(-1, 3)
            yield symbols, found


def extxyz(symbols: list[str], frame: dict[str, Any]) -> str:
    """A frame as MACE reads it: stress is ASE's, -virial/volume in eV/Angstrom^3; virials as DeePMD-kit's, in eV."""
    import numpy as np

    def row(values: Any) -> str:
        return " ".join(repr(float(value)) for value in np.ravel(values))

    header = [f"Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy={row(frame['energy'])}"]
    if "box" in frame:
        header += [f'Lattice="{row(frame["box"])}"', 'pbc="T T T"']
        if "virial" in frame:
            virial = frame["virial"].reshape(3, 3)
            stress = -virial / abs(np.linalg.det(frame["box"]))
            header += [f'REF_stress="{row(stress)}"', f'REF_virials="{row(virial)}"']
    else:
        header.append('pbc="F F F"')
    rows = zip(symbols, frame["coord"], frame["force"])  # noqa: B905
    lines = [str(len(symbols)), " ".join(header), *(f"{symbol} {row(at)} {row(force)}" for symbol, at, force in rows)]
    return "".join(f"{line}\n" for line in lines)


def errors(model: Any, systems: list[Path]) -> dict[str, Any]:
    """RMSE of a model.

    Returns
    -------
    dict
        frames, rmse_e (eV/atom) and rmse_f (eV/Angstrom, over components); None where not finite.
    """
    import numpy as np

    found = [each for system in systems for each in differences(model, system)]
    energies, forces = zip(*found)  # noqa: B905
    rmse = [float(np.sqrt(np.mean(np.square(each)))) for each in (energies, np.concatenate(forces))]
    rmse_e, rmse_f = (value if math.isfinite(value) else None for value in rmse)
    return {"frames": len(found), "rmse_e": rmse_e, "rmse_f": rmse_f}


def frame_errors(model: Any, system: Path) -> dict[str, Any]:
    """Of each frame of a system the largest error of a force, and the RMSE over components; eV/Angstrom."""
    import numpy as np
    from dp_model import short

    forces = [force for _, force in differences(model, system)]
    return {
        "atoms": len(forces[0]),
        "max_error_f": [short(float(np.linalg.norm(each, axis=1).max())) for each in forces],
        "rmse_f": [short(float(np.sqrt(np.square(each).mean()))) for each in forces],
    }


def differences(model: Any, system: Path) -> Iterator[tuple[float, Any]]:
    """By how much the model is wrong on each frame: its energy by atom (eV), its forces (atoms, 3), eV/Angstrom."""
    import numpy as np

    for symbols, frame in frames(system):
        cells = frame["box"][None] if "box" in frame else None
        energy, force, _ = model(symbols, frame["coord"][None], cells)
        yield (float(energy[0]) - float(np.ravel(frame["energy"])[0])) / len(symbols), force[0] - frame["force"]


if __name__ == "__main__":
    main()
