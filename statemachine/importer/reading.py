"""Reading a source as people write it: JSON with comments and trailing commas, or YAML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from conventions.errors import ConfigError
from statemachine.run.config_file import check_size

LARGEST = 16 << 20  # bytes: inputs with long lists of structures are large
DEEPEST = 100

# A string, which is kept, or what JSON does not have.
_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|(?<![\w"])#[^\n]*', re.DOTALL)
_TRAILING = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)


def read_source(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A document of keys, and those that it gives twice (the last one counts, as in the programs that read them).

    Raises
    ------
    ConfigError
        When it cannot be read, or is no mapping of keys.
    """
    text = _text(path)
    refuse_link(text, path)
    if path.suffix in (".yaml", ".yml"):
        return _mapping(_yaml(text, path), path), []
    return _json(text, path)


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from None
    if len(data) > LARGEST:
        raise ConfigError(f"{path}: larger than {LARGEST >> 20} MiB; not an input")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def _json(text: str, path: Path) -> tuple[dict[str, Any], list[str]]:
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        twice.extend(name for name in dict.fromkeys(names) if names.count(name) > 1 and not name.startswith("_"))
        return dict(found)

    def constant(name: str) -> NoReturn:
        raise ConfigError(f"{path}: {name} is no number of JSON; write a finite one")

    # Of the same length, so that an error names the right line.
    plain = _TOKENS.sub(lambda found: found[0] if found[0][0] == '"' else re.sub(r"[^\n]", " ", found[0]), text)
    plain = _TRAILING.sub(lambda found: found[1] or " ", plain)
    try:
        document = json.loads(plain, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    return _mapping(document, path), twice


def _yaml(text: str, path: Path, within: tuple[Path, ...] = ()) -> Any:
    """A YAML document, also with the tags of ai2-kit: !join, !load_text and !load_yaml."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import SequenceNode

    class Tags(SafeConstructor):
        """Files are named relative to the document."""

    def join(constructor: Any, node: Any) -> str:
        return "".join(map(str, constructor.construct_sequence(node, deep=True)))

    def named(constructor: Any, node: Any, tag: str) -> Path:
        parts = constructor.construct_sequence(node) if isinstance(node, SequenceNode) else [node.value]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise ConfigError(f"{path}: line {node.start_mark.line + 1}: {tag}: the path of a file is expected")
        file = path.parent.joinpath(*parts)
        if not file.is_file():
            raise ConfigError(f"{path}: line {node.start_mark.line + 1}: {tag}: there is no file {file}")
        return file

    def load(constructor: Any, node: Any) -> Any:
        file = named(constructor, node, "!load_yaml")
        if file in within or file == path:
            raise ConfigError(f"{path}: line {node.start_mark.line + 1}: !load_yaml: {file} would load itself")
        return _yaml(_text(file), file, (*within, path))

    Tags.add_constructor("!join", join)
    Tags.add_constructor("!load_text", lambda constructor, node: _text(named(constructor, node, "!load_text")))
    Tags.add_constructor("!load_yaml", load)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Tags
    try:
        check_size(yaml.parse(text))
        return yaml.load(text)
    except ConfigError:
        raise
    except (YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{path}: {line}not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


def _mapping(document: Any, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a mapping of keys is expected" + (", the file is empty" if not document else ""))
    try:
        _check(document, "", 0)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return document


def _check(value: Any, where: str, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{where or 'the top'}: key {name!r} is no text; put it in quotes")
            _check(inner, f"{where}.{name}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check(inner, f"{where}[{number}]", depth + 1)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"{where}: {value} is not a finite number")


def refuse_link(text: str, path: Path) -> None:
    """Refuse a file that git or an archive has written for a symbolic link: it holds the name of the other file.

    Raises
    ------
    ConfigError
        When it is one.
    """
    line = text.strip()
    plain = line and "\n" not in line and len(line) < 1000 and not line.startswith(("{", "[", '"')) and ":" not in line
    if plain and ("/" in line or (path.parent / line).is_file()):
        raise ConfigError(
            f"{path}: it holds only the name {line!r}: a symbolic link that was stored as text; give that file"
        )
