"""Whether a training by DeePMD-kit gave a model, from the files that it left; and what a file of a user's is."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from statistics import fmean

from conventions.documents import parse_json
from conventions.errors import DataError
from operators.jobs import TaskOutput

from .dp_model import BACKENDS
from .stage import DIVERGED, Judged, who

ERRORS = ("rmse_e", "rmse_f")
_GRAPH = b"\n"  # the first field of TensorFlow's GraphDef


def is_frozen(path: Path, backend: str) -> bool:
    """Whether a file is what `dp freeze` writes: a GraphDef, or TorchScript, which has code."""
    if backend == "tensorflow":
        with open(path, "rb") as stream:
            return stream.read(1) == _GRAPH
    return any("/code/" in name for name in _members(path))


def is_saved(path: Path) -> bool:
    """Whether a file is what `torch.save` writes: a checkpoint of DeePMD-kit's, a model of MACE's."""
    names = _members(path)
    return any(name.endswith("/data.pkl") for name in names) and not any("/code/" in name for name in names)


def _members(path: Path) -> list[str]:
    """The names in a zip archive; none where it is no archive, or is cut off: the list of them is at its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []


def judge(
    task: TaskOutput, tested: bool, backend: str = "tensorflow", head: str | None = None, curve: bool = True
) -> Judged:
    """Class of a trained model (ok, diverged, broken, failed), its figures, and what a person should know.

    Older versions of dp train a diverged model to its end and exit with 0; newer ones stop at the first NaN.

    Parameters
    ----------
    curve
        False: it was not trained, and without test data was tested on the training data.
    """
    if task.folder is None:
        return "failed", {}, task.error()
    model = f"graph{BACKENDS[backend].suffix}"
    advice = "the training diverged; lower start_lr, or look for bad frames in the data"
    if DIVERGED in task.files:
        return "diverged", {}, f"{who(task)}: {advice}"
    try:
        if not is_frozen(task.folder / model, backend):
            return "broken", {}, f"{who(task)}: {model} is not a frozen model"
        test = parse_json((task.folder / "test.json").read_bytes(), "test.json") if tested or not curve else None
        rows = last_rows((task.folder / "lcurve.out").read_text(), head) if curve else []
        names = [key for key in ERRORS if test is None or f"{key}_trn" in rows[-1]] if rows else []
        figures = {f"train_{key}": math.sqrt(fmean(row[f"{key}_trn"] ** 2 for row in rows)) for key in names}
        if test is not None:
            prefix = "" if tested else "train_"
            figures |= {f"{prefix}{key}": math.nan if test[key] is None else float(test[key]) for key in ERRORS}
    except KeyError as error:
        return "broken", {}, f"{who(task)}: lcurve.out or test.json has no {error}"
    except OSError as error:
        return "broken", {}, f"{who(task)}: {Path(error.filename).name}: {error.strerror}"
    except (ValueError, TypeError, OverflowError, DataError) as error:
        return "broken", {}, f"{who(task)}: {error}"
    if not all(math.isfinite(value) for value in (*(row["rmse_trn"] for row in rows[-1:]), *figures.values())):
        return "diverged", {}, f"{who(task)}: {advice}"
    return "ok", figures, ""


def last_rows(curve: str, head: str | None = None) -> list[dict[str, float]]:
    """The rows of the last tenth of a training, by the column names of DeePMD-kit's lcurve.out.

    These are `step`, `rmse_trn`, `rmse_e_trn`, ...; eV, Angstrom. A row is about one batch, so one alone says little.
    With several heads the columns end in `_` and the head's name; those of `head` are returned without it.

    Raises
    ------
    ValueError
        When there is no header or the last row does not fit it.
    """
    lines = curve.splitlines()
    header = next((line.split()[1:] for line in lines if line.startswith("#")), [])
    if head is not None:
        header = [name.removesuffix(f"_{head}") for name in header]
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if "step" not in header or "rmse_trn" not in header:
        raise ValueError("lcurve.out has no header with the columns step and rmse_trn")
    if not rows or len(rows[-1]) != len(header):
        raise ValueError("lcurve.out is cut off" if rows else "lcurve.out has no rows")
    found = [dict(zip(header, map(float, row), strict=True)) for row in rows if len(row) == len(header)]
    return [row for row in found if row["step"] >= 0.9 * found[-1]["step"]]
