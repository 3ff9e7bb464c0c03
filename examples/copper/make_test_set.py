"""Make the independent test set: 48 frames of 32 copper atoms from EMT Langevin dynamics at 300-1200 K.

Writes `test/` (deepmd/npy) beside this file. The training never sees it.
"""

from __future__ import annotations

from pathlib import Path

import dpdata
import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution


def main() -> None:
    folder = Path(__file__).parent / "test"
    if folder.exists():
        return
    frames = dpdata.MultiSystems(type_map=["Cu"])
    for index, temperature in enumerate((300, 600, 900, 1200)):
        random = np.random.default_rng(index)
        atoms = bulk("Cu", a=3.59, cubic=True).repeat(2)
        atoms.calc = EMT()
        MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=random)
        dynamics = Langevin(atoms, 5 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=random)
        for _ in range(12):
            dynamics.run(40)
            frames.append(dpdata.LabeledSystem(atoms, fmt="ase/structure"))
    frames.to("deepmd/npy", str(folder))


if __name__ == "__main__":
    main()
