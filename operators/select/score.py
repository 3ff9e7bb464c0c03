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

With `cut` a candidate after the first failed row of its trajectory is failed as well: it grew out of a broken frame.

The levels' own values belong to the class above, as in DP-GEN and DPGEN2 (`lo <= candidate < hi`). With virial levels
DP-GEN calls a frame a candidate when either deviation lies between its levels, even if the other one is beyond hi;
here, as in DPGEN2, failed wins.
"""

from __future__ import annotations

import hashlib
import json
import mmap
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
_POWERS = np.array([float(10**power) for power in range(23)])


def read_deviations(path: Path, virial: bool = False, sha256: str | None = None) -> NDArray[np.float64]:
    """Columns of a model_devi.out, found by the names in its header.

    Parameters
    ----------
    virial
        Whether max_devi_v is wanted.
    sha256
        What explore recorded of the file, if anything.

    Returns
    -------
    array, shape (4, rows)
        step, max_devi_f (eV/A), min_devi_f (eV/A; 0 where the file does not have it), max_devi_v (eV/atom; NaN where
        it is not there or not wanted). Rows that cannot be read are NaN.

    Raises
    ------
    ValueError
        When the file has no rows, or no such columns, or is not what explore judged.
    """
    data = path.read_bytes()
    if sha256:
        _compare(path, sha256, hashlib.sha256(data).hexdigest())
    names, start = _header(data)
    if not data[start : start + _CHUNK].strip() and not data[start:].strip():
        raise ValueError(f"{DEVIATIONS} has no rows")
    if "step" not in names or "max_devi_f" not in names:
        raise ValueError(f"{DEVIATIONS} has no columns step and max_devi_f but {' '.join(names) or 'no header'}")
    wanted = ("step", "max_devi_f", "min_devi_f", "max_devi_v")[: 4 if virial else 3]
    present = [name for name in wanted if name in names]
    places = [names.index(name) for name in present]
    found = _read_columns(path, data, start, places)
    values = {"min_devi_f": np.zeros(found.shape[1]), "max_devi_v": np.full(found.shape[1], np.nan)}
    values.update(zip(present, found, strict=True))
    return np.array([values[name] for name in ("step", "max_devi_f", "min_devi_f", "max_devi_v")])


def classify(
    rows: NDArray[np.float64],
    levels: list[Any],
    dumped: NDArray[np.int64] | None = None,
    skip: int = 0,
    cut: bool = False,
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
    cut
        Whether no row after the first failed one is a candidate.

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
    if cut and len(broken := np.flatnonzero(classes == FAILED)):
        classes[(classes == CANDIDATE) & (np.arange(len(classes)) > broken[0])] = FAILED
    return step, np.where(nonsense | invalid, np.nan, f), classes


def find_frames(path: Path, sha256: str | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps and byte offsets of all frames of a text dump, found without reading its atoms.

    The P of TIMESTEP is the rarest letter of a frame: looking for it, and for the rest of the header only around it,
    takes no Python loop over frames. A step that is not a number is -1.

    Raises
    ------
    ValueError
        When a hash is recorded and the file is not what explore judged.
    """
    head = np.dtype([("mark", f"S{len(_TIMESTEP)}"), ("step", np.uint8, _DIGITS)])  # a frame is longer than that
    letter = _TIMESTEP.index(b"P")
    size = path.stat().st_size
    whole = max(0, size - head.itemsize + 1)  # so many places have all of a head behind them
    data = np.empty(0, np.uint8)
    if size:
        with open(path, "rb") as stream:
            data = np.frombuffer(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ), np.uint8)
    windows = np.ndarray(whole, f"V{head.itemsize}", data, strides=(1,))
    places, texts = [np.array([], np.int64)], [windows[:0]]
    digest = hashlib.sha256()
    for start in range(0, size, _CHUNK):
        if sha256:
            digest.update(data[start : start + _CHUNK].data)
        end = min(start + _CHUNK, whole)
        at = start + np.flatnonzero(data[start + letter : end + letter] == ord("P"))
        places.append(at)
        texts.append(windows[at])
    if sha256:
        _compare(path, sha256, digest.hexdigest())
    found = np.concatenate(texts)
    marked = found.view(head)["mark"] == _TIMESTEP
    heads = found[marked].view(head)
    steps = np.where(heads["step"][:, 0] - np.uint8(ord("0")) < 10, 0, -1)
    going = steps == 0
    for number in range(_DIGITS):
        digit = heads["step"][:, number] - np.uint8(ord("0"))
        going &= digit < 10
        if not going.any():
            break
        steps = np.where(going, 10 * steps + digit, steps)
    return steps, np.concatenate(places)[marked]


def _compare(path: Path, recorded: str, sha256: str) -> None:
    if sha256 != recorded:
        raise ValueError(f"{path.name} is not the one that explore recorded (sha256 differs)")


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


def _read_columns(path: Path, data: bytes, start: int, places: list[int]) -> NDArray[np.float64]:
    # Where all lines have one length, none is damaged: loadtxt reads them fast, but would not see missing columns.
    width = data.find(b"\n", start) + 1 - start
    if width > 1 and (len(data) - start) % width == 0 and not data[start + width - 1 :: width].strip(b"\n"):
        blocks = []
        size = max(1, _CHUNK // width) * width
        for begin in range(start, len(data), size):
            if (block := _read_aligned(data[begin : begin + size], width, places)) is None:
                break
            blocks.append(block)
        else:
            return np.concatenate(blocks, axis=1)
        try:
            found = np.loadtxt(path, usecols=places, ndmin=2, encoding="latin-1").T
        except ValueError:
            found = np.empty((0, 0))
        if found.shape[1] == (len(data) - start) // width:
            return found
    *lines, cut_off = data[start:].split(b"\n")  # a whole file ends with a newline
    words = [line.split() for line in lines if line.strip() and not line.lstrip().startswith(b"#")]
    count = Counter(map(len, words)).most_common(1)[0][0] if words else 0
    values = np.full((len(words) + bool(cut_off), len(places)), np.nan)
    for number, row in enumerate(words):
        try:
            values[number] = [float(row[place]) for place in places] if len(row) == count else np.nan
        except (ValueError, IndexError):
            continue
    return values.T


def _read_aligned(body: bytes, width: int, places: list[int]) -> NDArray[np.float64] | None:
    """Columns of lines in which each column has its own bytes, as LAMMPS writes them.

    None for all that looks different: only the first column may be of several lengths, flush right.
    """
    text = np.frombuffer(body, np.uint8)
    table = text.reshape(-1, width)
    if not body.isascii() or b"#" in body or np.count_nonzero(text < ord(" ")) > len(table):
        return None
    blank = text == ord(" ")
    line = np.concatenate(([True], blank[: width - 1], [True]))
    starts, ends = np.flatnonzero(line[1:] != line[:-1]).reshape(-1, 2).T.tolist()
    if len(ends) <= max(places):
        return None
    first = np.ascontiguousarray(blank.reshape(-1, width)[:, : ends[0]].T)
    changes = (blank[width:] != blank[:-width]).reshape(-1, width)
    changes[:, : ends[0]] = False
    if changes.any() or first[-1].any() or (first[1:] > first[:-1]).any():
        return None
    starts[0] = 0
    found = [_numbers(np.ascontiguousarray(table[:, starts[place] : ends[place]].T)) for place in places]
    return None if any(column is None for column in found) else np.array(found)


def _numbers(text: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Numbers written as 120 or 1.234567e-01, whose n-th letters are text[n]; None where something else is there.

    Whole numbers of 15 digits and powers of ten up to 10**22 are exact in float64. So their quotient is rounded once:
    to the number that loadtxt finds.
    """
    digits = text - np.uint8(ord("0"))
    power: Any = np.int64(0)
    if len(text) > 6 and (text[1] == ord(".")).all() and (text[-4] == ord("e")).all():
        negative = text[-3] == ord("-")
        if not (negative | (text[-3] == ord("+"))).all() or digits[-2:].max() > 9:
            return None
        power = digits[-2].astype(np.int64) * 10 + digits[-1]
        power = np.where(negative, -power, power) - (len(text) - 6)
        digits = np.concatenate((digits[:1], digits[2:-4]))
    else:
        digits[text == ord(" ")] = 0
    if len(digits) > 15 or digits.max() > 9 or power.max() > 0 or power.min() <= -len(_POWERS):
        return None
    values: NDArray[np.float64] = np.einsum("i,ij->j", _POWERS[: len(digits)][::-1], digits) / _POWERS[-power]
    return values


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
            recorded = trajectory.get("files", {})
            rows = read_deviations(folder / DEVIATIONS, levels[2] is not None, recorded.get(DEVIATIONS))
            if levels[2] is not None and np.all(np.isnan(rows[3])):
                raise ValueError(f"{DEVIATIONS} has no usable max_devi_v, but v_trust_lo and v_trust_hi are set")
            dumped = find_frames(folder / DUMP, recorded.get(DUMP))[0] if trajectory["broken"] else None
        except (OSError, ValueError) as error:
            problem = f"{Path(error.filename).name}: {error.strerror}" if isinstance(error, OSError) else str(error)
            rows, dumped = np.empty((4, 0)), None
        parts.append((*classify(rows, levels, dumped, task["skip"], task.get("cut", False)), rows[3]))
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
