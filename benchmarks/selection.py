"""Speed of select/model_devi against bare loops over the same files, measured in one run.

    python benchmarks/selection.py [folder for about 520 MB of made-up trajectories]

(a) 100 trajectories with 10,000 rows of model_devi.out each, dumps of 10,000 frames of 8 atoms: choose 500 frames.
    ours      hash all files, read and classify all rows, write and read scores.npz, shuffle, find the 500 frames in the
              dumps, filter them, drop duplicates, write frames.extxyz
    bare      numpy.loadtxt of the columns step and max_devi_f of each file, and one comparison with the levels; no
              checks of rows, and no frames
(b) 125 frames out of one dump of 10,000 frames of 200 atoms.
    ours      find the frames of the dump, read 125 of them by step, check and convert them (ids, types, box)
    bare      is told the byte offsets of the frames: seek, read, cut the atoms' lines out, numpy.array(words, float)

Figures are CPU seconds of one thread, the best of several runs taken in turn; the files are in the page cache.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from operators.frame_keys import atomic_numbers
from operators.jobs import TaskOutput
from operators.select.choose import choose
from operators.select.dump import DumpIndex, Frame, read_frames
from operators.select.extxyz import write_frames
from operators.select.filters import rejection
from operators.select.pool import SCORES, gather
from operators.select.score import DEVIATIONS, DUMP, score
from operators.sums import sha256_of

ROWS, TRAJECTORIES, CHOSEN = 10_000, 100, 500
ATOMS, READ = 200, 125
LEVELS = [0.1, 0.3, None, None]
HEADER = "#       step" + "".join(f"{f'{a}_devi_{b}':>19s}" for b in "vf" for a in ("max", "min", "avg")) + "\n"


def write_deviations(path: Path, random: np.random.Generator) -> None:
    values = np.sort(random.uniform(0, 0.5, (ROWS, 6)), axis=1)[:, [2, 0, 1, 5, 3, 4]]
    table = np.column_stack([np.arange(ROWS) * 10, values])
    with open(path, "w") as stream:
        stream.write(HEADER)
        stream.writelines(("%12d" + "%19.6e" * 6 + "\n") % tuple(row) for row in table.tolist())


def write_dump(path: Path, atoms: int, random: np.random.Generator) -> None:
    """Atoms on a loose grid, moved anew in every frame."""
    edge = int(np.ceil(atoms ** (1 / 3)))
    sites = np.stack(np.meshgrid(*[np.arange(edge) * 2.5] * 3), axis=-1).reshape(-1, 3)[:atoms]
    line = "".join(f"{i + 1} {1 + i % 2} %.10g %.10g %.10g\n" for i in range(atoms))
    bounds = f"0 {edge * 2.5}\n" * 3
    head = f"ITEM: NUMBER OF ATOMS\n{atoms}\nITEM: BOX BOUNDS pp pp pp\n{bounds}ITEM: ATOMS id type x y z\n"
    with open(path, "w") as stream:
        for frame in range(ROWS):
            moved = sites + random.normal(0, 0.1, sites.shape)
            stream.write(f"ITEM: TIMESTEP\n{frame * 10}\n{head}{line % tuple(moved.ravel().tolist())}")


def race(ours: Callable[[], object], bare: Callable[[], object], runs: int) -> tuple[float, float]:
    """CPU seconds of the fastest run of each, run in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for action, found in zip((ours, bare), times, strict=True):
            start = time.process_time()
            action()
            found.append(time.process_time() - start)
    return min(times[0]), min(times[1])


def selection(folder: Path) -> Callable[[], None]:
    random = np.random.default_rng(1)
    names = [f"{number:06d}/out/task.000000" for number in range(TRAJECTORIES)]
    for name in names:
        (folder / name).mkdir(parents=True)
        write_deviations(folder / name / DEVIATIONS, random)
        write_dump(folder / name / DUMP, 8, random)
    hashes = {name: {file: sha256_of(folder / name / file) for file in (DEVIATIONS, DUMP)} for name in names}
    task = {
        "skip": 0,
        "levels": {"bulk": LEVELS},
        "trajectories": [
            {"folder": name, "structure": "bulk", "broken": False, "files": hashes[name]} for name in names
        ],
    }

    def ours() -> None:
        with open(folder / SCORES, "wb") as stream:
            np.savez(stream, **score(task, folder))  # type: ignore[arg-type]
        pool = gather([TaskOutput(0, "000000", "task.000000", folder, folder)], [TRAJECTORIES])
        choice = choose(
            pool.candidates,
            [(folder / name / DUMP, hashes[name][DUMP]) for name in names],
            ["bulk"] * TRAJECTORIES,
            atomic_numbers(["Cu", "O"]),
            seed=1,
            maximum=CHOSEN,
            limits={"bulk": CHOSEN},
            reject=lambda frame: rejection(frame, 0.5, 5.0, 60.0),
            known=set(),
        )
        write_frames(folder / "frames.extxyz", [("bulk", frame) for _, frame in choice.chosen], ["Cu", "O"])
        if len(choice.chosen) != CHOSEN:
            raise SystemExit(f"{len(choice.chosen)} frames instead of {CHOSEN}")

    return ours


def columns(folder: Path) -> int:
    candidates = 0
    for path in sorted(folder.glob(f"*/out/*/{DEVIATIONS}")):
        _, devi_f = np.loadtxt(path, usecols=(0, 4), unpack=True)
        candidates += int(((devi_f >= LEVELS[0]) & (devi_f < LEVELS[1])).sum())
    return candidates


def reading(path: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    write_dump(path, ATOMS, np.random.default_rng(2))
    frames = np.sort(np.random.default_rng(3).permutation(ROWS)[:READ])
    index = DumpIndex.of(path)
    places = list(zip(index.starts[frames].tolist(), index.ends[frames].tolist(), strict=True))

    def ours() -> list[Frame]:
        found = [frame for _, frame in read_frames(path, DumpIndex.of(path), (frames * 10).tolist(), 2)]
        return [frame for frame in found if isinstance(frame, Frame)]

    def bare() -> list[object]:
        found = []
        with open(path, "rb") as stream:
            for start, end in places:
                stream.seek(start)
                lines = stream.read(end - start).split(b"\n", 9)
                found.append(np.array(lines[9].split(), float).reshape(ATOMS, 5)[:, 2:])
        return found

    for one, other in zip(ours(), bare(), strict=True):
        assert np.array_equal(one.positions, other)
    return ours, bare


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        selected, read = race(selection(folder), lambda: columns(folder), 5)
        found, bare = race(*reading(folder / DUMP), 15)
    print(f"Python {platform.python_version()}, numpy {np.__version__}; CPU seconds, best of several runs\n")
    print(f"{'':58s}{'ours, s':>10s}{'bare, s':>10s}{'ratio':>8s}{'at most':>9s}")
    for text, one, other, most in (
        (f"(a) {TRAJECTORIES} x {ROWS:,} rows, choose {CHOSEN}; bare: read columns", selected, read, 2),
        (f"(b) {READ} of {ROWS:,} frames of {ATOMS} atoms; bare: knows offsets", found, bare, 3),
    ):
        print(f"{text:58s}{one:10.3f}{other:10.3f}{one / other:8.2f}{most:9d}")


if __name__ == "__main__":
    main()
