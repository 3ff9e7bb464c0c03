"""The configuration that is being made: its keys, where each comes from, and the files that it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .report import Report


class Draft:
    """A run.yaml in the making.

    Parameters
    ----------
    base
        The folder that paths of the source are relative to.
    folder
        Where run.yaml will be.
    """

    def __init__(self, base: Path, folder: Path, report: Report) -> None:
        self.base, self.folder, self.report = base, folder, report
        self.config: dict[str, Any] = {}
        self.origins: dict[tuple[str | int, ...], str] = {}
        self.files: dict[str, str] = {}

    def put(self, key: str, value: Any, origin: str) -> None:
        """Set a key, `explore.stages` style; `origin` is what a comment says of where its value comes from."""
        parts = tuple(key.split("."))
        here = self.config
        for part in parts[:-1]:
            here = here.setdefault(part, {})
        here[parts[-1]] = value
        self.origins[parts] = origin

    def origin(self, *place: str | int, of: str) -> None:
        """Say where a value inside of one that was put comes from."""
        self.origins[place] = of

    def path(self, text: str, *prefixes: str | None) -> str:
        """A path of the source as run.yaml names it: relative to its own folder, unless it was absolute."""
        joined = Path(*(prefix for prefix in prefixes if prefix), text)
        if joined.is_absolute() or str(joined).startswith("~"):
            return os.path.normpath(joined)
        return os.path.relpath(self.base / joined, self.folder)

    def there(self, named: str) -> Path:
        """Where a path that run.yaml names is on this machine; neither it nor run.yaml's folder need be there."""
        return Path(os.path.normpath(self.folder / Path(named).expanduser()))

    def look(self, named: str, what: str) -> None:
        """Say so where there is nothing at a path that run.yaml names."""
        if not any(char in named for char in "*?[") and not self.there(named).exists():
            self.report.warn(f"{what}: {named} is not on this machine; `dpgen2-sm validate` says when all is there")

    def write(self, name: str, text: str) -> str:
        """A file beside run.yaml; returns how run.yaml names it."""
        self.files[name] = text if text.endswith("\n") else f"{text}\n"
        return name

    def rendered(self, head: str) -> str:
        """run.yaml with a comment at each value: where it comes from."""
        import io

        from ruamel.yaml import YAML

        yaml = YAML()
        yaml.width, yaml.allow_unicode = 1 << 20, True  # a text that is folded would lose spaces
        yaml.indent(mapping=2, sequence=4, offset=2)
        document = _commented(self.config, self.origins, ())
        document.yaml_set_start_comment(head)
        text = io.StringIO()
        yaml.dump(document, text)
        return text.getvalue()


def _commented(value: Any, origins: Mapping[tuple[str | int, ...], str], place: tuple[str | int, ...]) -> Any:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        made = CommentedMap()
        for key, inner in value.items():
            made[key] = _commented(inner, origins, (*place, key))
            origin = origins.get((*place, key))
            if origin and (not isinstance(inner, dict | list) or _short(inner)):
                made.yaml_add_eol_comment(origin, key)
            elif origin:
                made.yaml_set_comment_before_after_key(key, before=origin, indent=2 * len([*place]))
        if made and _short(value) and place and origins.get(place):
            made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        sequence = CommentedSeq([_commented(inner, origins, (*place, number)) for number, inner in enumerate(value)])
        for number in range(len(value)):
            if origin := origins.get((*place, number)):
                sequence.yaml_set_comment_before_after_key(number, before=origin, indent=2 * len(place))
        if _short(value):
            sequence.fa.set_flow_style()
        return sequence
    return value


def _short(value: Any) -> bool:
    """Does it fit on one line, with its comment?"""
    inner = value.values() if isinstance(value, dict) else value
    return len(repr(value)) <= 60 and not any(isinstance(each, dict | list) for each in inner)
