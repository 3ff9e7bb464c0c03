"""DeePMD-kit's input.json as other programs have it, without what the run or DeePMD-kit 2 has no use for."""

from __future__ import annotations

import copy
import json
from typing import Any

from conventions.errors import ConfigError

from .draft import Draft
from .report import Outcome
from .values import data_format

# Keys of inputs that were written for DeePMD-kit 1, and that `dp train` refuses since 2.
_OLD = {
    "fitting_net": ("coord_norm", "type_fitting_net", "sedd"),
    "training": (
        "systems", "set_prefix", "batch_size", "auto_prob_style", "numb_test", "coord_norm", "type_fitting_net",
        "sys_probs", "load_ckpt", "restart",
    ),
}  # fmt: skip


def cleaned(given: dict[str, Any], where: str, draft: Draft) -> dict[str, Any]:
    """The input without comments and systems, with the type_map of the run; `where` is how a message names it."""
    found: dict[str, Any] = _without_comments(copy.deepcopy(given))
    model, training = found["model"], found["training"]
    for section, name in ((model.get("fitting_net"), "fitting_net"), (training, "training")):
        for key in _OLD[name]:
            if isinstance(section, dict) and key in section:
                place = f"{where}.{'model.' * (name == 'fitting_net')}{name}.{key}"
                why = "the run says it" if key == "systems" else "DeePMD-kit has no such key since version 2"
                draft.report.add(place, Outcome.UNNEEDED, note=why)
                del section[key]
    model["type_map"] = draft.config["type_map"]
    data = training.setdefault("training_data", {})
    if not isinstance(data, dict):
        raise ConfigError(f"{where}.training.training_data: a mapping of keys is expected")
    data.pop("systems", None)
    _validation(training.pop("validation_data", None), f"{where}.training.validation_data", draft)
    return found


def _validation(given: Any, where: str, draft: Draft) -> None:
    """Data that were tested on during training become those of `dpgen2-sm test`."""
    if given is None:
        return
    systems = given.get("systems", []) if isinstance(given, dict) else None
    systems = [systems] if isinstance(systems, str) else systems
    if not isinstance(systems, list) or not all(isinstance(path, str) for path in systems):
        raise ConfigError(f"{where}: a mapping of keys is expected, with paths as its systems")
    if not systems:
        draft.report.add(where, Outcome.UNNEEDED, note="it names no systems")
        return
    for number, path in enumerate(systems):
        named = draft.path(path)
        key = f"init.test.validation{number:03d}"
        draft.put(key, {"path": named, "format": data_format(draft.there(named))}, f"{where}.systems[{number}]")
        draft.look(named, key)
    draft.report.add(
        where, Outcome.CHANGED, "init.test", "`dpgen2-sm test` tells the errors on it, the training does not"
    )


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_comments(inner) for key, inner in value.items() if not key.startswith("_")}
    return [_without_comments(inner) for inner in value] if isinstance(value, list) else value
