"""What adopting a campaign is in all dialects: labels, models and frames that are left become what a run begins with.

A run labels when an iteration begins, other programs when it ends: what their iteration 2 labelled is what iteration 3
labels here, and trains on first.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.config import LabelledData
from conventions.documents import Stage
from conventions.space import DataSpace
from conventions.state import IterationSummary
from operators.committee import committee_of
from operators.selected import FRAMES
from operators.sums import write_sums
from statemachine.run.data import load_data
from statemachine.run.earlier import Earlier

if TYPE_CHECKING:
    from ase import Atoms

Tell = Callable[[str], None]


class Adoption(ABC):
    """One campaign, for one configuration; `tell` is given what a person should know."""

    def __init__(self, config: Any, scratch: Path, tell: Tell) -> None:
        self.config, self.scratch, self.tell = config, scratch, tell
        self.space = DataSpace(config.apps)
        self.stages = len(config.explore.stages)
        self.committee = committee_of(config).files
        self.data: dict[str, dict[str, Any]] = {}
        self.folders: dict[str, Path] = {}
        self._figures: dict[int, dict[str, float]] = {}
        self._done: dict[int, list[Stage]] = {}

    @abstractmethod
    def earlier(self) -> Earlier:
        """What a run begins with."""

    def figures(self, number: int) -> dict[str, float]:
        """The row of an iteration in the table; what is put into it stays there."""
        return self._figures.setdefault(number, {})

    def done(self, number: int, stage: Stage) -> None:
        self._done.setdefault(number, []).append(stage)

    def load(self, path: Path, format: str) -> dict[str, Any]:
        """Labels as the run's dataset has them: finite, and of its elements."""
        data = LabelledData(path=str(path), format=format)
        return load_data(data, path.parent, str(path.parent), self.config.type_map).systems

    def labels(self, number: int, systems: dict[str, Any]) -> None:
        """Take the labels that an iteration of the other program collected."""
        self.data[self.space.dataset_iter(number + 1)] = systems
        self.figures(number + 1)["labelled"] = float(count(systems))
        self.done(number + 1, "label")

    def models(self, number: int, models: Sequence[Path], others: Mapping[str, Sequence[Path]]) -> None:
        """Take a committee as the product of an iteration's training; `others` are files beside it, by their stem."""
        product = self.scratch / "models"
        product.mkdir()
        for path, name in zip(models, self.committee, strict=True):
            shutil.copyfile(path, product / name)
        for stem, files in others.items():
            for place, path in enumerate(files):
                if path.is_file():
                    shutil.copyfile(path, product / f"{stem}.{place:03d}{path.suffix}")
        write_sums(product)
        self.done(number, "train")
        self.folders[self.space.stage("train", number).product] = product

    def left(self, number: int, frames: Sequence[Atoms]) -> None:
        """Frames that an iteration has chosen and not labelled become what select has chosen."""
        import ase.io

        product = self.scratch / "selected"
        product.mkdir()
        ase.io.write(product / FRAMES, frames, format="extxyz")
        write_sums(product)
        self.folders[self.space.stage("select", number).product] = product
        self.done(number, "select")

    def state(
        self, stage: Stage, iteration: int, explored: Callable[[int], int], final: str, reason: str
    ) -> dict[str, Any]:
        """What is different in the first state; `explored` gives the exploration stage of an iteration."""

        def row(number: int, end: str) -> IterationSummary:
            return IterationSummary(
                iteration=number,
                explore_stage=explored(number),
                figures=self._figures.get(number, {}),
                stages=self._done.get(number, []),
                final=end,
            )

        rows = [row(number, "") for number in range(iteration)]
        if iteration in self._done:
            rows.append(row(iteration, final))
        return {
            "at": f"{stage}.submitting",
            "stage": stage,
            "iteration": iteration,
            "explore_stage": explored(iteration),
            "final": final,
            "trail": rows,
            "pruned": iteration,  # the trajectories stay where they are: nobody can select from them again
            "reason": reason,
        }


def count(systems: Mapping[str, Any]) -> int:
    """How many frames systems have."""
    return sum(system.get_nframes() for system in systems.values())
