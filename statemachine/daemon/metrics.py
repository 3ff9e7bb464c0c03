"""What the daemon tells Prometheus. A few series per run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .daemon import Daemon
    from .run import Run


class Counted(Protocol):
    """A daemon, and the hints that came for it."""

    daemon: Daemon
    hints: dict[str, int]


COUNTERS: list[tuple[str, str, Callable[[Run], float]]] = [
    ("dpgen2_steps", "Steps of the run, good and failed.", lambda run: run.steps),
    ("dpgen2_step_failures", "Steps that ended with an error.", lambda run: run.failures),
    ("dpgen2_transitions", "States that this daemon committed.", lambda run: run.transitions),
]
GAUGES: list[tuple[str, str, Callable[[Run], float | None]]] = [
    ("dpgen2_step_seconds", "Duration of the last step.", lambda run: run.seconds),
    ("dpgen2_last_good_step_timestamp_seconds", "When the last good step ended.", lambda run: run.last_good),
    ("dpgen2_iteration", "Iteration of the run.", lambda run: run.state.iteration if run.state else None),
    ("dpgen2_attempt", "Attempt of the current stage.", lambda run: run.state.attempt if run.state else None),
    ("dpgen2_jobs_finished", "Finished jobs of the current workflow.", lambda run: run.jobs[0] if run.jobs else None),
    ("dpgen2_jobs", "Jobs of the current workflow.", lambda run: run.jobs[1] if run.jobs else None),
]


class Figures:
    """The metrics, collected when Prometheus asks. A few series per run."""

    def __init__(self, server: Counted) -> None:
        self.server = server

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        runs = self.server.daemon.runs
        for name, text, figure in COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["run"])
            for run in runs:
                counter.add_metric([run.prefix], figure(run))
            yield counter
        for name, text, value in GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["run"])
            for run in runs:
                if (known := value(run)) is not None:
                    gauge.add_metric([run.prefix], known)
            yield gauge
        info = GaugeMetricFamily("dpgen2_run_info", "1 for the current state of a run.", labels=["run", "name", "at"])
        for run in runs:
            if (state := run.state) is not None:
                info.add_metric([run.prefix, state.run, state.at + (" (paused)" if state.hold else "")], 1)
        yield info
        hints = CounterMetricFamily("dpgen2_hints", "Hints received at /hook.", labels=["result"])
        for result, number in self.server.hints.items():
            hints.add_metric([result], number)
        yield hints
