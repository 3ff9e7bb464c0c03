"""Joins a run's many small systems for training: those of equal numbers of atoms become one of DeePMD-kit's mixed type.

Runs inside a job, beside `dp_model.py`, with NumPy. The format:
https://docs.deepmodeling.com/projects/deepmd/en/stable/model/train-se-atten.html#data-format
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path


def join(systems: list[str], head: str | None) -> None:
    """Let dp train on these systems joined: write them beside the input, and their names into it."""
    found = json.loads(Path("input.json").read_text())
    training = found["training"]["data_dict"][head] if head else found["training"]
    training["training_data"]["systems"] = mix(systems, Path("mixed"))
    Path("input.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def mix(systems: list[str], folder: Path) -> list[str]:
    """Write the systems, joined, into a folder; returns those that it has then.

    Systems with other labels, or without a cell, are joined among themselves.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt
    groups = defaultdict(list)
    for system in map(Path, systems):
        types = (system / "type.raw").read_text().split()
        names = {path.name for path in system.glob("set.*/*.npy")}
        groups[len(types), tuple(sorted(names)), (system / "nopbc").exists()].append((system, types))
    made = []
    for number, ((atoms, labels, molecule), group) in enumerate(sorted(groups.items())):
        made.append(folder / f"{number:03d}")
        write(made[-1], group, atoms, labels)
        if molecule:
            (made[-1] / "nopbc").touch()
    return [str(path) for path in made]


def write(folder: Path, group: list[tuple[Path, list[str]]], atoms: int, labels: tuple[str, ...]) -> None:
    """One system of all frames of a group, with the types of each frame's atoms in real_atom_types.npy."""
    import numpy as np

    (folder / "set.000").mkdir(parents=True)
    shutil.copyfile(group[0][0] / "type_map.raw", folder / "type_map.raw")  # that of the run, in all
    (folder / "type.raw").write_text("0\n" * atoms)
    parts = [(part, types) for system, types in group for part in sorted(system.glob("set.*"))]
    for name in labels:
        arrays = [np.load(part / name, allow_pickle=False) for part, _ in parts]
        np.save(folder / "set.000" / name, np.concatenate(arrays))
    counts = [len(np.load(part / "coord.npy", allow_pickle=False)) for part, _ in parts]
    rows = [np.tile(np.array(types, dtype=np.int32), (count, 1)) for count, (_, types) in zip(counts, parts)]  # noqa: B905
    np.save(folder / "set.000/real_atom_types.npy", np.concatenate(rows))
