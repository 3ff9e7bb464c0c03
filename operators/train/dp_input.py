"""DeePMD-kit's input.json: the user's, read once, and given other seeds for each model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conventions.documents import parse_json
from conventions.errors import ConfigError, DataError
from conventions.forms import form

from .dp_heads import check_heads, data_section, has_heads, seed_heads
from .stage import labelled_in, of_iteration

AUTO = form(r"^auto(:[0-9]+(\.[0-9]+)?)?$", "a number between 0 and 1, auto, or auto:10")

# Descriptors that have networks for each element (and older names of them).
BY_ELEMENT = {"se_e2_a", "se_a", "se_e2_r", "se_r", "se_e3", "se_at", "se_a_3be", "se_a_tpe", "se_a_ebd", "loc_frame"}

# Names that DeePMD-kit knows for the length of a training.
STEPS = ("numb_steps", "stop_batch", "num_step", "num_steps", "numb_step")
EPOCHS = ("numb_epoch", "numb_epochs", "num_epoch", "num_epochs")


def read_input(path: Path, type_map: list[str], head: str | None = None) -> dict[str, Any]:
    """The user's input.json, with the run's type_map; `head` is train.head.

    Raises
    ------
    ConfigError
        When it is not DeePMD-kit's input for these elements.
    """
    where = f"train.input ({path.name})"
    try:
        found = parse_json(path.read_bytes(), where)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    for key in ("model", "training"):
        if not isinstance(found, dict) or not isinstance(found.get(key), dict):
            raise ConfigError(f"{where}: it has no {key!r} section; give an input.json of dp train")
    parts = [(found["model"], name) for name in ("descriptor", "fitting_net", "type_embedding")]
    parts += [(found, "learning_rate"), (found, "loss"), (found["training"], "training_data")]
    for section, name in parts:
        if not isinstance(section.get(name, {}), dict):
            raise ConfigError(f"{where}: {name} is {section[name]!r}, but it must be a JSON object")
    if head is not None or has_heads(found):
        check_heads(found, head, type_map, where)
    elif (given := found["model"].setdefault("type_map", type_map)) != type_map:
        raise ConfigError(
            f"{where}: model.type_map is {given}, but type_map of the run is {type_map}; make them equal, also in order"
        )
    data = data_section(found["training"], head)
    members = found["model"].get("descriptor", {}).get("list", [])
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise ConfigError(f"{where}: model.descriptor.list is not a list of descriptors")
    for part in (found["model"].get("descriptor", {}), *members):
        sel = part.get("sel")
        if part.get("type") in BY_ELEMENT and isinstance(sel, list) and len(sel) != len(type_map):
            raise ConfigError(
                f"{where}: sel of the descriptor {part['type']} has {len(sel)} numbers, and type_map has "
                f"{len(type_map)} elements ({', '.join(type_map)}): give one for each, in this order"
            )
    for key in (*STEPS, "disp_freq"):
        number = found["training"].get(key, 1)
        if type(number) is not int or number < 1:
            raise ConfigError(f"{where}: training.{key} is {number!r}, but it must be a whole number, at least 1")
    for key in ("batch_size", "sys_probs", "sys_prob", "sys_weights"):
        if isinstance(data.get(key), list):
            raise ConfigError(f"{where}: {key} is a list, but every iteration adds systems; give one value for all")
    return found  # type: ignore[no-any-return]


def fill_input(
    found: dict[str, Any], train: Any, iteration: int, systems: list[str], reuse: bool, watched: Sequence[str] = ()
) -> None:
    """Write into the input what the run decides: data, steps, file names, and DP-GEN's options of reuse."""
    training = found["training"]
    paths = [f"data/{system}" for system in sorted(systems)]
    data = data_section(training, train.head)
    data["systems"] = paths
    watch(training if train.head is None else training["data_dict"][train.head], watched)

    if train.mixed_type:
        check_mixed(found, training if train.head is None else training["data_dict"][train.head])

    steps = of_iteration(train.numb_steps, iteration)
    if reuse and train.training_reuse_numb_steps is not None:
        steps = train.training_reuse_numb_steps
    key = next((name for name in STEPS if name in training), "numb_steps")
    if steps is not None:
        training[key] = steps
        for name in EPOCHS:
            training.pop(name, None)
    elif key not in training and not any(name in training for name in EPOCHS):
        raise ConfigError("train.numb_steps: neither the run nor train.input says how many steps to train")
    # dp writes checkpoints only where it writes a row of the curve, and judging a model needs a row near its end.
    training["disp_training"] = True
    if key in training:
        training["disp_freq"] = min(training.get("disp_freq", 1000), training[key])
    training["disp_file"] = "lcurve.out"
    training["save_ckpt"] = "ckpt/model.ckpt"

    if reuse:
        if isinstance(train.training_reuse_old_ratio, float):
            weigh(training, data, iteration, train.training_reuse_old_ratio)
        for section, name in (("learning_rate", "start_lr"), ("loss", "start_pref_e"), ("loss", "start_pref_f")):
            value = getattr(train, f"training_reuse_{name}")
            if value is not None:
                found.setdefault(section, {})[name] = value


def check_mixed(found: dict[str, Any], section: dict[str, Any]) -> None:
    """Refuse an input whose model cannot be trained on frames of different compositions together."""
    if "training_data" not in section:
        raise ConfigError("train.mixed_type: train.input has no training.training_data, as DeePMD-kit 2 writes it")
    descriptor = found["model"].get("descriptor", {})
    for part in (descriptor, *descriptor.get("list", [])):
        if part.get("type") in BY_ELEMENT:
            raise ConfigError(
                f"train.mixed_type: the descriptor {part['type']} has networks for each element, and dp trains it on "
                "systems of one composition only; take mixed_type out, or use se_atten, dpa2, dpa3 or later ones"
            )


def watch(section: dict[str, Any], folders: Sequence[str]) -> None:
    """Let dp train measure on these folders, with the user's other options of validation_data; on none without them."""
    validation = section.pop("validation_data", None)
    if not folders:
        return
    if "training_data" not in section:
        raise ConfigError("train.validation_data: train.input has no training.training_data, as DeePMD-kit 2 writes it")
    paths = [f"data/{folder}" for folder in folders]
    options = validation if isinstance(validation, dict) else {}
    # DeePMD-kit 2 searches a folder for systems only where it is given one.
    section["validation_data"] = {**options, "systems": paths if len(paths) > 1 else paths[0]}


def weigh(training: dict[str, Any], data: dict[str, Any], iteration: int, old_ratio: float) -> None:
    """Let dp take a batch from the data of earlier iterations with this probability, else from the newest.

    Within each half, systems count by their numbers of frames.
    """
    old, new = old_and_new(data["systems"], iteration)
    if not old or not new:  # there is nothing to weigh
        return
    data["systems"] = [*old, *new]
    halves = f"0:{len(old)}:{old_ratio:g}; {len(old)}:{len(old) + len(new)}:{1 - old_ratio:g}"
    data["auto_prob_style" if data is training else "auto_prob"] = f"prob_sys_size; {halves}"


def old_and_new(systems: list[str], iteration: int) -> tuple[list[str], list[str]]:
    """Training systems of earlier iterations (and the initial data), and those of this one."""
    new = [path for path in systems if path.startswith(f"data/{labelled_in(iteration)}")]
    return [path for path in systems if path not in new], new


def auto_weights(train: Any, iteration: int, systems: list[str]) -> dict[str, Any] | None:
    """What a job needs for training_reuse_old_ratio auto: it counts the frames, since plan has no data.

    As in DP-GEN, with N = 10 unless auto:N says another one: p(old) = old / (old + N new) of numbers of frames.
    """
    ratio = train.training_reuse_old_ratio
    old, new = old_and_new([f"data/{system}" for system in sorted(systems)], iteration)
    if not isinstance(ratio, str) or not old or not new:
        return None
    return {"old": old, "new": new, "new_to_old": float(ratio.partition(":")[2] or 10)}


def check_arguments(found: dict[str, Any], where: str) -> None:
    """What `dp train` itself would say of a filled input; nothing where DeePMD-kit is not installed.

    Nothing of one with several heads either: what they share is put in by a part of dp that imports PyTorch.

    Raises
    ------
    ConfigError
        When it would refuse it: an unknown key, a value of another kind, a key that is missing.
    """
    if has_heads(found):
        return
    try:  # these two modules import neither TensorFlow nor PyTorch
        from deepmd.utils.argcheck import normalize
        from deepmd.utils.compat import update_deepmd_input
    except ImportError:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            normalize(update_deepmd_input(copy.deepcopy(found), warning=False))
    except Exception as error:  # its checks raise whatever they meet
        said = f"it has no {error}" if type(error) is KeyError else " ".join(str(error).split())
        raise ConfigError(f"{where}: dp train would refuse it: {said}") from None


def with_seeds(template: dict[str, Any], seed: Any) -> dict[str, Any]:
    """A copy of the input with every seed set; `seed` makes one for a part's name."""
    found = copy.deepcopy(template)

    def descriptor(part: dict[str, Any], name: str) -> None:
        if part.get("type") == "hybrid":
            for number, member in enumerate(part.get("list", [])):
                descriptor(member, f"{name}.{number}")
        elif part.get("type") != "loc_frame":  # which has nothing random
            part["seed"] = seed(name)

    model = found["model"]
    if has_heads(found):
        seed_heads(model, seed, descriptor)
    if "descriptor" in model:
        descriptor(model["descriptor"], "descriptor")
    for name in ("fitting_net", "type_embedding"):
        if name in model:
            model[name]["seed"] = seed(name)
    found["training"]["seed"] = seed("training")
    return found
