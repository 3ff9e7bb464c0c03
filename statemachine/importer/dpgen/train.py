"""DP-GEN's training: `default_training_param` becomes a file, and the options of `training_*` keep their names."""

from __future__ import annotations

import copy
from typing import Any

from conventions.errors import ConfigError

from ..dp_input import as_json, cleaned
from ..draft import Draft
from ..source import Section

INPUT = "input.json"

_ACTIVATION = (("descriptor", "activation_function"), ("fitting_net", "activation_function"))


def training(param: Section, draft: Draft) -> None:
    """The whole train stage."""
    draft.put("train.app", "deepmd", "")
    models = param.of("numb_models", int, 4)
    draft.put("train.numb_models", models, "numb_models")
    backend = str(param.text("train_backend", "tensorflow"))
    if backend not in ("tensorflow", "pytorch"):
        param.lose("train_backend", f"{backend} is not there: train with tensorflow or pytorch")
    elif backend != "tensorflow":
        draft.put("train.backend", backend, "train_backend")
    found = param.need("default_training_param")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), dict) for key in ("model", "training")):
        raise ConfigError(f"{param.at('default_training_param')}: it has no model or no training section")
    _inputs(param, _cleaned(found, param, draft), models, draft)
    _begin(param, draft)
    for name, key in (("dp_compress", "dp_compress"), ("dp_train_skip_neighbor_stat", "skip_neighbor_stat")):
        if param.flag(name):
            draft.put(f"train.{key}", True, name)


def _cleaned(given: dict[str, Any], param: Section, draft: Draft) -> dict[str, Any]:
    """The input as it is needed here, with DP-GEN's batch sizes."""
    found = cleaned(given, param.at("default_training_param"), draft)
    data = found["training"]["training_data"]
    if not str(data.get("batch_size", "")).startswith("mixed:"):
        data["batch_size"] = _batch_size(param)
    else:
        for name in ("init_batch_size", "sys_batch_size"):
            if name in param:
                param.drop(name, "training_data.batch_size is mixed, which counts in DP-GEN too")
    return found


def _batch_size(param: Section) -> int | str:
    """One for all systems: DP-GEN's numbers where they are equal, else its default."""
    given: list[Any] = []
    for name in ("init_batch_size", "sys_batch_size"):
        given += param.items(name)
    sizes = {repr(size): size for size in given}
    if len(sizes) == 1 and not isinstance(size := next(iter(sizes.values())), list | dict):
        return int(size) if isinstance(size, int) else "auto"
    for name in ("init_batch_size", "sys_batch_size"):
        if name in param and sizes:
            param.change(name, "every system has the batch size `auto` (32 atoms or more), not numbers of their own")
    return "auto"


def _inputs(param: Section, found: dict[str, Any], models: int, draft: Draft) -> None:
    """One input for all models, or one for each where their activation functions differ."""
    functions = param.of("model_devi_activation_func", list)
    if not functions:
        draft.put("train.input", draft.write(INPUT, as_json(found)), "default_training_param")
        return
    pairs = [[one, one] if isinstance(one, str) else one for one in functions]
    if len(pairs) != models or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ConfigError(
            f"{param.at('model_devi_activation_func')}: {len(pairs)} entries for {models} models; two functions for "
            "each are expected (of the embedding and of the fitting net)"
        )
    members = []
    for number, pair in enumerate(pairs):
        member = copy.deepcopy(found)
        for (part, key), function in zip(_ACTIVATION, pair, strict=True):
            member["model"].setdefault(part, {})[key] = function
        members.append({"input": draft.write(f"input.{number:03d}.json", as_json(member))})
    del draft.config["train"]["numb_models"]
    draft.put("train.committee", members, "default_training_param, model_devi_activation_func")
    param.change("numb_models", "the number of models in train.committee")
    param.change("model_devi_activation_func", "an input for each model, in train.committee")


def _begin(param: Section, draft: Draft) -> None:
    """What each training begins with."""
    reuse = param.of("training_reuse_iter", int)
    init = param.flag("training_init_model")
    if init and reuse is None:
        reuse = 1
        param.change("training_init_model", "from iteration 1 on, model i goes on from model i of the last committee")
        draft.put("train.training_reuse_iter", 1, "training_init_model")
    elif reuse is not None:
        if init and reuse > 1:
            param.change(
                "training_init_model", f"models go on from the last ones from iteration {reuse} on, not from 1"
            )
        if reuse < 1:
            param.change("training_reuse_iter", "iteration 0 has no models to go on from")
        draft.put("train.training_reuse_iter", max(1, reuse), "training_reuse_iter")
    if not init:
        param.drop("training_init_model", "off")
    for name in ("numb_steps", "start_lr", "start_pref_e", "start_pref_f"):
        key = f"training_reuse_{name}"
        value = param.number(key)
        if value is not None and param.take("training_reuse_iter") is not None:
            draft.put(f"train.{key}", value if name == "numb_steps" else float(value), param.name_of(key))
        elif value is not None:
            param.drop(key, "without training_reuse_iter it has no effect in DP-GEN either")
    _old_ratio(param, draft)
    for name in ("training_init_frozen_model", "training_finetune_model"):
        files = [draft.path(str(file)) for file in param.items(name)]
        for file in files:
            draft.look(file, f"train.{name}")
        if files:
            draft.put(f"train.{name}", files, name)


def _old_ratio(param: Section, draft: Draft) -> None:
    """How often a batch is of old data."""
    key = "training_reuse_old_ratio"
    ratio = param.of(key, (str, int, float), "auto")
    if param.take("training_reuse_iter") is None:
        param.drop(key, "without training_reuse_iter it has no effect in DP-GEN either")
    elif isinstance(ratio, str):
        draft.put(f"train.{key}", ratio, key if key in param else "DP-GEN's default")
    else:
        draft.put(f"train.{key}", float(ratio), key)
