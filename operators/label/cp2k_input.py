"""CP2K's input format: the user's template as a tree of sections, checked once and filled for each frame.

The format: https://manual.cp2k.org. Sections (`&NAME ... &END NAME`) hold keywords and sections; names know no case;
`!` and `#` begin comments; lines that begin with `@` are for its preprocessor and are kept as they are.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from conventions.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

_INCLUDE = re.compile(r"@INCLUDE\s+(['\"]?)(.+?)\1\s*(?:[!#].*)?$", re.IGNORECASE)
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
    _check_printed(evals[0], (setup.keyword("PRINT_LEVEL") or ["MEDIUM"])[0].upper(), where)

    system = evals[0].make("SUBSYS")
    cell = system.make("CELL")
    cell.drop(*_CELL, *_OTHER_CELL, "@INCLUDE")
    system.items = [item for item in system.items if not (isinstance(item, Section) and item.name == "COORD")]
    for topology in system.sections("TOPOLOGY"):
        topology.drop(*_TOPOLOGY)
    for line in root.lines():
        if match := _INCLUDE.match(line.strip()):
            raise ConfigError(f"{where}: {match[0]}: this file is not among label.files; add it there")
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
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
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
