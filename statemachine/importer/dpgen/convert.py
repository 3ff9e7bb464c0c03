"""DP-GEN's param.json and machine.json, made into a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..draft import Draft
from ..report import Report
from ..source import Section
from ..values import basics
from . import keys
from .data import initial_data
from .explore import exploration
from .flat import flat, is_flat
from .label import labels
from .machine import machines
from .select import selection
from .train import training


def is_param(document: Mapping[str, Any]) -> bool:
    """Is this a param.json of `dpgen run`?"""
    return "model_devi_jobs" in document or ("sys_configs" in document and "fp_style" in document)


def is_machine(document: Mapping[str, Any]) -> bool:
    """Is this a machine.json?"""
    return len({"train", "model_devi", "fp"} & set(document)) > 1 or is_flat(document)


def fill(param: Mapping[str, Any], machine: Mapping[str, Any] | None, names: tuple[str, str], draft: Draft) -> None:
    """Write both into the draft; `names` are those of the two files."""
    tables = (keys.PARAM, keys.TRAIN, keys.EXPLORE, keys.SELECT, keys.LABEL)
    source = Section(param, tables, draft.report, f"{names[0]}: ")
    basics(source, draft)
    initial_data(source, draft)
    labels(source, draft)
    training(source, draft)
    jobs = exploration(source, draft)
    selection(source, draft, jobs)
    source.finish()
    if machine is None:
        draft.report.warn("no machine.json was given: write command, hpc or setup of each stage")
        return
    report = draft.report
    if is_flat(machine):  # its keys have their rows from there; of what it becomes only losses are told
        machine, report = flat(machine, draft.report, f"{names[1]}: "), Report()
    where = Section(machine, (keys.MACHINE_TOP,), report, f"{names[1]}: ")
    machines(where, draft)
    where.finish()
    if report is not draft.report:
        for row in report.losses:
            draft.report.add(row.source, row.outcome, row.to, row.note)
