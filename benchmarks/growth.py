"""What a longer run costs: figures at iteration 10, 100 and 1,000, and with 500 to 500,000 frames of history.

    python benchmarks/growth.py [folder for about 1 GB]

Each line has the first figure, and the others as multiples of it. The whole table, and what recognises frames that are
in the dataset already, read all of the history by their nature: they are shown per row and per frame, too.

CPU seconds of this process, the best of several; the store is a folder, and its files are in the page cache.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from conventions.names import STAGES, sha256
from conventions.space import DataSpace
from conventions.state import IterationSummary, Policy, State, Systems
from operators.frame_keys import KEYS, dataset_keys
from operators.sums import SUMS, write_sums
from statemachine.machine import Observation, decide
from statemachine.run import trail
from statemachine.run.record import Record
from statemachine.run.systems import argument_of, training_systems
from statemachine.store import open_store

APPS = {"label": "cp2k", "train": "deepmd", "explore": "lammps", "select": "model_devi"}
SPACE = DataSpace(APPS)
FIGURES = {
    "labelled": 500.0, "rmse_f": 0.0512, "train_rmse_f": 0.0433, "rmse_e": 0.0012, "trajectories": 1000.0,
    "accurate": 81234.0, "candidate": 12345.0, "failed": 421.0, "selected": 500.0, "level": 0.0913,
}  # fmt: skip
ITERATIONS, FRAMES, SYSTEM = (10, 100, 1000), (500, 50_000, 500_000), 100


def cpu(work: Callable[[], object], times: int = 5) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def run_at(folder: Path, iteration: int) -> Record:
    """A run in the train stage of an iteration: its state, its rows, and the labels of each iteration."""
    store = open_store(f"file://{folder}")
    for number in range(iteration + 1):
        place = folder / SPACE.dataset_iter(number)
        (place / "Cu4").mkdir(parents=True)
        (place / "Cu4" / "type.raw").write_text("0\n")
        (place / SUMS).write_text(f"{'0' * 64}  Cu4/type.raw\n")
    given = argument_of([f"iter/{number:06d}/Cu4" for number in range(iteration)])
    store.put(SPACE.argument(sha256(given)), given)
    rows = [IterationSummary(iteration=n, figures=FIGURES, stages=list(STAGES)) for n in range(iteration)]
    state = State(
        run="copper", run_uid="0" * 32, version=1, nonce="0" * 16, previous_sha256="", writer="host:1234",
        updated_at="2026-01-01T00:00:00+00:00", at="train.running", iteration=iteration, stage="train", trail=rows,
        config_sha256="0" * 64, systems=Systems(iteration=iteration - 1, sha256=sha256(given)),
        policy=Policy(apps=APPS, max_iterations=10**6, explore_stages=1, retries=dict.fromkeys(STAGES, 2)),
    )  # fmt: skip
    state, moved = trail.shortened(state, state)
    for past in moved:
        trail.write(store, past)
    record = Record(store)
    record.create(state)
    return record


def of_an_iteration(folder: Path, iteration: int) -> dict[str, float]:
    record = run_at(folder, iteration)
    loaded = record.load()
    size = len(loaded.data)
    requests: list[str] = []

    def idle() -> None:
        decide(record.load(verify=False).state, Observation())

    def cold() -> None:
        decide(Record(record.store).load(verify=False).state, Observation())

    def commit() -> None:
        current = record.load()
        record.commit(current, current.state.model_copy(update={"reason": "again"}))

    usual = record.store.get, record.store.list
    record.store.get = lambda key: (requests.append(key), usual[0](key))[1]  # type: ignore[method-assign]
    record.store.list = lambda key: (requests.append(key), usual[1](key))[1]  # type: ignore[method-assign]
    training_systems(record.store, loaded.state)
    record.store.get, record.store.list = usual  # type: ignore[method-assign]
    return {
        "state.json and each event, bytes": size,
        "idle look of a daemon, ms": 1000 * cpu(idle, 50),
        "look of a new process, ms": 1000 * cpu(cold, 50),
        "a commit, ms": 1000 * cpu(commit, 50),
        "requests for the training systems": len(requests),
        "the last 40 rows of the table (status), ms": 1000 * cpu(lambda: trail.rows(record.store, loaded.state, 40)),
        "all rows of the table (status --all), us a row": 1e6
        * cpu(lambda: trail.rows(record.store, loaded.state))
        / iteration,
    }


def with_history(folder: Path, frames: int) -> dict[str, float]:
    """Look for known frames in a dataset: keys beside each system of SYSTEM frames."""
    random = np.random.default_rng(1)
    systems = []
    for number in range(frames // SYSTEM):
        place = folder / SPACE.dataset_iter(number) / "Cu4"
        place.mkdir(parents=True)
        (place / "type.raw").write_text("0\n" * 4)
        (place / "set.000").mkdir()
        np.save(place / "set.000" / "box.npy", np.ones((SYSTEM, 9)))
        (place / KEYS).write_bytes(random.bytes(16 * SYSTEM))
        write_sums(place.parent)
        systems.append(f"iter/{number:06d}/Cu4")
    assert len(dataset_keys(folder / SPACE.dataset, systems)[0]) == frames
    seconds = cpu(lambda: dataset_keys(folder / SPACE.dataset, systems), 3)
    return {"keys of the frames there are, ms": 1000 * seconds, "the same, us a frame": 1e6 * seconds / frames}


def show(title: str, numbers: tuple[int, ...], found: list[dict[str, Any]]) -> None:
    print(f"\n{title:46s}" + "".join(f"{number:>12,}" for number in numbers))
    for name, first in found[0].items():
        ratios = "".join(f"{each[name] / first:11.2f}x" for each in found[1:])
        print(f"{name:46s}{first:12,.2f}{ratios}")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        found = [of_an_iteration(Path(name) / f"run{number}", number) for number in ITERATIONS]
        show("iteration", ITERATIONS, found)
        show("frames of history", FRAMES, [with_history(Path(name) / f"data{number}", number) for number in FRAMES])


if __name__ == "__main__":
    main()
