"""What the store and the engine answer, and which answers it does not matter when they are given."""

from __future__ import annotations

from typing import Any

from statemachine.store import Blob, Entry

from .process import CONFLICT, NOT_FOUND, PHASES, STORE_TROUBLE, Op, Processes, Spec
from .tables import Late, Scenario, World
from .workflows import Workflows
from .world import (
    LOST,
    SPACE,
    Flow,
    Sealed,
    Violation,
    check_commit,
    etag_of,
    newest_of,
    place_of,
    unsealed,
    view,
    view_of,
)

PERSON, IDLE = 2, -1
DAMAGED = "~damaged"
OTHERS = b"written by another"


class Servers(Workflows):
    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.code = Processes()

    def _read(self, world: World, slot: int, op: Op) -> Any:
        name, subject, *home = op
        objects = self.objects(world)
        if name == "status":
            return PHASES[next((flow.phase for flow in self._named(world, subject, *home)), "gone")]
        if name == "list":
            return tuple(Entry(key, len(objects[key])) for key in sorted(objects) if key.startswith(subject))
        value = objects.get(subject)
        if name == "head":
            return None if value is None else Entry(subject, 1)
        if value is None:
            return NOT_FOUND
        if subject == SPACE.state and DAMAGED in objects:
            return Blob(b"damaged", DAMAGED)
        if subject == SPACE.state and self._doubts(world, slot) and value.author != slot:
            return Blob(OTHERS, "")
        return Blob(value.data if isinstance(value, Sealed) else value, etag_of(value))

    def _write(self, world: World, author: int | None, op: Op) -> tuple[Any, World]:
        name, *arguments = op
        if name == "put":
            return self._put(world, author, *arguments)
        if name == "submit":
            return self._submit(world, *arguments)
        if name == "remove":
            return None, self._without(world, *arguments)
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
        tag = DAMAGED if key == SPACE.state and DAMAGED in objects else etag_of(there) if there is not None else None
        if (if_absent and there is not None) or (if_match is not None and if_match != tag):
            return CONFLICT, world
        if key == SPACE.state:
            return self._swap(world, author, data)
        value: Any = data if SPACE.version(key) is None else Sealed(data)
        return etag_of(value), self._with(world, **{key: value})

    def _swap(self, world: World, author: int | None, data: bytes) -> tuple[Any, World]:
        """The next version takes the state's place; or `doctor --restore` puts back what the history has."""
        objects, value = self.objects(world), Sealed(data, author)
        put_back = DAMAGED in objects or data == newest_of(objects)
        present, after = view_of(objects), unsealed(data)
        world = self._with(self._without(world, DAMAGED), **{SPACE.state: value})
        if put_back:
            return etag_of(value), world
        before, product = present.state, present.place.product
        check_commit(objects, self.flows(world), before, after)
        moved = (before.iteration, before.stage) != (after.iteration, after.stage)
        if not (before.ended or before.goal) and (moved or after.at in ("converged", "exhausted")):
            user = objects.get(f"~by/{product}")  # the version that used it; it does not count where it was lost
            if user is not None and user == objects.get(SPACE.event(view(user.data).version)):
                raise Violation(f"{product} is used twice")
            world = self._with(world, **{f"~used/{product}": objects[product], f"~by/{product}": Sealed(data)})
        return etag_of(value), world

    def _named(self, world: World, name: str, home: str = "") -> list[Flow]:
        """The workflows of that name that there are, at one home or at all."""
        there = (flow for flow in self.flows(world) if flow.spec.name == name and flow.phase != "gone")
        return [flow for flow in there if home in ("", flow.home)]

    def _submit(self, world: World, spec: Spec, home: str) -> tuple[Any, World]:
        if self._named(world, spec.name, home) and self.scenario.names:
            return False, world
        owner = self.objects(world).get(place_of(spec).claim)
        taken = {flow.owner for flow in self.flows(world) if flow.spec == spec} | {owner}
        uid = next(number for number in range(9) if Flow(spec, number).owner not in taken)
        made = repr(spec).encode()
        if self.objects(world).get(f"~made/{spec.name}", made) != made:
            raise Violation(f"{spec.name} is submitted with another specification")
        world = self._with(world, **{f"~made/{spec.name}": made})
        if self._certain(
            world, IDLE, ("submit", spec, home)
        ):  # its guard will refuse it: that it was there is of no matter
            return True, world
        return True, world._replace(flows=self._of_flows((*self.flows(world), Flow(spec, uid, home=home))))

    def _lost(self, world: World) -> World:
        """Home one is lost for good: what works there, who polls there, what is on its way from there."""
        flows = self._of_flows(tuple(flow for flow in self.flows(world) if flow.home != "one"))
        late = tuple(each for each in world.late if each.op[-1] != "one")
        return self._leave(self._with(world._replace(flows=flows, late=late), **{LOST: b""}), 0)

    def _leave(self, world: World, slot: int) -> World:
        """A process has ended, or died; a poller begins anew."""
        processes = list(world.processes)
        over = slot == PERSON or (slot == 0 and (self.scenario.prunes or LOST in self.objects(world)))
        processes[slot] = IDLE if over else self.code.start(self.code.nodes[processes[slot]].program)
        return self._authors(world._replace(processes=tuple(processes)), {slot: None})

    def _arrives(self, world: World, late: Late) -> tuple[str, World]:
        self.doing = f"a late request arrives: {late.op[0]} {late.op[1]}"
        rest = tuple(each for each in world.late if each != late)
        return self.doing, self._write(world._replace(late=rest), late.author, late.op)[1]

    # --- what does not matter any more ----------------------------------------------------------------------

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
        if self.scenario.prunes and (name == "remove" or self.code.nodes[world.processes[slot]].program == "prune"):
            return False
        if name in ("status", "delete", "terminate", "submit"):
            subject = subject.name if name == "submit" else subject
            if name == "status" and subject == run.workflow and not world.faults:
                return self._at_rest(world)
            if not self._left(world, subject) or self._named(world, subject):
                return False
            refused = name == "submit" and self.scenario.claims and place_of(op[1]).claim in objects
            return name != "submit" or refused
        if subject == SPACE.state:
            if name == "put":  # is it too late for ever? Versions only rise, unless one is lost
                kept = SPACE.event(run.version) in objects or not self.scenario.damage
                return DAMAGED not in objects and op[-1] != etag_of(objects[subject]) and kept
            answers = self.code.nodes[world.processes[slot]].answers
            return self._doubts(world, slot) and objects[subject].author != slot and answers[-1] == CONFLICT
        if subject.startswith(SPACE.events):
            # What is read there matters only where a state was damaged or put back.
            if self.scenario.damage:
                return False
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
