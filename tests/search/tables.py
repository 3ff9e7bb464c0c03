"""What a search begins with, and the worlds that it meets: their parts are kept in tables, by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from conventions.state import State

from .process import Op
from .world import Flow, Objects, Sealed, forget


@dataclass(frozen=True)
class Scenario:
    """Where a search begins, and what may happen in it.

    Parameters
    ----------
    first
        The state that the run begins in.
    faults, commands
        How many accidents may happen, and how often a person pauses, cancels, patches or rewinds. Crashes of
        processes, their pauses and a person's `resume` are free.
    pollers
        How many there are, one or two.
    damage
        Is it an accident, too, that `state.json` is damaged? A person then restores it, which is free.
    accurate_after
        The first iteration whose exploration is accurate.
    precise_after
        The first iteration whose models have a small force RMSE.
    checks
        Does select choose check frames, beside what it finds to label?
    homes
        Is the second poller at another home? It is an accident, too, that the first one's home is lost for good, with
        all that works there. A person then lets the second one take over, which is free.
    prunes
        May somebody prune, beside a person who rewinds to a select stage? Each costs a command; there are no other
        orders then. It begins at the last select stage of a run of two iterations: before it nothing can be pruned.
    claims, checksums, names
        Rules that the workflow's own steps and the engine keep; mutants switch them off.
    """

    first: State
    faults: int = 0
    commands: int = 0
    pollers: int = 2
    damage: bool = False
    accurate_after: int = 0
    precise_after: int = 0
    checks: bool = False
    homes: bool = False
    prunes: bool = False
    claims: bool = True
    checksums: bool = True
    names: bool = True


class Late(NamedTuple):
    """A request whose sender gave up waiting, and which is carried out later."""

    op: Op
    author: int | None


class World(NamedTuple):
    """Everything, by number: objects and workflows are kept in tables, processes in `Processes`."""

    objects: int
    flows: int
    processes: tuple[int, int, int]
    faults: int
    commands: int
    late: tuple[Late, ...]


Move = tuple[int, str, World]  # what it costs, what happens, what is then


class Tables:
    """Worlds, made from one another."""

    def __init__(self, scenario: Scenario) -> None:
        forget()
        self.scenario = scenario
        self._tables: list[list[Any]] = [[], []]
        self._numbers: tuple[dict[Any, int], dict[Any, int]] = ({}, {})
        self._cache: dict[Any, int] = {}
        self.doing = ""  # what happens just now, for the story of a violation

    def objects(self, world: World) -> Objects:
        found: Objects = self._tables[0][world.objects]
        return found

    def flows(self, world: World) -> tuple[Flow, ...]:
        found: tuple[Flow, ...] = self._tables[1][world.flows]
        return found

    def _number(self, table: int, key: Any, value: Any) -> int:
        number = self._numbers[table].setdefault(key, len(self._tables[table]))
        if number == len(self._tables[table]):
            self._tables[table].append(value)
        return number

    def _of_objects(self, objects: dict[str, Any]) -> int:
        return self._number(0, frozenset(objects.items()), objects)

    def _of_flows(self, flows: tuple[Flow, ...]) -> int:
        kept = tuple(sorted(flow for flow in flows if flow.phase != "gone" or flow.moves))
        return self._number(1, kept, kept)

    def _with(self, world: World, **changes: Any) -> World:
        """The world with other objects: `key=value`."""
        key = (world.objects, *changes.items())
        if key not in self._cache:
            self._cache[key] = self._of_objects({**self.objects(world), **changes})
        return world._replace(objects=self._cache[key])

    def _without(self, world: World, key: str) -> World:
        return world._replace(
            objects=self._of_objects({name: value for name, value in self.objects(world).items() if name != key})
        )

    def _exchange(self, world: World, old: Flow, *new: Flow) -> World:
        flows = self.flows(world)
        at = flows.index(old)
        return world._replace(flows=self._of_flows((*flows[:at], *flows[at + 1 :], *new)))

    def _authors(self, world: World, change: dict[int | None, int | None]) -> World:
        """Processes are exchanged, or forget what they wrote."""
        key = (world.objects, "authors", *change.items())
        if key not in self._cache:
            objects = {
                name: value._replace(author=change[value.author])
                if isinstance(value, Sealed) and value.author in change
                else value
                for name, value in self.objects(world).items()
            }
            self._cache[key] = self._of_objects(objects)
        late = tuple(
            each._replace(author=change[each.author]) if each.author in change else each for each in world.late
        )
        return world._replace(objects=self._cache[key], late=late)
