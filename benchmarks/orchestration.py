"""What orchestration costs: the same stub programs by dpgen2-sm, by DP-GEN and by a bare loop, measured in turn.

    python benchmarks/orchestration.py [--size small|full|huge] [--rounds 3]

CPU is user and system time of all processes, also of detached ones. In every round each case runs once; the table has
the medians. DP-GEN needs `make bench-peers`. Run it on an idle machine: nothing here knows what else runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import campaigns
from campaigns import DPGEN2, Size
from stub_programs import StubPrograms
from tree import Usage, measure

SMALL, FULL, ONE, MANY = Size(4, 100, 100), Size(4, 1000, 500), Size(1, 1, 1), Size(1, 20_000, 1)
HUGE = Size(4, 100_000, 500)
GROUPS = (10, 5)  # explore and label tasks in a job
MEMORY, REQUESTS, RATIO = 150, 3, 2.0  # at most: MB of the poller, requests of an idle step, CPU and wall of the loop's
COLD_STARTS = 5


@dataclass
class Case:
    """A line of the table.

    Attributes
    ----------
    run
        Measures it once, in a new folder.
    goal
        Seconds that it may take, by CPU and by wall.
    cold
        A start of the command line: the goal is for its CPU.
    beside
        Cases whose figures this one's are divided by, with the largest ratio that is right.
    """

    name: str
    run: Callable[[Path], Usage]
    goal: float | None = None
    cold: bool = False
    beside: list[tuple[str, Case, float | None]] = field(default_factory=list)
    found: list[Usage] = field(default_factory=list)

    @property
    def median(self) -> Usage:
        return Usage(*map(statistics.median, zip(*map(astuple, self.found), strict=True)))


def real_cases(programs: StubPrograms, size: Size, grouped: float, alone: float | None) -> list[Case]:
    """An iteration with the real apps; goals for jobs of several tasks and for one task a job."""
    floor = Case("bare loop, two at a time", partial(campaigns.loop_real, programs=programs, size=size))
    peers = []
    if version := campaigns.dpgen_version():
        peers = [Case(f"DP-GEN {version}, 10 and 5 tasks a job", real(campaigns.run_dpgen, programs, size, GROUPS))]
    beside = [("the loop's", floor, None), *(("DP-GEN's", peer, None) for peer in peers)]
    ours = [Case("dpgen2-sm, 10 and 5 tasks a job", real(campaigns.run_real, programs, size, GROUPS), grouped)]
    if alone:
        ours += [Case("dpgen2-sm, one task a job", real(campaigns.run_real, programs, size, (1, 1)), alone)]
    for case in ours:
        case.beside = beside
    return [floor, *peers, *ours]


def real(run: Callable[..., Usage], programs: StubPrograms, size: Size, groups: tuple[int, int]) -> Any:
    return partial(run, programs=programs, size=size, explore_group=groups[0], label_group=groups[1])


def stub_cases() -> list[Case]:
    """An iteration with the stub apps."""
    floor = Case("bare loop of three programs a task", partial(campaigns.loop_stubs, size=FULL))
    ours = Case(
        "dpgen2-sm, one task a job", partial(campaigns.run_stubs, size=FULL), 11, beside=[("the loop's", floor, RATIO)]
    )
    return [floor, ours]


def cold_cases(ended: Path, busy: Path) -> list[Case]:
    """Starts of the command line: of a run that has ended, and of one whose workflow runs."""
    given = (
        ("status", ["status", str(ended)], 0.22),
        ("idle step", ["step", str(busy)], 0.25),
        ("--help", ["--help"], 0.10),
    )

    def start(folder: Path, command: list[str]) -> Usage:
        found = [measure([*DPGEN2, *command], folder, campaigns.stub_apps()) for _ in range(COLD_STARTS)]
        return Usage(*map(statistics.median, zip(*map(astuple, found), strict=True)))

    return [Case(name, partial(start, command=command), goal, cold=True) for name, command, goal in given]


def take_turns(cases: list[Case], rounds: int, root: Path) -> None:
    """Run every case once in each round."""
    for number in range(rounds):
        for case in cases:
            folder = Path(tempfile.mkdtemp(dir=root))
            usage = case.run(folder)
            case.found.append(usage)
            print(f"  round {number + 1}: {case.name:45s} {usage.cpu:7.2f} {usage.wall:7.2f}", flush=True)
            # Its files stay to the end: making files just after so many were removed costs the next case more.


def show(title: str, cases: list[Case]) -> None:
    print(f"\n{title:48s}{'CPU, s':>8s}{'wall, s':>9s}{'started':>9s}  at most")
    for case in cases:
        at = case.median
        goal, missed = "", False
        if case.goal:
            goal = f"{case.goal:g} s" + (" of CPU" if case.cold else "")
            missed = at.cpu > case.goal or (not case.cold and at.wall > case.goal)
        print(f"  {case.name:46s}{at.cpu:8.2f}{at.wall:9.2f}{at.started:9.0f}  {mark(goal, missed)}".rstrip())
        for name, other, limit in case.beside:
            ratios = at.cpu / other.median.cpu, at.wall / other.median.wall
            goal = mark(f"{limit:g} x", max(ratios) > limit) if limit else ""
            print(f"    {'of ' + name:44s}{ratios[0]:8.2f}{ratios[1]:9.2f}{'':9s}  {goal}".rstrip())


def mark(goal: str, missed: bool) -> str:
    return f"{goal}  MISSED" if missed else goal


def begin_busy(folder: Path) -> Path:
    """A run whose workflow waits for the fifo `go`; its prefix."""
    folder.mkdir()
    os.mkfifo(folder / "go")
    campaigns.begin_stubs(folder, label=f"1, setup: ['read -r go <{folder}/go']", train=1, explore=1)
    campaigns.order(folder, "step", "out")
    return folder / "out"


def idle_requests(folder: Path) -> int:
    """Store requests of a step while a workflow runs."""
    from statemachine.engine import Phase, Status
    from statemachine.run.poller import Poller
    from statemachine.run.record import Record
    from statemachine.run.submission import Submission
    from statemachine.store import open_store

    store = open_store(f"file://{folder}")
    count = 0

    class Counting:
        url = store.url

        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                return getattr(store, name)(*args, **kwargs)

            return call

    class Busy:
        def status(self, name: str) -> Status:
            return Status(Phase.running)

    counting: Any = Counting()
    record = Record(counting)
    loaded = record.load()
    record.commit(loaded, loaded.state.model_copy(update={"at": "select.running", "stage": "select"}))
    count = 0
    Poller(record, Busy(), Submission(counting)).step()  # type: ignore[arg-type]
    return count


def huge(programs: StubPrograms, root: Path) -> None:
    """100,000 trajectories behind the real apps, 50 a job; and a tenth of them, to see whether it is linear."""
    tenth = Size(HUGE.train, HUGE.explore // 10, HUGE.label // 10)
    cases = [
        Case(f"{size} tasks, group_size 10 and 5", real(campaigns.run_real, programs, size, GROUPS))
        for size in (tenth, HUGE)
    ]
    cases[1].beside = [("the tenth's", cases[0], None)]
    take_turns(cases, 1, root)
    show("real apps, local engine, 2 slots", cases)
    for case in cases:
        print(f"peak memory of the poller, {case.name}: {case.median.memory:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full", "huge"), default="full")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that the medians are of (default: 3)")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="dpgen2-sm-bench-"))
    busy = None
    try:
        programs = StubPrograms(root / "programs")
        if options.size == "huge":
            huge(programs, root)
            return
        one = root / "one"
        one.mkdir()
        campaigns.run_stubs(one, ONE)
        busy = begin_busy(root / "busy")

        polled = [Case("dpgen2-sm", partial(campaigns.run_stubs, size=ONE), 2.5)]
        tables = [
            (f"real apps, {SMALL} tasks", real_cases(programs, SMALL, 5, None)),
            ("stub apps, one task a stage", list(polled)),
            ("cold starts", cold_cases(one / "out", busy)),
        ]
        if options.size == "full":
            stubs = stub_cases()
            many = Case("dpgen2-sm, 50 tasks a job", partial(campaigns.run_stubs, size=MANY, explore_group=50), 80)
            polled += [stubs[-1], many]
            tables += [
                (f"real apps, {FULL} tasks", real_cases(programs, FULL, 16, 20)),
                (f"stub apps, {FULL} tasks", stubs),
                (f"stub apps, {MANY.explore:,} explore tasks", [many]),
            ]
        take_turns([case for _, cases in tables for case in cases], options.rounds, root)
        for title, cases in tables:
            show(title, cases)
        memory, requests = max(case.median.memory for case in polled), idle_requests(one / "out")
        print(f"\npoller's peak memory          {memory:5.0f} MB  {mark(f'{MEMORY} MB', memory > MEMORY)}")
        print(f"store requests of an idle step {requests:4d}     {mark(str(REQUESTS), requests > REQUESTS)}")
        if not campaigns.dpgen_version():
            print("DP-GEN is left out: `make bench-peers` installs it")
    finally:
        if busy:
            campaigns.order(busy, "cancel", ".")
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
