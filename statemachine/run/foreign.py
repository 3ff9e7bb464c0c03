"""Recognizing the inputs of other programs, so that a person is told what to write instead."""

from __future__ import annotations

from collections.abc import Iterable

# What a document is, by keys at its top, two of which are enough.
_KNOWN = {
    "DPGEN2's input.json": {
        "dflow_config", "default_step_config", "step_configs", "bohrium_config", "inputs", "fp", "train_style",
        "explore_style",
    },
    "DP-GEN's param.json": {"model_devi_jobs", "init_data_sys", "sys_configs", "fp_style", "default_training_param"},
    "DP-GEN's machine.json": {"model_devi", "fp", "api_version", "deepmd_version"},
}  # fmt: skip
_ENOUGH = 2


def foreign(keys: Iterable[str]) -> str | None:
    """What a document with these keys is, and what to do; None if it may be ours."""
    for what, known in _KNOWN.items():
        found = sorted(known.intersection(keys))
        if len(found) >= _ENOUGH:
            return (
                f"this is {what} ({', '.join(found)}), not a configuration of dpgen2-sm; "
                "`dpgen2-sm import FILE...` makes one of it"
            )
    return None
