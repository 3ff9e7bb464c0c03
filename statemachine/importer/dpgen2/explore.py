"""DPGEN2's `explore`: configurations, and stages of task groups that are repeated until they have converged."""

from __future__ import annotations

from typing import Any, get_args

from conventions.errors import ConfigError
from operators.explore.task_group import Md

from ..draft import Draft
from ..source import Section
from ..values import expand, numbers, whole
from .commands import put_command
from .explore_keys import CALYPSO_CONFIG, CONFIG, CUSTOM, MD, OTHER_GROUP, TEMPLATE
from .structures import Configurations

_NPT = "npt"


def exploration(explore: Section, draft: Draft) -> None:
    """The whole explore stage, but for what selection reads."""
    kind = str(explore.text("type", "lmp"))
    stages = explore.of("stages", list, [])
    if not all(isinstance(stage, list) for stage in stages):
        raise ConfigError(f"{explore.at('stages')}: a list of lists of task groups is expected")
    _limits(explore, len(stages), draft)
    if kind != "lmp":
        _other(explore, kind, stages, draft)
        return
    draft.put("explore.app", "lammps", "explore.type")
    _config(explore.part("config", CONFIG), draft)
    configurations = Configurations(explore, draft)
    made = []
    for number, stage in enumerate(stages):
        groups = []
        for place, given in enumerate(stage):
            named = f"{explore.at('stages')}[{number}][{place}]"
            groups.append(_group(given, explore, configurations, named, draft))
            _say(draft, groups[-1], given, number, place)
        made.append(groups)
        draft.origin("explore", "stages", number, of=f"explore.stages[{number}]")
    if not made:
        explore.lose("stages", "there are none: write explore.stages")
        draft.report.warn("explore.stages: there are none; write them")
    draft.put("explore.stages", made, "explore.stages; each is repeated until it has converged")


def _limits(explore: Section, stages: int, draft: Draft) -> None:
    """How many iterations, and what happens then."""
    most = explore.of("max_numb_iter", int, 10)
    draft.put("max_iterations", max(1, most * max(1, stages)), f"explore.max_numb_iter {most}, for each of the stages")
    if explore.take("fatal_at_max", True):
        explore.drop("fatal_at_max", "a run that has not converged ends at max_iterations, and says so")
    else:
        explore.lose("fatal_at_max", "a stage that has not converged is not followed by the next one")
    if explore.flag("output_nopbc"):
        explore.lose("output_nopbc", "frames are labelled in the cell that they have")
    else:
        explore.drop("output_nopbc", "off")


def _config(config: Section, draft: Draft) -> None:
    put_command(config, "explore", draft)
    for key in ("head", "model_frozen_head"):
        head = config.text(key)
        if head and head != draft.config["train"].get("head"):
            config.lose(key, "the head of training is explored with; a model of one head has none to choose")
        elif not head:
            config.drop(key, "not given")
    for key in ("teacher_model_path", "shuffle_models", "extra_output_files"):
        if not config.take(key):
            config.drop(key, "not given")
    if config.take("use_ele_temp"):
        config.lose("use_ele_temp", "electrons have no temperature of their own, and models do not know it")
    config.finish()


def _other(explore: Section, kind: str, stages: list[list[Any]], draft: Draft) -> None:
    """An exploration that is not there."""
    draft.put("explore.app", kind, "explore.type")
    explore.lose("type", f"there is no explore/{kind}: explore has LAMMPS and ASE")
    config = explore.part("config", CALYPSO_CONFIG, CONFIG)
    put_command(config, "explore", draft)
    config.lose_rest(CONFIG, f"it is of {kind}")
    config.finish()
    for key in ("configurations", "stages"):
        explore.lose(key, f"it is of {kind}: write structures and explore.stages")
    for group in (group for stage in stages for group in stage):
        Section(group, (OTHER_GROUP,), explore.report, f"{explore.at('stages')}[][]").finish()
    draft.report.warn(f"explore: the source explores with {kind}; write this stage by hand")


def _group(given: Any, explore: Section, configurations: Configurations, named: str, draft: Draft) -> dict[str, Any]:
    """A task group; `named` is how an error names it."""
    where = f"{explore.at('stages')}[][]"
    kind = given.get("type") if isinstance(given, dict) else None
    tables = {"lmp-md": MD, "lmp-npt": MD, "lmp-template": TEMPLATE, "customized-lmp-template": CUSTOM}
    if kind not in tables:
        raise ConfigError(f"{named}.type: {kind!r}; of LAMMPS DPGEN2 has {', '.join(tables)}")
    source = Section(given, (tables[kind],), explore.report, where)
    source.take("type")
    indices = expand(source.need("conf_idx"), f"{named}.{source.name_of('conf_idx')}")
    group: dict[str, Any] = {"structures": configurations.names(indices, f"{named}.{source.name_of('conf_idx')}")}
    sample = source.of("n_sample", int)
    if sample:
        group["n_sample"] = sample
    if tables[kind] is MD:
        group |= _md(source, named)
    elif kind == "lmp-template":
        group |= _template(source, draft, "lmp_template_fname", "plm_template_fname")
        if source.take("extra_pair_style_args"):
            source.lose("extra_pair_style_args", "write them behind the models in the template's pair_style")
        else:
            source.drop("extra_pair_style_args", "none")
    else:
        group |= _template(source, draft, "input_lmp_tmpl_name", "input_plm_tmpl_name")
        draft.report.warn(f"{named}: custom_shell_commands are not run: give the structures and the input they make")
    source.finish()
    return group


def _md(source: Section, named: str) -> dict[str, Any]:
    """A grid of temperatures and pressures; the defaults are DPGEN2's."""
    ensemble = str(source.text("ens", "nve"))
    if ensemble not in get_args(Md):
        raise ConfigError(f"{named}.{source.name_of('ens')}: {ensemble!r}; there are {', '.join(get_args(Md))}")
    group: dict[str, Any] = {"ensemble": ensemble, "temps": numbers(source, "temps")}
    if ensemble.startswith(_NPT):
        group["press"] = numbers(source, "press")
    elif source.take("press") is not None:
        source.drop("press", f"ensemble {ensemble} has no barostat")
    group["nsteps"] = whole(source.take("nsteps", 100), f"{named}.nsteps")
    group["dt"] = float(source.number("dt", 0.001))
    group["tau_t"] = float(source.number("tau_t", 0.05))
    group["tau_p"] = float(source.number("tau_p", 0.5))
    group["trj_freq"] = whole(source.take("trj_freq", 10), f"{named}.trj_freq")
    for theirs, ours in (("relative_f_epsilon", "epsilon"), ("relative_v_epsilon", "epsilon_v")):
        value = source.number(theirs)
        if value is not None:
            group[ours] = float(value)
    if source.flag("no_pbc"):
        source.change("no_pbc", "files without a cell are molecules; a cell in a file makes it periodic")
    else:
        source.drop("no_pbc", "off")
    for key in ("pka_e", "ele_temp_f", "ele_temp_a", "pimd_bead", "input_extra_files"):
        if not source.take(key):
            source.drop(key, "not given")
    return group


def _template(source: Section, draft: Draft, lammps: str, plumed: str) -> dict[str, Any]:
    """The user's own input of LAMMPS, and of PLUMED."""
    named = str(source.need(lammps) if lammps == "lmp_template_fname" else source.text(lammps, "in.lammps"))
    group: dict[str, Any] = {"template": draft.path(named)}
    draft.look(group["template"], "a template of explore")
    if other := source.text(plumed):
        group["plumed"] = draft.path(other)
        draft.look(group["plumed"], "a PLUMED input of explore")
    files = [draft.path(str(file)) for file in source.items("input_extra_files")]
    if files:
        group["files"] = files
    revisions = source.of("revisions", dict, {})
    if revisions:
        group["revisions"] = {name: value if isinstance(value, list) else [value] for name, value in revisions.items()}
    group["trj_freq"] = whole(source.take("traj_freq", 10), source.at("traj_freq"))
    if not source.take("pimd_bead"):
        source.drop("pimd_bead", "not given")
    return group


def _say(draft: Draft, group: dict[str, Any], given: dict[str, Any], number: int, place: int) -> None:
    """Which values are DPGEN2's own."""
    names = {"ensemble": ("ens", "ensemble"), "trj_freq": ("trj_freq", "t_freq", "traj_freq")}
    for key in ("ensemble", "nsteps", "dt", "tau_t", "tau_p", "trj_freq"):
        if key in group and not any(given.get(name) is not None for name in names.get(key, (key,))):
            draft.origin("explore", "stages", number, place, key, of="DPGEN2's default")
