"""An input.json of several heads (DeePMD-kit's multi-task): the run trains all, and goes on with the one of train.head.

https://docs.deepmodeling.com/projects/deepmd/en/stable/train/multi-task-training.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conventions.errors import ConfigError


def has_heads(found: dict[str, Any]) -> bool:
    """Whether the model has several heads."""
    return "model_dict" in found["model"]


def data_section(training: dict[str, Any], head: str | None) -> dict[str, Any]:
    """Where the systems are: DeePMD-kit 1 had them in training itself; dp still converts that."""
    if head is not None:
        training = training["data_dict"][head]
    section: dict[str, Any] = training.get("training_data", training)
    return section


def check_heads(found: dict[str, Any], head: str | None, type_map: list[str], where: str) -> None:
    """Refuse an input that the run cannot fill in.

    Raises
    ------
    ConfigError
        When the head is not there, does not know an element, or the data of another one cannot be found from a job.
    """
    heads = found["model"].get("model_dict")
    if heads is None:
        raise ConfigError(f"train.head: {where} has no model.model_dict, so there is one head only; take head out")
    if not isinstance(heads, dict) or not all(isinstance(branch, dict) for branch in heads.values()):
        raise ConfigError(f"{where}: model.model_dict is not a JSON object of models")
    if head not in heads:
        raise ConfigError(f"train.head: {head!r}, but {where} has {', '.join(heads)}; name the head to explore with")
    shared = found["model"].setdefault("shared_dict", {})
    data = found["training"].get("data_dict")
    if not isinstance(shared, dict) or not isinstance(data, dict):
        raise ConfigError(f"{where}: model.shared_dict and training.data_dict must be JSON objects")
    known = heads[head].get("type_map")
    known = shared.get(known) if isinstance(known, str) else known
    missing = [element for element in type_map if element not in (known if isinstance(known, list) else [])]
    if missing:
        raise ConfigError(f"{where}: the type_map of {head} has no {', '.join(missing)}; the run's type_map needs it")
    for name in heads:
        section = data.get(name)
        if not isinstance(section, dict) or not isinstance(section.get("training_data"), dict):
            raise ConfigError(f"{where}: training.data_dict.{name} has no training_data, a JSON object")
        systems = section["training_data"].get("systems")
        systems = [systems] if isinstance(systems, str) else systems
        absolute = isinstance(systems, list) and all(isinstance(s, str) and Path(s).is_absolute() for s in systems)
        if name != head and not (systems and absolute):
            raise ConfigError(
                f"{where}: training.data_dict.{name}: systems is {systems!r}; the run fills in those of {head} only: "
                "give absolute paths that the jobs can read"
            )


def seed_heads(model: dict[str, Any], seed: Any, part: Any) -> None:
    """Set the seeds of all heads, and of what they share; `part` sets that of a descriptor."""
    for name, shared in model["shared_dict"].items():
        if isinstance(shared, dict):
            part(shared, f"shared.{name}")
    for head, branch in model["model_dict"].items():
        if isinstance(branch.get("descriptor"), dict):
            part(branch["descriptor"], f"{head}.descriptor")
        for name in ("fitting_net", "type_embedding"):
            if isinstance(branch.get(name), dict):
                branch[name]["seed"] = seed(f"{head}.{name}")
