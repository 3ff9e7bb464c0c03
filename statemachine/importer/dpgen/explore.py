"""DP-GEN's `model_devi_jobs`: each job is an exploration stage that runs once."""

from __future__ import annotations

from typing import Any

from conventions.errors import ConfigError

from ..draft import Draft
from ..source import Section
from ..values import expand, numbers, whole
from .data import Systems
from .keys import EXPLORE, JOB

# Keys of a task group that are not the job's own.
_ELSEWHERE = {"dt": "model_devi_dt", "tau_t": "model_devi_taut", "tau_p": "model_devi_taup", "epsilon": "epsilon",
              "epsilon_v": "epsilon_v"}  # fmt: skip
LEVELS = ("f_trust_lo", "f_trust_hi", "v_trust_lo", "v_trust_hi")


class Job:
    """A job's levels of its own, by the set that has them: what selection needs to know of exploration."""

    def __init__(self) -> None:
        self.sets: dict[str, tuple[int, dict[str, Any]]] = {}  # set -> (system's number, the job's own levels)
        self.most = 1  # systems in one job


def exploration(param: Section, draft: Draft) -> Job:
    """The whole explore stage."""
    found = Job()
    engine = str(param.text("model_devi_engine", "lammps"))
    draft.put("explore.app", engine, "model_devi_engine" if "model_devi_engine" in param else "")
    jobs = param.of("model_devi_jobs", list, [])
    if engine != "lammps":
        param.lose("model_devi_engine", f"there is no explore/{engine}; explore has LAMMPS and ASE")
        param.lose("model_devi_jobs", f"they are of {engine}: write explore.stages")
        draft.report.warn(f"explore: the source explores with {engine}; write this stage by hand")
        param.lose_rest(EXPLORE, f"it is of {engine}")
        for name in ("sys_configs", "sys_configs_prefix", "sys_format", "shuffle_poscar"):
            param.lose(name, f"they are what {engine} starts from: write structures")
        return found
    systems = Systems(param, draft)
    stages = []
    for number, job in enumerate(jobs):
        where = f"{param.at('model_devi_jobs')}[]"
        groups = _stage(Section(job, (JOB,), param.report, where), param, draft, systems, number, found)
        stages.append(groups)
        draft.origin("explore", "stages", number, of=f"model_devi_jobs[{number}]")
        for place, group in enumerate(groups):
            for key, origin in _ELSEWHERE.items():
                if key in group and key not in job:
                    of = origin if origin in param else f"DP-GEN's default of {origin}"
                    draft.origin("explore", "stages", number, place, key, of=of)
    if not param.flag("model_devi_plumed"):
        param.drop("model_devi_plumed", "off")
    if not stages:
        param.lose_rest(EXPLORE, "there are no jobs that it could be of")
        param.lose("model_devi_jobs", "there are none: write explore.stages")
        draft.report.warn("model_devi_jobs: there are none; write explore.stages")
    draft.put("explore.stages", stages, "model_devi_jobs; a list of task groups for each")
    draft.put("convergence.repeat", "once", "a job of DP-GEN is one iteration")
    draft.put("max_iterations", int(param.number("model_devi_max_iter", max(1, len(stages)))), "model_devi_jobs")
    param.take("model_devi_plumed_path")
    return found


def _stage(
    job: Section, param: Section, draft: Draft, systems: Systems, number: int, found: Job
) -> list[dict[str, Any]]:
    """The task groups of a job."""
    where = f"{param.at('model_devi_jobs')}[{number}].sys_idx"
    indices = expand(job.need("sys_idx"), where)
    own = {name: job.take(f"model_devi_{name}") for name in LEVELS if f"model_devi_{name}" in job}
    names = [systems.name(index, where, number if own else None) for index in indices]
    for index, name in zip(indices, names, strict=True):
        found.sets[name] = (index, own)
    found.most = max(found.most, len(names))
    common = {"trj_freq": whole(job.need("trj_freq"), job.at("trj_freq"))}
    groups = _templates(job, param, draft, names, indices) if job.take("template") else [_md(job, param, names)]
    job.finish()
    return [{**group, **common} for group in groups]


def _md(job: Section, param: Section, names: list[str]) -> dict[str, Any]:
    """The group of a job without a template."""
    ensemble = job.need("ensemble")
    group: dict[str, Any] = {"structures": names, "ensemble": ensemble, "temps": numbers(job, "temps")}
    if str(ensemble).startswith("npt"):
        group["press"] = numbers(job, "press")
    elif "press" in job:
        job.drop("press", f"ensemble {ensemble} has no barostat")
    group["nsteps"] = whole(job.need("nsteps"), job.at("nsteps"))
    dt = job.number("dt")
    step = param.need_number("model_devi_dt")
    group["dt"] = float(step if dt is None else dt)
    group["tau_t"] = float(param.number("model_devi_taut", 0.1))
    group["tau_p"] = float(param.number("model_devi_taup", 0.5))
    for flag, key in (("use_relative", "epsilon"), ("use_relative_v", "epsilon_v")):
        if param.flag(flag):
            group[key] = float(param.need(key))
        else:
            param.drop(flag, "off")
            if key in param:
                param.drop(key, f"without {flag} it has no effect in DP-GEN either")
    for name in ("rev_mat", "sys_rev_mat"):
        if name in job:
            job.drop(name, "without a template it has no effect in DP-GEN either")
    return group


def _templates(
    job: Section, param: Section, draft: Draft, names: list[str], indices: list[int]
) -> list[dict[str, Any]]:
    """The groups of a job with a template: one for all systems, or one for each where their values differ."""
    template = job.of("template", dict)
    if not isinstance(template.get("lmp"), str):
        raise ConfigError(f"{job.at('template')}.lmp: the path of an input of LAMMPS is expected")
    group: dict[str, Any] = {"template": draft.path(template["lmp"])}
    draft.look(group["template"], "a template of explore")
    if param.flag("model_devi_plumed") and isinstance(template.get("plm"), str):
        group["plumed"] = draft.path(template["plm"])
        draft.look(group["plumed"], "a PLUMED input of explore")
    elif template.get("plm"):
        job.change("template", "plm is not used: model_devi_plumed is off")
    if isinstance(template.get("plm_path"), str) and param.flag("model_devi_plumed_path"):
        group["files"] = [draft.path(template["plm_path"])]
        job.change("template", "DP-GEN calls the file of plm_path plmpath.pdb; it keeps its own name here")
    for name in ("temps", "press", "nsteps", "ensemble", "dt"):
        if name in job:
            job.drop(name, "with a template DP-GEN does not read it either")
    for flag in ("use_relative", "use_relative_v"):
        if param.flag(flag):
            param.change(flag, "a template has its own pair_style: write `relative EPSILON` behind its models")
    for name in ("model_devi_dt", "model_devi_taut", "model_devi_taup", "epsilon", "epsilon_v"):
        param.take(name)
    common = _revisions(job.of("rev_mat", dict, {}), job.at("rev_mat"))
    own = job.of("sys_rev_mat", dict, {})
    if not own:
        return [{"structures": names, **group, **({"revisions": common} if common else {})}]
    groups = []
    for name, index in zip(names, indices, strict=True):
        values = {**common, **_revisions(own.get(str(index), {}), f"{job.at('sys_rev_mat')}.{index}")}
        groups.append({"structures": [name], **group, **({"revisions": values} if values else {})})
    return groups


def _revisions(given: Any, where: str) -> dict[str, Any]:
    """Names and their values, of LAMMPS' and PLUMED's input: all combinations are run, as in DP-GEN."""
    found: dict[str, Any] = {}
    for part in ("plm", "lmp"):
        values = given.get(part, {}) if isinstance(given, dict) else None
        if not isinstance(values, dict):
            raise ConfigError(f"{where}.{part}: names with lists of values are expected")
        for name, value in values.items():
            listed = value if isinstance(value, list) else [value]
            if found.get(name, listed) != listed:
                raise ConfigError(f"{where}: {name} has other values in lmp than in plm; give it two names")
            found[name] = listed
    return found
