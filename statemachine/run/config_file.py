"""Reading what a person wrote: YAML 1.2 or JSON, without YAML's traps, with errors that help."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    ScalarEvent,
)
from ruamel.yaml.resolver import VersionedResolver

from conventions.errors import ConfigError, did_you_mean
from conventions.forms import form_error
from statemachine.store.opening import prefix_url

from .foreign import foreign

LARGEST = 2**20
DEEPEST = 60
MOST_VALUES = 20_000  # reading one takes 0.1 ms
MOST_SHOWN = 20  # problems
MOST_BY_ALIAS = 10**5  # characters; of aliases in aliases, ten lines can make billions
WORDS = {
    "model_type": "a mapping of keys is expected",
    "dict_type": "a mapping of keys is expected",
    "list_type": "a list is expected",
}


class _Resolver(VersionedResolver):
    """YAML 1.2's own kinds of values: it has no dates, so that 2020-01-01 is a text."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        found = super().resolve(kind, value, implicit)
        return self.DEFAULT_SCALAR_TAG if str(found).endswith(":timestamp") else found


class _Constructor(SafeConstructor):
    """Says on which line a value is that cannot be what its tag or its look says."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError) as error:  # of !!bool maybe, !!int x; of a number of 5000 digits
            shown, kind = repr(node.value), str(node.tag).rpartition(":")[2]
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            problem = f"{shown} is no {kind}; correct it, or put a text in quotes"
            raise ConstructorError(None, None, problem, node.start_mark) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Parse a configuration file; keys that begin with `_` are comments and left out."""
    try:
        with open(path, "rb") as stream:
            return parse_mapping(stream.read(LARGEST + 1), path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder, not a configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def parse_mapping(data: bytes, path: Path) -> dict[str, Any]:
    """Parse what a configuration file holds; errors name `path`, which is not read."""
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: larger than {LARGEST >> 20} MiB; not a configuration file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor = _Resolver, _Constructor
    try:
        check_size(yaml.parse(text))  # piece by piece: what would take long to load is refused here
        value = yaml.load(text)
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a mapping of keys is expected" + (", the file is empty" if value is None else ""))
    try:
        cleaned: dict[str, Any] = _without_comments(value)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if problem := foreign(cleaned):
        raise ConfigError(f"{path}: {problem}")
    return cleaned


def check_size(events: Iterable[Event]) -> None:
    """Raise `ValueError` for a document that is too deep or too large, each alias taken as what it stands for."""
    known: dict[str, tuple[int, int]] = {}  # size and depth of what an anchor names
    around: list[tuple[str | None, int, int]] = [(None, 0, 0)]  # the same of the collections that have not ended
    aliased = values = 0
    for event in events:
        line, anchor, depth = f"line {event.start_mark.line + 1}", getattr(event, "anchor", None), 0
        if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
            raise ValueError(f"{line}: YAML 1.2 is read here, not %YAML {'.'.join(map(str, event.version))}; remove it")
        values += isinstance(event, CollectionStartEvent | ScalarEvent)
        if values > MOST_VALUES:
            raise ValueError(
                f"{line}: more than {MOST_VALUES:,} keys and values; keep long lists in files of their own"
            )
        if isinstance(event, CollectionStartEvent | ScalarEvent) and anchor in known:
            raise ValueError(f"{line}: the anchor &{anchor} is given a second time")
        if isinstance(event, CollectionStartEvent):
            around.append((anchor, 1, 0))
            size = 0
        elif isinstance(event, CollectionEndEvent):
            anchor, size, depth = around.pop()
            depth += 1
        elif isinstance(event, ScalarEvent):
            size = 1 + len(event.value)
        elif isinstance(event, AliasEvent):
            if anchor not in known:
                raise ValueError(f"{line}: *{anchor} stands for nothing: no &{anchor} has ended before it")
            size, depth = known[anchor]
            aliased += size
        else:
            continue
        if aliased > MOST_BY_ALIAS:
            raise ValueError(f"{line}: aliases (*name) stand for more than {MOST_BY_ALIAS:,} characters")
        if len(around) + depth > DEEPEST + 1:
            raise ValueError(f"{line}: nested too deeply")
        if anchor and isinstance(event, ScalarEvent | CollectionEndEvent):
            known[anchor] = (size, depth)
        outer, inside, deepest = around[-1]
        around[-1] = (outer, inside + size, max(deepest, depth))


def read_prefix(path: Path) -> str:
    """Only the prefix of a configuration file."""
    prefix = read_mapping(path).get("prefix")
    if not isinstance(prefix, str):
        raise ConfigError(f"{path}: prefix: a string is expected")
    return prefix_url(prefix, path.parent)


def read_config(path: Path) -> Any:
    """The checked configuration, with the options of its apps."""
    return check_config(read_mapping(path), path)


def check_config(document: dict[str, Any], path: Path | str) -> Any:
    """The same of what was parsed; errors begin with `path`, or what stands for it."""
    from operators.committee import check_drives
    from operators.registry import app, config_model
    from operators.setup import check_setup

    try:
        model = config_model(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    config, problems = validated(model, document)
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    found = check_setup(config) + check_drives(config)
    found += [problem for stage, name in config.apps.items() for problem in app(stage, name).check(config)]
    if found:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in found))
    return config


def notes(config: Any) -> list[str]:
    """What a person should know of a good configuration."""
    from operators.registry import app

    return [note for stage, name in config.apps.items() for note in app(stage, name).notes(config)]


def validated(model: type[BaseModel], document: dict[str, Any]) -> tuple[Any, list[str]]:
    """The configuration, or all that is wrong with it: unknown keys do not hide what is wrong beside them."""
    try:
        return model.model_validate(document), []
    except ValidationError as error:
        found = error.errors(include_url=False)
    infinite = [_place(problem, document) for problem in found if problem["type"] == "finite_number"]
    # Where a number or something else may be, what is said of .nan as something else does not help.
    found = [each for each in found if each["type"] == "finite_number" or _place(each, document) not in infinite]
    problems = [explain(model, problem, document) for problem in found[:MOST_SHOWN]]
    if len(found) > MOST_SHOWN:
        return None, [*problems, f"and {len(found) - MOST_SHOWN:,} more of such problems"]
    known = _without(document, [_place(each, document) for each in found if each["type"] == "extra_forbidden"])
    if known != document:
        problems += validated(model, known)[1]
    return None, list(dict.fromkeys(problems))


def explain(model: type[BaseModel], problem: Any, document: Any) -> str:
    """One line for one problem: the key, the value, and the nearest right key."""
    loc = _place(problem, document)
    where = ".".join(str(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        return f"{where}: {_unknown(str(loc[-1]), _models(model, loc[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: this key is required"
    if problem["type"] == "string_pattern_mismatch":
        return f"{where}: {form_error(problem['input'], problem['ctx']['pattern'])}"
    message = WORDS.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    value = problem.get("input")
    given = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    shown = "" if problem["type"] == "value_error" else f" (got {given})"
    return f"{where}: {message}{shown}" if where else message


def _place(problem: Any, document: Any) -> list[Any]:
    """Where a problem is in the document: pydantic's place, without what it says of the kinds that it tried there."""
    place: list[Any] = []
    here = document
    there = False
    for part in problem["loc"]:
        there = (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int))
        if there:
            place.append(part)
            here = here[part]
    if problem["type"] == "missing" and not there:  # it may be there, and be null
        place.append(problem["loc"][-1])
    return place


def _unknown(key: str, models: set[type[BaseModel]]) -> str:
    """What is said of a key that no model at its place knows."""
    for model in models:
        if said := getattr(model, "foreign", {}).get(key):
            return str(said)
    return f"unknown key; {did_you_mean(key, set().union(*(model.model_fields for model in models)))}"


def _models(kind: Any, loc: list[Any]) -> set[type[BaseModel]]:
    """The models at a location of a model's documents."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(loc[0])) if loc else None
        return {kind} if not loc else _models(field.annotation, loc[1:]) if field else set()
    inner = get_args(kind)[-1:] if get_origin(kind) in (dict, list) else get_args(kind)
    rest = loc[1:] if get_origin(kind) in (dict, list) else loc
    return set().union(*(_models(arg, rest) for arg in inner))


def _without(document: Any, places: list[list[Any]]) -> Any:
    """A copy without what is at these places."""
    if isinstance(document, list):
        return [_without(item, _below(places, index)) for index, item in enumerate(document)]
    if isinstance(document, dict):
        return {key: _without(item, _below(places, key)) for key, item in document.items() if [key] not in places}
    return document


def _below(places: list[list[Any]], key: int | str) -> list[list[Any]]:
    return [place[1:] for place in places if place[:1] == [key]]


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
