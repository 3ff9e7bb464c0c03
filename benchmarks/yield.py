"""What labels yield: the same campaigns with and without filters, a sample of the accurate, and longer training.

    python benchmarks/yield.py [seeds, 5 unless given]

Two systems with EMT as their teacher, DeePMD-kit and LAMMPS as in the demo, hot from the start, and with little
training, so that models go wrong as those of a first iteration do. Each line: labels paid for, thrown away, and the
errors on test data that no campaign saw (eV/atom, eV/Angstrom); means over the seeds, and the standard deviation behind
`+-`. About a minute a campaign on two idle cores; there are two systems x four variants for each seed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ase.io
import dpdata
import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

EXAMPLE = Path(__file__).parents[1] / "examples" / "copper"
PROGRAM = Path(sys.executable).with_name("dpgen2-sm")
STEPS = 400
SHAKEN = {"pert_numb": 2, "pert_box": 0.02, "pert_atom": 0.02}
SHORT = {"nsteps": 200, "dt": 0.002, "trj_freq": 10}
# As selection was before: atoms may be 0.5 Angstrom apart, and any label is taken.
BEFORE = {"min_distance": 0.5, "cut_at_failed": False, "check_fraction": 0.0}
FILTERS = {"min_distance_ratio": 0.65, "cut_at_failed": True, "check_fraction": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "as before": {"select": BEFORE},
    "filters": {"select": FILTERS, "label": {"max_force": 30.0}},
    "filters, sample": {"select": {**FILTERS, "check_fraction": 0.2}, "label": {"max_force": 30.0}},
    "filters, 4 x steps": {"select": FILTERS, "label": {"max_force": 30.0}, "train": {"numb_steps": 4 * STEPS}},
}


def copper() -> dict[str, list[Atoms]]:
    return {"solid": [bulk("Cu", a=3.59, cubic=True).repeat(2)]}


def alloy() -> dict[str, list[Atoms]]:
    """Cu3Au: bulk, bulk with a vacancy, and a slab of copper with gold in it."""
    cell = bulk("Cu", a=3.75, cubic=True)
    cell.symbols[0] = "Au"
    crystal = cell.repeat(2)
    hole = crystal.copy()
    del hole[5]
    slab = fcc111("Cu", (3, 3, 3), a=3.75, vacuum=6, periodic=True)
    slab.symbols[[1, 5, 20]] = "Au"
    return {"solid": [crystal], "vacancy": [hole], "slab": [slab]}


SYSTEMS = {"copper": (copper, ["Cu"]), "Cu3Au": (alloy, ["Cu", "Au"])}


def prepare(folder: Path, sets: dict[str, list[Atoms]]) -> None:
    """The files of a system, and test data: EMT dynamics at 300 to 1,200 K."""
    folder.mkdir(parents=True)
    frames = dpdata.MultiSystems()
    for name, structures in sets.items():
        ase.io.write(folder / f"{name}.extxyz", structures)
        for temperature in (300, 700, 1200):
            random = np.random.default_rng([temperature, len(name)])
            atoms = structures[0].copy()
            atoms.calc = EMT()
            MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=random)
            dynamics = Langevin(atoms, 5 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=random)
            for _ in range(8):
                dynamics.run(40)
                frames.append(dpdata.LabeledSystem(atoms, fmt="ase/structure"))
    frames.to("deepmd/npy", str(folder / "test"))


def configuration(folder: Path, type_map: list[str], sets: list[str], seed: int, changes: dict[str, Any]) -> Any:
    found: dict[str, Any] = {
        "run": "yield",
        "prefix": "out",
        "engine": {"type": "local"},
        "seed": seed,
        "type_map": type_map,
        "structures": {
            **{name: {"files": f"{name}.extxyz"} for name in sets},
            **{f"start-{name}": {"files": f"{name}.extxyz", **SHAKEN} for name in sets},
        },
        "init": {"label": [f"start-{name}" for name in sets], "test": {"md": {"path": "test"}}},
        "label": {"app": "ase", "calculator": "ase.calculators.emt:EMT"},
        "train": {
            "app": "deepmd", "numb_models": 3, "input": "input.json", "numb_steps": STEPS, "skip_neighbor_stat": True,
        },
        "explore": {
            "app": "lammps",
            "command": "dpgen2-lmp",
            "stages": [[{"structures": sets, "ensemble": "nvt", "temps": [600, 1200], **SHORT}]],
        },
        "select": {"app": "model_devi", "f_trust_lo": 0.1, "f_trust_hi": 1.0, "fp_task_max": 12},
        "max_iterations": 3,
    }  # fmt: skip
    for section, keys in changes.items():
        found[section] |= keys
    (folder / "run.yaml").write_text(json.dumps(found))
    return found


def campaign(
    system: Path, type_map: list[str], sets: list[str], seed: int, changes: dict[str, Any]
) -> dict[str, float]:
    """Run one to its end; its labels, and the errors of its last models."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in system.iterdir():
            (folder / path.name).symlink_to(path.absolute())
        model = json.loads((EXAMPLE / "input.json").read_text())
        model["model"]["descriptor"]["sel"] *= len(type_map)
        (folder / "input.json").write_text(json.dumps(model))
        configuration(folder, type_map, sets, seed, changes)
        began = time.monotonic()
        run = subprocess.run([PROGRAM, "run", "run.yaml"], cwd=folder, capture_output=True, text=True)
        wall = time.monotonic() - began
        told = subprocess.run([PROGRAM, "status", "out", "--json"], cwd=folder, capture_output=True, text=True)
        try:
            rows = json.loads(told.stdout)["iterations"]
        except (ValueError, KeyError):
            sys.exit(run.stdout[-2000:] + run.stderr[-2000:] + told.stderr)
        last = [row for row in rows if row.get("rmse_f") is not None][-1]
        return {
            "labels": sum(row.get("labelled") or 0 for row in rows),
            "discarded": sum(row.get("discarded") or 0 for row in rows),
            "rmse_e": last["rmse_e"],
            "rmse_f": last["rmse_f"],
            "seconds": wall,
        }


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):8.3f} +- {deviation:.3f}".rjust(19)


def main(seeds: int) -> None:
    print(
        "system  variant             " + "".join(name.rjust(19) for name in ("labels", "discarded", "rmse_e", "rmse_f"))
    )
    with tempfile.TemporaryDirectory() as scratch:
        for system, (make, type_map) in SYSTEMS.items():
            sets = make()
            prepare(Path(scratch) / system, sets)
            for variant, changes in VARIANTS.items():
                found = [
                    campaign(Path(scratch) / system, type_map, list(sets), seed, changes)
                    for seed in range(1, seeds + 1)
                ]
                columns = [spread([one[name] for one in found]) for name in ("labels", "discarded", "rmse_e", "rmse_f")]
                print(f"{system:7} {variant:20}" + "".join(columns), flush=True)
                each = ", ".join(f"{one['rmse_f']:.3f}" for one in found)
                print(f"{'':7} {'':20}rmse_f by seed: {each}; {sum(one['seconds'] for one in found):.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
