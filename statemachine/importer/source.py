"""A part of a source that is read key by key, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from conventions.errors import ConfigError, did_you_mean

from .report import Key, Outcome, Report

Table = tuple[Key, ...]


UNREAD = "nothing was made of it beside the other keys"


class Section:
    """A mapping of a source, with the table of its keys.

    `take` reads a key; null is as if it were not there. When all is read, `finish` gives each key of the source a row
    in the report: a key that the table maps, and that nothing has read, is told as lost.
    """

    def __init__(self, values: Any, tables: Iterable[Table], report: Report, where: str) -> None:
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: a mapping of keys is expected, not {_shown(values)}")
        self.values = {name: value for name, value in values.items() if value is not None}
        self.nulls = [name for name, value in values.items() if value is None and not name.startswith("_")]
        self.report, self.where = report, where
        self._keys: dict[str, Key] = {}
        for key in (key for table in tables for key in table):
            for name in (key.name, *key.aliases):
                self._keys.setdefault(name, key)
        self._taken: set[str] = set()
        self._said: dict[str, tuple[Outcome, str]] = {}

    def at(self, name: str) -> str:
        """How a message names a key."""
        return f"{self.where}{name}" if self.where.endswith(": ") else f"{self.where}.{name}"

    def name_of(self, name: str) -> str:
        """The name under which a key is given here: its own, or an alias."""
        key = self._keys.get(name)
        if key is None:
            return name
        return next((given for given in (key.name, *key.aliases) if given in self.values), name)

    def origin(self, name: str, program: str) -> str:
        """Where a value comes from: its key, or the program's default."""
        return self.at(self.name_of(name)) if name in self else f"{program}'s default of {name}"

    def __contains__(self, name: str) -> bool:
        return self.name_of(name) in self.values

    def take(self, name: str, default: Any = None) -> Any:
        """The value of a key, by its name or one of its aliases."""
        given = self.name_of(name)
        self._taken.add(given)
        return self.values.get(given, default)

    def need(self, name: str) -> Any:
        """The value of a key that must be there."""
        found = self.take(name)
        if found is None:
            raise ConfigError(f"{self.at(name)}: this key is required; without it there is nothing to import")
        return found

    def of(self, name: str, kinds: type | tuple[type, ...], default: Any = None) -> Any:
        """`take`, of a value that must be of these kinds; null is as if it were not there."""
        found = self.take(name)
        if found is None:
            return default
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in _all(kinds)):
            words = " or ".join(_WORDS.get(kind, kind.__name__) for kind in _all(kinds))
            raise ConfigError(f"{self.at(self.name_of(name))}: {words} is expected, not {_shown(found)}")
        return found

    def part(self, name: str, *tables: Table) -> Section:
        """A mapping inside of this one; empty where the key is absent."""
        return Section(self.of(name, dict, {}), tables, self.report, self.at(self.name_of(name)))

    def number(self, name: str, default: float | None = None) -> Any:
        """A number."""
        return self.of(name, (int, float), default)

    def need_number(self, name: str) -> Any:
        """A number that must be there."""
        self.need(name)
        return self.number(name)

    def text(self, name: str, default: str | None = None) -> Any:
        return self.of(name, str, default)

    def flag(self, name: str) -> bool:
        """Is it switched on? Absent: no."""
        return bool(self.of(name, (bool, int), False))

    def items(self, name: str) -> list[Any]:
        """A list; where one value is given, a list of it; empty where the key is absent."""
        found = self.take(name, [])
        if isinstance(found, Mapping):
            raise ConfigError(f"{self.at(self.name_of(name))}: a list is expected, not {_shown(found)}")
        return list(found) if isinstance(found, list) else [found]

    def change(self, name: str, note: str) -> None:
        """Say what is different for this value."""
        self._said[self.name_of(name)] = (Outcome.CHANGED, note)

    def lose(self, name: str, note: str) -> None:
        """Say that this value has no counterpart, and what that means."""
        self._said[self.name_of(name)] = (Outcome.LOST, note)

    def drop(self, name: str, note: str) -> None:
        """Say why this value is not needed."""
        self._said[self.name_of(name)] = (Outcome.UNNEEDED, note)

    def untaken(self, name: str) -> bool:
        """Has nobody read this key?"""
        return self.name_of(name) not in self._taken

    def lose_rest(self, table: Table, note: str) -> None:
        """Say the same of every key of a table that nobody has read."""
        for key in table:
            if key.outcome in (Outcome.MAPPED, Outcome.CHANGED) and self.name_of(key.name) not in self._taken:
                self.lose(key.name, note)

    def finish(self) -> None:
        """A row for each key that is there."""
        for name in self.nulls:
            self.report.add(self.at(name), Outcome.UNNEEDED, note="null: as if it were not there")
        for name in self._given():
            key = self._keys.get(name)
            if key is None:
                near = did_you_mean(name, self._keys)
                hint = f"; {near}" if near.startswith("did") else ""
                self.report.add(self.at(name), Outcome.LOST, note=f"unknown key, which its program ignores{hint}")
                continue
            outcome, note = self._said.get(name, (key.outcome, key.note))
            if outcome in (Outcome.MAPPED, Outcome.CHANGED) and name not in self._taken:
                outcome, note = Outcome.LOST, UNREAD
            to = key.to if outcome in (Outcome.MAPPED, Outcome.CHANGED) else ""
            self.report.add(self.at(name), outcome, to, note)

    def _given(self) -> Iterator[str]:
        """The keys that are there and no comment."""
        return (name for name in self.values if not name.startswith("_"))


_WORDS: dict[type, str] = {
    int: "a number", float: "a number", str: "a text", list: "a list", dict: "a mapping of keys", bool: "true or false"
}  # fmt: skip


def _all(kinds: type | tuple[type, ...]) -> tuple[type, ...]:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return (int,) if kinds == (int, float) else kinds


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
