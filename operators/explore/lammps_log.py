"""What LAMMPS's log says of a trajectory."""

from __future__ import annotations

import re
from pathlib import Path

from . import trajectory
from .trajectory import Outcome, tail

LOG = "log.lammps"

# LAMMPS gives these errors when the physics went wrong: a result to be judged, the same however often it is repeated.
# The patterns are read by `grep -E` in the job and by Python here.
PHYSICAL = {
    "lost_atoms": r"^ERROR.*(Lost atoms|[Aa]toms missing|Out of range atoms)",
    "nan": r"^ERROR.*(Non-numeric|[Nn]ot a number)",
    "box_blown": (
        r"^ERROR.*(tilted box too far|box size << cutoff|too large for neighbor bins|[Tt]oo many neighbor bins"
        r"|[Bb]ox is too (small|large)|[Cc]ell is too far from equilibrium)"
    ),
    "collapsed": r"^ERROR.*(Neighbor list overflow|Too many atoms in neighbor|[Tt]oo many neighbors)",
}
_NAN = re.compile(r"(?:^|\s)[-+]?(?:nan|inf)(?:\s|$)", re.IGNORECASE)


def judge(folder: Path) -> Outcome:
    """Classify the trajectory in a task's output folder: see `trajectory.judge`."""
    return trajectory.judge(folder, _said(tail(folder / LOG)))


def _said(log: str) -> str | None:
    """The class of a trajectory by the end of its log, None where it breaks off."""
    for name, pattern in PHYSICAL.items():
        if re.search(pattern, log, re.MULTILINE):
            return name
    if _NAN.search(_last_thermo(log)):
        return "nan"
    return "ok" if "Total wall time" in log else None


def _last_thermo(log: str) -> str:
    """The last row of thermodynamic output in the end of a log."""
    rows = re.findall(r"^ *\d+ +[-+.\dnaife ]+$", log, re.MULTILINE | re.IGNORECASE)
    return rows[-1] if rows else ""
