"""DP-GEN's initial data and starting structures."""

from __future__ import annotations

from typing import Any

from conventions.errors import ConfigError

from ..draft import Draft
from ..source import Section
from ..values import FORMATS, data_format


def initial_data(param: Section, draft: Draft) -> None:
    """init_data_sys, each under a name of its own."""
    prefix = param.text("init_data_prefix")
    found: dict[str, Any] = {}
    for number, system in enumerate(param.items("init_data_sys")):
        if not isinstance(system, str):
            raise ConfigError(f"{param.at('init_data_sys')}[{number}]: a path is expected, not {system!r}")
        name = f"init{number:03d}"
        path = draft.path(system, prefix)
        draft.look(path, f"init.data.{name}")
        found[name] = {"path": path, "format": data_format(draft.there(path))}
        draft.origin("init", "data", name, of=f"init_data_sys[{number}]")
    if found:
        draft.put("init.data", found, "init_data_sys")
    else:
        param.lose("init_data_sys", "there are none: give init.data, or structures to label first (init.label)")
        draft.report.warn("init: give labelled data (init.data), or structures to label first (init.label)")


class Systems:
    """sys_configs as named sets of structures.

    A set that is explored by a job with trust levels of its own is there a second time, under a name of that job:
    levels belong to sets.
    """

    def __init__(self, param: Section, draft: Draft) -> None:
        self._draft = draft
        self._nopbc = param.flag("model_devi_nopbc")
        prefix = param.text("sys_configs_prefix")
        format = str(param.text("sys_format", "vasp/poscar")).lower()
        self._format = FORMATS.get(format, format)
        self._files: list[list[str]] = []
        for number, group in enumerate(param.items("sys_configs")):
            files = [group] if isinstance(group, str) else group
            if not isinstance(files, list) or not all(isinstance(file, str) for file in files) or not files:
                raise ConfigError(f"{param.at('sys_configs')}[{number}]: a list of paths is expected")
            self._files.append([draft.path(file, prefix) for file in files])
        if param.flag("shuffle_poscar"):
            param.lose(
                "shuffle_poscar", "atoms keep their places: see `substitute` of structures, or shuffle the files"
            )
        else:
            param.drop("shuffle_poscar", "off")
        if self._nopbc:
            param.change("model_devi_nopbc", "files without a cell are molecules; a cell in a file makes it periodic")
            draft.report.warn("model_devi_nopbc: give files without a cell (xyz), so that structures are molecules")
        else:
            param.drop("model_devi_nopbc", "off")

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int, where: str, job: int | None = None) -> str:
        """The name of a system's set, which is put into the draft; `job` is one with trust levels of its own."""
        if not 0 <= index < len(self._files):
            raise ConfigError(f"{where}: there is no sys_configs[{index}]; it has {len(self._files)} systems")
        name = f"sys{index:03d}" + (f".job{job:03d}" if job is not None else "")
        structures = self._draft.config.setdefault("structures", {})
        if name not in structures:
            files = self._files[index]
            for file in files:
                self._draft.look(file, f"structures.{name}")
            made: dict[str, Any] = {"files": files}
            if self._format:
                made["format"] = self._format
            structures[name] = made
            self._draft.origin("structures", of="sys_configs, sys_format")
            self._draft.origin("structures", name, of=f"sys_configs[{index}]")
        return name
