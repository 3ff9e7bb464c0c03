"""Make the start structures (`data/`) and the independent test set (`test/`), labelled by CP2K.

The structures are those of the example water-xtb; their labels are CP2K's own, since two programs do not agree in
every digit of GFN1-xTB and a mixture would be noise to learn.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ase import Atoms

from operators.label.cp2k_input import fill, read_template
from operators.label.cp2k_output import read_output

sys.path.insert(0, str(Path(__file__).parents[1]))
from water import labelled, make_frames, write_data

HERE = Path(__file__).parent


def label(atoms: Atoms) -> Atoms:
    """The frame with CP2K's energy and forces."""
    template = read_template((HERE / "gfn1xtb.inp").read_text(), {}, "gfn1xtb.inp")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "input.inp").write_text(fill(template, atoms))
        subprocess.run(["cp2k.psmp", "-i", "input.inp", "-o", "output.log"], cwd=folder, check=True)
        text = (Path(folder) / "output.log").read_text()
    found = read_output(text, atoms.get_chemical_symbols(), atoms.get_volume())
    if found.kind != "ok":
        raise SystemExit(f"CP2K gave no label: {found.kind}: {found.message}")
    return labelled(atoms, found.energy, found.forces)


def main() -> None:
    if (HERE / "test").exists():
        return
    start, tests = make_frames()
    with ThreadPoolExecutor(2) as pool:
        tests = list(pool.map(label, tests))
    write_data(start, tests, HERE)


if __name__ == "__main__":
    main()
