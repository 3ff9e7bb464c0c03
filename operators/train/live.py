"""How far a running training is: from DeePMD-kit's lcurve.out, or from its log where only that is seen."""

from __future__ import annotations

import re

from operators.live import TASK_LOG, Read

_STEPS = re.compile(r'"(?:numb_steps|stop_batch|num_steps?|numb_step)": *([0-9]+)')
_BATCH = re.compile(r"\bbatch +([0-9]+): (?:trn: )?(.*)", re.IGNORECASE)
_FIGURE = re.compile(r"\b(rmse(?:_[a-z]+)?) = *([0-9.eE+-]+)")
_UNITS = {"rmse_e": "eV/atom", "rmse_f": "eV/Angstrom"}


def live(read: Read) -> str:
    """The step, and the errors of the last row; "" before the first one.

    >>> curve = "#  step  rmse_trn  rmse_e_trn  rmse_f_trn  lr\\n  400  1.9e+00  3.2e-03  1.2e-01  1.0e-03\\n"
    >>> live({"lcurve.out": curve, "input.json": '{"numb_steps": 1000}'}.get)
    'step 400 of 1000, rmse_e 3.2e-03 eV/atom, rmse_f 1.2e-01 eV/Angstrom'
    """
    step, figures = _of_curve(read("lcurve.out") or "") or _of_log(read(TASK_LOG) or "") or ("", {})
    if not step:
        return ""
    total = _STEPS.search(read("input.json") or "")
    told = [f"{name} {figures[name]} {unit}" for name, unit in _UNITS.items() if name in figures]
    return ", ".join([f"step {step}" + (f" of {total[1]}" if total else ""), *told])


def _of_curve(text: str) -> tuple[str, dict[str, str]] | None:
    lines = text.splitlines()
    header = next((line.split()[1:] for line in lines if line.startswith("#")), [])
    rows = [line.split() for line in lines if line[:1] not in ("", "#") and len(line.split()) == len(header)]
    if not rows:
        return None
    row = dict(zip(header, rows[-1], strict=True))
    return row.get("step", ""), {name.removesuffix("_trn"): value for name, value in row.items()}


def _of_log(text: str) -> tuple[str, dict[str, str]] | None:
    """From the lines `Batch 400: trn: rmse = ..., rmse_e = ...`."""
    rows = [match for match in _BATCH.finditer(text) if "rmse" in match[2]]
    return (rows[-1][1], dict(_FIGURE.findall(rows[-1][2]))) if rows else None
