"""DPGEN2's keys of data, training, labels and selection, and what becomes of them; the documentation shows the tables.

Names and defaults: https://docs.deepmodeling.com/projects/dpgen2, and where that is silent what DPGEN2 reads.
"""

from __future__ import annotations

from ..report import lost, maps, unneeded
from ..source import Table

TOP: Table = (
    maps("name", "run"),
    maps("inputs", "type_map, mass_map, init"),
    maps("train", "train"),
    maps("explore", "structures, explore, select, convergence"),
    maps("fp", "label"),
    maps("dflow_config", "engine"),
    maps("dflow_s3_config", "prefix"),
    lost("bohrium_config", "there is no Bohrium: run here, on a batch system or on an Argo of your own"),
    maps("default_step_config", "engine.image, and a step without a configuration of its own"),
    maps("step_configs", "train, explore, label, select"),
    unneeded("upload_python_packages", "code is uploaded by itself", "upload_python_package"),
    maps("parallelism", "engine.parallelism"),
)

_URI = "dflow has these files: download them, and give their paths"

INPUTS: Table = (
    maps("type_map", "type_map"),
    maps("mass_map", "mass_map"),
    unneeded("mixed_type", "the files show it"),
    unneeded("use_ele_temp", "0: electrons have no temperature of their own"),
    maps("init_data_prefix", "init.data.{name}.path"),
    maps("init_data_sys", "init.data"),
    lost("init_data_uri", _URI),
    maps("valid_data_prefix", "init.test.{name}.path"),
    maps("valid_data_sys", "init.test", "dp test measures the models on them when they are trained, not dp train"),
    lost("valid_data_uri", _URI),
    maps("do_finetune", "train.training_finetune_model"),
    maps("multitask", "train.head"),
    maps("head", "train.head"),
    maps("multi_init_data", "init.data"),
    lost("multi_init_data_uri", _URI),
    maps("multi_valid_data", "init.test"),
    lost("multi_valid_data_uri", _URI),
)

_STUDENT = "dp-dist has one student and its teacher; a committee with label/deepmd as the teacher distils as well"

TRAIN: Table = (
    maps("type", "train.app"),
    maps("numb_models", "train.numb_models"),
    maps("template_script", "train.input, train.committee"),
    maps("init_models_paths", "train.training_finetune_model, train.training_init_frozen_model", "",
         "training_iter0_model_path"),
    lost("init_models_uri", _URI),
    lost("optional_files", "jobs of train get no further files"),
    maps("config", "train"),
    lost("student_model_path", _STUDENT),
    lost("student_model_uri", _STUDENT),
)  # fmt: skip

TRAIN_CONFIG: Table = (
    maps("command", "train.command"),
    maps("impl", "train.backend", "", "backend"),
    maps("init_model_policy", "train.training_reuse_iter"),
    maps("init_model_old_ratio", "train.training_reuse_old_ratio"),
    maps("init_model_numb_steps", "train.training_reuse_numb_steps", "", "init_model_stop_batch"),
    maps("init_model_start_lr", "train.training_reuse_start_lr"),
    maps("init_model_start_pref_e", "train.training_reuse_start_pref_e"),
    maps("init_model_start_pref_f", "train.training_reuse_start_pref_f"),
    lost("init_model_start_pref_v", "loss.start_pref_v is that of the input in all iterations"),
    maps("init_model_with_finetune", ""),
    maps("finetune_args", "train.model_branch, train.use_pretrain_script"),
    maps("train_args", "train.skip_neighbor_stat"),
    unneeded("multitask", "inputs.multitask counts, in DPGEN2 too"),
    maps("head", "train.head"),
    lost("split_last_iter_valid_ratio", "no labels are set aside: init.test has data that are never trained on"),
)

SELECT: Table = (
    maps("type", "select"),
    maps("level_f_lo", "select.f_trust_lo"),
    maps("level_f_hi", "select.f_trust_hi"),
    maps("level_v_lo", "select.v_trust_lo"),
    maps("level_v_hi", "select.v_trust_hi"),
    maps("conv_accuracy", "convergence.accuracy"),
)

ADAPTIVE: Table = (
    maps("type", "select.adaptive"),
    maps("level_f_hi", "select.f_trust_hi"),
    maps("numb_candi_f", "select.adaptive.numb_candi_f"),
    maps("rate_candi_f", "select.adaptive.rate_candi_f"),
    maps("level_v_hi", "select.v_trust_hi"),
    maps("numb_candi_v", "select.adaptive.numb_candi_v"),
    maps("rate_candi_v", "select.adaptive.rate_candi_v"),
    maps("n_checked_steps", "convergence.clean_iterations", "as many changes in a row: one less than the levels"),
    maps("conv_tolerance", "convergence.level_drift", "relative, so divided by level_f_hi: at least as strict"),
    maps("candi_sel_prob", ""),
)

FILTERS: Table = (
    maps("type", "select"),
    unneeded("max_workers", "frames are checked one after the other, and only those that are chosen"),
    maps("custom_safe_dist", "select.min_distance", "by pair of elements"),
    maps("safe_dist_ratio", "select.min_distance", "by pair of elements"),
    maps("theta", "select.max_tilt_angle"),
    maps("length_ratio", "select.max_length_ratio"),
)

FP: Table = (
    maps("type", "label.app"),
    maps("inputs_config", "label"),
    maps("run_config", "label"),
    maps("task_max", "select.fp_task_max"),
    lost("extra_output_files", "of a task that succeeded its labels are kept, and of one that failed its output"),
)

VASP: Table = (
    maps("incar", "label.incar"),
    maps("pp_files", "label.potcar"),
    maps("kspacing", "label.incar: KSPACING"),
    maps("kgamma", "label.incar: KGAMMA"),
)

GAUSSIAN: Table = (
    maps("keywords", "label.keywords"),
    maps("multiplicity", "label.multiplicity"),
    maps("charge", "label.charge"),
    maps("basis_set", "label.basis_set"),
    lost("keywords_high_multiplicity", "every frame has the same keywords"),
    lost("fragment_guesses", "every frame has a guess of Gaussian's own"),
    maps("nproc", "label.nproc"),
)

ABACUS: Table = (
    maps("input_file", "label.input"),
    maps("pp_files", "label.pseudo"),
    unneeded("element_mass", "masses are those of mass_map; an scf does not use them"),
    maps("kpt_file", "label.kpt"),
    maps("orb_files", "label.orbital"),
    lost("deepks_descriptor", "DeePKS is not supported"),
    lost("deepks_model", "DeePKS is not supported"),
)

CP2K: Table = (maps("inp_file", "label.input"),)

RUN_CONFIG: Table = (
    maps("command", "label.command, label.setup"),
    maps("teacher_model_path", "label.teacher_model_path"),
    unneeded("out", "labels are kept under a name of their own"),
    unneeded("log", "`logs` finds it"),
    lost("post_command", "nothing is run after the program: put it into `command` with the program, or a script"),
)

# Keys of the older form and where the present one has them; what these become is in the tables above.
OLDER: Table = (
    maps("train_style", "train.type"),
    maps("explore_style", "explore.type"),
    maps("fp_style", "fp.type"),
    maps("default_config", "default_step_config"),
    *(
        maps(f"{step}_config", f"step_configs.{step}_config")
        for step in (
            "prep_train", "run_train", "prep_explore", "run_explore", "prep_fp", "run_fp", "select_confs",
            "collect_data", "cl_step",
        )
    ),
    maps("train_config", "train.config"),
    maps("lmp_config", "explore.config"),
    maps("fp_config", "fp.run_config"),
    maps("dflow_config", "dflow_config"),
    maps("dflow_s3_config", "dflow_s3_config"),
    lost("lebesgue_context_config", "there is no Lebesgue: run here, on a batch system or on an Argo of your own"),
    lost("bohrium_config", "there is no Bohrium: run here, on a batch system or on an Argo of your own"),
    unneeded("upload_python_package", "code is uploaded by itself", "upload_python_packages"),
    maps("type_map", "inputs.type_map"),
    maps("mass_map", "inputs.mass_map"),
    maps("mixed_type", "inputs.mixed_type"),
    maps("init_data_prefix", "inputs.init_data_prefix"),
    maps("init_data_sys", "inputs.init_data_sys"),
    maps("init_models_paths", "train.init_models_paths", "", "training_iter0_model_path"),
    maps("numb_models", "train.numb_models"),
    maps("default_training_param", "train.template_script"),
    maps("sys_configs_prefix", "explore.configurations[].prefix"),
    maps("sys_configs", "explore.configurations"),
    maps("model_devi_jobs", "explore.stages"),
    maps("model_devi_f_trust_lo", "explore.convergence.level_f_lo"),
    maps("model_devi_f_trust_hi", "explore.convergence.level_f_hi"),
    maps("model_devi_v_trust_lo", "explore.convergence.level_v_lo"),
    maps("model_devi_v_trust_hi", "explore.convergence.level_v_hi"),
    maps("conv_accuracy", "explore.convergence.conv_accuracy"),
    maps("max_numb_iter", "explore.max_numb_iter"),
    maps("fatal_at_max", "explore.fatal_at_max"),
    maps("output_nopbc", "explore.output_nopbc"),
    maps("fp_task_max", "fp.task_max"),
    maps("fp_incar", "fp.inputs_config.incar"),
    maps("fp_pp_files", "fp.inputs_config.pp_files"),
)  # fmt: skip
