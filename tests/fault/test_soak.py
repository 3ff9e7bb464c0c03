"""Two daemons and now and then a `step`, killed or put to sleep at random, with workflows killed at random.

    make soak SECONDS=3600 SEED=7

Times are random, so no two runs are alike, and no seed brings a schedule back; it brings back the kind of it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fault.conftest import RETRIES
from tests.fault.forkserver import ForkServer
from tests.fault.scene import Scene, Seen
from tests.figures import Figures
from tests.servers import Server

SECONDS = float(os.environ.get("SOAK_SECONDS", "15"))  # for each kind of store
SEED = int(os.environ.get("SOAK_SEED", "1"))
AT_ONCE = 3  # campaigns
LEAST = 3  # kills, however slow the machine is


@dataclass
class Victim:
    """A process of the command line that may be killed; `descriptor` tells when it has ended."""

    server: ForkServer
    pid: int
    output: Path
    descriptor: int = field(init=False)

    def __post_init__(self) -> None:
        self.descriptor = os.pidfd_open(self.pid)

    def ended_in(self, seconds: float) -> bool:
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> int:
        """Its exit code; what it printed must not be a traceback."""
        code = self.server.end(self.pid)
        os.close(self.descriptor)
        text = self.output.read_text("utf-8", "replace")
        assert "Traceback" not in text, text
        return code


class Soak:
    """Disturbs a few campaigns at once until all have ended; counts what it did."""

    def __init__(self, root: Path, server: ForkServer, seed: int) -> None:
        self.root, self.server, self.dice = root, server, random.Random(seed)
        self.killed = self.slept = self.workflows_killed = self.campaigns = 0
        (root / "tmp").mkdir()

    def round(self, scenes: list[Scene], undisturbed: Seen, deadline: float) -> None:
        """Bring these to their end; when the time is up, without further ado."""
        for scene in scenes:
            scene.home = self.root  # the same daemons run them all
            begun = self.command(scenes[0], "init", str(scene.root / "run.yaml"))
            assert begun.end() == 0, begun.output.read_text()
        targets = [str(scene.root / "run.yaml") for scene in scenes]
        struck = dict.fromkeys(range(len(scenes)), 0)
        daemons = [self.daemon(scenes[0], targets) for _ in range(2)]
        while time.monotonic() < deadline or self.killed < LEAST:
            which = self.dice.randrange(2)
            daemons[which].signal(signal.SIGCONT)
            if daemons[which].ended_in(self.dice.uniform(0.1, 2.0)):
                break  # it says that all have ended
            act = self.dice.random()
            if act < 0.15:  # it sleeps, and wakes up believing what it saw then
                daemons[which].signal(signal.SIGSTOP)
                self.slept += 1
            elif act < 0.5:
                daemons[which].signal(signal.SIGKILL)
                self.killed += daemons[which].end() == -9
                daemons[which] = self.daemon(scenes[0], targets)
            elif act < 0.75:
                self.step(scenes[0], self.dice.choice(targets))
            else:
                self.strike(scenes, struck)
        for daemon in daemons:
            daemon.signal(signal.SIGCONT)
        codes = [daemon.end() for daemon in daemons]
        assert codes == [0, 0], [daemon.output.read_text() for daemon in daemons]
        for index, scene in enumerate(scenes):
            self.judge(scene, undisturbed, struck[index])

    def judge(self, scene: Scene, undisturbed: Seen, struck: int) -> None:
        seen = scene.look()
        assert seen.settled() == undisturbed.settled()
        assert seen.executions.keys() == undisturbed.executions.keys()
        again = sum(seen.executions.values()) - len(seen.executions)
        assert again <= struck, f"{again} tasks were repeated, but processes of a workflow were killed {struck} times"
        self.campaigns += 1

    def command(self, scene: Scene, *arguments: str) -> Victim:
        output = self.root / f"output-{time.monotonic_ns()}"
        output.touch()  # it may be killed before it could do that
        env = scene.environment(SUBMISSIONS=str(self.root / "submissions"))
        return Victim(self.server, self.server.start(*arguments, cwd=self.root, env=env, output=output), output)

    def daemon(self, scene: Scene, targets: list[str]) -> Victim:
        return self.command(scene, "daemon", "--interval", "0.1", *targets)

    def step(self, scene: Scene, target: str) -> None:
        """One step by cron; often it does not come to its end."""
        step = self.command(scene, "step", target)
        if not step.ended_in(self.dice.uniform(0.0, 0.6)):
            step.signal(signal.SIGKILL)
        code = step.end()
        assert code in (0, -9), step.output.read_text()
        self.killed += code == -9

    def strike(self, scenes: list[Scene], struck: dict[int, int]) -> None:
        """Kill the processes of a workflow, all or one."""
        alive = {index: found for index, scene in enumerate(scenes) if (found := list(scene.members()))}
        if alive:
            index = self.dice.choice(list(alive))
            for pid in alive[index] if self.dice.random() < 0.5 else [self.dice.choice(alive[index])]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            struck[index] += 1
            self.workflows_killed += 1

    def absorbed(self) -> int:
        """Submissions that met their own workflow."""
        return (self.root / "submissions").read_text().split().count("existed")


@pytest.fixture
def soak(tmp_path: Path, forkserver: ForkServer) -> Soak:
    return Soak(tmp_path, forkserver, SEED)


def last(soak: Soak, undisturbed: Seen, prefixes: Iterator[str], figure: Figures, where: str) -> None:
    """Round after round until the time is up."""
    print(f"SOAK_SEED={SEED} SOAK_SECONDS={SECONDS}")
    deadline = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < deadline:
        folder = soak.root / f"round-{rounds}"
        soak.round(
            [Scene(folder / str(n), next(prefixes), retries=RETRIES) for n in range(AT_ONCE)], undisturbed, deadline
        )
        rounds += 1
    assert soak.killed > 0
    print(
        f"{soak.campaigns} campaigns, {soak.killed} pollers and {soak.workflows_killed} workflows killed, "
        f"{soak.slept} pollers put to sleep, "
        f"{soak.absorbed()} duplicate submissions absorbed"
    )
    figure(f"soak: campaigns on {where}", soak.campaigns, exact=False)
    figure(f"soak: pollers killed on {where}", soak.killed, exact=False)
    figure(f"soak: pollers put to sleep on {where}", soak.slept, exact=False)
    figure(f"soak: workflows killed on {where}", soak.workflows_killed, exact=False)
    figure(f"soak: duplicate submissions absorbed on {where}", soak.absorbed(), exact=False)


@pytest.mark.slow
def test_daemons_and_workflows_killed_at_random_on_files(soak: Soak, undisturbed: Seen, figure: Figures) -> None:
    last(soak, undisturbed, itertools.repeat(""), figure, "file://")


@pytest.mark.slow
def test_daemons_and_workflows_killed_at_random_on_s3(
    soak: Soak, undisturbed: Seen, figure: Figures, s3: Server
) -> None:
    last(soak, undisturbed, (s3.prefix(f"soak/{number}") for number in itertools.count()), figure, "S3")
