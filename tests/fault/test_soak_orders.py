"""A person who changes his mind at random, while pollers and workflows are killed and the state is damaged at random.

No two of these runs are alike; what must hold of every one is looked up in what it left, by other means than its own.

    make soak SECONDS=3600 SEED=7
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import time
from pathlib import Path

import pytest
import yaml

from conventions.errors import StateError
from conventions.names import STAGES
from conventions.state import State
from operators.sums import parse, sha256_of
from statemachine.run.trail import rows
from tests.fault.forkserver import ForkServer
from tests.fault.scene import Scene, check_history
from tests.fault.test_soak import SECONDS, SEED, Soak, Victim
from tests.figures import Figures

ORDERS = ("pause", "cancel", "patch", "rewind", "resume", "resume", "resume")


class Restless(Soak):
    """Adds orders and damages to what disturbs a campaign."""

    def last(self, scene: Scene, seconds: float) -> None:
        """Disturb a campaign that does not end by itself, then let it come to its end."""
        self.orders = self.damaged = self.stops = self.struck = 0
        self.rules = yaml.safe_load((scene.root / "run.yaml").read_text())
        self.rules["select"]["accurate_after"] = 4
        self.rules["max_iterations"] = 1000
        self.config = scene.root / "run.yaml"
        self.config.write_text(yaml.safe_dump(self.rules))
        scene.home = self.root
        assert self.command(scene, "init", str(self.config)).end() == 0
        daemons: list[Victim] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not (self.killed and self.orders and self.damaged):
            while len(daemons) < 2:
                daemons.append(self.command(scene, "daemon", "--stay", "--interval", "0.1", str(self.config)))
            if daemons[0].ended_in(self.dice.uniform(0.05, 0.8)) or self.dice.random() < 0.3:
                daemons[0].signal(signal.SIGKILL)
                self.killed += daemons.pop(0).end() == -9
            daemons.reverse()
            self.act(scene)
        for daemon in daemons:
            daemon.signal(signal.SIGKILL)
            daemon.end()
        self.restore(scene)
        end = self.command(scene, "resume", str(self.config))
        assert end.end() in (0, 3), end.output.read_text()

    def act(self, scene: Scene) -> None:
        act = self.dice.random()
        if act < 0.6:
            self.order(scene, self.dice.choice(ORDERS))
        elif act < 0.8:
            struck = {0: 0}
            self.strike([scene], struck)
            self.struck += struck[0]
        else:
            self.damage(scene)

    def order(self, scene: Scene, trigger: str) -> None:
        """Give an order, which may be killed in its middle, or refused."""
        words = [trigger, str(self.config)]
        with contextlib.suppress(StateError):
            state = scene.state()
            places = [(row.iteration, stage) for row in rows(scene.store, state, 6) for stage in row.stages]
            iteration, stage = self.dice.choice([*places, (state.iteration, state.stage)])
            if trigger == "rewind":
                words += ["--iter", str(iteration), "--stage", stage]
        if trigger == "patch":
            stage = self.dice.choice(STAGES)
            self.rules[stage][self.dice.choice(["tasks", "retries"])] = self.dice.randint(3, 5)
            self.config.write_text(yaml.safe_dump(self.rules))
        self.stops += trigger in ("cancel", "rewind")
        given = self.command(scene, *words)
        if not given.ended_in(self.dice.uniform(0.3, 2.0)):
            given.signal(signal.SIGKILL)
        code = given.end()
        assert code in (0, 1, 2, 3, 4, -9), given.output.read_text()
        self.orders += code == 0

    def damage(self, scene: Scene) -> None:
        """Cut `state.json` off, or put an older version in its place; then a person restores it."""
        with contextlib.suppress(StateError):
            state = scene.state()
            whole, old = scene.store.get(state.place.space.state).data, state.place.space.event(state.version - 1)
            cut = whole[: self.dice.randrange(len(whole))]
            with contextlib.suppress(Exception):
                cut = scene.store.get(old).data if self.dice.random() < 0.5 else cut
            scene.store.put(state.place.space.state, cut)
            self.damaged += 1
        self.restore(scene)

    def restore(self, scene: Scene) -> None:
        """Until it is done: who keeps or swaps a version just then makes another try necessary."""
        codes = []
        while len(codes) < 20 and (not codes or codes[-1]):
            given = self.command(scene, "doctor", str(self.config), "--restore")
            codes.append(given.end())
        assert codes[-1] == 0 and set(codes) <= {0, 2}, given.output.read_text()


def judge(scene: Scene, again: int) -> None:
    """The history is whole, a name had one specification, what counts was made by the configuration that it names."""
    contents = scene.contents()
    last = scene.state()
    check_history(contents, last)
    space = last.place.space
    states = [State.unseal(contents[space.event(version)]) for version in range(1, last.version + 1)]
    names = [name for name, _ in itertools.groupby(state.workflow for state in states)]
    assert len(names) == len(set(names)), "a run comes back to no workflow that it has left"
    configs: dict[str, str] = {}
    for state in states:
        assert configs.setdefault(state.workflow, state.config_sha256) == state.config_sha256, state.workflow
    for row in rows(scene.store, last):
        for stage in row.stages:
            place = space.stage(stage, row.iteration)
            config = next(each.config_sha256 for each in reversed(states) if each.place.root == place.root)
            tasks = json.loads(contents[space.configuration(config)])[stage]["tasks"]
            made = contents[f"{place.product}/results.txt"].decode().split("\n")
            assert made == [f"{stage}-{row.iteration}-{number}" for number in range(tasks)]
            folder = scene.world / "out" / place.product
            for name, recorded in parse((folder / "SHA256SUMS").read_bytes()).items():
                assert sha256_of(folder / name) == recorded
    executed = [len(path.read_text().split()) for path in (scene.world / "ledger").iterdir()]
    assert sum(executed) - len(executed) <= again


@pytest.mark.slow
def test_orders_kills_and_damages_at_random(forkserver: ForkServer, tmp_path: Path, figure: Figures) -> None:
    restless = Restless(tmp_path, forkserver, SEED)
    scene = Scene(tmp_path / "restless", retries=1000)
    restless.last(scene, SECONDS)
    judge(scene, 3 * (restless.struck + restless.stops))
    told = {
        "orders carried out": restless.orders,
        "states damaged and restored": restless.damaged,
        "pollers killed beside orders": restless.killed,
    }
    print(f"{told}, {restless.workflows_killed} workflows killed, version {scene.state().version}")
    for what, count in told.items():
        figure(f"soak: {what}", count, exact=False)
