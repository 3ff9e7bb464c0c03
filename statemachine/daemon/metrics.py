"""What the daemon tells Prometheus: how it does, where its runs stand, how good their models are, what they cost.

All of it is known already: no figure costs a request to a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from conventions.state import State
from statemachine.machine.outlook import shares

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .run import Run


def newest(state: State, name: str) -> float | None:
    """A figure of the newest iteration that has it and that no rewind dropped."""
    return next((row.figures[name] for row in reversed(state.trail) if not row.left and name in row.figures), None)


def share(state: State, name: str) -> float | None:
    """The fraction of a class among the frames that were explored last."""
    found = (shares(row.figures) for row in reversed(state.trail) if not row.left)
    return next((each[name] for each in found if each), None)


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
    ("dpgen2_labelled", "Labels of all iterations.", lambda run: run.totals.get("labelled")),
    ("dpgen2_job_hours", "Hours of the jobs of all iterations.", lambda run: run.totals.get("job_hours")),
    ("dpgen2_cpu_hours", "Hours of processors that they used.", lambda run: run.totals.get("cpu_hours")),
    ("dpgen2_gpu_hours", "Hours of GPUs that they had.", lambda run: run.totals.get("gpu_hours")),
    ("dpgen2_needs_person", "1 for a run that does not go on by itself.", lambda run: float(run.needs_person)),
]
FIGURES: list[tuple[str, str, Callable[[State], float | None]]] = [
    ("dpgen2_accurate_fraction", "Accurate ones of the frames explored last.", lambda state: share(state, "accurate")),
    ("dpgen2_candidate_fraction", "Candidates of those frames.", lambda state: share(state, "candidate")),
    ("dpgen2_failed_fraction", "Failed ones of those frames.", lambda state: share(state, "failed")),
    ("dpgen2_rmse_f", "Force RMSE on the test set, eV/Angstrom.", lambda state: newest(state, "rmse_f")),
    ("dpgen2_rmse_e", "Energy RMSE on the test set, eV/atom.", lambda state: newest(state, "rmse_e")),
    (
        "dpgen2_train_rmse_f",
        "Force RMSE on the training set, eV/Angstrom.",
        lambda state: newest(state, "train_rmse_f"),
    ),
    ("dpgen2_train_rmse_e", "Energy RMSE on the training set, eV/atom.", lambda state: newest(state, "train_rmse_e")),
    (
        "dpgen2_blind_rmse_f",
        "Force RMSE on new labels before they were trained on, eV/Angstrom.",
        lambda state: newest(state, "blind_rmse_f"),
    ),
    ("dpgen2_labelled_last", "Labels of the newest labelled iteration.", lambda state: newest(state, "labelled")),
]
RESULTS = [("dpgen2_hints", "Hints received at /hook."), ("dpgen2_notifications", "Notifications to people.")]


class Figures:
    """The metrics, collected when Prometheus asks. A few series per run.

    Parameters
    ----------
    runs, results
        Give the daemon's runs, and how many hints and notifications had which result.
    """

    def __init__(
        self, runs: Callable[[], Sequence[Run]], results: Callable[[], Mapping[str, Mapping[str, int]]]
    ) -> None:
        self.runs, self.results = runs, results

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        runs = self.runs()
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
        for name, text, of_state in FIGURES:
            gauge = GaugeMetricFamily(name, text, labels=["run"])
            for run in runs:
                if run.state is not None and (known := of_state(run.state)) is not None:
                    gauge.add_metric([run.prefix], known)
            yield gauge
        info = GaugeMetricFamily("dpgen2_run_info", "1 for the current state of a run.", labels=["run", "name", "at"])
        for run in runs:
            if (state := run.state) is not None:
                info.add_metric([run.prefix, state.run, state.at + (" (paused)" if state.hold else "")], 1)
        yield info
        counts = self.results()
        for name, text in RESULTS:
            counter = CounterMetricFamily(name, text, labels=["result"])
            for result, number in counts[name].items():
                counter.add_metric([result], number)
            yield counter
