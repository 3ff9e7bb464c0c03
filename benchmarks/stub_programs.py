"""Programs named dp, lmp, cp2k and vasp that only copy prepared output files, and the inputs that ask for them.

Copper, four atoms. An `lmp` task gets one of 997 short trajectories, by its number: frames that are equal would be
dropped by select. Of five rows of model deviation two are candidates.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TRAJECTORIES = 997  # prime: tasks of one job each, whose numbers go by tens, get different ones, too
STEPS = (0, 10, 20, 30, 40)
DEVIATIONS = (0.01, 0.02, 0.03, 0.20, 0.25)  # eV/Angstrom; the trust levels are 0.1 and 0.5
EDGE = 3.6  # Angstrom
SITES = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])

DP = """\
#!/bin/sh
case $1 in
train) exec cp -R OUTPUTS/train/. . ;;
freeze) exec cp OUTPUTS/frozen_model.pb "${5:-frozen_model.pb}" ;; # freeze -c ckpt -o graph.pb
esac
exit 1
"""
# A task's number comes from its folder, task.000007 or task.000.000007, and from its job's id where there is one.
LMP = f"""\
#!/bin/sh
at=OUTPUTS/explore/$((((1${{JOB_ID:-000000}} - 1000000) * 10 + 1${{PWD##*.}} - 1000000) % {TRAJECTORIES}))
if [ -d traj ]; then # of DP-GEN: a file for each frame
  exec cp -R "$at/traj" "$at/model_devi.out" .
fi
exec cp "$at/traj.lammpstrj" "$at/model_devi.out" OUTPUTS/log.lammps .
"""
CP2K = """\
#!/bin/sh
exec cp OUTPUTS/output.log "$4" # -i input.inp -o output.log
"""
VASP = """\
#!/bin/sh
exec cp OUTPUTS/OUTCAR OUTPUTS/vasprun.xml .
"""

CURVE = """\
#  step      rmse_val    rmse_trn    rmse_e_val  rmse_e_trn    rmse_f_val  rmse_f_trn         lr
      0      1.21e+01    1.19e+01      1.05e+00    1.04e+00      3.81e-01    3.77e-01    1.0e-03
   1000      1.31e+00    1.22e+00      2.05e-02    1.84e-02      4.11e-02    3.86e-02    1.0e-05
"""
CHECKPOINT = ("model.ckpt.meta", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "checkpoint", "train.log")

# What dpgen2-sm reads of CP2K's output, and what dpdata reads of VASP's for DP-GEN; all else is left out.
CP2K_OUTPUT = """\
 CP2K| version string:                                       CP2K version 2025.1
 SCF WAVEFUNCTION OPTIMIZATION

  *** SCF run converged in    10 steps ***

 ENERGY| Total FORCE_EVAL ( QS ) energy [hartree]             -11.516905494316202

 FORCES| Atomic forces [hartree/bohr]
 FORCES|   Atom     x               y               z               |f|
 FORCES|      1 -7.60539000E-03  7.15289000E-02 -4.53692700E-02   8.50446715E-02
 FORCES|      2  8.67496000E-03 -6.20895900E-02  5.05843600E-02   8.05552580E-02
 FORCES|      3  6.83000000E-06 -8.63999000E-03 -5.87811000E-03   1.04499594E-02
 FORCES|      4 -1.07640000E-03 -7.99320000E-04  6.63020000E-04   1.49560000E-03
 FORCES| Sum     0.00000000E+00  0.00000000E+00  0.00000000E+00   0.00000000E+00

 STRESS| Analytical stress tensor [bar]
 STRESS|                        x                   y                   z
 STRESS|      x     1.27406007193E+04  -1.01893492392E+04   3.32061174655E+03
 STRESS|      y    -1.01893492392E+04  -9.42228216986E+02   5.32651005250E+03
 STRESS|      z     3.32061174655E+03   5.32651005250E+03  -8.10849095977E+03

  **** **** ******  **  PROGRAM ENDED AT                 2025-01-01 00:00:00.000
"""
VASP_OUTPUT = """\
 vasp.6.3.0 20Jan22 complex
   TITEL  = PAW_PBE Cu 22Jun2005
   ions per type =               4
   NWRITE =      2    write-flag & timer
   NELM   =     60;   NELMIN=  2; NELMDL= -5     # of ELM steps
--------------------------------------- Iteration      1(   9)  ---------------------------------------
  FORCE on cell =-STRESS in cart. coord.  units (eV):
  Direction    XX          YY          ZZ          XY          YZ          ZX
  --------------------------------------------------------------------------------------
  Alpha Z    10.00000    10.00000    10.00000
  Ewald    -100.00000  -100.00000  -100.00000     0.00000     0.00000     0.00000
  Hartree    10.00000    10.00000    10.00000     0.00000     0.00000     0.00000
  E(xc)     -10.00000   -10.00000   -10.00000     0.00000     0.00000     0.00000
  Local     -10.00000   -10.00000   -10.00000     0.00000     0.00000     0.00000
  n-local   -10.00000   -10.00000   -10.00000     0.00000     0.00000     0.00000
  augment    10.00000    10.00000    10.00000     0.00000     0.00000     0.00000
  Kinetic   100.00000   100.00000   100.00000     0.00000     0.00000     0.00000
  Fock        0.00000     0.00000     0.00000     0.00000     0.00000     0.00000
  -------------------------------------------------------------------------------------
  Total       0.37107    -0.02744    -0.23616    -0.29676     0.15513     0.09671
  in kB      12.74060    -0.94223    -8.10849   -10.18935     5.32651     3.32061
 VOLUME and BASIS-vectors are now :
 -----------------------------------------------------------------------------
  energy-cutoff  :      400.00
  volume of cell :       46.66
      direct lattice vectors                 reciprocal lattice vectors
     3.600000000  0.000000000  0.000000000     0.277777778  0.000000000  0.000000000
     0.000000000  3.600000000  0.000000000     0.000000000  0.277777778  0.000000000
     0.000000000  0.000000000  3.600000000     0.000000000  0.000000000  0.277777778
 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000        -0.391085      3.678134     -2.332966
      1.80000      1.80000      0.00000         0.446085     -3.192752      2.601140
      1.80000      0.00000      1.80000         0.000351     -0.444282     -0.302263
      0.00000      1.80000      1.80000        -0.055351     -0.041100      0.034089
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       -14.91234567 eV
 General timing and accounting informations for this job:
                         Elapsed time (sec):        1.000
"""

INPUT_JSON = {
    "model": {
        "descriptor": {"type": "se_e2_a", "sel": [60], "rcut_smth": 0.5, "rcut": 5.0, "neuron": [10, 20, 40]},
        "fitting_net": {"neuron": [40, 40, 40]},
    },
    "learning_rate": {"type": "exp", "start_lr": 0.001, "decay_steps": 5000},
    "loss": {"start_pref_e": 0.02, "limit_pref_e": 2, "start_pref_f": 1000, "limit_pref_f": 1},
    "training": {"training_data": {"batch_size": 1}, "numb_steps": 1000, "disp_freq": 1000},
}
CP2K_INPUT = """\
&FORCE_EVAL
  METHOD QS
  STRESS_TENSOR ANALYTICAL
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF 400
    &END MGRID
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL
    &END XC
  &END DFT
  &SUBSYS
    &KIND Cu
      BASIS_SET DZVP-MOLOPT-SR-GTH
      POTENTIAL GTH-PBE-q11
    &END KIND
  &END SUBSYS
  &PRINT
    &FORCES ON
    &END FORCES
    &STRESS_TENSOR ON
    &END STRESS_TENSOR
  &END PRINT
&END FORCE_EVAL
"""


class StubPrograms:
    """The programs, in `bin`, and what they copy.

    Parameters
    ----------
    root
        A new folder.
    """

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        outputs = root / "outputs"
        for folder in (self.bin, outputs / "train"):
            folder.mkdir(parents=True)
        for name, text in (("dp", DP), ("lmp", LMP), ("cp2k", CP2K), ("vasp", VASP)):
            (self.bin / name).write_text(text.replace("OUTPUTS", str(outputs)))
            (self.bin / name).chmod(0o755)
        (outputs / "train" / "lcurve.out").write_text(CURVE)
        for name in CHECKPOINT:
            (outputs / "train" / name).write_text("a checkpoint\n")
        (outputs / "frozen_model.pb").write_text("\na frozen model\n")
        (outputs / "log.lammps").write_text("Step Temp\n 0 300\n 40 300\nTotal wall time: 0:00:01\n")
        (outputs / "output.log").write_text(CP2K_OUTPUT)
        (outputs / "OUTCAR").write_text(VASP_OUTPUT)
        (outputs / "vasprun.xml").touch()
        random = np.random.default_rng(1)
        for number in range(TRAJECTORIES):
            write_trajectory(outputs / "explore" / str(number), random)

    def __getitem__(self, name: str) -> str:
        return str(self.bin / name)


def write_trajectory(folder: Path, random: np.random.Generator) -> None:
    """model_devi.out, and the frames in one file (dpgen2-sm) and in a file each (DP-GEN)."""
    (folder / "traj").mkdir(parents=True)
    rows = [
        f"{step:12d}" + f"{0.01:19.6e}" * 3 + f"{worst:19.6e}" + f"{worst / 10:19.6e}" * 2
        for step, worst in zip(STEPS, DEVIATIONS, strict=True)
    ]
    names = "".join(f"{f'{kind}_devi_{what}':>19s}" for what in "vf" for kind in ("max", "min", "avg"))
    (folder / "model_devi.out").write_text("\n".join(["#       step" + names, *rows, ""]))
    frames = {step: frame(step, random) for step in STEPS}
    (folder / "traj.lammpstrj").write_text("".join(frames.values()))
    for step, text in frames.items():
        (folder / "traj" / f"{step}.lammpstrj").write_text(text)


def frame(step: int, random: np.random.Generator) -> str:
    """One frame of a dump, of shaken atoms."""
    atoms = shaken(random).tolist()
    lines = "".join(f"{number} 1 {x:.6f} {y:.6f} {z:.6f}\n" for number, (x, y, z) in enumerate(atoms, 1))
    bounds = f"0 {EDGE}\n" * 3
    return (
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n4\nITEM: BOX BOUNDS pp pp pp\n{bounds}"
        f"ITEM: ATOMS id type x y z\n{lines}"
    )


def shaken(random: np.random.Generator) -> np.ndarray:
    """Positions of the four atoms, Angstrom."""
    return SITES * EDGE + random.normal(0, 0.05, SITES.shape)


def write_structures(folder: Path, count: int) -> None:
    """POSCAR files `000.vasp`, ... of shaken copper."""
    folder.mkdir()
    random = np.random.default_rng(2)
    for number in range(count):
        atoms = "".join(f"{x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in shaken(random).tolist())
        cell = f"{EDGE} 0 0\n0 {EDGE} 0\n0 0 {EDGE}\n"
        (folder / f"{number:03d}.vasp").write_text(f"Cu4\n1.0\n{cell}Cu\n4\nCartesian\n{atoms}")


def write_system(folder: Path) -> None:
    """Labelled data for DP-GEN to begin with: one frame, as deepmd/npy."""
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("0\n" * len(SITES))
    (folder / "type_map.raw").write_text("Cu\n")
    data = {"box": np.eye(3) * EDGE, "coord": SITES * EDGE, "energy": np.array([-14.9]), "force": 0 * SITES}
    for name, values in data.items():
        np.save(folder / "set.000" / f"{name}.npy", values.reshape(1, -1) if name != "energy" else values)


def input_json() -> str:
    """DeePMD-kit's input, as a user gives it."""
    return json.dumps(INPUT_JSON)
