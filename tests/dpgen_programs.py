"""dp, lmp and vasp as small stand-ins, of copper and nickel: they work for DP-GEN and for us.

    python dpgen_programs.py dp|lmp|vasp ...

A geometry's energy follows from its coordinates, and no other geometry has it. `vasp` adds it to the file that
VASP_LOG names: a line for each execution. It needs the standard library only, and starts in 20 ms.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from pathlib import Path

EDGE = 3.6  # Angstrom
SITES = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
DEVIATIONS = {0: 0.01, 10: 0.02, 20: 0.2, 30: 0.25, 40: 0.9}  # eV/Angstrom by step; levels of 0.1, 0.5: 2 candidates
NEVER = "task.000.000003"  # does not converge where DP-GEN runs it

CURVE = """\
#  step      rmse_val    rmse_trn    rmse_e_val  rmse_e_trn    rmse_f_val  rmse_f_trn         lr
      0      1.21e+01    1.19e+01      1.05e+00    1.04e+00      3.81e-01    3.77e-01    1.0e-03
"""
OUTCAR = """\
 vasp.6.3.0 20Jan22 complex
 POTCAR:    PAW_PBE Cu 22Jun2005
 POTCAR:    PAW_PBE Ni 02Aug2007
 POTCAR:    PAW_PBE Cu 22Jun2005
 POTCAR:    PAW_PBE Ni 02Aug2007
   TITEL  = PAW_PBE Cu 22Jun2005
   TITEL  = PAW_PBE Ni 02Aug2007
   number of dos      NEDOS =    301   number of ions     NIONS =      4
   ions per type =               2   2
   NWRITE =      2    write-flag & timer
   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps
--------------------------------------- Iteration      1(  {steps:2d})  ---------------------------------------
{end}  FORCE on cell =-STRESS in cart. coord.  units (eV):
{parts}  in kB      12.74060    -0.94223    -8.10849   -10.18935     5.32651     3.32061
 VOLUME and BASIS-vectors are now :
 -----------------------------------------------------------------------------
  energy-cutoff  :      400.00
  volume of cell :       46.66
      direct lattice vectors                 reciprocal lattice vectors
{vectors} POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
{rows} -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       {energy:.8f} eV
 General timing and accounting informations for this job:
                         Elapsed time (sec):        1.000
"""
ENDED = "------------------------ aborting loop because EDIFF is reached ----------------------------------------\n"


def dp(command: str, *more: str) -> None:
    """Train, or freeze a model that follows from the training's input."""
    if command == "train":
        for name in ("meta", "index", "data-00000-of-00001"):
            Path(f"model.ckpt.{name}").write_text("a checkpoint\n")
        for name, text in (("checkpoint", "model.ckpt\n"), ("lcurve.out", CURVE), ("train.log", "done\n")):
            Path(name).write_text(text)
    elif command == "freeze":
        name = more[more.index("-o") + 1] if "-o" in more else "frozen_model.pb"
        Path(name).write_text(f"\nmodel of {hashlib.sha256(Path('input.json').read_bytes()).hexdigest()}\n")
    else:
        raise SystemExit(f"dp {command}: not here")


def lmp() -> None:
    """A trajectory that no other task has: it follows from the inputs, and from the models that these name."""
    inputs = [path for name in ("conf.lmp", "input.lammps", "in.lammps") if (path := Path(name)).is_file()]
    inputs += [Path(word) for word in inputs[-1].read_text().split() if word.endswith(".pb")]
    random.seed(hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest())
    names = [f"{kind}_devi_{what}" for what in "vf" for kind in ("max", "min", "avg")]
    rows = [f"{step} 0.01 0.01 0.01 {worst} {worst / 10} {worst / 10}" for step, worst in DEVIATIONS.items()]
    Path("model_devi.out").write_text("\n".join(["#       step " + " ".join(names), *rows, ""]))
    frames = {step: frame(step) for step in DEVIATIONS}
    if Path("traj").is_dir():  # DP-GEN has a file for each frame
        for step, text in frames.items():
            Path(f"traj/{step}.lammpstrj").write_text(text)
    else:
        Path("traj.lammpstrj").write_text("".join(frames.values()))
        Path("log.lammps").write_text("Step Temp\n0 300\n40 300\nTotal wall time: 0:00:01\n")


def frame(step: int) -> str:
    """A frame of a dump: two atoms of each element, shaken."""
    lines = []
    for number, site in enumerate(SITES):
        x, y, z = (EDGE * part + random.gauss(0, 0.05) for part in site)
        lines.append(f"{number + 1} {1 + number // 2} {x:.5f} {y:.5f} {z:.5f}\n")
    bounds = f"0 {EDGE}\n" * 3
    return (
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(SITES)}\nITEM: BOX BOUNDS pp pp pp\n{bounds}"
        f"ITEM: ATOMS id type x y z\n{''.join(lines)}"
    )


def vasp() -> None:
    """The label of POSCAR."""
    lines = Path("POSCAR").read_text().splitlines()
    cell = [[float(word) for word in line.split()] for line in lines[2:5]]
    at = [[float(word) for word in line.split()[:3]] for line in lines[8 : 8 + len(SITES)]]
    if lines[7][0] in "Dd":
        at = [[sum(x * row[axis] for x, row in zip(atom, cell, strict=True)) for axis in range(3)] for atom in at]
    energy = -10 - sum((1 + place) ** 0.5 * x for place, x in enumerate(x for atom in at for x in atom)) / 10
    failed = Path.cwd().name == NEVER
    Path("OUTCAR").write_text(
        OUTCAR.format(
            steps=60 if failed else 9,
            end="" if failed else ENDED,
            parts="  Ewald    -100.00000  -100.00000  -100.00000     0.00000     0.00000     0.00000\n" * 13,
            vectors="".join("".join(f"{x:13.9f}" for x in row) + f"{0.0:13.9f}" * 3 + "\n" for row in cell),
            rows="".join(f"{x:13.5f}{y:13.5f}{z:13.5f}{0.1:17.6f}{0.2:14.6f}{-0.3:14.6f}\n" for x, y, z in at),
            energy=energy,
        )
    )
    Path("vasprun.xml").write_text("<modeling>\n")
    with open(os.environ["VASP_LOG"], "a") as log:
        log.write(f"{energy:.5f}\n")


if __name__ == "__main__":
    {"dp": dp, "lmp": lambda *_: lmp(), "vasp": lambda *_: vasp()}[sys.argv[1]](*sys.argv[2:])
