"""Chosen frames as an extended XYZ file that ASE reads. ASE's own writer rounds positions to 8 decimals; here every
number has all its digits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .dump import Frame


def write_frames(
    path: Path, frames: Sequence[tuple[str, float, Frame]], type_map: Sequence[str], checks: int = 0
) -> None:
    """Write frames with the names of their structure sets (`info["structure"]`) and their deviations (`max_devi_f`).

    Angstrom, eV/Angstrom. `model_forces` are the first model's, where they are known: what it is to be judged by.
    The last `checks` frames were drawn among the accurate (`check`).
    """
    with open(path, "w", encoding="ascii", newline="\n") as stream:
        for number, (structure, deviation, frame) in enumerate(frames):
            lattice = " ".join(map(repr, frame.cell.ravel().tolist()))
            # As JSON, because ASE would make a number or a truth value of a name such as 007 or T.
            name = json.dumps(f"_JSON {json.dumps(structure)}")
            stream.write(f"{len(frame.types)}\n")
            pbc = "T T T" if frame.periodic else "F F F"
            columns = "species:S:1:pos:R:3" + (":model_forces:R:3" if frame.forces is not None else "")
            stream.write(f'Lattice="{lattice}" Properties={columns} structure={name} pbc="{pbc}"')
            stream.write(f" max_devi_f={deviation!r}{' check=T' if number >= len(frames) - checks else ''}\n")
            rows = frame.positions if frame.forces is None else np.hstack([frame.positions, frame.forces])
            for kind, row in zip(frame.types.tolist(), rows.tolist(), strict=True):
                stream.write(f"{type_map[kind]} {' '.join(map(repr, row))}\n")
