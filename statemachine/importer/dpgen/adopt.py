"""A half-finished campaign of DP-GEN becomes a run that goes on where it stopped.

Labels that were collected become the dataset of the iteration that trains on them first: DP-GEN's `iter.000002/02.fp`
is what iteration 3 labels here. Of an iteration whose labelling was under way, finished tasks are read and only the
others are left to label. The newest models explore, and begin the next training where training_reuse_iter says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.config import LabelledData, RunConfig
from conventions.documents import Stage
from conventions.errors import CommandRefused, ConfigError
from conventions.space import DataSpace
from conventions.state import IterationSummary
from operators.committee import committee_of
from operators.label.frames import Labelled, judge, write_dataset
from operators.label.program import program_of
from operators.selected import FRAMES
from operators.structures import read_file
from operators.sums import write_sums
from statemachine.machine.outlook import shares
from statemachine.run.data import load_data
from statemachine.run.earlier import Earlier, FindEarlier

from .tree import TASKS, Tree

if TYPE_CHECKING:
    from ase import Atoms

# Where the output of a labelling task lies, below its folder.
_OUTPUTS = {
    "vasp": "OUTCAR", "qe": "output", "cp2k": "output", "gaussian": "output", "abacus": "OUT.ABACUS/running_scf.log"
}  # fmt: skip


def adopt(tree: Tree, tell: Callable[[str], None]) -> FindEarlier:
    """What finds in a run directory what a run begins with; `tell` is given what a person should know."""

    def find(config: RunConfig, scratch: Path) -> Earlier:
        return _Adoption(tree, config, scratch, tell).earlier()

    return find


class _Adoption:
    """One run directory, for one configuration."""

    def __init__(self, tree: Tree, config: Any, scratch: Path, tell: Callable[[str], None]) -> None:
        self.tree, self.config, self.scratch, self.tell = tree, config, scratch, tell
        self.space = DataSpace(config.apps)
        self.stages = len(config.explore.stages)
        self.figures: dict[int, dict[str, float]] = {}
        self.done: dict[int, list[Stage]] = {}

    def earlier(self) -> Earlier:
        iteration, stage = self.tree.stage
        if iteration > self.stages or (iteration == self.stages and stage == "explore"):
            raise CommandRefused(
                f"{self.tree.root}: all {self.stages} jobs of this campaign are done, and its last models are trained; "
                "to go on, add jobs to model_devi_jobs and import it again"
            )
        data = {self.space.dataset_iter(number + 1): self._labels(number) for number in range(self.tree.labelled)}
        data = {key: systems for key, systems in data.items() if systems}
        folders: dict[str, Path] = {}
        if stage == "label":
            folders, left = self._half_labelled()
            if not left:
                stage = "train"
        trained = iteration - (stage == "train" or iteration > self.tree.iteration)
        if trained >= 0:
            folders |= self._models(trained, needed=stage != "train")
        for number in range(min(iteration, self.tree.iteration + 1)):
            self._of(number).update(self.tree.figures(number))
        final = self._final(iteration) if iteration == self.stages else ""
        rows = [self._row(number, "") for number in range(iteration)]
        if iteration in self.done:
            rows.append(self._row(iteration, final))
        state = {
            "at": f"{stage}.submitting",
            "stage": stage,
            "iteration": iteration,
            "explore_stage": min(iteration, self.stages - 1),
            "final": final,
            "trail": rows,
            "pruned": iteration,  # the trajectories stay where they are: nobody can select from them again
            "reason": f"taken over from DP-GEN: iteration {self.tree.iteration}, {TASKS[self.tree.task]} was done last",
        }
        return Earlier(data, folders, state)

    def _row(self, number: int, final: str) -> IterationSummary:
        return IterationSummary(
            iteration=number,
            explore_stage=min(number, self.stages - 1),
            figures=self.figures.get(number, {}),
            stages=self.done.get(number, []),
            final=final,
        )

    def _of(self, number: int) -> dict[str, float]:
        return self.figures.setdefault(number, {})

    def _labels(self, number: int) -> dict[str, Any]:
        """The collected labels of an iteration of DP-GEN: finite, and of the run's elements."""
        if not self.tree.labels(number):
            return {}
        folder = self.tree.path(number, "02.fp")
        data = LabelledData(path=str(folder.resolve() / "data.*"))
        systems = load_data(data, folder, str(folder), self.config.type_map).systems
        self._of(number + 1)["labelled"] = float(sum(system.get_nframes() for system in systems.values()))
        self.done.setdefault(number + 1, []).append("label")
        return systems

    def _models(self, number: int, needed: bool) -> dict[str, Path]:
        """The models of an iteration as the product of its training."""
        wanted = committee_of(self.config).files
        suffix = Path(wanted[0]).suffix
        found = self.tree.models(number, suffix)
        folder = self.tree.path(number, "00.train")
        if len(found) != len(wanted) or not all(path.is_file() for path in found):
            if not needed:
                self.tell(f"{folder}: no {len(wanted)} models: the next training begins with new ones")
                return {}
            raise ConfigError(
                f"{folder}: {len(wanted)} models graph.*{suffix} are expected, as numb_models and the backend say; "
                f"there are {sum(path.is_file() for path in found)}"
            )
        product = self.scratch / "models"
        product.mkdir()
        for place, (path, name) in enumerate(zip(found, wanted, strict=True)):
            shutil.copyfile(path, product / name)
            others = {"lcurve": "lcurve.out"}
            if getattr(self.config.train, "dp_compress", False):
                others["original"] = f"frozen_model{suffix}"
            for stem, file in others.items():
                source = folder / f"{place:03d}" / file
                if source.is_file():
                    shutil.copyfile(source, product / f"{stem}.{place:03d}{Path(file).suffix}")
        write_sums(product)
        self.done.setdefault(number, []).append("train")
        return {self.space.stage("train", number).product: product}

    def _half_labelled(self) -> tuple[dict[str, Path], int]:
        """Labels of the tasks that have ended, and the frames of the others as what select has chosen."""
        taken, left = [], []
        for frame, labelled in self._tasks():
            if labelled is None:
                left.append(frame)
            else:
                taken.append(labelled)
        number, folders = self.tree.iteration, {}
        if taken:
            made = self.scratch / "taken"
            write_dataset(made, taken, self.config.type_map)
            write_sums(made)
            folders[self.space.dataset_init(f"fp.{number:06d}")] = made
            if not left:  # else the label stage counts its own
                self._of(number + 1)["labelled"] = float(len(taken))
        self.tell(f"{len(taken)} finished labelling tasks of iteration {number} are taken, {len(left)} are left")
        if left:
            import ase.io

            product = self.scratch / "selected"
            product.mkdir()
            ase.io.write(product / FRAMES, left, format="extxyz")
            write_sums(product)
            folders[self.space.stage("select", number).product] = product
            self.done.setdefault(number, []).append("select")
        return folders, len(left)

    def _tasks(self) -> Iterator[tuple[Atoms, Labelled | None]]:
        """The frame of each labelling task of the last iteration, with its label where it has a good one."""
        app = self.config.label.app
        program = program_of(self.config.label)
        for system, folder in self.tree.fp_tasks():
            try:
                (frame,) = read_file(folder / "POSCAR", "vasp")
            except ValueError as error:
                raise ConfigError(f"{folder}/POSCAR: {error}; restore it, or remove the task's folder") from None
            frame.calc, frame.info = None, {"structure": f"sys{system:03d}"}
            output = folder / _OUTPUTS.get(app, "output")
            label = None
            if program is not None and output.is_file():
                found = judge(program.label(output.read_text("utf-8", "replace"), frame), len(frame))
                label = Labelled(frame, "", folder.name, found) if found.kind == "ok" else None
            yield frame, label

    def _final(self, iteration: int) -> str:
        """How a run ends that has only its last labels to train on."""
        accurate = shares(self._of(iteration - 1)).get("accurate", 0.0)
        return "converged" if accurate >= self.config.convergence.accuracy else "exhausted"
