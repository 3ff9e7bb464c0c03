"""Water for the examples: frames of 8 molecules from GFN1-xTB molecular dynamics.

`water.extxyz` holds two independent boxes at 300 K and 1 g/cm^3: the runs begin with the first, the tests with the
second.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads only slow such a small box down

import ase.io
import dpdata
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from tblite.ase import TBLite

BOXES = Path(__file__).with_name("water.extxyz")
FRAMES = 6


def make_frames() -> tuple[list[Atoms], list[Atoms]]:
    """What a run begins with (300 K), and what its models are tested on (another box; 300, 450 and 600 K)."""
    with ProcessPoolExecutor(2) as pool:
        start, *tests = pool.map(dynamics, (0, 1, 1, 1), (300, 300, 450, 600))
    return start, [frame for frames in tests for frame in frames]


def dynamics(box: int, temperature: float) -> list[Atoms]:
    """Frames of a Langevin trajectory at a temperature (K), 8 fs apart, with their energies and forces."""
    random = np.random.default_rng([box, int(temperature)])
    atoms = ase.io.read(BOXES, index=box)
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=random)
    steps = Langevin(atoms, units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=random, fixcm=False)
    found = []
    for _ in range(FRAMES):
        steps.run(8)
        found.append(labelled(atoms, atoms.get_potential_energy(), atoms.get_forces()))
    return found


def labelled(atoms: Atoms, energy: float, forces: np.ndarray) -> Atoms:
    """The structure alone, with these results (eV, eV/Angstrom)."""
    frame = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
    frame.calc = SinglePointCalculator(frame, energy=energy, forces=forces)
    return frame


def write_data(start: list[Atoms], tests: list[Atoms], folder: Path) -> None:
    """`data/start.extxyz`, structures without labels; then `test/` (deepmd/npy), which says that all is there."""
    (folder / "data").mkdir(exist_ok=True)
    bare = [Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=True) for frame in start]
    ase.io.write(folder / "data/start.extxyz", bare, format="extxyz")
    systems = dpdata.MultiSystems(type_map=["O", "H"])
    for frame in tests:
        systems.append(dpdata.LabeledSystem(frame, fmt="ase/structure"))
    systems.to("deepmd/npy", str(folder / "test"))
