"""The form that DPGEN2 0.0.5 read, in which all keys stand at the top; it is made into the present one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conventions.errors import ConfigError

from ..report import Report
from ..source import Section
from .keys import OLDER

_STEPS = tuple(
    f"{step}_config"
    for step in ("prep_train", "run_train", "prep_explore", "run_explore", "prep_fp", "run_fp", "select_confs",
                 "collect_data", "cl_step")
)  # fmt: skip
_LEVELS = {f"level_{kind}_{end}": f"model_devi_{kind}_trust_{end}" for kind in "fv" for end in ("lo", "hi")}


def is_older(document: Mapping[str, Any]) -> bool:
    """Is this of version 0.0.5?"""
    return "model_devi_jobs" in document and bool({"train_style", "explore_style"} & set(document))


def present(document: Mapping[str, Any], report: Report, where: str) -> dict[str, Any]:
    """The same as DPGEN2 has it now."""
    source = Section(document, (OLDER,), report, where)

    def given(**names: str) -> dict[str, Any]:
        return {now: value for now, old in names.items() if (value := source.take(old)) is not None}

    convergence = {"type": "fixed-levels", **given(**_LEVELS, conv_accuracy="conv_accuracy")}
    for key in ("model_devi_f_trust_lo", "model_devi_f_trust_hi"):
        source.need(key)
    explore = {
        "type": source.text("explore_style", "lmp"),
        "convergence": convergence,
        "configurations": _configurations(source),
        "stages": [_stage(job, source) for job in source.of("model_devi_jobs", list, [])],
        **given(config="lmp_config", max_numb_iter="max_numb_iter", fatal_at_max="fatal_at_max",
                output_nopbc="output_nopbc"),
    }  # fmt: skip
    train = {
        "type": source.text("train_style", "dp"),
        "template_script": source.need("default_training_param"),
        **given(numb_models="numb_models", config="train_config", init_models_paths="init_models_paths"),
    }
    found = {
        "inputs": given(type_map="type_map", mass_map="mass_map", mixed_type="mixed_type",
                        init_data_prefix="init_data_prefix", init_data_sys="init_data_sys"),
        "train": train,
        "explore": explore,
        "fp": {
            "type": source.need("fp_style"),
            "inputs_config": given(incar="fp_incar", pp_files="fp_pp_files"),
            **given(task_max="fp_task_max", run_config="fp_config"),
        },
        "step_configs": given(**{name: name for name in _STEPS}),
        **given(default_step_config="default_config", dflow_config="dflow_config", dflow_s3_config="dflow_s3_config"),
    }  # fmt: skip
    source.finish()
    return found


def _stage(job: Any, source: Section) -> list[Any]:
    """A job, or several, as task groups of one stage."""
    groups = job if isinstance(job, list) else [job]
    for group in groups:
        if not isinstance(group, dict):
            raise ConfigError(f"{source.at('model_devi_jobs')}[]: a mapping of keys is expected, not {group!r}")
    return [{"type": "lmp-template" if "template" in group else "lmp-md", **group} for group in groups]


def _configurations(source: Section) -> list[Any]:
    """Alloys, and files."""
    prefix = source.take("sys_configs_prefix") or None
    found: list[Any] = []
    for each in source.items("sys_configs"):
        if isinstance(each, dict):
            found.append({"type": "alloy", **each})
        else:
            found.append({"type": "file", "files": each, "prefix": prefix})
    return found
