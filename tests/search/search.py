"""Breadth first through every world that can be reached: the first violation found has the shortest story."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from conventions.errors import CommandRefused, EngineError, StoreError
from statemachine.store import Blob, Entry

from .process import CONFLICT, ENGINE_TROUBLE, NOT_FOUND, PHASES, STORE_TROUBLE, Op, Processes, Raises, Spec
from .tables import Late, Move, Scenario, World
from .workflows import Workflows
from .world import SPACE, Flow, Sealed, Violation, check_commit, etag_of, place_of, unsealed, view_of

PERSON, IDLE = 2, -1
OTHERS = b"written by another"


@dataclass
class Found:
    """What a search has seen."""

    worlds: int = 0
    moves: int = 0
    ends: dict[str, int] = field(default_factory=dict)


class Search(Workflows):
    """Every move from every world: of processes, of workflows, of requests that are late."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.code = Processes()
        self._settled_worlds: dict[World, World] = {}

    # --- processes ------------------------------------------------------------------------------------------

    def first(self) -> World:
        start = self.code.start("poller")
        processes = (start if self.scenario.pollers == 2 else IDLE, start, IDLE)
        budget = self.scenario.faults, self.scenario.commands
        world = World(self._of_objects({}), self._of_flows(()), processes, *budget, ())
        return self._with(world, **{SPACE.state: Sealed(self.scenario.first.seal())})

    def moves(self, world: World) -> Iterator[Move]:
        for slot, number in enumerate(world.processes):
            if number != IDLE:
                yield from self._process(world, slot)
        if world.processes[PERSON] == IDLE:
            yield from self._person(world)
        for flow in self.flows(world):
            if flow.moves:
                yield from self._body(world, flow)
            if world.faults:
                yield from self._accident(world._replace(faults=world.faults - 1), flow)
        for late in world.late:
            yield 0, *self._arrives(world, late)

    def _process(self, world: World, slot: int) -> Iterator[Move]:
        node = self.code.nodes[world.processes[slot]]
        who = "person" if slot == PERSON else f"poller {slot}"
        if node.answers:
            self.doing = f"{who} dies"
            yield 0, self.doing, self._leave(world, slot)
        assert node.op is not None
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
        trouble = STORE_TROUBLE if name == "put" else ENGINE_TROUBLE
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
        if one <= two:  # the two pollers are alike: only one of two mirrored worlds is kept
            return world
        return self._authors(world._replace(processes=(two, one, person)), {0: 1, 1: 0})

    def _doubts(self, world: World, slot: int) -> bool:
        """Has the process just been refused a swap, and asks whether it has won all the same?"""
        answers = self.code.nodes[world.processes[slot]].answers
        return bool(answers) and answers[-1] in (CONFLICT, STORE_TROUBLE)

    def _left(self, world: World, name: str) -> bool:
        """The run is past this workflow: its claim is taken, and who still thinks of it wins no swap."""
        objects = self.objects(world)
        run = view_of(objects)
        return f"~made/{name}" in objects and (name != run.workflow or run.over)

    def _certain(self, world: World, slot: int, op: Op) -> bool:
        """Does it not matter any more when this call is made: to its answer, to what follows, to others?"""
        name, subject = op[:2]
        objects = self.objects(world)
        run = view_of(objects)
        if name in ("status", "delete", "terminate", "submit"):
            subject = subject.name if name == "submit" else subject
            if name == "status" and subject == run.workflow and not world.faults:
                return self._at_rest(world)
            if not self._left(world, subject) or self._named(world, subject):
                return False
            refused = name == "submit" and self.scenario.claims and place_of(op[1]).claim in objects
            return name != "submit" or refused
        if subject == SPACE.state:
            if name == "put":
                return op[-1] != etag_of(objects[subject])  # too late for ever: versions only rise
            answers = self.code.nodes[world.processes[slot]].answers
            return self._doubts(world, slot) and objects[subject].author != slot and answers[-1] == CONFLICT
        if subject.startswith(SPACE.events):
            # What is read there matters only where a state was damaged or put back.
            return name != "put" or subject in objects or not world.faults
        if "/claim/" in subject:
            return subject in objects
        if subject.startswith((run.place.root, run.place.labels)) and not run.over:
            return self._at_rest(world)
        moving = (flow.place for flow in self.flows(world) if flow.moves)
        return not any(subject.startswith((place.root, place.labels)) for place in moving)

    def _at_rest(self, world: World) -> bool:
        """Nothing works on the present stage before the next swap."""
        objects = self.objects(world)
        place = view_of(objects).place
        return place.claim in objects and not any(
            flow.moves and flow.place.root == place.root for flow in self.flows(world)
        )

    def _judge(self, number: int) -> None:
        """A step that ends in an error must have met one."""
        node = self.code.nodes[number]
        met = any(answer in (STORE_TROUBLE, ENGINE_TROUBLE) for answer in node.answers)
        fine = (CommandRefused,) if node.program != "poller" else ()
        if met:
            fine += (StoreError, EngineError)  # type: ignore[assignment]
        if node.error is not None and not isinstance(node.error, fine):
            raise Violation(f"{node.program} ends with {type(node.error).__name__}: {node.error}")

    def _leave(self, world: World, slot: int) -> World:
        """A process has ended, or died; a poller begins anew."""
        processes = list(world.processes)
        processes[slot] = IDLE if slot == PERSON else self.code.start("poller")
        return self._authors(world._replace(processes=tuple(processes)), {slot: None})

    def _person(self, world: World) -> Iterator[Move]:
        state = view_of(self.objects(world)).state
        for trigger, cost in (("pause", 1), ("cancel", 1), ("resume", 0)):
            fits = state.hold or state.at in ("failed", "cancelled") if trigger == "resume" else not state.ended
            endless = trigger == "resume" and state.attempt > 5  # where no attempt can succeed
            if fits and cost <= world.commands and not endless:
                self.doing = f"a person begins to {trigger}"
                processes = (*world.processes[:PERSON], self.code.start(trigger))
                yield cost, self.doing, world._replace(processes=processes, commands=world.commands - cost)

    # --- store and engine -----------------------------------------------------------------------------------

    def _read(self, world: World, slot: int, op: Op) -> Any:
        name, subject = op
        objects = self.objects(world)
        if name == "status":
            return PHASES[next((flow.phase for flow in self._named(world, subject)), "gone")]
        if name == "list":
            return tuple(Entry(key, len(objects[key])) for key in sorted(objects) if key.startswith(subject))
        value = objects.get(subject)
        if name == "head":
            return None if value is None else Entry(subject, 1)
        if value is None:
            return NOT_FOUND
        if subject == SPACE.state and self._doubts(world, slot) and value.author != slot:
            return Blob(OTHERS, "")
        return Blob(value.data if isinstance(value, Sealed) else value, etag_of(value))

    def _write(self, world: World, author: int | None, op: Op) -> tuple[Any, World]:
        name, *arguments = op
        if name == "put":
            return self._put(world, author, *arguments)
        if name == "submit":
            return self._submit(world, *arguments)
        for flow in self._named(world, *arguments):
            if name == "delete":
                world = self._exchange(world, flow, flow._replace(phase="gone", stray=flow.works))
            elif flow.phase == "running":
                world = self._exchange(world, flow, flow._replace(stopping=True))
        return None, world

    def _put(
        self, world: World, author: int | None, key: str, data: bytes, if_absent: bool, if_match: str | None
    ) -> tuple[Any, World]:
        objects = self.objects(world)
        there = objects.get(key)
        if (if_absent and there is not None) or (if_match is not None and (not there or etag_of(there) != if_match)):
            return CONFLICT, world
        value: Any = Sealed(data) if key.startswith(SPACE.events) else data
        if key == SPACE.state:
            value = Sealed(data, author)
            present, after = view_of(objects), unsealed(data)
            check_commit(objects, self.flows(world), present.state, after)
            if (present.state.iteration, present.state.stage) != (after.iteration, after.stage):
                product = present.place.product
                world = self._with(world, **{f"~used/{product}": objects[product]})
        return etag_of(value), self._with(world, **{key: value})

    def _named(self, world: World, name: str) -> list[Flow]:
        return [flow for flow in self.flows(world) if flow.spec.name == name and flow.phase != "gone"]

    def _submit(self, world: World, spec: Spec) -> tuple[Any, World]:
        if self._named(world, spec.name) and self.scenario.names:
            return False, world
        owner = self.objects(world).get(place_of(spec).claim)
        taken = {flow.owner for flow in self.flows(world) if flow.spec == spec} | {owner}
        uid = next(number for number in range(9) if Flow(spec, number).owner not in taken)
        world = self._with(world, **{f"~made/{spec.name}": b""})
        if self._certain(world, IDLE, ("submit", spec)):  # its guard will refuse it: that it was there is of no matter
            return True, world
        return True, world._replace(flows=self._of_flows((*self.flows(world), Flow(spec, uid))))

    def _arrives(self, world: World, late: Late) -> tuple[str, World]:
        self.doing = f"a late request arrives: {late.op[0]} {late.op[1]}"
        rest = tuple(each for each in world.late if each != late)
        return self.doing, self._write(world._replace(late=rest), late.author, late.op)[1]

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
