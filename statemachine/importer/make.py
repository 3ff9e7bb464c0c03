"""One import: read the sources, recognise what they are, write run.yaml, the files that it names, and the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conventions.errors import ConfigError

from .ai2kit import convert as ai2kit
from .dpgen import convert as dpgen
from .dpgen2 import convert as dpgen2
from .draft import Draft
from .reading import read_source
from .report import Outcome, Report
from .values import run_name

_Read = tuple[Path, dict[str, Any]]
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
    dialect = _dialect([each for _, each in documents])
    first, second = _CHOOSE[dialect](documents)
    base = first[0].resolve().parent
    folder = (folder or base / "dpgen2-sm").absolute()
    draft = Draft(base, folder, report)
    draft.put("run", run_name(base.name), "")
    draft.put("prefix", "out", "")
    if dialect == "ai2-kit":
        ai2kit.fill([(path.name, each) for path, each in documents], draft)
    elif dialect == "DPGEN2":
        dpgen2.fill(first[1], first[0].name, draft)
    else:
        dpgen.fill(first[1], second[1] if second else None, (first[0].name, second[0].name if second else ""), draft)
    draft.config = {key: draft.config[key] for key in _ORDER if key in draft.config}
    *others, last = [path.name for path, _ in documents]
    named = f"{', '.join(others)} and {last}" if others else last
    return Imported(dialect, folder, _files(draft, named), report)


def _dialect(documents: list[dict[str, Any]]) -> str:
    """Whose the documents are, by what they hold."""
    if any(map(ai2kit.is_input, documents)):
        return "ai2-kit"
    return "DPGEN2" if any(map(dpgen2.is_input, documents)) else "DP-GEN"


def _ai2kit(documents: list[_Read]) -> tuple[_Read, None]:
    """All files, which are one input."""
    for path, each in documents:
        if not ai2kit.is_input(each):
            raise ConfigError(
                f"{path}: no file of ai2-kit, as others here are (it has no workflow, artifacts or executors)"
            )
    return documents[0], None


def _dpgen2(documents: list[_Read]) -> tuple[_Read, None]:
    """The one input.json."""
    if len(documents) > 1:
        names = ", ".join(str(path) for path, _ in documents)
        raise ConfigError(f"{names}: give one input.json of DPGEN2 alone; it names its files itself")
    return documents[0], None


def _dpgen(documents: list[_Read]) -> tuple[_Read, _Read | None]:
    """param.json, and machine.json where it is given."""
    params = [(path, each) for path, each in documents if dpgen.is_param(each)]
    machines = [(path, each) for path, each in documents if not dpgen.is_param(each) and dpgen.is_machine(each)]
    strange = [path for path, each in documents if not (dpgen.is_param(each) or dpgen.is_machine(each))]
    if strange:
        raise ConfigError(
            f"{strange[0]}: neither a param.json nor a machine.json of DP-GEN (it has no model_devi_jobs, and no "
            "train, model_devi and fp), nor an input.json of DPGEN2 (no inputs, train, explore and fp), nor a file of "
            "ai2-kit (no workflow, artifacts or executors)"
        )
    if len(params) != 1 or len(machines) > 1:
        names = ", ".join(str(path) for path, _ in documents)
        raise ConfigError(f"{names}: give one param.json and at most one machine.json; these are "
                          f"{len(params)} and {len(machines)}")  # fmt: skip
    return params[0], machines[0] if machines else None


_CHOOSE: dict[str, Callable[[list[_Read]], tuple[_Read, _Read | None]]] = {
    "ai2-kit": _ai2kit, "DPGEN2": _dpgen2, "DP-GEN": _dpgen,
}  # fmt: skip


def is_ours(path: Path) -> bool:
    """Is it a configuration of a run already?"""
    return {"prefix", "explore", "select"} <= set(read_source(path)[0])


def _files(draft: Draft, named: str) -> dict[str, str]:
    head = f"Made by `dpgen2-sm import` of {named}; {REPORT} says what became of each key.\n"
    return {RUN: draft.rendered(head), **draft.files, REPORT: draft.report.text()}


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
