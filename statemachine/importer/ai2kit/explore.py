"""ai2-kit's exploration and its table of updates, as exploration stages."""

from __future__ import annotations

import copy
from typing import Any

from conventions.errors import ConfigError
from operators.explore.task_group import Md

from ..draft import Draft
from ..report import Outcome
from ..source import Section
from ..values import whole
from .artifacts import Artifacts
from .keys import ANYWARE, EXPLORE, LAMMPS, LASP, UPDATE, WALKTHROUGH

_VARS = {"TEMP": "temps", "PRES": "press", "TAU_T": "tau_t", "TAU_P": "tau_p"}
_DEFAULTS = {"TAU_T": 0.1, "TAU_P": 0.5}


def exploration(workflow: Section, artifacts: Artifacts, most: int, draft: Draft) -> None:
    """The whole explore stage, and when a stage is followed by the next."""
    explore = workflow.part("explore", EXPLORE)
    for name, table in (("lasp", LASP), ("anyware", ANYWARE)):
        if explore.take(name) is not None:
            explore.part(name, table).finish()
    given = explore.of("lammps", dict)
    rows, accuracy = _table(workflow, draft)
    if given is None:
        kind = next((name for name in ("lasp", "anyware") if name in explore), "lammps")
        draft.put("explore.app", kind, "workflow.explore")
        draft.put("explore.stages", [], "")
        draft.report.warn("explore: the source has no explore.lammps; write this stage by hand")
        explore.finish()
        return
    draft.put("explore.app", "lammps", "workflow.explore.lammps")
    stages, failed = [], False
    for number, row in enumerate([{}, *rows]):
        own = (row.get("explore") or {}).get("lammps") if isinstance(row.get("explore") or {}, dict) else None
        if own is not None and not isinstance(own, dict):
            raise ConfigError(f"{workflow.at('update.walkthrough.table')}[{number - 1}].explore.lammps: a mapping of "
                              f"keys is expected, not {own!r}")  # fmt: skip
        where = explore.at("lammps") if number == 0 else f"{workflow.at('update.walkthrough.table')}[].explore.lammps"
        source = Section(merged(given, own or {}), (LAMMPS,), draft.report, where)
        stages.append([_group(source, artifacts)])
        failed = failed or source.flag("ignore_error")
        if number:  # only what the row says has rows in the report
            source.values = {key: value for key, value in source.values.items() if key in (own or {})}
            source.nulls = []
        source.finish()
    _converge(stages, rows, accuracy, most, draft)
    draft.put("explore.stages", stages, "workflow.explore.lammps, workflow.update.walkthrough.table")
    draft.put("explore.ratio_failed", 1.0 if failed else 0.0, "workflow.explore.lammps.ignore_error")
    explore.finish()


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both, also inside; where both have a value, that of `over`. Null is no value, in ai2-kit too."""
    found = copy.deepcopy(base)
    for key, value in over.items():
        inner = found.get(key)
        if value is None and inner is not None:
            continue
        found[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def _table(workflow: Section, draft: Draft) -> tuple[list[dict[str, Any]], float | None]:
    """The rows that follow the first exploration, and the passing rate after which each does."""
    update = workflow.part("update", UPDATE)
    source = update.part("walkthrough", WALKTHROUGH)
    rows = source.of("table", list, [])
    for number, row in enumerate(rows):
        where = f"{source.at('table')}[{number}]"
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: a mapping of keys is expected, not {row!r}")
        for name in _others(row):
            why = "a later exploration stage has settings of its own; what trains, selects and labels stays the same"
            draft.report.add(f"{source.at('table')}[].{name}", Outcome.LOST, note=why)
    threshold = source.number("passing_rate_threshold")
    if threshold is not None and not 0 < threshold <= 1:
        source.drop("passing_rate_threshold", "each row is one iteration, as there")
        threshold = None
    elif threshold is not None and not rows:
        source.drop("passing_rate_threshold", "there is no table")
        threshold = None
    elif threshold is not None:
        source.change("passing_rate_threshold", "the run ends when the last row has passed; ai2-kit goes on with it")
    source.finish()
    update.finish()
    return rows, threshold


def _others(row: dict[str, Any]) -> list[str]:
    """The settings of a row that are not of LAMMPS."""
    found = []
    for part, programs in row.items():
        if part.startswith("_"):
            continue
        if isinstance(programs, dict):
            found += [f"{part}.{name}" for name in programs if (part, name) != ("explore", "lammps")]
        else:
            found.append(part)
    return found


def _converge(stages: list[Any], rows: list[Any], accuracy: float | None, most: int, draft: Draft) -> None:
    if accuracy is not None:
        draft.put("convergence.accuracy", float(accuracy), "workflow.update.walkthrough.passing_rate_threshold")
    elif rows:  # a row for each iteration, the last one for all that are left
        draft.put("convergence.repeat", "once", "a row of update.walkthrough.table is one iteration")
        del stages[most:]
        stages += [copy.deepcopy(stages[-1]) for _ in range(most - len(stages))]
    else:
        draft.put("convergence.accuracy", 1.0, "ai2-kit ends when there is nothing left to label")


def _group(source: Section, artifacts: Artifacts) -> dict[str, Any]:
    """The trajectories of one exploration stage."""
    where = source.at("system_files")
    group: dict[str, Any] = {"structures": artifacts.structures(_names(source, "system_files"), where)}
    ensemble = source.text("ensemble")
    group["ensemble"] = _ensemble(source, ensemble)
    variables = source.of("explore_vars", dict, {})
    lost = [name for name in variables if name not in _VARS and not name.startswith("_")]
    if lost:
        source.lose("explore_vars", f"{', '.join(lost)}: only TEMP, PRES, TAU_T and TAU_P are variables here")
    for name, ours in _VARS.items():
        if name == "PRES" and not group["ensemble"].startswith("npt"):
            continue
        values = variables.get(name, _DEFAULTS.get(name))
        numbers = values if isinstance(values, list) else [values]
        if not numbers or not all(type(value) in (int, float) for value in numbers):
            raise ConfigError(f"{source.at('explore_vars')}.{name}: numbers are expected, not {values!r}")
        if ours.startswith("tau") and len(numbers) > 1:
            source.change("explore_vars", f"{name}: the first of several; temperatures and pressures are a grid")
        group[ours] = float(numbers[0]) if ours.startswith("tau") else [float(value) for value in numbers]
    group["nsteps"] = whole(source.need("nsteps"), source.at("nsteps"))
    group["dt"] = float(source.number("timestep", 0.0005))
    group["trj_freq"] = whole(source.take("sample_freq", 100), source.at("sample_freq"))
    if (source.of("n_wise", int) or 0) > 1:
        source.lose("n_wise", "all combinations of structures, temperatures and pressures are explored")
    else:
        source.drop("n_wise", "all combinations, as here")
    if source.flag("no_pbc"):
        source.change("no_pbc", "files without a cell are molecules; a cell in a file makes it periodic")
    else:
        source.drop("no_pbc", "off")
    source.flag("ignore_error")
    for key in ("broadcast_vars", "template_vars", "type_alias"):
        if source.take(key) == {}:
            source.drop(key, "none")
    return group


def _ensemble(source: Section, given: str | None) -> str:
    from typing import get_args

    if given in get_args(Md):
        return str(given)
    if given is None:
        source.report.warn(f"{source.at('ensemble')}: fix_statement says what moves the atoms there; nvt was written")
    else:
        source.lose("ensemble", f"{given}: nvt was written; there are {', '.join(get_args(Md))}")
        source.report.warn(f"{source.at('ensemble')}: {given} is not there; nvt was written")
    return "nvt"


def _names(source: Section, key: str) -> list[Any]:
    found = source.items(key)
    if not found:
        raise ConfigError(f"{source.at(key)}: names of artifacts are expected")
    return found
