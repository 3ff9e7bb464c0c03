"""Breadth first through every world that can be reached: the first violation found has the shortest story."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conventions.errors import CommandRefused, EngineError, StateError, StoreError
from conventions.names import STAGES, sha256
from conventions.state import State
from statemachine.machine.orders import needed_from, rewind_error

from .process import (
    ENGINE_TROUBLE,
    FIRST,
    PATCHED,
    STORE_TROUBLE,
    Op,
    Raises,
    Spec,
)  # fmt: skip
from .servers import DAMAGED, IDLE, PERSON, Servers
from .tables import Late, Move, Scenario, World
from .world import (
    LOST,
    SPACE,
    Objects,
    Sealed,
    Violation,
    newest_of,
    place_of,
    unsealed,
    view_of,
    whole,
)


@dataclass
class Found:
    """What a search has seen."""

    worlds: int = 0
    moves: int = 0
    ends: dict[str, int] = field(default_factory=dict)


class Search(Servers):
    """Every move from every world: of processes, of workflows, of requests that are late."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self._settled_worlds: dict[World, World] = {}

    # --- processes ------------------------------------------------------------------------------------------

    def first(self) -> World:
        start = self.code.start("poller")
        other = self.code.start("poller two") if self.scenario.homes else start
        processes = (start if self.scenario.pollers == 2 else IDLE, other, IDLE)
        budget = self.scenario.faults, self.scenario.commands
        world = World(self._of_objects({}), self._of_flows(()), processes, *budget, ())
        objects: dict[str, Any] = {SPACE.configuration(sha256(data)): data for data in (FIRST, PATCHED)}
        objects[SPACE.state] = Sealed(self.scenario.first.seal())
        for row in self.scenario.first.trail:  # of a campaign that was taken over
            for stage in row.stages:
                key = place_of(Spec("", stage, row.iteration, 0)).product
                objects |= {key: b"before", f"~used/{key}": b"before"}
        if self.scenario.damage:  # `init` came to its end
            objects[SPACE.event(1)] = objects[SPACE.state]
        world = self._with(world, **objects)
        return self._advanced(world) if self.scenario.prunes else world

    def _advanced(self, world: World) -> World:
        """A world later on, in which the second exploration has been done, without accidents and orders before it."""
        ahead = [world._replace(commands=0)]
        known = set(ahead)
        for each in ahead:  # grows
            run = view_of(self.objects(each))
            if (run.state.iteration, run.at) == (1, "select.submitting"):
                return each._replace(commands=world.commands)
            later = [self.settled(then) for cost, _, then in self.moves(each) if not cost]
            ahead += [then for then in dict.fromkeys(later) if then not in known]
            known.update(later)
        raise AssertionError("the run does not get that far")

    def moves(self, world: World) -> Iterator[Move]:
        for slot, number in enumerate(world.processes):
            if number != IDLE:
                yield from self._process(world, slot)
        if world.processes[PERSON] == IDLE:
            yield from self._person(world)
        if self.scenario.prunes and world.processes[0] == IDLE and world.commands:
            state = view_of(self.objects(world)).state
            if needed_from(state) > state.pruned:
                self.doing = "somebody begins to prune"
                processes = (self.code.start("prune"), *world.processes[1:])
                yield 1, self.doing, world._replace(processes=processes, commands=world.commands - 1)
        for flow in self.flows(world):
            if flow.moves:
                yield from self._body(world, flow)
            if world.faults:
                yield from self._accident(world._replace(faults=world.faults - 1), flow)
        for late in world.late:
            yield 0, *self._arrives(world, late)
        if self.scenario.damage and world.faults and DAMAGED not in self.objects(world):
            yield from self._spoiled(world._replace(faults=world.faults - 1))
        if self.scenario.homes and world.faults and LOST not in self.objects(world):
            self.doing = "home one is lost for good"
            yield 1, self.doing, self._lost(world._replace(faults=world.faults - 1))

    def _spoiled(self, world: World) -> Iterator[Move]:
        """What may befall the state."""
        objects = self.objects(world)
        self.doing = "state.json is damaged"
        yield 1, self.doing, self._with(world, **{DAMAGED: b""})
        if old := objects.get(SPACE.event(view_of(objects).version - 1)):
            self.doing = "an old state.json is put back"
            yield 1, self.doing, self._with(world, **{SPACE.state: old})

    def _process(self, world: World, slot: int) -> Iterator[Move]:
        node = self.code.nodes[world.processes[slot]]
        who = "person" if slot == PERSON else f"poller {slot}"
        if node.answers:
            self.doing = f"{who} dies"
            yield 0, self.doing, self._leave(world, slot)
        assert node.op is not None
        if node.op == ("get", SPACE.state) and DAMAGED in self.objects(world) and node.program != "restore":
            self.doing = f"{who} reads a damaged state, and ends"
            yield 0, self.doing, self._leave(world, slot)
            return
        for cost, answer, then in self._call(world, slot, node.op, f"{who} {node.program} "):
            if cost <= world.faults:
                yield cost, self.doing, self._go_on(then._replace(faults=then.faults - cost), slot, answer)
            if node.op[:2] == ("put", SPACE.state) and not cost:
                self.doing += ", and dies"
                yield 0, self.doing, self._leave(then, slot)

    def _call(self, world: World, slot: int, op: Op, who: str) -> Iterator[tuple[int, Any, World]]:
        """Every way in which a call may end: its cost, the answer, and the world then."""
        name, *arguments = op
        about = f"{who}{name} {arguments[0]}" if name != "put" else f"{who}put {arguments[0]} {self._content(op)}"
        self.doing = about
        if name in ("get", "head", "list", "status"):
            answer = self._read(world, slot, op)
            yield 0, answer, world
            if name == "list" and answer and not arguments[0].startswith(SPACE.events):
                self.doing = f"{about}: an old listing, empty"
                yield 1, (), world
            return
        trouble = STORE_TROUBLE if name in ("put", "remove") else ENGINE_TROUBLE
        answer, then = self._write(world, slot, op)
        yield 0, answer, self._authors(then, {slot: None})
        self.doing = f"{about}: refused with an error"
        yield 1, trouble, world
        if not isinstance(answer, Raises) and world.faults:
            self.doing = f"{about}: done, but the answer is lost"
            yield 1, trouble, then
            if name == "submit" or arguments[0] == SPACE.state:
                self.doing = f"{about}: no answer, it arrives later"
                yield 1, trouble, world._replace(late=tuple(sorted({*world.late, Late(op, slot)}, key=repr)))

    def _content(self, op: Op) -> str:
        key, data = op[1:3]
        if key == SPACE.state:
            state = unsealed(data)
            return f"v{state.version} {state.at} i{state.iteration} a{state.attempt}" + " held" * state.hold
        return "" if key.startswith(SPACE.events) else data.decode("utf-8", "replace")[:20]

    def _go_on(self, world: World, slot: int, answer: Any) -> World:
        processes = list(world.processes)
        processes[slot] = self.code.answer(processes[slot], answer)
        return world._replace(processes=tuple(processes))

    def settled(self, world: World) -> World:
        if world not in self._settled_worlds:
            self._settled_worlds[world] = self._settle(world)
        return self._settled_worlds[world]

    def _settle(self, world: World) -> World:
        """The world after all that is certain to come: no order of it with other things is worth a world."""
        kept = tuple(flow for flow in self.flows(world) if flow.moves or not self._left(world, flow.spec.name))
        world = world._replace(flows=self._of_flows(kept))
        for slot in range(len(world.processes)):
            while (number := world.processes[slot]) != IDLE:
                op = self.code.nodes[number].op
                if op is None:
                    self._judge(number)
                    world = self._leave(world, slot)
                elif not self._certain(world, slot, op):
                    break
                elif op[0] in ("get", "head", "list", "status"):
                    world = self._go_on(world, slot, self._read(world, slot, op))
                else:
                    answer, then = self._write(world, slot, op)
                    world = self._go_on(then, slot, answer)
        one, two, person = world.processes
        # Two pollers are alike: only one of two mirrored worlds is kept.
        if one <= two or self.scenario.homes or self.scenario.prunes:
            return world
        return self._authors(world._replace(processes=(two, one, person)), {0: 1, 1: 0})

    def _judge(self, number: int) -> None:
        """A step that ends in an error must have met one."""
        node = self.code.nodes[number]
        met = any(answer in (STORE_TROUBLE, ENGINE_TROUBLE) for answer in node.answers)
        fine: tuple[type[Exception], ...] = (CommandRefused,) if node.program != "poller" else ()
        if met:
            fine += (StoreError, EngineError)
        if self.scenario.damage:  # the state is not the one of the history
            fine += (StateError,)
        if node.error is not None and not isinstance(node.error, fine):
            raise Violation(f"{node.program} ends with {type(node.error).__name__}: {node.error}")

    def _person(self, world: World) -> Iterator[Move]:
        for program, cost in self._orders(self.objects(world)):
            if cost <= world.commands:
                self.doing = f"a person begins to {program}"
                processes = (*world.processes[:PERSON], self.code.start(program))
                yield cost, self.doing, world._replace(processes=processes, commands=world.commands - cost)

    def _orders(self, objects: Objects) -> Iterator[tuple[str, int]]:
        """What a person may order now, and what it costs."""
        state = view_of(objects).state
        if self.scenario.prunes:
            yield from ((order, 1) for order in self._rewinds(objects, state) if order.endswith(" select"))
            return
        if DAMAGED in objects or newest_of(objects) != objects[SPACE.state].data:
            yield "restore", 0
            return
        if LOST in objects and state.home == "one" and not state.ended:
            yield "take_over two", 0
        if (state.hold or state.at in ("failed", "cancelled")) and state.attempt <= 5:  # where no attempt can succeed
            yield "resume", 0
        if not state.ended:
            yield from (("pause", 1), ("cancel", 1), (f"rewind {state.iteration} {state.stage}", 1))
        elif self.scenario.commands:
            yield from ((order, 1) for order in self._rewinds(objects, state))
        if not state.next_config_sha256 and state.config_sha256 == sha256(FIRST):
            yield "patch", 1

    def _rewinds(self, objects: Objects, state: State) -> Iterator[str]:
        state = whole(objects, state)
        for row in state.trail or [state]:
            for stage in STAGES:
                if not rewind_error(state, row.iteration, stage):
                    yield f"rewind {row.iteration} {stage}"

    # --- the search -----------------------------------------------------------------------------------------

    def run(self, most: int = 10**9) -> Found:
        """Look at every world; raise `Violation` with the shortest story that leads to one."""
        first = self.first()
        numbers = {first: 0}
        worlds, parents = [first], array("l", [0])
        edges = array("l"), array("l")
        found = Found()
        for at, world in enumerate(worlds):  # grows
            if at >= most:
                raise RuntimeError(f"more than {most} worlds")
            try:
                for cost, _, then in self.moves(world):
                    then = self.settled(then)
                    found.moves += 1
                    number = numbers.setdefault(then, len(worlds))
                    if number == len(worlds):
                        worlds.append(then)
                        parents.append(at)
                    if not cost and number != at:
                        edges[0].append(at)
                        edges[1].append(number)
            except Violation as violation:
                raise Violation(self._story(worlds, parents, at, [self.doing, f"=> {violation}"])) from None
        found.worlds = len(worlds)
        good = np.zeros(len(worlds), bool)
        for at, world in enumerate(worlds):
            where = view_of(self.objects(world)).at
            found.ends[where] = found.ends.get(where, 0) + 1
            good[at] = where in ("converged", "exhausted")
        stuck = np.flatnonzero(~_reaching(good, *map(np.asarray, edges)))
        if len(stuck):
            raise Violation(self._story(worlds, parents, int(stuck[0]), ["=> from here no end can be reached"]))
        return found

    def _story(self, worlds: list[World], parents: array[int], at: int, end: list[str]) -> str:
        lines: list[str] = []
        while at:
            above = parents[at]
            lines.append(
                next(label for _, label, then in self.moves(worlds[above]) if self.settled(then) == worlds[at])
            )
            at = above
        return "\n".join(["", *reversed(lines), *end])


def _reaching(good: np.ndarray[Any, Any], source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> Any:
    """Which worlds lead to a good one."""
    order = np.argsort(target, kind="stable")
    source, target = source[order], target[order]
    begins = np.searchsorted(target, np.arange(len(good) + 1))
    good = good.copy()
    fresh = np.flatnonzero(good)
    while len(fresh):
        above = np.concatenate([source[begins[each] : begins[each + 1]] for each in fresh] or [fresh[:0]])
        fresh = np.unique(above[~good[above]])
        good[fresh] = True
    return good
