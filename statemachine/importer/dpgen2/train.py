"""DPGEN2's `train`: the input of DeePMD-kit, what each training begins with, and the options of reuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from conventions.errors import ConfigError

from ..dp_input import as_json, cleaned
from ..draft import Draft
from ..reading import read_source
from ..report import Outcome
from ..source import Section
from .commands import put_command
from .data import Heads
from .keys import TRAIN_CONFIG

_REUSE: dict[str, float] = {"numb_steps": 400000, "start_lr": 1e-4, "start_pref_e": 0.1, "start_pref_f": 100}
_PER_SYSTEM = ("batch_size", "sys_probs", "sys_prob", "sys_weights")


def training(source: Section, heads: Heads, draft: Draft) -> None:
    """The whole train stage."""
    kind = str(source.text("type", "dp"))
    draft.put("train.app", "deepmd", "train.type")
    if kind != "dp":
        source.lose("type", f"there is no {kind}: a committee is trained, with label/deepmd as the teacher it distils")
        draft.report.warn(f"train: the source trains with {kind}; look through this stage")
    models = source.of("numb_models", int, 4)
    if source.take("init_models_uri") is None:
        source.drop("init_models_uri", "not given")
    else:
        draft.report.warn("train.init_models_uri: download these models, and name them in train")
    config = source.part("config", TRAIN_CONFIG)
    _config(config, heads, draft)
    _inputs(source, models, heads, draft)
    _begin(source, config, heads, draft)
    config.finish()


def _config(config: Section, heads: Heads, draft: Draft) -> None:
    """Command, backend, head and the arguments of dp train."""
    put_command(config, "train", draft)
    backend = str(config.text("impl", "tensorflow"))
    if backend not in ("tensorflow", "pytorch"):
        config.lose("impl", f"{backend} is not there: train with tensorflow or pytorch")
    else:
        draft.put("train.backend", backend, config.at(config.name_of("impl")))
    if heads.head:
        draft.put("train.head", heads.head, "inputs.head")
    if config.take("head") != heads.head:
        config.drop("head", "inputs.head counts, in DPGEN2 too")
    left = []
    for word in shlex.split(str(config.text("train_args", ""))):
        if word == "--skip-neighbor-stat":
            draft.put("train.skip_neighbor_stat", True, "train.config.train_args")
        else:
            left.append(word)
    if left:
        config.lose("train_args", f"{' '.join(left)}: dp train gets the arguments that the run's keys stand for")
    elif not config.take("train_args"):
        config.drop("train_args", "none")
    for key in ("init_model_start_pref_v", "split_last_iter_valid_ratio"):
        if not config.take(key):
            config.drop(key, "off")


def _inputs(source: Section, models: int, heads: Heads, draft: Draft) -> None:
    """One input for all models, or one for each."""
    given = source.need("template_script")
    if not isinstance(given, list):
        draft.put("train.numb_models", models, "train.numb_models")
        draft.put("train.input", _input(given, "input.json", source, heads, draft), "train.template_script")
        return
    if len(given) != models:
        raise ConfigError(f"{source.at('template_script')}: {len(given)} inputs for numb_models {models}")
    source.change("numb_models", "the number of models in train.committee")
    members = [
        {"input": _input(each, f"input.{number:03d}.json", source, heads, draft)} for number, each in enumerate(given)
    ]
    draft.put("train.committee", members, "train.template_script")


def _input(given: Any, name: str, source: Section, heads: Heads, draft: Draft) -> str:
    """How run.yaml names an input: the file itself, or a copy where the run would refuse something in it."""
    where = source.at("template_script")
    if isinstance(given, dict):
        return draft.write(name, as_json(_ready(given, where, heads, draft)))
    if not isinstance(given, str):
        raise ConfigError(f"{where}: the path of an input.json is expected, not {given!r}")
    named = draft.path(given)
    path = draft.there(named)
    if not path.is_file():
        draft.look(named, "train.input")
        return named
    document, _ = read_source(path)
    ready = _ready(document, f"{path.name}: ", heads, draft)
    if _plain(path) == ready:
        return named
    source.change("template_script", "a copy, without what the run says itself or dp train would refuse")
    return draft.write(name, as_json(ready))


def _plain(path: Path) -> Any:
    """The file as strict JSON, without its systems, which are filled in anyway; None where it is no such."""
    try:
        found = json.loads(path.read_text("utf-8"))
        found["training"]["training_data"].pop("systems", None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def _ready(given: dict[str, Any], where: str, heads: Heads, draft: Draft) -> dict[str, Any]:
    """The input without what the run would refuse."""
    where = where.rstrip(": ")
    if not all(isinstance(given.get(key), dict) for key in ("model", "training")):
        raise ConfigError(f"{where}: it has no model or no training section")
    if "model_dict" in given["model"]:
        return _of_heads(given, where, heads)
    if given["model"].get("type_map", draft.config["type_map"]) != draft.config["type_map"]:
        draft.report.add(f"{where}.model.type_map", Outcome.CHANGED, "type_map", "that of inputs, also in order")
    found = cleaned(given, where, draft)
    data = found["training"]["training_data"]
    for key in _PER_SYSTEM:
        if isinstance(data.get(key), list):
            draft.report.add(f"{where}.training.training_data.{key}", Outcome.CHANGED, "train.input",
                             "left out: every iteration adds systems, so there is one value for all")  # fmt: skip
            del data[key]
    return found


def _of_heads(given: dict[str, Any], where: str, heads: Heads) -> dict[str, Any]:
    """An input of several heads, with the data of those that the run does not fill in."""
    found: dict[str, Any] = json.loads(json.dumps(given))
    data = found["training"].setdefault("data_dict", {})
    if not isinstance(data, dict):
        raise ConfigError(f"{where}.training.data_dict: a mapping of keys is expected")
    for head, systems in heads.others.items():
        section = data.setdefault(head, {})
        if not isinstance(section, dict) or not isinstance(section.setdefault("training_data", {}), dict):
            raise ConfigError(f"{where}.training.data_dict.{head}: a mapping of keys is expected")
        section["training_data"]["systems"] = systems
    return found


def _begin(source: Section, config: Section, heads: Heads, draft: Draft) -> None:
    """What each training begins with."""
    files = [draft.path(str(file)) for file in source.items("init_models_paths")]
    for file in files:
        draft.look(file, "train")
    if files:
        key = "training_finetune_model" if heads.finetune else "training_init_frozen_model"
        draft.put(f"train.{key}", files, source.at(source.name_of("init_models_paths")))
        if not heads.finetune:
            source.change("init_models_paths", "iteration 0 trains them on; DPGEN2 explores with them as they are")
    elif "init_models_paths" in source:
        source.drop("init_models_paths", "none")
    policy = str(config.text("init_model_policy", "no"))
    if policy not in ("no", "yes") and not policy.startswith("old_data_larger_than"):
        raise ConfigError(f"{config.at('init_model_policy')}: {policy!r}; it is no, yes or old_data_larger_than:N")
    reuse = policy != "no" or heads.finetune
    if reuse and heads.head:
        why = "with several heads each training begins anew, or with training_finetune_model"
        for name in ("init_model_policy", "init_model_old_ratio", *(f"init_model_{name}" for name in _REUSE)):
            config.take(name)
            config.lose(name, why)
        draft.report.warn(f"train: {why}")
    elif reuse:
        draft.put("train.training_reuse_iter", 1, "train.config.init_model_policy")
        _reuse(config, draft)
    else:
        for name in ("old_ratio", *_REUSE):
            config.take(f"init_model_{name}")
            config.drop(f"init_model_{name}", "without init_model_policy it has no effect in DPGEN2 either")
    if policy.startswith("old") and not heads.head:
        config.change("init_model_policy", "from iteration 1 on, however much data there are")
    elif heads.finetune and policy == "no" and not heads.head:
        config.change("init_model_policy", "`yes`, which do_finetune makes of it in DPGEN2 too")
    elif not reuse:
        config.drop("init_model_policy", "no: each training begins anew")
    if config.flag("init_model_with_finetune"):
        config.lose("init_model_with_finetune", "later iterations go on from their last models without --finetune")
    else:
        config.drop("init_model_with_finetune", "off")
    _finetune(config, draft)


def _reuse(config: Section, draft: Draft) -> None:
    """The options of training that goes on from the last models; defaults are DPGEN2's."""

    def origin(key: str) -> str:
        return f"train.config.{config.name_of(key)}" if key in config else f"DPGEN2's default of {key}"

    ratio = float(config.number("init_model_old_ratio", 0.9))
    draft.put("train.training_reuse_old_ratio", ratio, origin("init_model_old_ratio"))
    for name, default in _REUSE.items():
        key = f"init_model_{name}"
        value = config.number(key, default)
        draft.put(f"train.training_reuse_{name}", int(value) if name == "numb_steps" else float(value), origin(key))


def _finetune(config: Section, draft: Draft) -> None:
    """finetune_args: --model-branch NAME, --use-pretrain-script."""
    words = shlex.split(str(config.text("finetune_args", "")).replace("--model-branch=", "--model-branch "))
    left = []
    while words:
        word = words.pop(0)
        if word == "--model-branch" and words:
            draft.put("train.model_branch", words.pop(0), "train.config.finetune_args")
        elif word == "--use-pretrain-script":
            draft.put("train.use_pretrain_script", True, "train.config.finetune_args")
        else:
            left.append(word)
    if left:
        config.lose("finetune_args", f"{' '.join(left)}: only --model-branch and --use-pretrain-script are passed on")
    elif not config.take("finetune_args"):
        config.drop("finetune_args", "none")
