"""ai2-kit's training: DeePMD-kit's input, and what each training begins with."""

from __future__ import annotations

import shlex

from conventions.errors import ConfigError

from ..dp_input import as_json, cleaned
from ..draft import Draft
from ..source import Section
from .artifacts import Artifacts
from .keys import DEEPMD, TRAIN

_OFF = {
    "isolate_outliers": "frames with large forces are trained on as the others are",
    "fixture_models": "the committee is trained: training_init_frozen_model begins with models of your own",
    "ignore_error": "every model of the committee is needed",
}


def training(workflow: Section, artifacts: Artifacts, draft: Draft) -> None:
    """The whole train stage."""
    part = Section(workflow.need("train"), (TRAIN,), draft.report, workflow.at("train"))
    given = part.need("deepmd")
    source = Section(given, (DEEPMD,), draft.report, part.at("deepmd"))
    draft.put("train.app", "deepmd", part.at("deepmd"))
    draft.put("train.numb_models", source.of("model_num", int, 4), source.origin("model_num", "ai2-kit"))
    template = source.of("input_template", dict, {})
    if not all(isinstance(template.get(key), dict) for key in ("model", "training")):
        raise ConfigError(f"{source.at('input_template')}: it has no model or no training section")
    text = as_json(cleaned(template, source.at("input_template"), draft))
    draft.put("train.input", draft.write("input.json", text), source.at("input_template"))
    artifacts.data(source.items("init_dataset"), source.at("init_dataset"))
    if source.flag("compress_model"):
        draft.put("train.dp_compress", True, source.at("compress_model"))
    if model := source.text("pretrained_model"):
        named = draft.path(model)
        draft.look(named, "train.training_finetune_model")
        draft.put("train.training_finetune_model", [named], source.at("pretrained_model"))
    if source.flag("init_from_previous"):
        draft.put("train.training_reuse_iter", 1, source.at("init_from_previous"))
    elif "init_from_previous" in source:
        source.drop("init_from_previous", "off")
    words = shlex.split(str(source.text("dp_train_opts", "")))
    if "--skip-neighbor-stat" in words:
        draft.put("train.skip_neighbor_stat", True, source.at("dp_train_opts"))
        words.remove("--skip-neighbor-stat")
    if words:
        source.lose("dp_train_opts", f"{' '.join(words)}: dp train gets the arguments that the run's keys stand for")
    for key, why in _OFF.items():
        if source.take(key):
            source.lose(key, why)
        else:
            source.drop(key, "off")
    source.finish()
    part.finish()
