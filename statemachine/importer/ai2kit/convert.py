"""ai2-kit's files, together made into a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..draft import Draft
from ..report import Report
from ..source import Section, Table
from ..values import basics
from .artifacts import Artifacts
from .executors import executors
from .explore import exploration, merged
from .keys import GENERAL, TOP, WORKFLOW
from .label import labels, selection
from .train import training

_PARTS = ("general", "train", "explore", "select", "label", "update")


def is_input(document: Mapping[str, Any]) -> bool:
    """Is this one of the files of a workflow of ai2-kit?"""
    workflow = document.get("workflow")
    if isinstance(workflow, dict) and set(_PARTS) & set(workflow):
        return True
    named = [document.get(key) for key in ("artifacts", "executors")]
    return any(isinstance(each, dict) and all(isinstance(one, dict) for one in each.values()) for each in named)


class _Named(Section):
    """A section of several files: a message names the last one that has a key."""

    def __init__(self, values: Any, table: Table, report: Report, files: Mapping[str, str], place: str) -> None:
        self._files, self._place = files, place
        super().__init__(values, (table,), report, self.at("").rstrip("."))

    def at(self, name: str) -> str:
        file = self._files.get(name.partition(".")[0]) or next(iter(self._files.values()))
        return f"{file}: {self._place}{name}"


def fill(documents: Iterable[tuple[str, Mapping[str, Any]]], draft: Draft) -> None:
    """Write all files into the draft; where several give a value, that of the last one counts, as in ai2-kit.

    Parameters
    ----------
    documents
        The name of each file, and what it holds.
    """
    document: dict[str, Any] = {}
    files: dict[str, str] = {}
    parts: dict[str, str] = {}
    for file, each in documents:
        document = merged(document, dict(each))
        files |= dict.fromkeys(each, file)
        if "workflow" in each:
            given = each["workflow"]
            parts |= dict.fromkeys(given if isinstance(given, dict) and given else [""], file)
    # Keys that begin with a dot are there to be referred to by YAML's anchors.
    document = {name: value for name, value in document.items() if not name.startswith(".")}
    top = _Named(document, TOP, draft.report, files, "")
    workflow = _Named(top.need("workflow"), WORKFLOW, draft.report, parts, "workflow.")
    general = Section(workflow.need("general"), (GENERAL,), draft.report, workflow.at("general"))
    basics(general, draft)
    most = max(1, general.of("max_iters", int, 1))
    draft.put("max_iterations", most, general.at("max_iters"))
    mode = general.text("mode", "default")
    if mode == "default":
        general.drop("mode", "the default: one committee of models")
    else:
        general.lose("mode", f"{mode} is not there: energies and forces are learned by one committee")
        draft.report.warn(f"workflow.general.mode: {mode} is not there; look through the whole configuration")
    if general.flag("update_explore_systems"):
        general.lose("update_explore_systems", "`start: selected` in a task group begins with the last selection")
    else:
        general.drop("update_explore_systems", "off: each iteration begins with the same structures")
    general.finish()
    artifacts = Artifacts(top.take("artifacts", {}), top.at("artifacts"), draft)
    labels(workflow, artifacts, draft)
    training(workflow, artifacts, draft)
    exploration(workflow, artifacts, most, draft)
    selection(workflow, draft)
    if not draft.config.get("init"):
        draft.report.warn("init: give labelled data (init.data), or structures to label first (init.label)")
    if top.take("executors") is None:
        draft.report.warn("no executors were given: write command, hpc or setup of each stage")
    else:
        executors(top.take("executors"), top.at("executors"), draft)
    artifacts.finish()
    workflow.finish()
    top.finish()
