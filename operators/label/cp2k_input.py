r"""CP2K's input format: the user's template as a tree of sections, checked once and filled for each frame.

The format: https://manual.cp2k.org. Sections (`&NAME ... &END NAME`) hold keywords and sections; names know no case;
`!` and `#` begin comments, `\` at the end of a line continues it; lines that begin with `@` are for its preprocessor,
and are kept. What they leave of the input is what is checked.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conventions.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

_INCLUDE = re.compile(r"@INCLUDE\s+(['\"]?)(.+?)\1\s*(?:[!#].*)?$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)(?:-(?P<default>[^}]*))?\}|(?P<name>[A-Za-z_]\w*))", re.ASCII)
_LEVELS = ("SILENT", "LOW", "MEDIUM", "HIGH", "DEBUG")
# What says where cell and coordinates come from: the run says that.
_CELL = ("A", "B", "C", "ABC", "ALPHA_BETA_GAMMA", "ANGLES", "CELL_FILE_NAME", "CELL_FILE_FORMAT")
_DATA_FILES = ("BASIS_SET_FILE_NAME", "POTENTIAL_FILE_NAME", "PARAMETER_FILE_NAME")
_OTHER_CELL = ("MULTIPLE_UNIT_CELL", "CANONICALIZE")
_TOPOLOGY = ("COORD_FILE_NAME", "COORD_FILE", "COORD_FILE_FORMAT", "COORDINATE", "MULTIPLE_UNIT_CELL")


@dataclass
class Section:
    """A section: its name in upper case, the line that opens it, and its lines and sections in order."""

    name: str
    header: str
    items: list[str | Section] = field(default_factory=list)

    def sections(self, name: str) -> list[Section]:
        return [item for item in self.items if isinstance(item, Section) and item.name == name]

    def section(self, *names: str) -> Section | None:
        """The first section at a path below this one."""
        found: Section | None = self
        for name in names:
            found = next(iter(found.sections(name)), None) if found else None
        return found

    def make(self, name: str) -> Section:
        """The section of that name, made where there is none; further ones are removed."""
        first, *others = self.sections(name) or [Section(name, f"&{name}")]
        self.items = [item for item in self.items if not any(item is other for other in others)]
        if not self.sections(name):
            self.items.append(first)
        return first

    def keyword(self, name: str) -> list[str] | None:
        """The values of a keyword, None where it is not given."""
        for item in self.items:
            if isinstance(item, str) and (words := _words(item)) and words[0].upper() == name:
                return words[1:]
        return None

    def drop(self, *names: str) -> None:
        """Remove the lines that begin with one of these words."""
        self.items = [item for item in self.items if not (isinstance(item, str) and _first(item) in names)]

    @property
    def parameter(self) -> str:
        return " ".join(_words(self.header)[1:]).upper()

    def lines(self, indent: str = "") -> Iterator[str]:
        """The section as text; a section without a name is the whole input."""
        inner = indent + "  " if self.name else ""
        if self.name:
            yield indent + self.header
        for item in self.items:
            if isinstance(item, Section):
                yield from item.lines(inner)
            else:
                yield inner + item
        if self.name:
            yield f"{indent}&END {self.name}"


def data_files(root: Section) -> list[str]:
    """Files that the input takes from CP2K's data folder where they are not beside it: basis sets, potentials, D3."""
    lines = (_words(line) for line in root.lines())
    found = [words[1].strip("\"'") for words in lines if len(words) > 1 and words[0].upper() in _DATA_FILES]
    return list(dict.fromkeys(found))


def read_template(text: str, included: Mapping[str, str], where: str) -> Section:
    """The user's input with its `@INCLUDE`s expanded, ready for `fill`.

    RUN_TYPE becomes ENERGY_FORCE; cell and coordinates are taken out, the cell's other keywords stay.

    Parameters
    ----------
    included
        Texts of the user's other files by name.
    where
        What error messages call it.

    Raises
    ------
    ConfigError
        When it is no CP2K input, or its output would not hold what labels need.
    """
    root = parse(expand(text, included, where), where)
    evals = root.sections("FORCE_EVAL")
    if len(evals) != 1:
        raise ConfigError(f"{where}: it has {len(evals)} &FORCE_EVAL sections; exactly one can be labelled with")
    if root.section("EXT_RESTART"):
        raise ConfigError(f"{where}: &EXT_RESTART would replace the coordinates of every frame; remove it")
    setup = root.make("GLOBAL")
    setup.drop("RUN_TYPE", "PROGRAM_NAME")
    setup.items.append("RUN_TYPE ENERGY_FORCE")
    system = evals[0].make("SUBSYS")
    cell = system.make("CELL")
    cell.drop(*_CELL, *_OTHER_CELL, "@INCLUDE")
    system.items = [item for item in system.items if not (isinstance(item, Section) and item.name == "COORD")]
    for topology in system.sections("TOPOLOGY"):
        topology.drop(*_TOPOLOGY)
    for line in root.lines():
        if match := _INCLUDE.match(line.strip()):
            raise ConfigError(f"{where}: {match[0]}: this file is not among label.files; add it there")
    _check_effect(parse(preprocessed(root.lines(), where), f"{where}, after @SET and @IF"), where)
    return root


def fill(template: Section, atoms: Atoms) -> str:
    """The input for one frame, with every digit of its cell and positions. Angstrom."""
    root = copy.deepcopy(template)
    system = root.section("FORCE_EVAL", "SUBSYS")
    assert system is not None
    vectors = zip("ABC", atoms.cell.array.tolist(), strict=True)
    cell = system.make("CELL")
    cell.items[:0] = [f"{name} {_numbers(vector)}" for name, vector in vectors]
    coord = system.make("COORD")
    positions = zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True)
    coord.items = [f"{symbol} {_numbers(position)}" for symbol, position in positions]
    return "\n".join(root.lines()) + "\n"


def parse(text: str, where: str) -> Section:
    """The tree of an input; comments stay where they are."""
    stack = [Section("", "")]
    for number, line in _joined(text):
        first = _first(line)
        if first.startswith("&END"):
            name = (_words(line)[1:] or [stack[-1].name])[0].upper()
            if len(stack) == 1 or name != stack[-1].name:
                opened = f"&{stack[-1].name} is open" if len(stack) > 1 else "no section is open"
                raise ConfigError(f"{where}: line {number}: {line!r}, but {opened}")
            stack.pop()
        elif first.startswith("&"):
            section = Section(first[1:], line)
            stack[-1].items.append(section)
            stack.append(section)
        else:
            stack[-1].items.append(line)
    if len(stack) > 1:
        raise ConfigError(f"{where}: &{stack[-1].name} has no &END {stack[-1].name}")
    return stack[0]


def expand(text: str, included: Mapping[str, str], where: str, depth: int = 0) -> str:
    """The text with those `@INCLUDE`s replaced whose file is at hand."""
    if depth > 10:
        raise ConfigError(f"{where}: files @INCLUDE each other in a circle")
    lines = []
    for line in text.splitlines():
        match = _INCLUDE.match(line.strip())
        if match and match[2] in included:
            lines.append(expand(included[match[2]], included, f"{where}: {match[2]}", depth + 1))
        else:
            lines.append(line)
    return "\n".join(lines)


def preprocessed(lines: Iterable[str], where: str) -> str:
    """What CP2K's preprocessor makes of an input: variables and `@IF` are carried out, its own lines are gone.

    A comparison is of texts; any text but 0 is true. An `@IF` ends at the next `@ENDIF`, also one in another `@IF`.
    """
    values: dict[str, str] = {}
    kept: list[str] = []
    left_out = ""

    def value(match: re.Match[str]) -> str:
        name, default = match["braced"] or match["name"], match["default"]
        if name not in values and default is None:
            raise ConfigError(f"{where}: {match[0]}: this variable has no value; write '@SET {name} VALUE' above it")
        return values.get(name, default or "")

    for line in lines:
        first = _first(line)
        if left_out:
            left_out = "" if first == "@ENDIF" else left_out
            continue
        words = _VARIABLE.sub(value, re.split(r"[!#]", line, maxsplit=1)[0]).split(None, 2)
        rest = " ".join(words[1:])
        if first == "@SET" and len(words) == 3:
            values[words[1]] = words[2].strip()
        elif first == "@IF" and not _holds(rest):
            left_out = line.strip()
        elif not first.startswith("@"):
            kept.append(" ".join(words))
    if left_out:
        raise ConfigError(f"{where}: {left_out}: no @ENDIF ends it; add one")
    return "\n".join(kept)


def _holds(condition: str) -> bool:
    for sign in ("==", "/="):
        left, found, right = condition.partition(sign)
        if found:
            return (left.split("(", 1)[-1].strip() == right.split(")", 1)[0].strip()) == (sign == "==")
    return condition.strip() not in ("", "0")


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, each with those that continue it."""
    begun = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = begun + raw.strip()
        code = re.split(r"[!#]", line, maxsplit=1)[0].rstrip()
        begun = f"{code[:-1].rstrip()} " if code.endswith("\\") else ""
        if not begun:
            yield number, line
    if begun:
        yield number, begun.rstrip()


def _check_effect(root: Section, where: str) -> None:
    """What the run writes into the input must come into effect, and the forces must be printed."""
    for path in (["GLOBAL"], ["FORCE_EVAL"], ["FORCE_EVAL", "SUBSYS"], ["FORCE_EVAL", "SUBSYS", "CELL"]):
        if root.section(*path) is None:
            raise ConfigError(f"{where}: @IF switches &{path[-1]} off, which the run fills in; take it out of the @IF")
    force_eval, setup = root.make("FORCE_EVAL"), root.make("GLOBAL")
    _check_printed(force_eval, (setup.keyword("PRINT_LEVEL") or ["MEDIUM"])[0].upper(), where)


def _check_printed(force_eval: Section, level: str, where: str) -> None:
    stress = (force_eval.keyword("STRESS_TENSOR") or ["NONE"])[0].upper()
    if stress.startswith("DIAGONAL"):
        raise ConfigError(f"{where}: STRESS_TENSOR {stress} lacks elements of the virial; use ANALYTICAL or NONE")
    wanted = {"FORCES": "labels need them", "STRESS_TENSOR": f"STRESS_TENSOR {stress} asks for it"}
    for name, why in wanted.items():
        if name == "STRESS_TENSOR" and stress == "NONE":
            continue
        key = force_eval.section("PRINT", name)
        advice = f"put &PRINT / &{name} ON / &END {name} / &END PRINT into &FORCE_EVAL"
        if key is None:
            raise ConfigError(f"{where}: it does not print {name}, and {why}: {advice}")
        needs = key.parameter
        too_low = needs in _LEVELS and level in _LEVELS and _LEVELS.index(needs) > _LEVELS.index(level)
        if needs == "OFF" or too_low:
            raise ConfigError(f"{where}: &{name} {needs} prints nothing at PRINT_LEVEL {level}, and {why}: {advice}")
        file = (key.keyword("FILENAME") or ["__STD_OUT__"])[0].strip("'\"")
        if file != "__STD_OUT__":
            raise ConfigError(f"{where}: FILENAME {file} in &{name} keeps it out of the output; remove FILENAME")


def _words(line: str) -> list[str]:
    return re.split(r"[!#]", line, maxsplit=1)[0].split()


def _first(line: str) -> str:
    return (_words(line) or [""])[0].upper()


def _numbers(vector: list[float]) -> str:
    return " ".join(repr(value) for value in vector)
