"""CPU of merging labels into the dataset, against a bare loop over the same files, measured in one run.

    python benchmarks/labels.py [folder for about 10 MB of made-up labels]

500 frames of 32 atoms, labelled by label/ase in 10 jobs.
    ours      all_reduce: check the jobs' markers and hash their outputs, judge every label, write the dataset, read it
              back, write the frames' keys, the index, the sums and the report
    bare      json.loads of the same frames and labels, numpy.array of their columns, numpy.save of the same arrays; no
              checks, and nothing else written

Figures are CPU seconds of the process, the best of several runs taken in turn; the files are in the page cache.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from selection import race

from conventions.documents import DoneMarker, OutputFile, TaskResult
from conventions.space import DataSpace, StageSpace
from operators.core import ReduceParams
from operators.label.ase import RESULTS, reduce
from operators.label.frames import FRAMES, LabelReduce, dump_frames
from operators.sums import sha256_of

JOBS, FRAMES_OF_A_JOB = 10, 50
CONFIG = {
    "run": "benchmark",
    "prefix": "file:///nowhere",
    "type_map": ["Cu"],
    "structures": {"bulk": {"files": ["POSCAR"]}},
    "init": {"label": ["bulk"]},
    "label": {"app": "ase", "calculator": "ase.calculators.emt:EMT"},
    "train": {"app": "deepmd", "input": "input.json"},
    "explore": {
        "app": "lammps",
        "stages": [
            [{"structures": ["bulk"], "ensemble": "nvt", "temps": [300], "dt": 0.001, "nsteps": 1000, "trj_freq": 10}]
        ],
    },
    "select": {"app": "model_devi", "f_trust_lo": 0.1, "f_trust_hi": 0.3, "fp_task_max": 500},
}


def write_stage(root: Path, place: StageSpace) -> None:
    """A label stage whose jobs have ended."""
    random = np.random.default_rng(1)
    config = root / place.config
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(CONFIG))
    for number in range(JOBS):
        job = place.job(f"{number:06d}")
        frames = [moved(random) for _ in range(FRAMES_OF_A_JOB)]
        task, out = root / job.job_in / "task.000000", root / job.job_out / "task.000000"
        task.mkdir(parents=True)
        out.mkdir(parents=True)
        (task / FRAMES).write_bytes(dump_frames(frames))
        (root / job.job_in / "digest").write_text("0" * 64 + "\n")
        with open(out / RESULTS, "w") as stream:
            for frame in frames:
                forces, virial = random.normal(size=(len(frame), 3)).tolist(), random.normal(size=(3, 3)).tolist()
                stream.write(json.dumps({"energy": random.normal(), "forces": forces, "virial": virial}) + "\n")
        path = root / job.job_done
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [
            OutputFile(
                name=f"task.000000/{RESULTS}", size=(out / RESULTS).stat().st_size, sha256=sha256_of(out / RESULTS)
            )
        ]
        marker = DoneMarker(
            job_id=f"{number:06d}", inputs="0" * 64, tasks=[TaskResult(id="task.000000", code=0)], files=files
        )
        path.write_bytes(marker.dump())


def moved(random: np.random.Generator) -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.positions += random.normal(0, 0.1, atoms.positions.shape)
    atoms.info["structure"] = "bulk"
    return atoms


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        root = Path(name)
        space = DataSpace({stage: str(CONFIG[stage]["app"]) for stage in ("label", "train", "explore", "select")})  # type: ignore[index]
        place = space.stage("label", 0, {})
        write_stage(root, place)
        at = {each: root / getattr(place, each) for each in ("config", "jobs", "done", "report", "product", "labels")}
        ctx = LabelReduce(**at, undone=root / place.done)
        params = ReduceParams(iteration=0, attempt=0, n_jobs=JOBS)

        def ours() -> None:
            if not reduce(params, ctx).complete:
                raise SystemExit("the stage is not complete")

        def bare() -> None:
            frames, labels = [], []
            for number in range(JOBS):
                job = place.job(f"{number:06d}")
                frames += json.loads((root / job.job_in / "task.000000" / FRAMES).read_bytes())
                labels += [
                    json.loads(line) for line in (root / job.job_out / "task.000000" / RESULTS).read_text().splitlines()
                ]
            folder = root / "bare"
            folder.mkdir(exist_ok=True)
            for part, rows, key in (
                ("box", frames, "cell"),
                ("coord", frames, "positions"),
                ("energy", labels, "energy"),
                ("force", labels, "forces"),
                ("virial", labels, "virial"),
            ):
                np.save(folder / f"{part}.npy", np.array([row[key] for row in rows], float).reshape(len(rows), -1))

        one, other = race(ours, bare, 15)
        for part in ("box", "coord", "energy", "force", "virial"):
            (theirs,) = (root / place.labels).rglob(f"{part}.npy")
            assert np.array_equal(np.load(theirs).ravel(), np.load(root / "bare" / f"{part}.npy").ravel()), part
    print(f"Python {platform.python_version()}, numpy {np.__version__}; CPU seconds, best of several runs\n")
    print(f"{'':58s}{'ours, s':>10s}{'bare, s':>10s}{'ratio':>8s}{'at most':>9s}")
    text = f"merge {JOBS * FRAMES_OF_A_JOB} labels; bare: reads and writes the numbers"
    print(f"{text:58s}{one:10.3f}{other:10.3f}{one / other:8.2f}{2:9d}")


if __name__ == "__main__":
    main()
