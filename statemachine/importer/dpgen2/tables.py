"""All tables of DPGEN2's keys, by where they stand in a source: what the documentation shows."""

from __future__ import annotations

from ..dispatcher import MACHINE, PROFILE, RESOURCES
from ..source import Table
from . import explore_keys, keys, step_keys

TABLES: dict[str, Table] = {
    "At the top": keys.TOP,
    "`inputs`": keys.INPUTS,
    "`train`": keys.TRAIN,
    "`train.config`": keys.TRAIN_CONFIG,
    "`explore`": explore_keys.EXPLORE,
    "`explore.config`": explore_keys.CONFIG,
    "`explore.config` of calypso and diffcsp": explore_keys.CALYPSO_CONFIG,
    "`explore.configurations[]` of type file": explore_keys.FILE,
    "`explore.configurations[]` of type alloy": explore_keys.ALLOY,
    "`explore.stages[][]` of type lmp-md, lmp-npt": explore_keys.MD,
    "`explore.stages[][]` of type lmp-template": explore_keys.TEMPLATE,
    "`explore.stages[][]` of type customized-lmp-template": explore_keys.CUSTOM,
    "`explore.stages[][]` of calypso and diffcsp": explore_keys.OTHER_GROUP,
    "`explore.convergence` of type fixed-levels, fixed-levels-max-select": keys.SELECT,
    "`explore.convergence` of type adaptive-lower": keys.ADAPTIVE,
    "`explore.filters[]`": keys.FILTERS,
    "`fp`": keys.FP,
    "`fp.inputs_config` of vasp": keys.VASP,
    "`fp.inputs_config` of gaussian": keys.GAUSSIAN,
    "`fp.inputs_config` of fpop_abacus": keys.ABACUS,
    "`fp.inputs_config` of fpop_cp2k": keys.CP2K,
    "`fp.run_config`": keys.RUN_CONFIG,
    "`step_configs`": step_keys.STEPS,
    "`step_configs.*`, `default_step_config`": step_keys.STEP,
    "`template_config`": step_keys.TEMPLATE_CONFIG,
    "`template_slice_config`": step_keys.SLICES,
    "`executor`": step_keys.EXECUTOR,
    "`executor.machine_dict`": MACHINE,
    "`executor.machine_dict.remote_profile`": PROFILE,
    "`executor.resources_dict`": RESOURCES,
    "`dflow_config`": step_keys.DFLOW,
    "`dflow_s3_config`": step_keys.S3,
    "`bohrium_config`": step_keys.BOHRIUM,
    "Version 0.0.5, at the top": keys.OLDER,
}
