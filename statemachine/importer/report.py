"""What became of each key of a source: never silent, never lost without a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """What becomes of a key."""

    MAPPED = "mapped"
    CHANGED = "mapped with a change"
    UNNEEDED = "not needed here"
    LOST = "has no counterpart"


@dataclass(frozen=True)
class Key:
    """A key of a source: a row of the table that the documentation shows.

    Parameters
    ----------
    name
        As the source writes it.
    to
        The key here, or several.
    outcome
        What becomes of it wherever it is given.
    note
        What is different here, why it is not needed, or what is lost without it.
    aliases
        Other names that the source's program takes.
    """

    name: str
    to: str
    outcome: Outcome
    note: str = ""
    aliases: tuple[str, ...] = ()


def maps(name: str, to: str, note: str = "", *aliases: str) -> Key:
    """A key that has a counterpart; with a note where that is not quite the same."""
    return Key(name, to, Outcome.CHANGED if note else Outcome.MAPPED, note, aliases)


def unneeded(name: str, why: str, *aliases: str) -> Key:
    return Key(name, "", Outcome.UNNEEDED, why, aliases)


def lost(name: str, consequence: str, *aliases: str) -> Key:
    return Key(name, "", Outcome.LOST, consequence, aliases)


@dataclass(frozen=True)
class Row:
    """A key that a source has, and what became of it.

    Parameters
    ----------
    source
        Where it is: `param.json: model_devi_jobs[].temps`; `[]` stands for every item of a list.
    count
        How often it is there.
    """

    source: str
    outcome: Outcome
    to: str
    note: str
    count: int = 1


class Report:
    """Rows in the order of the source; rows that say the same of items of a list are one."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Outcome, str, str], int] = {}
        self.warnings: list[str] = []

    def add(self, source: str, outcome: Outcome, to: str = "", note: str = "") -> None:
        row = (source, outcome, to, note)
        self._rows[row] = self._rows.get(row, 0) + 1

    def warn(self, text: str) -> None:
        """What a person has to do, or to look at."""
        if text not in self.warnings:
            self.warnings.append(text)

    def __iter__(self) -> Iterator[Row]:
        for (source, outcome, to, note), count in self._rows.items():
            yield Row(source, outcome, to, note, count)

    @property
    def losses(self) -> list[Row]:
        """What the old campaign did, and the new one will not."""
        return [row for row in self if row.outcome is Outcome.LOST]

    def document(self) -> dict[str, Any]:
        """For scripts."""
        keys = [
            {"key": row.source, "outcome": row.outcome.value, "to": row.to, "note": row.note, "count": row.count}
            for row in self
        ]
        return {"schema_version": 1, "keys": keys, "warnings": self.warnings}

    def text(self) -> str:
        """For people, in Markdown: first what is lost and what to do, then every key."""
        parts = ["# What became of each key\n"]
        if self.warnings:
            parts += ["## To do\n", *(f"- {text}" for text in self.warnings), ""]
        for outcome in reversed(Outcome):
            rows = [row for row in self if row.outcome is outcome]
            if rows:
                parts += [f"## {outcome.value.capitalize()}: {len(rows)}\n", "| key | here | |", "| --- | --- | --- |"]
                parts += [f"| {_code(row.source)}{_times(row.count)} | {_code(row.to)} | {row.note} |" for row in rows]
                parts.append("")
        return "\n".join(parts)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""
