"""DP-GEN's keys and what becomes of them; the documentation shows these tables.

Names and defaults: https://docs.deepmodeling.com/projects/dpgen, and where that is silent what dpgen 0.14 reads.
"""

from __future__ import annotations

from ..dispatcher import MACHINE, PROFILE, RESOURCES
from ..report import lost, maps, unneeded
from ..source import Table

_OTHER_ENGINE = "of a model_devi_engine that is not there; explore has LAMMPS and ASE"

PARAM: Table = (
    maps("type_map", "type_map"),
    maps("mass_map", "mass_map"),
    unneeded("use_ele_temp", "0: electrons have no temperature of their own"),
    maps("init_data_prefix", "init.data.{name}.path"),
    maps("init_data_sys", "init.data"),
    unneeded("init_multi_systems", "systems are found in all folders below a path"),
    maps("sys_format", "structures.{name}.format"),
    maps("init_batch_size", "train.input: training.training_data.batch_size"),
    maps("sys_batch_size", "train.input: training.training_data.batch_size"),
    maps("sys_configs_prefix", "structures.{name}.files"),
    maps("sys_configs", "structures", "sets have names, sys000, not numbers"),
    maps("shuffle_poscar", ""),
    lost("sys_charges", "every frame has the charge that label's input says"),
    lost("use_atom_pref", "atoms of a cluster are not weighted"),
)  # fmt: skip

TRAIN: Table = (
    unneeded("mlp_engine", "train.app is deepmd"),
    maps("numb_models", "train.numb_models"),
    maps("train_backend", "train.backend"),
    maps("default_training_param", "train.input, a file"),
    maps("dp_compress", "train.dp_compress"),
    maps("dp_train_skip_neighbor_stat", "train.skip_neighbor_stat"),
    maps("training_reuse_iter", "train.training_reuse_iter"),
    maps("training_reuse_old_ratio", "train.training_reuse_old_ratio"),
    maps("training_reuse_numb_steps", "train.training_reuse_numb_steps", "", "training_reuse_stop_batch"),
    maps("training_reuse_start_lr", "train.training_reuse_start_lr"),
    maps("training_reuse_start_pref_e", "train.training_reuse_start_pref_e"),
    maps("training_reuse_start_pref_f", "train.training_reuse_start_pref_f"),
    unneeded("training_reuse_decay_steps", "DP-GEN does not read it either"),
    maps("training_init_model", "train.training_reuse_iter"),
    lost(
        "training_iter0_model_path",
        "iteration 0 begins with new models: freeze the old ones and give them as train.training_init_frozen_model",
    ),
    maps("training_init_frozen_model", "train.training_init_frozen_model"),
    maps("training_finetune_model", "train.training_finetune_model"),
    maps("model_devi_activation_func", "train.committee"),
    lost("srtab_file_path", "the table of a DP-ZBL model does not reach the training"),
    unneeded("one_h5", "jobs read the dataset where it is; nothing is packed"),
    unneeded("train_param", "input.json is always its name"),
)

EXPLORE: Table = (
    maps("model_devi_engine", "explore.app"),
    maps("model_devi_jobs", "explore.stages", "one stage for each job; convergence.repeat: once"),
    maps("model_devi_dt", "dt of each task group"),
    maps("model_devi_taut", "tau_t of each task group"),
    maps("model_devi_taup", "tau_p of each task group"),
    unneeded("model_devi_neidelay", "LAMMPS rebuilds its neighbor lists when atoms have moved far enough"),
    unneeded(
        "lmp_neigh_modify_one", "LAMMPS' own limit of neighbors of an atom is used; with a template it can be set"
    ),
    lost("lmp_d3", "explore runs without D3: let the models learn it, or write a template"),
    maps("model_devi_nopbc", "structures.{name}: molecules"),
    maps("model_devi_plumed", "plumed of a task group"),
    maps("model_devi_plumed_path", "files of a task group"),
    maps("use_relative", "epsilon of each task group"),
    maps("epsilon", "epsilon of each task group"),
    maps("use_relative_v", "epsilon_v of each task group"),
    maps("epsilon_v", "epsilon_v of each task group"),
    unneeded("model_devi_clean_traj", "nothing is deleted by itself; `dpgen2-sm prune` does it"),
    unneeded("model_devi_merge_traj", "a trajectory is always one file"),
    maps("model_devi_max_iter", "max_iterations"),
    lost("gromacs_settings", _OTHER_ENGINE),
    *(lost(name, _OTHER_ENGINE) for name in ("calypso_input_path", "vsc", "low_level", "high_level", "cutoff", "r")),
    *(lost(name, _OTHER_ENGINE) for name in ("parm7", "parm7_prefix", "mdin", "mdin_prefix", "disang")),
    *(lost(name, _OTHER_ENGINE) for name in ("disang_prefix", "qm_region", "qm_charge", "nsteps")),
)

JOB: Table = (
    maps("sys_idx", "structures of a task group"),
    maps("temps", "temps", "", "Ts"),
    maps("press", "press", "", "Ps"),
    maps("nsteps", "nsteps"),
    maps("trj_freq", "trj_freq", "", "t_freq", "traj_freq"),
    maps("ensemble", "ensemble", "", "ens"),
    maps("dt", "dt"),
    unneeded("neidelay", "DP-GEN does not read it in a job either"),
    unneeded("taut", "DP-GEN does not read it in a job (it has model_devi_taut)"),
    unneeded("taup", "DP-GEN does not read it in a job (it has model_devi_taup)"),
    lost("nbeads", "path integrals: explore has classical MD; write a template"),
    lost("pka_e", "no primary knock-on atom: write a template"),
    maps("template", "template, plumed"),
    maps("rev_mat", "revisions"),
    maps("sys_rev_mat", "revisions of a task group for each system"),
    maps("model_devi_f_trust_lo", "select.f_trust_lo", "levels belong to sets: the job's sets have names of their own"),
    maps("model_devi_f_trust_hi", "select.f_trust_hi", "levels belong to sets: the job's sets have names of their own"),
    maps("model_devi_v_trust_lo", "select.v_trust_lo", "levels belong to sets: the job's sets have names of their own"),
    maps("model_devi_v_trust_hi", "select.v_trust_hi", "levels belong to sets: the job's sets have names of their own"),
    *(lost(name, _OTHER_ENGINE) for name in (
        "times", "NameOfAtoms", "NumberOfAtoms", "NumberOfFormula", "Volume", "DistanceOfIon", "PsoRatio", "PopSize",
        "MaxStep", "ICode", "Split", "PSTRESS", "fmax", "s_t", "VSC", "MaxNumAtom", "CtrlRange", "restart_from_iter",
    )),
)  # fmt: skip

_ENERGIES = "DP-GEN ignores it: forces and virials say which frames are candidates"
SELECT: Table = (
    maps("model_devi_skip", "select.model_devi_skip"),
    maps("model_devi_f_trust_lo", "select.f_trust_lo"),
    maps("model_devi_f_trust_hi", "select.f_trust_hi"),
    maps("model_devi_v_trust_lo", "select.v_trust_lo"),
    maps("model_devi_v_trust_hi", "select.v_trust_hi"),
    unneeded("model_devi_e_trust_lo", _ENERGIES),
    unneeded("model_devi_e_trust_hi", _ENERGIES),
    maps("model_devi_adapt_trust_lo", "select.adaptive"),
    maps("model_devi_numb_candi_f", "select.adaptive.numb_candi_f"),
    maps("model_devi_numb_candi_v", "select.adaptive.numb_candi_v"),
    maps("model_devi_perc_candi_f", "select.adaptive.rate_candi_f, a fraction"),
    maps("model_devi_perc_candi_v", "select.adaptive.rate_candi_v, a fraction"),
    lost("model_devi_f_avg_relative", "deviations are not divided by the RMS force of a trajectory"),
    maps("fp_task_max", "select.fp_task_max_per_system, select.fp_task_max"),
    maps(
        "fp_task_min",
        "select.fp_task_min_per_system",
        "fewer frames of a system are not labelled; DP-GEN labels them, and does not train on them",
    ),
    maps("fp_accurate_threshold", "select.fp_accurate_threshold, convergence.accuracy"),
    maps("fp_accurate_soft_threshold", "select.fp_accurate_soft_threshold"),
    maps("fp_skip_bad_box", "select.max_length_ratio, select.max_tilt_angle"),
    lost("fp_cluster_vacuum", "frames that fell into pieces are not left out"),
    unneeded("detailed_report_make_fp", "`status` and the report of select say what was chosen, and of which class"),
)

LABEL: Table = (
    maps("fp_style", "label.app"),
    maps("ratio_failed", "label.ratio_failed"),
    maps("fp_pp_path", "label.potcar, label.pseudo"),
    maps("fp_pp_files", "label.potcar, label.pseudo"),
    maps("fp_incar", "label.incar, label.input"),
    maps("fp_params", "label.incar, label.input; the keys of Gaussian"),
    maps("user_fp_params", "label.incar, label.input"),
    maps("external_input_path", "label.input"),
    maps("fp_orb_files", "label.orbital"),
    maps("fp_kpt_file", "label.kpt"),
    maps("k_points", "label.kpt"),
    lost("fp_dpks_descriptor", "DeePKS labels are not read"),
    lost("fp_aniso_kspacing", "KSPACING of the INCAR counts in all directions; give label.kpoints"),
    unneeded("cvasp", "a frame whose SCF fails is told, not repeated with other settings"),
    lost("use_clusters", "whole frames are labelled, not clusters around the atoms that are uncertain"),
    lost("cluster_cutoff", "whole frames are labelled, not clusters"),
    lost("cluster_cutoff_hard", "whole frames are labelled, not clusters"),
    lost("cluster_minify", "whole frames are labelled, not clusters"),
)

MACHINE_STAGE: Table = (
    maps("command", "{stage}.command"),
    maps("machine", "{stage}.hpc.machine"),
    maps("resources", "{stage}.hpc.resources"),
    maps("user_forward_files", "label.files, explore: files of a task group"),
    unneeded("user_backward_files", "what the run reads is kept; the rest stays where the job ran"),
)

MACHINE_TOP: Table = (
    unneeded("api_version", "1.0 and later are read"),
    unneeded("deepmd_version", "dp itself is asked"),
    maps("train", "train"),
    maps("model_devi", "explore"),
    maps("fp", "label"),
)

TABLES: dict[str, Table] = {
    "param.json: systems and data": PARAM,
    "param.json: training": TRAIN,
    "param.json: exploration": EXPLORE,
    "param.json: `model_devi_jobs[]`": JOB,
    "param.json: selection": SELECT,
    "param.json: labels": LABEL,
    "machine.json": MACHINE_TOP,
    "machine.json: `train`, `model_devi`, `fp`": MACHINE_STAGE,
    "machine.json: `machine`": MACHINE,
    "machine.json: `machine.remote_profile`": PROFILE,
    "machine.json: `resources`": RESOURCES,
}
