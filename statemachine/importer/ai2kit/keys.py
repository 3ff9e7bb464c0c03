"""All keys of ai2-kit's files, by where they stand: what becomes of each, wherever it is given."""

from __future__ import annotations

from ..report import lost, maps, unneeded
from ..source import Table

_WRITE = "write it into a template of your own: explore.stages[][].template"
_DPLR = "of models with Wannier centres, which are not trained here"
_NOT_THERE = "of an exploration that is not there; explore has LAMMPS and ASE"

TOP: Table = (
    maps("workflow", "type_map, mass_map, label, train, explore, select"),
    maps("artifacts", "init, structures"),
    maps("executors", "{stage}.hpc, {stage}.command"),
)
WORKFLOW: Table = (
    maps("general", "type_map, mass_map, max_iterations"),
    maps("train", "train"),
    maps("explore", "explore"),
    maps("select", "select"),
    maps("label", "label"),
    maps("update", "explore.stages, convergence"),
)
GENERAL: Table = (
    maps("type_map", "type_map"),
    maps("mass_map", "mass_map"),
    maps("max_iters", "max_iterations"),
    maps("mode", ""),
    lost("sel_type", _DPLR),
    maps("update_explore_systems", ""),
)
ARTIFACT: Table = (
    maps("url", "init.data.{name}.path, structures.{name}.files"),
    maps("includes", "init.data.{name}.path, structures.{name}.files"),
    unneeded("format", "the files show it"),
    unneeded("key", "the name of the artifact is its key"),
    lost("executor", "files are read where the import runs: copy them from that machine"),
    maps("attrs", "init.test"),
)
TRAIN: Table = (maps("deepmd", "train.app"),)
DEEPMD: Table = (
    maps("model_num", "train.numb_models"),
    maps("init_dataset", "init.data"),
    maps("input_template", "train.input"),
    maps("compress_model", "train.dp_compress"),
    maps("pretrained_model", "train.training_finetune_model"),
    maps("init_from_previous", "train.training_reuse_iter", "with the last weights; ai2-kit fine-tunes them"),
    maps("dp_train_opts", "train.skip_neighbor_stat"),
    maps("isolate_outliers", ""),
    unneeded("outlier_f_cutoff", "isolate_outliers says what becomes of it"),
    unneeded("outlier_weight", "isolate_outliers says what becomes of it"),
    maps("fixture_models", ""),
    unneeded("group_by_formula", "frames of one composition are one system"),
    lost("input_modifier_fn", "the input of training is the same in all iterations"),
    maps("ignore_error", ""),
    lost("train_dw", _DPLR),
)
LAMMPS: Table = (
    maps("system_files", "structures, explore.stages[][].structures"),
    maps("explore_vars", "explore.stages[][].temps, press, tau_t, tau_p"),
    lost("broadcast_vars", f"a variable for some of the trajectories only: {_WRITE}"),
    maps("n_wise", ""),
    maps("ensemble", "explore.stages[][].ensemble"),
    maps("nsteps", "explore.stages[][].nsteps"),
    maps("timestep", "explore.stages[][].dt"),
    maps("sample_freq", "explore.stages[][].trj_freq"),
    maps("no_pbc", ""),
    maps("ignore_error", "explore.ratio_failed"),
    unneeded("preset_template", "the run writes LAMMPS' input itself"),
    lost("input_template", f"it is ai2-kit's own form, with $$ and its variables: {_WRITE}"),
    lost("template_vars", f"parts of ai2-kit's template: {_WRITE}"),
    lost("plumed_config", f"only a template's task group has PLUMED: {_WRITE}"),
    lost("fix_statement", f"the ensemble says what moves the atoms: {_WRITE}"),
    lost("custom_ff", f"the committee alone moves the atoms: {_WRITE}"),
    lost("type_alias", f"atoms of an element are alike: {_WRITE}"),
    lost("fep_opts", "there is no free-energy perturbation"),
)
LASP: Table = (
    lost("system_files", _NOT_THERE),
    lost("input_template", _NOT_THERE),
    lost("potential", _NOT_THERE),
    lost("ignore_error", _NOT_THERE),
)
ANYWARE: Table = (
    lost("system_files", _NOT_THERE),
    lost("system_file_format", _NOT_THERE),
    lost("system_file_name", _NOT_THERE),
    lost("template_files", _NOT_THERE),
    lost("product_vars", _NOT_THERE),
    lost("broadcast_vars", _NOT_THERE),
    lost("submit_script", _NOT_THERE),
    lost("post_process_fn", _NOT_THERE),
    lost("ignore_error", _NOT_THERE),
)
EXPLORE: Table = (
    maps("lammps", "explore.app"),
    lost("lasp", "there is no explore/lasp: write explore by hand"),
    lost("anyware", "there is no explore/anyware: write explore by hand"),
)
SELECT: Table = (maps("model_devi", "select"),)
MODEL_DEVI: Table = (
    maps("f_trust_lo", "select.f_trust_lo"),
    maps("f_trust_hi", "select.f_trust_hi"),
    unneeded("new_explore_system_q", "update_explore_systems says what becomes of it"),
    lost("asap_options", "candidates are drawn at random, not from clusters of descriptors"),
    lost("screening_fn", "min_distance, max_length_ratio and max_tilt_angle of select can refuse frames"),
    maps("max_decent_per_traj", ""),
    unneeded("workers", "a job of select reads group_size trajectories"),
)
LABEL: Table = (maps("cp2k", "label.app"), maps("vasp", "label.app"))
_COMMON: Table = (
    maps("init_system_files", "init.label"),
    maps("limit", "select.fp_task_max"),
    maps("limit_method", ""),
    maps("ignore_error", "label.ratio_failed"),
)
CP2K: Table = (
    *_COMMON,
    maps("input_template", "label.input"),
    maps("template_vars", "label.input"),
    lost("wfn_warmup_template", "CP2K is run once for a frame, from its own guess"),
)
VASP: Table = (
    *_COMMON,
    maps("input_template", "label.incar"),
    maps("potcar_source", "label.potcar"),
    maps("kpoints_template", "label.kpoints"),
)
UPDATE: Table = (maps("walkthrough", "explore.stages, convergence"),)
WALKTHROUGH: Table = (
    maps("passing_rate_threshold", "convergence.accuracy"),
    maps("table", "explore.stages"),
)
EXECUTOR: Table = (
    maps("ssh", "{stage}.hpc.machine.remote_profile"),
    maps("queue_system", "{stage}.hpc.machine.batch_type"),
    maps("work_dir", "{stage}.hpc.machine.remote_root"),
    unneeded("python_cmd", "no Python is needed there"),
    maps("context", "{stage}.command, {stage}.hpc.resources"),
)
SSH: Table = (
    maps("host", "{stage}.hpc.machine.remote_profile.hostname, username, port"),
    lost("password", "a secret is not copied: log in with an SSH agent or a key file"),
    lost("gateway", "name it in ~/.ssh/config, or as remote_profile.proxy_command"),
)
QUEUES: Table = (
    maps("slurm", "{stage}.hpc.machine.batch_type"),
    maps("lsf", "{stage}.hpc.machine.batch_type"),
    maps("pbs", "{stage}.hpc.machine.batch_type"),
)
QUEUE: Table = (
    *(
        unneeded(f"{name}_bin", "the batch system's commands are found on PATH")
        for name in ("sbatch", "squeue", "scancel", "bsub", "bjobs", "qsub", "qstat", "qdel")
    ),
    unneeded("polling_interval", "`hpc.poll` says how often the queue is asked"),
)
CONTEXT: Table = (maps("train", "train"), maps("explore", "explore"), maps("label", "label"))
PROGRAMS: Table = (
    *(maps(name, "{stage}") for name in ("deepmd", "lammps", "cp2k", "vasp")),
    lost("lasp", _NOT_THERE),
    lost("anyware", _NOT_THERE),
)
PROGRAM: Table = (
    maps("script_template", "{stage}.hpc.resources"),
    *(maps(f"{name}_cmd", "{stage}.command") for name in ("dp", "lammps", "cp2k", "vasp")),
    lost("post_cp2k_cmd", "nothing is run behind CP2K"),
    lost("post_vasp_cmd", "nothing is run behind VASP"),
    unneeded("concurrency", "a job has group_size tasks, and all jobs are submitted"),
    maps("multi_gpus_per_job", ""),
    lost("lasp_cmd", _NOT_THERE),
)
SCRIPT: Table = (
    maps("header", "{stage}.hpc.resources.custom_flags"),
    maps("setup", "{stage}.hpc.resources.prepend_script, or {stage}.setup"),
    maps("teardown", "{stage}.hpc.resources.append_script"),
    unneeded("shebang", "the run writes the script's first line"),
)

TABLES: dict[str, Table] = {
    "At the top": TOP,
    "`workflow`": WORKFLOW,
    "`workflow.general`": GENERAL,
    "`artifacts.{name}`": ARTIFACT,
    "`workflow.train`": TRAIN,
    "`workflow.train.deepmd`": DEEPMD,
    "`workflow.explore`": EXPLORE,
    "`workflow.explore.lammps`": LAMMPS,
    "`workflow.explore.lasp`": LASP,
    "`workflow.explore.anyware`": ANYWARE,
    "`workflow.select`": SELECT,
    "`workflow.select.model_devi`": MODEL_DEVI,
    "`workflow.label`": LABEL,
    "`workflow.label.cp2k`": CP2K,
    "`workflow.label.vasp`": VASP,
    "`workflow.update`": UPDATE,
    "`workflow.update.walkthrough`": WALKTHROUGH,
    "`executors.{name}`": EXECUTOR,
    "`executors.{name}.ssh`": SSH,
    "`executors.{name}.queue_system`": QUEUES,
    "`executors.{name}.queue_system.*`": QUEUE,
    "`executors.{name}.context`": CONTEXT,
    "`executors.{name}.context.{stage}`": PROGRAMS,
    "`executors.{name}.context.{stage}.{program}`": PROGRAM,
    "`script_template`": SCRIPT,
}
