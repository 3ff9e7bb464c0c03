"""Chosen frames as an extended XYZ file that ASE reads. ASE's own writer rounds positions to 8 decimals; here every
number has all its digits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from .dump import Frame


def write_frames(path: Path, frames: Iterable[tuple[str, Frame]], type_map: Sequence[str]) -> None:
    """Write frames with the names of their structure sets (`info["structure"]`). Angstrom."""
    with open(path, "w", encoding="ascii", newline="\n") as stream:
        for structure, frame in frames:
            lattice = " ".join(map(repr, frame.cell.ravel().tolist()))
            # As JSON, because ASE would make a number or a truth value of a name such as 007 or T.
            name = json.dumps(f"_JSON {json.dumps(structure)}")
            stream.write(f"{len(frame.types)}\n")
            pbc = "T T T" if frame.periodic else "F F F"
            stream.write(f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 structure={name} pbc="{pbc}"\n')
            for kind, (x, y, z) in zip(frame.types.tolist(), frame.positions.tolist(), strict=True):
                stream.write(f"{type_map[kind]} {x!r} {y!r} {z!r}\n")
