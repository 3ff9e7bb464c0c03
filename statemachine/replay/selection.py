"""A select stage again, with another rule: the run's own operators on its own trajectories, in a folder of ours."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from conventions.documents import StageReport
from conventions.errors import DataError
from conventions.space import StageSpace
from conventions.state import IterationSummary, State
from statemachine.engine.job_runner import run_job
from statemachine.report.chosen import Chosen, parse_chosen
from statemachine.run.calibration import of_rows
from statemachine.run.trail import rows
from statemachine.store import Store

from .rules import Rule


@dataclass(frozen=True)
class Selected:
    """What a rule made of an iteration: frames by class, the chosen ones in the order of the choice."""

    iteration: int
    classes: dict[str, int]
    frames: list[Chosen]
    messages: list[str]


def replayable(store: Store, state: State) -> list[IterationSummary]:
    """The iterations that count and that selected from what they explored themselves."""
    found = [row for row in rows(store, state) if not row.left and {"explore", "select"} <= set(row.stages)]
    if not found:
        raise DataError(f"{store.url}: no iteration has selected frames yet; replay it when one has")
    return found


class Selection:
    """Select stages of a run, repeated.

    Parameters
    ----------
    systems
        All systems that are trained on now, relative to the dataset.
    scratch
        A folder for what is fetched and made.
    """

    def __init__(self, store: Store, state: State, systems: list[str], scratch: Path) -> None:
        self.store, self.state, self.systems, self.scratch = store, state, systems, scratch
        self._rows = rows(store, state)
        self._fetched: dict[str, Path | None] = {}

    def repeat(self, rule: Rule, iteration: int) -> Selected:
        """Plan, score and choose again.

        Raises
        ------
        ConfigError
            When the rule would be refused.
        DataError
            When the run has no trajectories of this iteration any more, or they do not lead to an end.
        """
        from operators.core import signature
        from operators.registry import app

        space = self.state.place.space
        place = space.stage("select", iteration, {"explore": iteration})
        used = app("select", place.app)
        if self._path(place.newest_product("explore")) is None:
            raise DataError(f"{self.store.url}: iteration {iteration} has no list of trajectories")
        root = self.scratch / rule.name / str(iteration)
        document = self.store.get(space.config(iteration)).data
        config = root / place.config
        config.parent.mkdir(parents=True)
        config.write_bytes(rule.configuration(document).dump())
        facts = {
            "iteration": iteration,
            "attempt": 0,
            "last": True,
            "finished": 0,
            "systems": _known(self.systems, iteration),
            "calibration": of_rows([row for row in self._rows if row.iteration <= iteration]),
        }

        def call(operator: Any, **more: Any) -> Any:
            parts = signature(operator)
            given = {**facts, **more}
            params = parts.params(**{field.name: given[field.name] for field in fields(parts.params)})
            paths = {name: self._place(mark.at(place), root) for name, mark in parts.artifacts.items()}
            return operator(params, parts.context(**paths))

        planned = call(used.plan)
        for job_id in planned.job_ids:
            self._run(used.job, place.job(job_id), root)
        call(used.reduce, n_jobs=planned.n_jobs)
        report = StageReport.load((root / place.report).read_bytes())
        if not report.complete:
            raise DataError(
                f"{self.store.url}: iteration {iteration}: the rule {rule.name!r} comes to no end: "
                f"{'; '.join(report.messages) or report.classes}"
            )
        manifest = root / place.product / "manifest.json"
        return Selected(iteration, report.classes, parse_chosen(manifest.read_bytes(), str(manifest)), report.messages)

    def _run(self, job: Any, place: StageSpace, root: Path) -> None:
        from operators.core import artifacts

        env = {f"JOB_{name.upper()}": str(self._place(mark.at(place), root)) for name, mark in artifacts(job).items()}
        here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        errors = io.StringIO()
        if code := run_job({**os.environ, "PATH": here, **env, "JOB_ID": place.job_id}, errors):
            log = root / place.job_log
            said = [path.read_text("utf-8", "replace").strip() for path in sorted(log.glob("*.log"))]
            raise DataError(f"scoring ended with {code}: {errors.getvalue().strip() or ' '.join(said)[-300:]}")

    def _place(self, key: str | None, root: Path) -> Path:
        """Where an artifact is: made here, or else as the run has it."""
        ours = root / (key or "nonexistent")
        return ours if ours.exists() else self._path(key) or ours

    def _path(self, key: str | None) -> Path | None:
        if key is None or not key.startswith(("explore/", self.state.place.space.dataset)):
            return None
        if key not in self._fetched:
            self._fetched[key] = self.store.fetch(key, self.scratch / "fetched")
        return self._fetched[key]


def _known(systems: list[str], iteration: int) -> list[str]:
    """The systems that there were when an iteration selected."""
    parts = [(name, name.split("/")) for name in systems]
    return [name for name, (part, folder, *_) in parts if part != "iter" or int(folder) <= iteration]
