"""The score job: model deviation of trajectories -> accurate | candidate | failed | invalid rows.

    score.py task.json scores.npz          (trajectories below $JOB_EXPLORED)

A script that runs by itself: numpy and the standard library only, on any Python 3.10 or later.

A row of `model_devi.out` is

accurate    max_devi_f < f_trust_lo, and max_devi_v < v_trust_lo where virial levels are used
failed      max_devi_f >= f_trust_hi or max_devi_v >= v_trust_hi; a deviation that is not finite, negative, or below
            the smallest of its own row (what LAMMPS writes after it lost atoms: max 0, min 1.8e308); in a broken
            trajectory also a row without a dumped frame
candidate   neither
invalid     no statement about one frame: a line that is cut off or unreadable, a step that appears twice
skipped     among the first model_devi_skip rows: counted nowhere

The levels' own values belong to the class above, as in DP-GEN and DPGEN2 (`lo <= candidate < hi`). With virial levels
DP-GEN calls a frame a candidate when either deviation lies between its levels, even if the other one is beyond hi;
here, as in DPGEN2, failed wins.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEVIATIONS = "model_devi.out"
DUMP = "traj.lammpstrj"
CLASSES = ("accurate", "candidate", "failed", "invalid", "skipped")
ACCURATE, CANDIDATE, FAILED, INVALID, SKIPPED = range(len(CLASSES))
# What LAMMPS writes, for files without a header.
_STANDARD = ["step", "max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f"]
_TIMESTEP = b"ITEM: TIMESTEP\n"
_DIGITS = 18
_CHUNK = 2**18


def check_recorded(path: Path, sha256: str | None) -> None:
    """Raise ValueError for a file that is not what explore judged (None: nothing is recorded)."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while sha256 and (chunk := stream.read(2**20)):
            digest.update(chunk)
    if sha256 and digest.hexdigest() != sha256:
        raise ValueError(f"{path.name} is not the one that explore recorded (sha256 differs)")


def read_deviations(path: Path, virial: bool = False) -> NDArray[np.float64]:
    """Columns of a model_devi.out, found by the names in its header.

    Parameters
    ----------
    virial
        Whether max_devi_v is wanted.

    Returns
    -------
    array, shape (4, rows)
        step, max_devi_f (eV/A), min_devi_f (eV/A; 0 where the file does not have it), max_devi_v (eV/atom; NaN where
        it is not there or not wanted). Rows that cannot be read are NaN.

    Raises
    ------
    ValueError
        When the file has no rows, or no such columns.
    """
    data = path.read_bytes()
    names, start = _header(data)
    body = data[start:]
    if not body.strip():
        raise ValueError(f"{DEVIATIONS} has no rows")
    if "step" not in names or "max_devi_f" not in names:
        raise ValueError(f"{DEVIATIONS} has no columns step and max_devi_f but {' '.join(names) or 'no header'}")
    wanted = ("step", "max_devi_f", "min_devi_f", "max_devi_v")[: 4 if virial else 3]
    present = [name for name in wanted if name in names]
    places = [names.index(name) for name in present]
    found = _read_columns(path, body, places)
    values = {"min_devi_f": np.zeros(found.shape[1]), "max_devi_v": np.full(found.shape[1], np.nan)}
    values.update(zip(present, found, strict=True))
    return np.array([values[name] for name in ("step", "max_devi_f", "min_devi_f", "max_devi_v")])


def classify(
    rows: NDArray[np.float64],
    levels: list[Any],
    dumped: NDArray[np.int64] | None = None,
    skip: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]:
    """Steps, max_devi_f and classes of the rows of `read_deviations`.

    Parameters
    ----------
    levels
        f_trust_lo, f_trust_hi (eV/A), v_trust_lo, v_trust_hi (eV/atom; None where not used).
    dumped
        Steps that have a frame, for a broken trajectory.
    skip
        First rows that do not count.

    Returns
    -------
    The max_devi_f of a row that says nothing about a frame is NaN.
    """
    f_lo, f_hi, v_lo, v_hi = levels
    _, f, f_min, v = rows
    whole = np.isfinite(rows[0]) & (rows[0] >= 0) & (rows[0] < 2**53) & (np.floor(rows[0]) == rows[0])
    step = np.where(whole, rows[0], -1).astype(np.int64)
    with np.errstate(invalid="ignore"):
        nonsense = ~np.isfinite(f) | ~np.isfinite(f_min) | (f < 0) | (f_min > f)
        accurate, failed = f < f_lo, f >= f_hi
        if v_lo is not None:
            nonsense |= ~np.isfinite(v) | (v < 0)
            accurate &= v < v_lo
            failed |= v >= v_hi
    if dumped is not None:
        nonsense |= ~np.isin(step, dumped)
    invalid = (step < 0) | _repeated(step, rows)
    classes = np.full(len(step), CANDIDATE, np.uint8)
    classes[accurate] = ACCURATE
    classes[failed | nonsense] = FAILED
    classes[invalid] = INVALID
    classes[:skip] = SKIPPED
    return step, np.where(nonsense | invalid, np.nan, f), classes


def find_frames(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps and byte offsets of all frames of a text dump, found without reading its atoms.

    The P of TIMESTEP is the rarest letter of a frame: looking for it, and for the rest of the header only around it,
    takes no Python loop over frames. A step that is not a number is -1.
    """
    length = len(_TIMESTEP) + _DIGITS  # a frame is longer than that
    size = path.stat().st_size
    if size < length:
        return np.array([], np.int64), np.array([], np.int64)
    data = np.asarray(np.memmap(path, np.uint8, "r"))
    found = [start + np.flatnonzero(data[start : start + _CHUNK] == ord("P")) for start in range(0, size, _CHUNK)]
    starts = np.concatenate(found) - _TIMESTEP.index(b"P")
    starts = starts[(starts >= 0) & (starts <= size - length)]
    heads = np.lib.stride_tricks.sliding_window_view(data, length)[starts]
    whole = np.ascontiguousarray(heads[:, : len(_TIMESTEP)]).view(f"S{len(_TIMESTEP)}")[:, 0] == _TIMESTEP
    digits = heads[whole, len(_TIMESTEP) :] - np.uint8(ord("0"))
    going = digits[:, 0] < 10
    steps = np.where(going, 0, -1)
    for digit in digits.T:
        going &= digit < 10
        if not going.any():
            break
        steps = np.where(going, 10 * steps + digit, steps)
    return steps, starts[whole]


def _header(data: bytes) -> tuple[list[str], int]:
    """Column names of the last comment line before the rows, and where the rows begin."""
    names: list[str] = []
    commented = False
    start = 0
    while data[start : start + 1] in (b"#", b"\n", b"\r"):
        end = data.find(b"\n", start) + 1 or len(data)
        line = data[start:end].decode("utf-8", "replace").lstrip("#").split()
        commented = commented or bool(line)
        if "step" in line:
            names = line
        start = end
    if not commented and len(data[start:].split(b"\n", 1)[0].split()) >= len(_STANDARD):
        names = _STANDARD
    return names, start


def _read_columns(path: Path, body: bytes, places: list[int]) -> NDArray[np.float64]:
    # Where all lines have one length, none is damaged: loadtxt reads them fastest, but would not see missing columns.
    width = body.find(b"\n") + 1
    if width and len(body) % width == 0 and not body[width - 1 :: width].strip(b"\n"):
        try:
            found = np.loadtxt(path, usecols=places, ndmin=2, encoding="latin-1").T
        except ValueError:
            found = np.empty((0, 0))
        if found.shape[1] == len(body) // width:
            return found
    *lines, cut_off = body.split(b"\n")  # a whole file ends with a newline
    words = [line.split() for line in lines if line.strip() and not line.lstrip().startswith(b"#")]
    count = Counter(map(len, words)).most_common(1)[0][0] if words else 0
    values = np.full((len(words) + bool(cut_off), len(places)), np.nan)
    for number, row in enumerate(words):
        try:
            values[number] = [float(row[place]) for place in places] if len(row) == count else np.nan
        except (ValueError, IndexError):
            continue
    return values.T


def _repeated(step: NDArray[np.int64], rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rows to drop: all rows of a step that says different things, all but the first that say the same."""
    drop = np.zeros(len(step), bool)
    if len(step) < 2 or np.all(np.diff(step) > 0):
        return drop
    order = np.argsort(step, kind="stable")
    same = step[order][1:] == step[order][:-1]
    drop[order[1:][same]] = True
    values = rows[:, order]
    differ = np.any((values[:, 1:] != values[:, :-1]) & ~(np.isnan(values[:, 1:]) & np.isnan(values[:, :-1])), axis=0)
    drop |= np.isin(step, step[order][1:][same & differ])
    return drop


def score(task: dict[str, Any], explored: Path) -> dict[str, NDArray[Any]]:
    """Score all trajectories of a task; one that cannot be used has no rows and a `problem`.

    Returns
    -------
    dict of arrays
        rows (trajectories,): their number; problem (trajectories,): str; and for all rows of all trajectories one
        after the other step (int64), max_devi_f (float64, eV/A), max_devi_v (float64, eV/atom), cls (uint8).
    """
    parts, counts, problems = [], [], []
    for trajectory in task["trajectories"]:
        folder = explored / trajectory["folder"]
        problem = ""
        levels = task["levels"][trajectory["structure"]]
        try:
            for name in (DEVIATIONS, *([DUMP] if trajectory["broken"] else [])):
                check_recorded(folder / name, trajectory.get("files", {}).get(name))
            rows = read_deviations(folder / DEVIATIONS, virial=levels[2] is not None)
            if levels[2] is not None and np.all(np.isnan(rows[3])):
                raise ValueError(f"{DEVIATIONS} has no usable max_devi_v, but v_trust_lo and v_trust_hi are set")
            dumped = find_frames(folder / DUMP)[0] if trajectory["broken"] else None
        except (OSError, ValueError) as error:
            problem = f"{Path(error.filename).name}: {error.strerror}" if isinstance(error, OSError) else str(error)
            rows, dumped = np.empty((4, 0)), None
        parts.append((*classify(rows, levels, dumped, task["skip"]), rows[3]))
        counts.append(rows.shape[1])
        problems.append(problem)
    step, devi_f, classes, devi_v = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {
        "rows": np.array(counts, np.int64),
        "problem": np.array(problems, "U300"),
        "step": step,
        "max_devi_f": devi_f,
        "max_devi_v": devi_v,
        "cls": classes,
    }


def main() -> None:
    task, out = map(Path, sys.argv[1:])
    found = score(json.loads(task.read_bytes()), Path(os.environ["JOB_EXPLORED"]))
    part = out.with_suffix(".part")
    with open(part, "wb") as stream:
        np.savez(stream, **found)  # type: ignore[arg-type]
    part.replace(out)


if __name__ == "__main__":
    main()
