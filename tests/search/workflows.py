"""What workflows do by themselves, and what befalls them."""

from __future__ import annotations

from collections.abc import Iterator

from .tables import Move, Tables, World
from .world import (
    END,
    GUARD,
    JOB,
    MARK,
    POD,
    REDUCE,
    REPORT,
    Flow,
    check_begins,
    check_input,
    check_write,
    report_of,
    view_of,
)  # fmt: skip


class Workflows(Tables):
    def _body(self, world: World, flow: Flow) -> Iterator[Move]:
        """The next step of a workflow's body."""
        about = f"{flow.spec.name}#{flow.uid}" + " (stray)" * flow.stray
        if flow.stopping:
            self.doing = f"{about} is stopped"
            yield 0, self.doing, self._exchange(world, flow, flow._replace(phase="failed", stopping=False))
        step = {GUARD: self._guard, JOB: self._job, MARK: self._mark, REDUCE: self._reduce, REPORT: self._tell}[flow.pc]
        self.doing = f"{about} {step.__name__.strip('_')}"
        world_then, then = step(world, flow)
        yield 0, self.doing, self._exchange(world_then, flow, self._pod_ended(flow, then))
        if flow.pc == REDUCE and world.faults and then.seen:
            self.doing = f"{about} loses an upload"
            lost = world._replace(faults=world.faults - 1)
            yield 1, self.doing, self._exchange(lost, flow, then)

    def _pod_ended(self, before: Flow, then: Flow) -> Flow:
        """A stray pod takes no further step of its workflow."""
        if before.stray and (then.pc == END or POD[then.pc] != POD[before.pc]):
            return then._replace(stray=False, pc=END, phase=before.phase)
        return then

    def _guard(self, world: World, flow: Flow) -> tuple[World, Flow]:
        objects, key, owner = self.objects(world), flow.place.claim, flow.owner
        if self.scenario.claims:
            if objects.get(key, owner) != owner:  # whether it is kept or deleted then is all the same
                left = flow.spec.name != view_of(objects).workflow
                return world, flow._replace(phase="gone" if left else "failed")
            world = self._with(world, **{key: owner})
        check_begins(objects, self.flows(world), flow)
        return self._with(world, **{f"~begun/{flow.spec.name}": owner}), flow._replace(pc=JOB)

    def _job(self, world: World, flow: Flow) -> tuple[World, Flow]:
        objects, out, marker = self.objects(world), flow.place.out, flow.place.marker
        check_input(objects, flow)
        finished = marker in objects and (objects.get(out) == objects[marker] or not self.scenario.checksums)
        if finished:  # plan finds its marker
            return world, flow._replace(pc=REDUCE)
        return self._with(world, **{out: flow.tag}), flow._replace(pc=MARK)

    def _mark(self, world: World, flow: Flow) -> tuple[World, Flow]:
        return self._with(world, **{flow.place.marker: flow.tag}), flow._replace(pc=REDUCE)

    def _reduce(self, world: World, flow: Flow) -> tuple[World, Flow]:
        objects, out, marker = self.objects(world), flow.place.out, flow.place.marker
        good = marker in objects and (objects[out] == objects[marker] or not self.scenario.checksums)
        if not good:
            return world, flow._replace(pc=REPORT, seen=b"")
        check_write(objects, flow.place.product, objects[out])
        return self._with(world, **{flow.place.product: objects[out]}), flow._replace(pc=REPORT, seen=objects[marker])

    def _tell(self, world: World, flow: Flow) -> tuple[World, Flow]:
        good = flow.spec.iteration >= self.scenario.accurate_after
        precise = flow.spec.iteration >= self.scenario.precise_after
        report = report_of(flow.spec, flow.seen, bool(flow.seen), good, precise, self.scenario.checks)
        phase = "succeeded" if flow.phase == "running" else flow.phase
        if flow.seen:
            world = self._with(world, **{f"~told/{flow.place.root}/{flow.seen.decode()}": b""})
        return self._with(world, **{flow.place.report: report}), flow._replace(pc=END, phase=phase, stopping=False)

    def _accident(self, world: World, flow: Flow) -> Iterator[Move]:
        """What may befall a workflow."""
        about = f"{flow.spec.name}#{flow.uid}"

        def then(what: str, *new: Flow) -> Move:
            self.doing = f"{about} {what}"
            return 1, self.doing, self._exchange(world, flow, *new)

        if flow.phase == "gone":
            return
        yield then("is deleted", flow._replace(phase="gone"))
        if flow.phase == "running" and flow.pc < END:
            yield then("fails", flow._replace(phase="failed"))
        if flow.works:
            stray = flow._replace(phase="gone", stray=True, stopping=False)
            yield then("fails, a pod goes on", flow._replace(phase="failed", stray=True))
            yield then("is deleted, a pod goes on", stray)
            yield then("runs a pod twice", flow._replace(pc=POD[flow.pc], take=flow.take + 1), stray)
