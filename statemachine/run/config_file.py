"""Reading what a person wrote: YAML 1.2 or JSON, without YAML's traps, with errors that help."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from conventions.errors import ConfigError, did_you_mean
from statemachine.store.opening import prefix_url

LARGEST = 10 * 2**20
DEEPEST = 60
WORDS = {
    "model_type": "a mapping of keys is expected",
    "dict_type": "a mapping of keys is expected",
    "list_type": "a list is expected",
}


def read_mapping(path: Path) -> dict[str, Any]:
    """Parse a configuration file; keys that begin with `_` are comments and left out."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ConfigError(f"{path}: larger than {LARGEST >> 20} MiB; not a configuration file")
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder, not a configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    yaml = YAML(typ="safe", pure=True)
    try:
        depth = 0
        for event in yaml.parse(text):  # piece by piece: what would take long to load is refused here
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if isinstance(event, AliasEvent):
                raise ConfigError(f"{path}: line {event.start_mark.line + 1}: aliases (*name) are not supported")
            if depth > DEEPEST:
                raise ConfigError(f"{path}: line {event.start_mark.line + 1}: nested too deeply")
        value = yaml.load(text)
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a mapping of keys is expected" + (", the file is empty" if value is None else ""))
    try:
        cleaned: dict[str, Any] = _without_comments(value)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return cleaned


def read_prefix(path: Path) -> str:
    """Only the prefix of a configuration file."""
    prefix = read_mapping(path).get("prefix")
    if not isinstance(prefix, str):
        raise ConfigError(f"{path}: prefix: a string is expected")
    return prefix_url(prefix, path.parent)


def read_config(path: Path) -> Any:
    """The checked configuration, with the options of its apps."""
    from operators.registry import app, config_model
    from operators.setup import check_setup

    document = read_mapping(path)
    try:
        model = config_model(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        config = model.model_validate(document)
    except ValidationError as error:
        problems = [explain(model, problem) for problem in error.errors(include_url=False)]
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in dict.fromkeys(problems))) from None
    found = check_setup(config)
    found += [problem for stage, name in config.apps.items() for problem in app(stage, name).check(config)]
    if found:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in found))
    return config


def explain(model: type[BaseModel], problem: Any) -> str:
    """One line for one problem: the key, the value, and the nearest right key."""
    loc = list(problem["loc"])
    if loc[:1] == ["engine"]:
        del loc[1:2]  # which of the engines: the value of `type`, no key
    where = ".".join(str(part) for part in loc if part != "[key]")
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {did_you_mean(str(loc[-1]), _names(model, loc[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: this key is required"
    message = WORDS.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    value = problem.get("input")
    given = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    shown = "" if problem["type"] == "value_error" else f" (got {given})"
    return f"{where}: {message}{shown}" if where else message


def _names(kind: Any, loc: list[Any]) -> set[str]:
    """Keys that a model knows at a location of its documents."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(loc[0])) if loc else None
        return set(kind.model_fields) if not loc else _names(field.annotation, loc[1:]) if field else set()
    inner = get_args(kind)[-1:] if get_origin(kind) in (dict, list) else get_args(kind)
    rest = loc[1:] if get_origin(kind) in (dict, list) else loc
    return set().union(*(_names(arg, rest) for arg in inner))


def _without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"key {key!r}: keys must be strings; put it in quotes")
        return {_text(k): _without_comments(v) for k, v in value.items() if not k.startswith("_")}
    if isinstance(value, list):
        return [_without_comments(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"{text!r} is not Unicode text: it has an unpaired surrogate")
    return text


def _one_line(error: Exception) -> str:
    """What is wrong, and on which line where that is known."""
    mark = getattr(error, "problem_mark", None)
    what = (getattr(error, "problem", None) if mark else None) or str(error)
    return (f"line {mark.line + 1}: " if mark else "") + " ".join(what.split())
