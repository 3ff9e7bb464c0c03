"""Molecular dynamics, or a relaxation, with a committee of models: python3 ase_md.py md.json FOLDER

Runs by itself in a job: ASE, numpy and what the models need. FOLDER has the models; models.py beside this file, which
is the trainer's own, says how they are used. The first model drives, all are asked for every `trj_freq`-th frame:

model_devi.out    step, and largest, smallest and mean deviation of virials (eV/atom) and of forces (eV/Angstrom)
traj.lammpstrj    the same frames, as LAMMPS dumps them
end.json          how it ended: `class` (`ok`, `nan`, `box_blown`, `lost_atoms`, `collapsed`), `step`, `why`

Where the physics went wrong that is a result; the exit code is 0. `ase_md.py probe METHOD ...`: is all here?
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import ase
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress

ROWS = "model_devi.out"
DUMP = "traj.lammpstrj"
END = "end.json"
PS = 1000 * units.fs
LONGEST_MOVE = 1.0  # Angstrom in one step of time: no forces are integrated any more
BATCH = 16  # frames that the other models get at once: a small one costs a tenth so, and a row waits for the others
COLUMNS = ("max_devi_v", "min_devi_v", "avg_devi_v", "max_devi_f", "min_devi_f", "avg_devi_f")
METHODS = {
    "nve": "ase.md.verlet:VelocityVerlet",
    "langevin": "ase.md.langevin:Langevin",
    "nvt": "ase.md.nose_hoover_chain:NoseHooverChainNVT",
    "iso": "ase.md.nose_hoover_chain:IsotropicMTKNPT",
    "aniso": "ase.md.nose_hoover_chain:MaskedMTKNPT",
    "tri": "ase.md.nose_hoover_chain:MTKNPT",
    "relax": "ase.optimize:FIRE",
    "relax_cell": "ase.filters:FrechetCellFilter",
}


class Trouble(Exception):
    """The physics went wrong: a result, the same however often it is repeated."""

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind = kind


class Driver(Calculator):
    """A model as ASE's calculator, which stops where its numbers mean nothing."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, model: Any, volume: float, largest_ratio: float):
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.volume, self.largest_ratio = model, volume, largest_ratio

    def calculate(self, atoms: Any = None, properties: Any = (), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        positions, cell = atoms.positions, atoms.cell.array
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise Trouble("nan", "a position is not a finite number")
        volume = abs(np.linalg.det(cell))
        ratio = volume / self.volume
        if not 1 / self.largest_ratio <= ratio <= self.largest_ratio:
            raise Trouble("box_blown", f"the cell has {ratio:.3g} times its first volume")
        cells = cell[None] if atoms.pbc.all() else None
        energies, forces, virials = self.model(atoms.get_chemical_symbols(), positions[None], cells)
        if not all(np.isfinite(values).all() for values in (energies, forces, virials)):
            raise Trouble("nan", "the model's energy, forces or virial are not finite numbers")
        self.virial = np.array(virials[0], dtype=np.float64)
        self.results = {
            "energy": float(energies[0]),
            "free_energy": float(energies[0]),
            "forces": np.array(forces[0], dtype=np.float64),
            "stress": full_3x3_to_voigt_6_stress(-self.virial / volume),  # ASE: dE/d(strain)/V; virial: -dE/d(strain)
        }


class Record:
    """The frames of a trajectory, and how far the models are apart there.

    The cell of a frame is turned so that its vectors are the rows of a lower triangle, as LAMMPS wants it; virials,
    which have components, are those of the turned frame.
    """

    def __init__(self, task: dict[str, Any], others: list[Any], rows: TextIO, dump: TextIO):
        self.symbols, self.others, self.rows, self.dump = task["symbols"], others, rows, dump
        self.periodic = task["periodic"]
        self.types = [task["type_map"].index(symbol) + 1 for symbol in self.symbols]
        self.epsilon, self.epsilon_v = task["epsilon"], task["epsilon_v"]
        self.waiting: list[tuple[int, Any, Any, Any, Any]] = []
        rows.write(f"#{'step':>11}{''.join(f'{name:>19}' for name in COLUMNS)}\n")

    def add(self, step: int, atoms: Any) -> None:
        """A frame, with the forces and the virial of the model that drives."""
        forces = atoms.get_forces()
        cell, turn = lower_triangle(atoms.cell.array)
        inside = atoms.positions @ turn @ np.linalg.inv(cell)
        if self.periodic:
            inside -= np.floor(inside)
        elif inside.min() < 0 or inside.max() > 1:
            raise Trouble("lost_atoms", "an atom of the molecule left its box")
        positions = inside @ cell
        self.waiting.append((step, cell, positions, forces @ turn, turn.T @ atoms.calc.virial @ turn))
        if len(self.waiting) == BATCH:
            self.write()

    def write(self) -> None:
        """Ask the other models for the frames that wait, and write them."""
        if not self.waiting:
            return
        steps, cells, positions, forces, virials = zip(*self.waiting, strict=True)
        answers = [(np.array(forces), np.array(virials))]
        given = np.array(cells) if self.periodic else None
        answers += [model(self.symbols, np.array(positions), given)[1:] for model in self.others]
        for number, step in enumerate(steps):
            of_forces, of_virials = (np.array([answer[kind][number] for answer in answers]) for kind in (0, 1))
            found = deviations(of_forces, of_virials, self.epsilon, self.epsilon_v)
            self.rows.write(f"{step:12d}{''.join(f' {value:18.6e}' for value in found)}\n")
            self.dump.write(dumped(step, cells[number], self.types, positions[number], forces[number], self.periodic))
        self.rows.flush()
        self.dump.flush()
        self.waiting.clear()


def deviations(forces: Any, virials: Any, epsilon: float | None = None, epsilon_v: float | None = None) -> list[float]:
    """A row of model_devi.out, by the formulas of DeePMD-kit's LAMMPS plugin.

    An atom's deviation is sqrt(<|F - <F>|^2>) over the models; a component's of the virial by the number of atoms is
    its standard deviation. Means: over atoms of the forces; of virials the root of the mean square over components.
    https://docs.deepmodeling.com/projects/deepmd/en/stable/test/model-deviation.html

    Parameters
    ----------
    forces, virials
        (models, atoms, 3) in eV/Angstrom and (models, 3, 3) in eV.
    epsilon, epsilon_v
        Where given, deviations are relative: divided by |<F>| + epsilon (eV/Angstrom), and by
        |<virial per atom>| + epsilon_v (eV).
    """
    virials = virials / forces.shape[1]
    f = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
    v = np.std(virials, axis=0)
    if epsilon is not None:
        f = f / (np.linalg.norm(forces.mean(axis=0), axis=1) + epsilon)
    if epsilon_v is not None:
        v = v / (np.abs(virials.mean(axis=0)) + epsilon_v)
    return [float(x) for x in (v.max(), v.min(), np.sqrt((v**2).mean()), f.max(), f.min(), f.mean())]


def lower_triangle(cell: Any) -> tuple[Any, Any]:
    """The cell as LAMMPS wants it, and the rotation that brings positions (as rows) there. Angstrom.

    Of a left-handed cell the third vector is reversed first: the crystal is the same.
    """
    if np.linalg.det(cell) < 0:
        cell = cell * [[1], [1], [-1]]
    turned = np.linalg.cholesky(cell @ cell.T)
    return turned, np.linalg.solve(cell, turned)


def dumped(step: int, cell: Any, types: list[int], positions: Any, forces: Any, periodic: bool = True) -> str:
    """A frame of a dump of LAMMPS, with the forces of the model that drives.

    https://docs.lammps.org/Howto_triclinic.html has the bounds.
    """
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell.tolist()
    flags = "pp pp pp" if periodic else "ff ff ff"
    lines = [
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(types)}\nITEM: BOX BOUNDS xy xz yz {flags}",
        f"{min(0.0, xy, xz, xy + xz)!r} {lx + max(0.0, xy, xz, xy + xz)!r} {xy!r}",
        f"{min(0.0, yz)!r} {ly + max(0.0, yz)!r} {xz!r}",
        f"0.0 {lz!r} {yz!r}",
        "ITEM: ATOMS id type x y z fx fy fz",
    ]
    rows = zip(types, positions.tolist(), forces.tolist(), strict=True)
    for number, (kind, (x, y, z), (fx, fy, fz)) in enumerate(rows, 1):
        lines.append(f"{number} {kind} {x:.10g} {y:.10g} {z:.10g} {fx:.6g} {fy:.6g} {fz:.6g}")
    return "\n".join(lines) + "\n"


def run(task: dict[str, Any], models: list[Any]) -> dict[str, Any]:
    """Write the trajectory into this folder, and say how it ended."""
    cell = np.array(task["cell"])
    atoms = Atoms(task["symbols"], task["positions"], cell=cell, pbc=task["periodic"], masses=task["masses"])
    atoms.calc = Driver(models[0], abs(np.linalg.det(cell)), task["largest_volume_ratio"])
    step, kept, kind, why = -1, -1, "ok", ""
    with open(ROWS, "w", encoding="ascii") as rows, open(DUMP, "w", encoding="ascii") as dump:
        record = Record(task, models[1:], rows, dump)

        def keep() -> None:
            record.add(step, atoms)
            print(f"{step:>10} {atoms.get_potential_energy():.6f} {temperature(atoms):.2f} {atoms.get_volume():.3f}")
            if (near := nearest(atoms, task["closest"])) < task["closest"]:
                raise Trouble("collapsed", f"two atoms are {near:.3f} Angstrom apart")

        print("      step energy/eV temperature/K volume/Angstrom^3")
        try:
            for step, _ in enumerate(dynamics(task, atoms)):
                check_moves(atoms, task["dt"] * PS)
                if step % task["trj_freq"] == 0:
                    keep()
                    kept = step
            if task["method"].startswith("relax"):
                if kept < step:  # the minimum itself
                    keep()
                why = f"fmax {np.linalg.norm(atoms.get_forces(), axis=1).max():.3g} eV/Angstrom"
        except Trouble as trouble:
            kind, why = trouble.kind, str(trouble)
        record.write()
    print(f"ended: {kind} {why}")
    return {"class": kind, "step": step, "why": why}


def dynamics(task: dict[str, Any], atoms: Any) -> Iterator[Any]:
    """Moves the atoms; yields before the first step and after each one."""
    method, press = task["method"], (task["press"] or 0.0) * units.bar
    if method.startswith("relax"):
        target = load("relax_cell")(atoms, scalar_pressure=press) if method == "relax_cell" else atoms
        yield from load("relax")(target, logfile=None).irun(fmax=task["fmax"], steps=task["nsteps"])
        return
    random = np.random.default_rng(task["seed"])
    thermalise(atoms, task["temp"], random)
    more: dict[str, Any] = {}
    if method == "langevin":
        more = {"temperature_K": task["temp"], "friction": 1 / (task["tau_t"] * PS), "fixcm": False, "rng": random}
    elif method != "nve":
        # ASE's chain counts 3 N degrees of freedom, but the centre of mass rests: without this, few atoms are too hot.
        temp = task["temp"] * max(1, len(atoms) - 1) / len(atoms)
        more = {"temperature_K": temp, "tdamp": task["tau_t"] * PS}
    if method in ("iso", "aniso", "tri"):
        more |= {"pressure_au": press, "pdamp": task["tau_p"] * PS}
    if method == "aniso":
        more["mask"] = (True, True, True)
    yield from load(method)(atoms, timestep=task["dt"] * PS, **more).irun(task["nsteps"])


def thermalise(atoms: Any, temp: float, random: Any) -> None:
    """Velocities of exactly this temperature (K) around a centre of mass that rests."""
    masses = atoms.get_masses()[:, None]
    velocities = random.standard_normal((len(atoms), 3)) / np.sqrt(masses)
    velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    atoms.set_velocities(velocities)
    if len(atoms) > 1:
        atoms.set_velocities(velocities * np.sqrt(temp / temperature(atoms)))


def temperature(atoms: Any) -> float:
    """K; the centre of mass has no part in it."""
    return float(2 * atoms.get_kinetic_energy() / (3 * max(1, len(atoms) - 1) * units.kB))


def check_moves(atoms: Any, dt: float) -> None:
    move = float(np.linalg.norm(atoms.get_velocities(), axis=1).max()) * dt
    if not np.isfinite(move):
        raise Trouble("nan", "a velocity is not a finite number")
    if move > LONGEST_MOVE:
        raise Trouble("lost_atoms", f"an atom moves {move:.3g} Angstrom in one step")


def nearest(atoms: Any, reach: float) -> float:
    """Distance of the closest pair of atoms or images if it is below `reach`, else `reach`. Angstrom."""
    return float(min(neighbor_list("d", atoms, reach), default=reach))


def load(method: str) -> Any:
    """The class of ASE behind a method."""
    module, _, name = METHODS[method].partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise SystemExit(
            f"error: ASE {ase.__version__} has no {module}.{name}, which this ensemble needs: pip install -U ase"
        ) from None


def committee(folder: Path, names: list[str]) -> list[Any]:
    """The models of these names, as the trainer's own module loads them."""
    try:
        found = importlib.import_module("models").models(folder)
    except RuntimeError as error:
        raise SystemExit(f"error: {error}") from None
    if missing := [name for name in names if name not in found]:
        raise SystemExit(f"error: the committee has no {missing[0]}")
    return [found[name] for name in names]


def main(*arguments: str) -> None:
    if arguments[0] == "probe":
        committee(Path(), [])
        for method in arguments[1:]:
            load(method)
        print(f"ASE {ase.__version__}")
        return
    task = json.loads(Path(arguments[0]).read_text())
    end = run(task, committee(Path(arguments[1]), task["models"]))
    part = Path(f"{END}.part")
    part.write_text(json.dumps(end))
    part.replace(END)


if __name__ == "__main__":
    main(*sys.argv[1:])
