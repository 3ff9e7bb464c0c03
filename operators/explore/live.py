"""How far a running trajectory is: from model_devi.out, or from the log where only that is seen."""

from __future__ import annotations

import re

from operators.live import TASK_LOG, Read

from .lammps_input import INPUT
from .trajectory import MODEL_DEVI

_RUN = re.compile(r"^\s*run\s+([0-9]+)\s*$", re.MULTILINE)
_ROW = re.compile(r"^ *([0-9]+)((?: +[-+0-9.e]+)+) *$", re.MULTILINE)
_MAX_DEVI_F = 3  # column of model_devi.out behind the step
_COLUMNS = 6


def live(read: Read) -> str:
    """The step, and the largest deviation of forces there; "" before the first row.

    >>> rows = "#   step  max_devi_v ...\\n  20  1e-2 1e-3 5e-3 0.12 0.01 0.05\\n"
    >>> live({"model_devi.out": rows, "in.lammps": "run 300\\n"}.get)
    'step 20 of 300, max_devi_f 0.12 eV/Angstrom'
    """
    rows = [row for row in _ROW.findall(read(MODEL_DEVI) or "") if len(row[1].split()) >= _COLUMNS]
    figures = f", max_devi_f {rows[-1][1].split()[_MAX_DEVI_F]} eV/Angstrom" if rows else ""
    rows = rows or _ROW.findall((read(TASK_LOG) or "").rpartition("Step ")[2])  # the thermo output
    if not rows:
        return ""
    total = _RUN.findall(read(INPUT) or "")
    return f"step {rows[-1][0]}" + (f" of {total[-1]}" if len(total) == 1 else "") + figures
