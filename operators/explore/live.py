"""How far a running trajectory is: from model_devi.out, or from the log where only that is seen."""

from __future__ import annotations

import re

from operators.live import TASK_LOG, Read

from .lammps_input import INPUT
from .trajectory import MODEL_DEVI

INPUT_OF_ASE = "md.json"
_RUN = re.compile(r"^\s*run\s+([0-9]+)\s*$", re.MULTILINE)
_NSTEPS = re.compile(r'"nsteps":\s*([0-9]+)')
_ROW = re.compile(r"^ *([0-9]+)((?: +[-+0-9.e]+)+) *$", re.MULTILINE)
_MAX_DEVI_F = 3  # column of model_devi.out behind the step
_COLUMNS = 6


def live(read: Read) -> str:
    """The step of LAMMPS, and the largest deviation of forces there; "" before the first row.

    >>> rows = "#   step  max_devi_v ...\\n  20  1e-2 1e-3 5e-3 0.12 0.01 0.05\\n"
    >>> live({"model_devi.out": rows, "in.lammps": "run 300\\n"}.get)
    'step 20 of 300, max_devi_f 0.12 eV/Angstrom'
    """
    return _progress(read, "Step ", _RUN.findall(read(INPUT) or ""))


def live_ase(read: Read) -> str:
    """The same of `ase_md.py`.

    >>> live_ase({"/log": "      step energy\\n   40 -3.5 300.0 64.0\\n", "md.json": '{"nsteps": 50}'}.get)
    'step 40 of 50'
    """
    return _progress(read, "step ", _NSTEPS.findall(read(INPUT_OF_ASE) or ""))


def _progress(read: Read, header: str, total: list[str]) -> str:
    """`header` begins the table of the log."""
    rows = [row for row in _ROW.findall(read(MODEL_DEVI) or "") if len(row[1].split()) >= _COLUMNS]
    figures = f", max_devi_f {rows[-1][1].split()[_MAX_DEVI_F]} eV/Angstrom" if rows else ""
    rows = rows or _ROW.findall((read(TASK_LOG) or "").rpartition(header)[2])
    if not rows:
        return ""
    return f"step {rows[-1][0]}" + (f" of {total[-1]}" if len(total) == 1 else "") + figures
