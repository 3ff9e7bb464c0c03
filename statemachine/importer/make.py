"""One import: read the sources, recognise what they are, write run.yaml, the files that it names, and the report."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.errors import ConfigError

from .dpgen import convert as dpgen
from .draft import Draft
from .reading import read_source
from .report import Outcome, Report

RUN, REPORT = "run.yaml", "import.md"
_ORDER = (
    "run", "prefix", "engine", "seed", "type_map", "mass_map", "structures", "init", "label", "train", "explore",
    "select", "max_iterations", "convergence",
)  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """What an import has made, and not yet written.

    Parameters
    ----------
    dialect
        What the sources are.
    files
        Text by name, below the folder.
    """

    dialect: str
    folder: Path
    files: dict[str, str]
    report: Report

    def write(self) -> None:
        """Write all files, or none where one is there with other content.

        Raises
        ------
        ConfigError
            When a file is there that says something else.
        """
        for name, text in self.files.items():
            path = self.folder / name
            if path.exists() and path.read_bytes() != text.encode():
                raise ConfigError(
                    f"{path}: it is there already, and another one; move it away, or choose another folder with -o"
                )
        for name, text in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            part.write_text(text, "utf-8")
            part.replace(path)


def make(sources: Sequence[Path], folder: Path | None = None) -> Imported:
    """Read the sources and make a configuration of them; writes nothing.

    Raises
    ------
    ConfigError
        When a source cannot be read, or is nothing that is known.
    """
    documents = []
    report = Report()
    for path in sources:
        document, twice = read_source(path)
        documents.append((path, document))
        for name in twice:
            report.add(f"{path.name}: {name}", Outcome.CHANGED, note="given twice at one place; the last one counts")
    params = [(path, each) for path, each in documents if dpgen.is_param(each)]
    machines = [(path, each) for path, each in documents if not dpgen.is_param(each) and dpgen.is_machine(each)]
    strange = [path for path, each in documents if not (dpgen.is_param(each) or dpgen.is_machine(each))]
    if strange:
        raise ConfigError(
            f"{strange[0]}: neither a param.json nor a machine.json of DP-GEN: it has no model_devi_jobs, and no "
            "train, model_devi and fp"
        )
    if len(params) != 1 or len(machines) > 1:
        names = ", ".join(str(path) for path, _ in documents)
        raise ConfigError(f"{names}: give one param.json and at most one machine.json; these are "
                          f"{len(params)} and {len(machines)}")  # fmt: skip
    base = params[0][0].resolve().parent
    folder = (folder or base / "dpgen2-sm").absolute()
    draft = Draft(base, folder, report)
    machine = machines[0] if machines else (Path(), None)
    draft.put("run", _run_name(base.name), "")
    draft.put("prefix", "out", "")
    dpgen.fill(params[0][1], machine[1], (params[0][0].name, machine[0].name), draft)
    draft.config = {key: draft.config[key] for key in _ORDER if key in draft.config}
    named = " and ".join(path.name for path, _ in documents)
    return Imported("DP-GEN", folder, _files(draft, named), report)


def is_ours(path: Path) -> bool:
    """Is it a configuration of a run already?"""
    return {"prefix", "explore", "select"} <= set(read_source(path)[0])


def _files(draft: Draft, named: str) -> dict[str, str]:
    head = f"Made by `dpgen2-sm import` of {named}; {REPORT} says what became of each key.\n"
    return {RUN: draft.rendered(head), **draft.files, REPORT: draft.report.text()}


def _run_name(text: str) -> str:
    """A name of a run that is like the folder's."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:20].rstrip("-")
    return name or "imported"


def summary(imported: Imported) -> dict[str, Any]:
    """What a script needs to know."""
    return {
        "dialect": imported.dialect,
        "run": os.fspath(imported.folder / RUN),
        "files": sorted(imported.files),
        **imported.report.document(),
    }


def as_json(imported: Imported) -> str:
    return json.dumps(summary(imported), indent=2)
