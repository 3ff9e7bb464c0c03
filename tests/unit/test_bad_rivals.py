"""Two `init` at one prefix at once, or one that is interrupted and another: every schedule of their calls to the store
with two changes of turns, through the real code. One run begins, with its own configuration and data alone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import dpdata
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from conventions.config import LabelledData
from conventions.errors import CommandRefused
from conventions.names import sha256
from conventions.space import DataSpace
from conventions.state import State
from statemachine.run import begin as beginning
from statemachine.run.begin import begin
from statemachine.run.config_file import read_config
from statemachine.run.configuration import configuration
from statemachine.run.data import load_data
from statemachine.run.record import Record
from statemachine.store.base import Arrived
from tests.conftest import CONFIG, STRUCTURE
from tests.doubles import Crash, MemoryStore
from tests.figures import Figures

SPACE = DataSpace({})
FOREVER = 10**9


class Turns:
    """Lets two threads call the store in turns: so many calls of one, then so many of the other, and so on."""

    def __init__(self, schedule: list[tuple[str, int]]) -> None:
        self.schedule, self.over, self.calls = schedule, set[str](), {"a": 0, "b": 0}
        self.changed = threading.Condition()

    def take(self, who: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self._turn() == who, 60)
            self.schedule[0] = (who, self.schedule[0][1] - 1)
            self.calls[who] += 1
            self.changed.notify_all()

    def _turn(self) -> str:
        while len(self.schedule) > 1 and (self.schedule[0][1] == 0 or self.schedule[0][0] in self.over):
            self.schedule.pop(0)
        return self.schedule[0][0]

    def end(self, who: str) -> None:
        with self.changed:
            self.over.add(who)
            self.changed.notify_all()


class Shared:
    """The store as one of the two sees it. With `dies` its process ends at that call."""

    def __init__(self, objects: dict[str, bytes], who: str, turns: Turns, dies: int = FOREVER) -> None:
        self.plain, self.who, self.turns, self.dies = MemoryStore(), who, turns, dies
        self.plain.objects = objects

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.plain, name)
        if name not in ("get", "put", "list", "head", "delete"):
            return found

        def call(*arguments: Any, **more: Any) -> Any:
            self.turns.take(self.who)
            if self.turns.calls[self.who] == self.dies:
                raise Crash
            return found(*arguments, **more)

        return call

    def publish(self, path: Path, key: str, arrived: Arrived = lambda size: None) -> None:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                self.put(f"{key}/{file.relative_to(path)}", file.read_bytes())


class Rivals:
    """The configurations of the two, read once."""

    def __init__(self, folder: Path, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "cu.xyz").write_text(STRUCTURE)
        for name, seed in (("one", 0), ("two", 1)):
            atoms = bulk("Cu")
            atoms.calc = EMT()
            atoms.rattle(0.01, seed=seed)
            atoms.get_forces()
            dpdata.LabeledSystem(atoms, fmt="ase/structure").to("deepmd/npy", str(folder / name))
        self.folder, self.stores, self.loaded = folder, dict[str, Shared](), dict[str, Any]()
        documents = {"a": CONFIG + "_: 0\n", "b": CONFIG + other}
        self.configs = {}
        for who, text in documents.items():
            imported = "two" if "two" in text else "one"
            data = f"init: {{label: [start], data: {{{imported}: {{path: {imported}}}}}}}"
            text = text.replace("init: {label: [start]}", data)
            (folder / f"{who}.yaml").write_text(text)
            self.configs[who] = read_config(folder / f"{who}.yaml")
        monkeypatch.setattr(beginning, "prove", lambda store: None)
        monkeypatch.setattr(beginning, "load_data", self.load)
        monkeypatch.setattr(beginning, "check_files", lambda *_: None)
        monkeypatch.setattr(beginning, "open_store", lambda url: self.stores[threading.current_thread().name])

    def load(self, data: LabelledData, *more: Any) -> Any:
        if data.path not in self.loaded:
            self.loaded[data.path] = load_data(data, *more)
        return self.loaded[data.path]

    def run(self, schedule: list[tuple[str, int]], objects: dict[str, bytes], dies: int = FOREVER) -> dict[str, object]:
        """What came of the two: a state, or the exception."""
        turns, ends = Turns(schedule), dict[str, object]()

        def go(who: str) -> None:
            try:
                ends[who] = begin(self.configs[who], self.folder)
            except (Exception, Crash) as error:
                ends[who] = error
            finally:
                turns.end(who)

        threads = []
        for who in dict(schedule):
            self.stores[who] = Shared(objects, who, turns, dies if who == "a" else FOREVER)
            threads.append(threading.Thread(target=go, args=[who], name=who))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.calls = turns.calls
        return ends


def check_run(objects: dict[str, bytes]) -> State:
    """The run that is there can go on, and its data are those of its configuration."""
    store = MemoryStore()
    store.objects = objects
    state = Record(store).load().state
    document = configuration(store, state)
    assert sha256(document) == state.config_sha256
    name = b'"two"' if b'"two":{' in document else b'"one"'
    systems = {key.split("/")[3] for key in objects if SPACE.is_imported(key)}
    assert systems == {name.strip(b'"').decode()}
    return state


OTHER = {"the same": "_: 1\n", "another seed": "seed: 9\n", "other data": "seed: 9\n_note: two\n"}


def check_schedules(rivals: Rivals, begin_both: bool, every: int) -> int:
    """One makes so many calls, the other so many, then each goes to its end; return the number of schedules."""
    assert isinstance(rivals.run([("a", FOREVER)], {})["a"], State)
    calls, schedules = rivals.calls["a"], 0
    for first in range(calls):
        for second in range(1 + first % every, calls + 1, every):
            objects: dict[str, bytes] = {}
            ends = rivals.run([("a", first), ("b", second), ("a", FOREVER), ("b", FOREVER)], objects)
            state = check_run(objects)
            begun = [who for who, end in ends.items() if end == state]
            refused = [who for who, end in ends.items() if isinstance(end, CommandRefused)]
            assert sorted(begun + refused) == ["a", "b"], (first, second, ends)
            assert len(begun) == (2 if begin_both else 1), (first, second, ends)
            schedules += 1
    return schedules


@pytest.mark.parametrize("other", ["the same", "other data"])
def test_two_at_once(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_schedules(Rivals(tmp_path, OTHER[other], monkeypatch), other == "the same", 9) > 30


@pytest.mark.slow
def test_two_at_once_in_every_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figures) -> None:
    schedules = 0
    for other in OTHER:
        (tmp_path / other).mkdir()
        schedules += check_schedules(Rivals(tmp_path / other, OTHER[other], monkeypatch), other == "the same", 1)
    figure("bad input: schedules of two init", schedules)


@pytest.mark.parametrize("other", OTHER)
def test_one_dies_and_another_comes(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = Rivals(tmp_path, OTHER[other], monkeypatch)
    rivals.run([("a", FOREVER)], {})
    for point in range(1, rivals.calls["a"] + 1):
        objects: dict[str, bytes] = {}
        assert isinstance(rivals.run([("a", FOREVER)], objects, dies=point)["a"], Crash)
        end = rivals.run([("b", FOREVER)], objects)["b"]
        if isinstance(end, CommandRefused):
            assert other != "the same"
            assert isinstance(rivals.run([("a", FOREVER)], objects)["a"], State)
        check_run(objects)


def test_a_run_that_got_on_while_another_init_was_reading_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It labelled frames meanwhile: they are no leftovers."""
    rivals = Rivals(tmp_path, OTHER["the same"], monkeypatch)
    objects: dict[str, bytes] = {}

    def slowly(*_: object) -> None:
        if threading.current_thread().name == "b":
            assert isinstance(rivals.run([("a", FOREVER)], objects)["a"], State)
            objects[f"{SPACE.dataset_iter(0)}/Cu1/type.raw"] = b"0\n"

    monkeypatch.setattr(beginning, "check_files", slowly)
    rivals.run([("b", FOREVER)], objects)
    assert objects[f"{SPACE.dataset_iter(0)}/Cu1/type.raw"] == b"0\n"
