"""ai2-kit's artifacts: files by name, which become data and structure sets of the same names."""

from __future__ import annotations

import re
from typing import Any

from conventions.errors import ConfigError

from ..draft import Draft
from ..source import Section
from ..values import data_format
from .keys import ARTIFACT


class Artifacts:
    """What the parts of the workflow name; each is put into the draft where it is named first."""

    def __init__(self, given: Any, where: str, draft: Draft) -> None:
        self._draft, self._where = draft, where
        if not isinstance(given, dict):
            raise ConfigError(f"{where}: a mapping of keys is expected, not {given!r}")
        self._sources = {
            name: Section(value, (ARTIFACT,), draft.report, f"{where}.{name}") for name, value in given.items()
        }
        self._files = {name: self._path(source) for name, source in self._sources.items()}
        for name, source in self._sources.items():
            self._attributes(name, source)

    def data(self, names: list[Any], where: str) -> None:
        """Labelled data to begin with."""
        self._data(names, where, "data")

    def structures(self, names: list[Any], where: str) -> list[str]:
        """The names of structure sets."""
        found = []
        sets = self._draft.config.setdefault("structures", {})
        for name in names:
            file = self._find(name, where)
            found.append(_plain(name))
            if found[-1] not in sets:
                self._draft.look(file, f"structures.{found[-1]}")
                path = self._draft.there(file)
                made: dict[str, Any] = {"files": [file]}
                if path.is_dir() and next(path.rglob("type.raw"), None):
                    made["format"] = data_format(path)
                elif path.is_dir():
                    made["files"] = [f"{file}/*"]
                sets[found[-1]] = made
                self._draft.origin("structures", of=self._where)
                self._draft.origin("structures", found[-1], of=f"{self._where}.{name}")
        return found

    def finish(self) -> None:
        for source in self._sources.values():
            source.finish()

    def _data(self, names: list[Any], where: str, kind: str) -> None:
        for name in names:
            file = self._find(name, where)
            self._draft.look(file, f"init.{kind}.{name}")
            found = {"path": file, "format": data_format(self._draft.there(file))}
            self._draft.config.setdefault("init", {}).setdefault(kind, {})[_plain(name)] = found
            self._draft.origin("init", kind, _plain(name), of=f"{self._where}.{name}")

    def _find(self, name: Any, where: str) -> str:
        if not isinstance(name, str) or name not in self._files:
            raise ConfigError(
                f"{where}: there is no artifact {name!r}; artifacts has {', '.join(self._files) or 'none'}"
            )
        return self._files[name]

    def _path(self, source: Section) -> str:
        url = source.need("url")
        parts = [url, source.text("includes")] if source.take("includes") is not None else [url]
        if not all(isinstance(part, str) for part in parts):
            raise ConfigError(f"{source.at('url')}: a path is expected, not {url!r}")
        return self._draft.path(parts[-1], *parts[:-1])

    def _attributes(self, name: str, source: Section) -> None:
        """Data that the models are tested on; settings of one artifact only are lost."""
        attributes = source.of("attrs", dict, {})
        deepmd = attributes.get("deepmd")
        tested = isinstance(deepmd, dict) and deepmd.get("validation_data") is True
        if tested:
            self._data([name], source.where, "test")
            source.change("attrs", "dp test measures the models on them when they are trained, not dp train")
        left = [
            key for key in attributes if not (key == "deepmd" and tested and set(deepmd or ()) == {"validation_data"})
        ]
        if left:
            source.lose("attrs", f"{', '.join(left)}: a set has no settings of its own beside trust levels and incar")
        elif not attributes:
            source.drop("attrs", "none")


def _plain(name: str) -> str:
    """A name as the run can have it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip("-._") or "set"
