"""DP-GEN's machine.json: commands, batch systems and what a job asks of them."""

from __future__ import annotations

from typing import Any

from conventions.errors import ConfigError

from ..dispatcher import MACHINE, RESOURCES, command_of, reached
from ..draft import Draft
from ..source import Section
from .keys import MACHINE_STAGE

STAGES = {"train": "train", "model_devi": "explore", "fp": "label"}


def machines(source: Section, draft: Draft) -> None:
    """All three of machine.json."""
    for name, stage in STAGES.items():
        given = source.take(name)
        if given is None:
            draft.report.warn(f"{stage}: machine.json has no {name!r}: give {stage}.command, and {stage}.hpc if needed")
            continue
        where = source.at(name)
        if isinstance(given, list):
            if not given:
                raise ConfigError(f"{where}: the list is empty")
            if len(given) > 1:
                source.change(name, "the first of the list, as DP-GEN takes it; `hpc` can be a list with capacities")
            given, where = given[0], f"{where}[0]"
        _stage(Section(_without_notes(given), (MACHINE_STAGE,), source.report, where), stage, draft)


def _stage(found: Section, stage: str, draft: Draft) -> None:
    """The command, the batch system and the resources of one stage."""
    command = found.text("command")
    if command:
        program = command_of(command)
        draft.put(f"{stage}.command", program, found.at("command"))
        if program != command:
            found.change("command", "without its arguments and redirections, which are the run's")
    resources = Section(found.take("resources") or {}, (RESOURCES,), found.report, found.at("resources"))
    machine = Section(found.take("machine") or {}, (MACHINE,), found.report, found.at("machine"))
    reached(machine, resources, stage, draft, found.at("machine"))
    files = [draft.path(str(file)) for file in found.items("user_forward_files")]
    if files and stage == "label":
        draft.put("label.files", draft.config["label"].get("files", []) + files, found.at("user_forward_files"))
    elif files:
        found.lose("user_forward_files", f"{', '.join(files)}: {_WHERE_FILES[stage]}")
        draft.report.warn(f"{stage}: {', '.join(files)}: {_WHERE_FILES[stage]}")
    found.finish()


_WHERE_FILES = {
    "train": "jobs of train get no further files",
    "explore": "only a template's task group has `files`",
}


def _without_notes(given: Any) -> Any:
    """DP-GEN ignores keys that hold the word comments."""
    if not isinstance(given, dict):
        return given
    return {key: value for key, value in given.items() if "comments" not in key}
