"""Labels frames with a calculator of ASE: python3 ase_job.py calculator.json frames.json labels.jsonl

Runs by itself in a job (ASE, numpy and the calculator's package are all it needs). Writes one line of JSON a frame:
energy (eV), forces (eV/Angstrom) and virial (eV, null for a molecule and where the calculator has no stress), or
error (`exception`, `nan`) and message. A frame that fails does not stop the others.
"""

import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any


def main(calculator_file: str, frames_file: str, results_file: str) -> None:
    settings = json.loads(Path(calculator_file).read_text())
    frames = json.loads(Path(frames_file).read_text())
    try:
        calculator = make(settings)
    except Exception as error:
        raise SystemExit(f"error: label.calculator {settings['calculator']}: {describe(error)}") from None
    part = Path(results_file + ".part")
    with part.open("w") as out:
        for number, frame in enumerate(frames):
            try:
                result = label(frame, calculator)
            except Exception as error:  # calculators raise whatever they like
                result = {"error": "exception", "message": describe(error)}
                calculator = make(settings)  # the old one may be left in a half-way state
            if "error" in result:
                print(f"frame {number}: {result['error']}: {result['message']}")
            out.write(json.dumps(result, allow_nan=False) + "\n")
    part.replace(results_file)


def make(settings: dict[str, Any]) -> Any:
    """The calculator that `module:Class` (or `module.Class`) and its keyword arguments name."""
    module, name = re.split(r"[.:](?=\w+$)", settings["calculator"])
    return getattr(importlib.import_module(module), name)(**settings["kwargs"])


def label(frame: dict[str, Any], calculator: Any) -> dict[str, Any]:
    """Energy, forces and virial of one frame."""
    import numpy as np
    from ase import Atoms

    periodic = frame.get("pbc", True)
    atoms = Atoms(frame["symbols"], frame["positions"], cell=frame["cell"], pbc=periodic, calculator=calculator)
    energy = float(atoms.get_potential_energy())
    # Where electrons are smeared, forces are derivatives of the free energy.
    energy = float(getattr(calculator, "results", {}).get("free_energy", energy))
    forces = np.array(atoms.get_forces(), dtype=np.float64)
    try:
        # ASE: stress = dE/d(strain)/V, so virial = -dE/d(strain) = -stress * V
        virial = -np.array(atoms.get_stress(voigt=False), dtype=np.float64) * atoms.get_volume() if periodic else None
    except NotImplementedError:  # ASE's PropertyNotImplementedError is one
        virial = None
    if not (math.isfinite(energy) and np.isfinite(forces).all() and (virial is None or np.isfinite(virial).all())):
        return {"error": "nan", "message": "the calculator gave numbers that are not finite"}
    return {"energy": energy, "forces": forces.tolist(), "virial": None if virial is None else virial.tolist()}


def describe(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:300]}"


if __name__ == "__main__":
    main(*sys.argv[1:])
