"""DPGEN2's keys of exploration, and what becomes of them; the documentation shows the tables."""

from __future__ import annotations

from ..report import lost, maps, unneeded
from ..source import Table

_OTHER = "of an exploration that is not there; explore has LAMMPS and ASE"

EXPLORE: Table = (
    maps("type", "explore.app"),
    maps("config", "explore"),
    maps("max_numb_iter", "max_iterations", "DPGEN2 counts the iterations of each stage, here those of the run count"),
    maps("fatal_at_max", ""),
    maps("output_nopbc", ""),
    maps("convergence", "select, convergence"),
    maps("configurations", "structures", "sets have names, conf000, not numbers", "configuration"),
    maps("stages", "explore.stages"),
    maps("filters", "select"),
)

CONFIG: Table = (
    maps("command", "explore.command"),
    lost("teacher_model_path", "the committee explores, not a teacher beside its student"),
    lost("shuffle_models", "the first model of the committee moves the atoms"),
    maps("head", "train.head", "the head that is frozen"),
    maps("model_frozen_head", "train.head"),
    unneeded("use_ele_temp", "0: electrons have no temperature of their own"),
    unneeded("use_hdf5", "jobs write files of their own; nothing is packed"),
    lost("extra_output_files", "of a trajectory its frames and their model deviation are kept"),
)

CALYPSO_CONFIG: Table = tuple(
    lost(name, _OTHER)
    for name in (
        "model_devi_group_size", "run_calypso_command", "run_opt_command", "gen_tasks", "gen_command",
        "relax_group_size", "use_hdf5",
    )
)  # fmt: skip

FILE: Table = (
    maps("type", "structures"),
    maps("files", "structures.{name}.files"),
    maps("prefix", "structures.{name}.files"),
    maps("fmt", "structures.{name}.format"),
    maps("remove_pbc", ""),
)

ALLOY: Table = (
    maps("type", "structures"),
    maps("lattice", "structures.{name}.files, a file that is written"),
    maps("replicate", "structures.{name}.super_cell"),
    maps("numb_confs", "structures.{name}.pert_numb"),
    maps("concentration", "structures.{name}.substitute"),
    maps("cell_pert_frac", "structures.{name}.pert_box"),
    maps("atom_pert_dist", "structures.{name}.pert_atom"),
)

_ELECTRONS = "electrons have no temperature of their own"
_CLASSICAL = "path integrals: explore has classical MD; write a template"

MD: Table = (
    maps("type", "explore.stages"),
    maps("conf_idx", "structures", "", "sys_idx"),
    maps("n_sample", "n_sample"),
    maps("temps", "temps", "", "Ts"),
    maps("press", "press", "", "Ps"),
    maps("ens", "ensemble", "", "ensemble"),
    maps("dt", "dt"),
    maps("nsteps", "nsteps"),
    maps("trj_freq", "trj_freq", "", "t_freq", "traj_freq"),
    maps("tau_t", "tau_t"),
    maps("tau_p", "tau_p"),
    lost("pka_e", "no primary knock-on atom: write a template"),
    unneeded("neidelay", "LAMMPS rebuilds its neighbor lists when atoms have moved far enough"),
    maps("no_pbc", ""),
    unneeded("use_clusters", "frames are labelled whole"),
    maps("relative_f_epsilon", "epsilon"),
    maps("relative_v_epsilon", "epsilon_v"),
    lost("ele_temp_f", _ELECTRONS),
    lost("ele_temp_a", _ELECTRONS),
    lost("pimd_bead", _CLASSICAL),
    lost("input_extra_files", "only a template's task group has `files`"),
)

TEMPLATE: Table = (
    maps("type", "explore.stages"),
    maps("conf_idx", "structures", "", "sys_idx"),
    maps("n_sample", "n_sample"),
    maps("lmp_template_fname", "template", "", "lmp_template", "lmp"),
    maps("plm_template_fname", "plumed", "", "plm_template", "plm"),
    maps("revisions", "revisions"),
    maps("traj_freq", "trj_freq", "", "t_freq", "trj_freq"),
    maps("extra_pair_style_args", ""),
    lost("pimd_bead", _CLASSICAL),
    maps("input_extra_files", "files"),
)

CUSTOM: Table = (
    maps("type", "explore.stages"),
    maps("conf_idx", "structures", "", "sys_idx"),
    maps("n_sample", "n_sample"),
    lost("custom_shell_commands", "no commands prepare a task: run them before, and give what they make"),
    maps("revisions", "revisions"),
    maps("traj_freq", "trj_freq", "", "t_freq", "trj_freq"),
    unneeded("input_lmp_conf_name", "structures go to LAMMPS under a name of the run's own"),
    maps("input_lmp_tmpl_name", "template", "", "lmp_template", "lmp"),
    maps("input_plm_tmpl_name", "plumed", "", "plm_template", "plm"),
    maps("input_extra_files", "files"),
    *(
        lost(name, "what custom_shell_commands would make")
        for name in ("output_dir_pattern", "output_lmp_conf_name", "output_lmp_tmpl_name", "output_plm_tmpl_name")
    ),
)

OTHER_GROUP: Table = tuple(
    lost(name, _OTHER)
    for name in (
        "type", "conf_idx", "n_sample", "numb_of_species", "name_of_atoms", "atomic_number", "numb_of_atoms",
        "distance_of_ions", "pop_size", "max_step", "system_name", "numb_of_formula", "pressure", "fmax", "opt_step",
        "volume", "ialgo", "pso_ratio", "icode", "numb_of_lbest", "numb_of_local_optim", "command", "max_time",
        "pick_up", "pick_step", "parallel", "split", "spec_space_group", "vsc", "ctrl_range", "max_numb_atoms",
        "trj_freq", "steps", "timeout", "t_freq", "traj_freq",
    )
)  # fmt: skip
