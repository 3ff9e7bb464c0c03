"""kill -9 of real processes at every effect that they have on the outside; whoever comes next finishes the run.

The command line and each process of a workflow kill themselves before their n-th effect, for all n (on S3 also after
it: applied, but the answer never read). Then the run goes on until its world is one that an undisturbed run was in,
byte for byte: from there on the end is known. Where it cannot be (an attempt was lost), it goes on to the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from tests.fault.forkserver import ForkServer
from tests.fault.scene import Scene, Seen
from tests.figures import Figures
from tests.servers import Server

BY_STEPS = ("init", *["step"] * 5)  # one a stage, and the one that ends the run
INIT, LABEL, TRAIN, SELECT, END = 0, 1, 2, 4, 5  # numbers of the commands, by what they begin
BY_A_PERSON = ("init", "step", "pause", "cancel", "resume")
PAUSE, CANCEL, RESUME = 2, 3, 4
CHANGED = ("init", "step", "patch patched.yaml", "rewind run.yaml --iter 0 --stage label", "resume")
PATCH, REWIND = 2, 3
WORKERS, STRETCH = 2, 10
_runs = itertools.count()


class Undisturbed:
    """A run whose commands were not disturbed: the world before each, what was seen after it, and its effects."""

    def __init__(self, scene: Scene, server: ForkServer, on: str = "files", commands: Sequence[str] = BY_STEPS) -> None:
        self.scene, self.server, self.on = scene, server, on
        self.worlds: set[str] = set()  # that somebody has gone on from
        self.commands = [tuple(words.split()) if " " in words else (words, "run.yaml") for words in commands]
        self.effects: list[list[str]] = []
        self.seen: dict[tuple[str, bool], Seen] = {}
        for number in range(len(self.commands)):
            scene.save(str(number))
            code, output = self.disturbed(number, "cli", 0)
            assert code == 0, output
            self.effects.append(self.trace())
            scene.wait()
            self.end = scene.look()
            self.seen[self.end.at] = self.end
        assert set(self.end.executions.values()) == {1}, self.end.executions

    def disturbed(self, number: int, role: str, at: int) -> tuple[int, str]:
        """Run a command in which the process of that role dies at its n-th effect; 0: none, but all are told."""
        (self.scene.root / "trace").unlink(missing_ok=True)
        kill = {"KILL_ROLE": role, "KILL_AT": str(at), "KILL_TRACE": str(self.scene.root / "trace"), "KILL_ON": self.on}
        return self.run(self.commands[number], **kill)

    def run(self, command: tuple[str, ...], **env: str) -> tuple[int, str]:
        return self.server.run(*command, cwd=self.scene.root, env=self.scene.environment(**env))

    def trace(self) -> list[str]:
        return (self.scene.root / "trace").read_text().splitlines()

    def kill_command(self, number: int, at: int) -> None:
        """Kill a command before its n-th effect, then go on."""
        self.scene.restore(str(number))
        code, output = self.disturbed(number, "cli", at)
        what = f"`{' '.join(self.commands[number])}` (number {number}) died at effect {at}: {self.trace()}"
        assert code == -9, f"{what}: exit code {code}: {output}"
        self.scene.wait()
        if self.is_new():
            seen = self.go_on(number, what)
            assert set(seen.executions.values()) <= {1}, f"{what}: {seen.executions}"

    def kill_workflow(self, number: int, role: str, at: int) -> None:
        """Kill a process of the workflow that a command starts, then go on."""
        self.scene.restore(str(number))
        code, output = self.disturbed(number, role, at)
        assert code == 0, output
        self.scene.wait()
        what = f"{role} of command {number} died at effect {at}: {self.trace()}"
        if not self.is_new():
            return
        seen = self.go_on(number, what)
        twice = [task for task, times in seen.executions.items() if times != 1]
        # It died after a task had ended and before that was recorded: the one case in which a task is repeated.
        assert not twice or (role == "interpreter" and len(twice) == 1 and seen.executions[twice[0]] == 2), (
            what,
            twice,
        )

    def is_new(self) -> bool:
        """Has nobody gone on from this world yet?"""
        world = self.scene.fingerprint()
        new = world not in self.worlds
        self.worlds.add(world)
        return new

    def go_on(self, number: int, what: str) -> Seen:
        """Repeat the command, and go on until the rest is known."""
        command = self.commands[number]
        code, output = self.run(command)
        done_already = code == 2 and f"cannot {command[0]}: " in output
        assert (code == 0 or done_already) and "Traceback" not in output, f"{what}: {output}"
        self.scene.wait()
        seen = self.scene.look()
        if seen != self.seen.get(seen.at):
            code, output = self.run(("resume", "run.yaml"))
            assert code == 0 and "Traceback" not in output, f"{what}: {output}"
            seen = self.scene.look()
            assert seen.settled() == self.end.settled(), what
        return seen


@pytest.fixture(scope="module")
def servers() -> Iterator[list[ForkServer]]:
    found = [ForkServer() for _ in range(WORKERS)]
    yield found
    for server in found:
        server.close()


@pytest.fixture
def on_files(tmp_path: Path, servers: list[ForkServer]) -> list[Undisturbed]:
    """The same run on this machine, once for each worker."""
    scenes = [Scene(tmp_path / str(number)) for number in range(WORKERS)]
    return together(lambda scene, server: Undisturbed(scene, server), scenes, servers)


@pytest.fixture
def on_s3(tmp_path: Path, servers: list[ForkServer], s3: Server) -> list[Undisturbed]:
    scenes = [Scene(tmp_path / str(number), s3.prefix(f"every/{next(_runs)}")) for number in range(WORKERS)]
    return together(lambda scene, server: Undisturbed(scene, server, on="requests"), scenes, servers)


def together(work: Callable[..., Any], *arguments: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, *arguments))


def share(runs: list[Undisturbed], points: list[tuple[Any, ...]], kill: Callable[..., None]) -> int:
    """Every point once, in stretches, by whichever run is free; how many they are."""
    stretches = (points[first : first + STRETCH] for first in range(0, len(points), STRETCH))
    lock = Lock()

    def work(run: Undisturbed) -> None:
        while True:
            with lock:
                stretch = next(stretches, [])
            if not stretch:
                return
            try:
                for point in stretch:
                    kill(run, *point)
            except BaseException:
                stretches.close()  # the others need not go on
                raise

    together(work, runs)
    return len(points)


def points_of(run: Undisturbed, *numbers: int) -> list[tuple[int, int]]:
    return [(number, at) for number in numbers for at in range(1, len(run.effects[number]) + 1)]


def workflow_points(run: Undisturbed, number: int, every: int = 1) -> list[tuple[int, str, int]]:
    """Effects of the processes of the workflow that a command starts; with `every`, a sample that takes less time."""
    found = []
    for role in ("interpreter", "guard", "plan", "reduce"):
        run.scene.restore(str(number))
        code, output = run.disturbed(number, role, 0)
        assert code == 0, output
        run.scene.wait()
        found += [(number, role, at) for at in range(1, len(run.trace()) + 1)]
    return found[::every]


def test_a_step_killed_where_it_reserves_a_name(tmp_path: Path, forkserver: ForkServer) -> None:
    """The short one: the others take minutes."""
    run = Undisturbed(Scene(tmp_path), forkserver, commands=BY_STEPS[: LABEL + 1])
    (reserves,) = (at for at, effect in enumerate(run.effects[LABEL], 1) if effect.startswith("rename workflow/"))
    run.kill_command(LABEL, reserves)


@pytest.mark.slow
def test_commands_killed_at_every_effect_on_files(on_files: list[Undisturbed], figure: Figures) -> None:
    """What begins explore and select does no other things than what begins train."""
    count = share(on_files, points_of(on_files[0], INIT, LABEL, TRAIN, END), Undisturbed.kill_command)
    figure("real processes: kill points of commands on file://", count, exact=False)


@pytest.mark.slow
def test_what_a_person_says_killed_at_every_other_effect(
    tmp_path: Path, forkserver: ForkServer, figure: Figures
) -> None:
    """`resume` as far as it differs from a step: until it has submitted anew."""
    run = Undisturbed(Scene(tmp_path), forkserver, commands=BY_A_PERSON)
    submits = next(at for at, effect in enumerate(run.effects[RESUME]) if effect.startswith("rename workflow/"))
    counts = {PAUSE: len(run.effects[PAUSE]), CANCEL: len(run.effects[CANCEL]), RESUME: submits}
    points = [(number, at) for number, count in counts.items() for at in range(1, count + 1)]
    points = points[::2]
    for number, at in points:
        run.kill_command(number, at)
    figure("real processes: kill points of pause, cancel, resume on file://", len(points), exact=False)


@pytest.mark.slow
def test_patch_and_rewind_killed_at_every_effect(tmp_path: Path, forkserver: ForkServer, figure: Figures) -> None:
    """The rewind has a workflow to cancel first."""
    scene = Scene(tmp_path)
    patched = (tmp_path / "run.yaml").read_text().replace("retries: 2", "retries: 3")
    (tmp_path / "patched.yaml").write_text(patched)
    run = Undisturbed(scene, forkserver, commands=CHANGED)
    points = points_of(run, PATCH, REWIND)
    for number, at in points:
        run.kill_command(number, at)
    figure("real processes: kill points of patch and rewind on file://", len(points), exact=False)


@pytest.mark.slow
def test_a_step_that_moves_a_row_killed_at_every_effect(
    tmp_path: Path, forkserver: ForkServer, figure: Figures
) -> None:
    """The second iteration has its first row: that of the iteration before leaves the state."""
    scene = Scene(tmp_path)
    (tmp_path / "run.yaml").write_text((tmp_path / "run.yaml").read_text().replace("after: 0", "after: 1"))
    run = Undisturbed(scene, forkserver, commands=("init", *["step"] * 9))
    (number,) = (n for n, effects in enumerate(run.effects) if any("trail/" in effect for effect in effects))
    points = points_of(run, number)
    for number, at in points:
        run.kill_command(number, at)
    figure("real processes: kill points of a step that moves a row on file://", len(points), exact=False)


@pytest.mark.slow
def test_workflows_killed_at_effects_on_files(on_files: list[Undisturbed], figure: Figures) -> None:
    points = [*workflow_points(on_files[0], LABEL, every=30), *workflow_points(on_files[0], SELECT, every=5)]
    count = share(on_files, points, Undisturbed.kill_workflow)
    figure("real processes: kill points of workflows on file://", count, exact=False)


@pytest.mark.slow
def test_commands_killed_at_every_request_to_s3(on_s3: list[Undisturbed], figure: Figures) -> None:
    """What begins another stage makes no other requests than what begins train."""
    count = share(on_s3, points_of(on_s3[0], INIT, TRAIN, END), Undisturbed.kill_command)
    figure("real processes: kill points of commands on S3", count, exact=False)


@pytest.mark.slow
def test_workflows_killed_at_requests_to_s3(on_s3: list[Undisturbed], figure: Figures) -> None:
    count = share(on_s3, workflow_points(on_s3[0], SELECT, every=20), Undisturbed.kill_workflow)
    figure("real processes: kill points of workflows on S3", count, exact=False)
