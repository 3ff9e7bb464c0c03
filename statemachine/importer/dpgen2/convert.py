"""DPGEN2's input.json, made into a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..draft import Draft
from ..report import Report
from ..source import Section
from ..values import run_name
from .data import inputs
from .engine import engine
from .explore import exploration
from .explore_keys import EXPLORE
from .keys import FP, INPUTS, TOP, TRAIN
from .label import labels
from .older import is_older, present
from .select import selection
from .steps import steps
from .train import training

_KNOWN = frozenset(
    ("inputs", "explore", "step_configs", "default_step_config", "dflow_config", "dflow_s3_config", "bohrium_config")
)


def is_input(document: Mapping[str, Any]) -> bool:
    """Is this an input.json of `dpgen2 submit`?"""
    return len(_KNOWN & set(document)) > 1 or is_older(document)


def fill(document: Mapping[str, Any], name: str, draft: Draft) -> None:
    """Write it into the draft; `name` is that of its file."""
    report = draft.report
    if is_older(document):  # its keys have their rows from there; of what it becomes only losses are told
        document, draft.report = present(document, report, f"{name}: "), Report()
    top = Section(document, (TOP,), draft.report, f"{name}: ")
    called = top.text("name", "dpgen")
    if called != "dpgen":
        draft.put("run", run_name(called), "name")
    elif "name" in top:
        top.drop("name", "the default: the run is called as its folder")
    for key in ("inputs", "train", "explore", "fp"):
        top.need(key)
    explore, fp = top.part("explore", EXPLORE), top.part("fp", FP)
    source = top.part("inputs", INPUTS)
    heads = inputs(source, draft)
    source.finish()
    labels(fp, draft)
    source = top.part("train", TRAIN)
    training(source, heads, draft)
    source.finish()
    exploration(explore, draft)
    selection(explore, fp, draft)
    explore.finish()
    fp.finish()
    argo = engine(top, draft)
    steps(top, draft, argo)
    top.finish()
    if draft.report is not report:
        for row in draft.report.losses:
            report.add(row.source, row.outcome, row.to, row.note)
        for text in draft.report.warnings:
            report.warn(text)
        draft.report = report
