"""A half-finished campaign of DP-GEN becomes a run that goes on where it stopped.

Labels that were collected become the dataset of the iteration that trains on them first: DP-GEN's `iter.000002/02.fp`
is what iteration 3 labels here. Of an iteration whose labelling was under way, finished tasks are read and only the
others are left to label. The newest models explore, and begin the next training where training_reuse_iter says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.errors import CommandRefused, ConfigError
from operators.label.frames import Labelled, judge, write_dataset
from operators.label.program import program_of
from operators.structures import read_file
from operators.sums import write_sums
from statemachine.machine.outlook import shares
from statemachine.run.earlier import Earlier

from ..adoption import Adoption, Tell
from ..reading import refuse_link
from .tree import TASKS, Tree

if TYPE_CHECKING:
    from ase import Atoms

# Where the output of a labelling task lies, below its folder.
_OUTPUTS = {
    "vasp": "OUTCAR", "qe": "output", "cp2k": "output", "gaussian": "output", "abacus": "OUT.ABACUS/running_scf.log"
}  # fmt: skip


class RunDirectory(Adoption):
    """One run directory, for one configuration."""

    def __init__(self, tree: Tree, config: Any, scratch: Path, tell: Tell) -> None:
        super().__init__(config, scratch, tell)
        self.tree = tree

    def earlier(self) -> Earlier:
        iteration, stage = self.tree.stage
        if iteration > self.stages or (iteration == self.stages and stage == "explore"):
            raise CommandRefused(
                f"{self.tree.root}: all {self.stages} jobs of this campaign are done, and its last models are trained; "
                "to go on, add jobs to model_devi_jobs and import it again"
            )
        for number in range(self.tree.labelled):
            if self.tree.labels(number):
                folder = self.tree.path(number, "02.fp").resolve()
                self.labels(number, self.load(folder / "data.*", "deepmd/npy"))
        if stage == "label" and not self._half_labelled():
            stage = "train"
        trained = iteration - (stage == "train" or iteration > self.tree.iteration)
        if trained >= 0:
            self._models(trained, needed=stage != "train")
        for number in range(min(iteration, self.tree.iteration + 1)):
            self.figures(number).update(self.tree.figures(number))
        final = self._final(iteration) if iteration == self.stages else ""
        reason = f"taken over from DP-GEN: iteration {self.tree.iteration}, {TASKS[self.tree.task]} was done last"
        state = self.state(stage, iteration, lambda number: min(number, self.stages - 1), final, reason)
        return Earlier(self.data, self.folders, state)

    def _models(self, number: int, needed: bool) -> None:
        """The models of an iteration as the product of its training."""
        suffix = Path(self.committee[0]).suffix
        found = self.tree.models(number, suffix)
        folder = self.tree.path(number, "00.train")
        if len(found) != len(self.committee) or not all(path.is_file() for path in found):
            if not needed:
                self.tell(f"{folder}: no {len(self.committee)} models: the next training begins with new ones")
                return
            raise ConfigError(
                f"{folder}: {len(self.committee)} models graph.*{suffix} are expected, as numb_models and the backend "
                f"say; there are {sum(path.is_file() for path in found)}"
            )
        for path in found:
            if path.stat().st_size < 1000:
                refuse_link(path.read_text("utf-8", "replace"), path)
        others = {"lcurve": "lcurve.out"}
        if getattr(self.config.train, "dp_compress", False):
            others["original"] = f"frozen_model{suffix}"
        beside = {
            stem: [folder / f"{place:03d}" / file for place in range(len(found))] for stem, file in others.items()
        }
        self.models(number, found, beside)

    def _half_labelled(self) -> int:
        """Labels of the tasks that have ended, and the frames of the others, which are counted."""
        taken, left = [], []
        for frame, labelled in self._tasks():
            if labelled is None:
                left.append(frame)
            else:
                taken.append(labelled)
        number = self.tree.iteration
        if taken:
            made = self.scratch / "taken"
            write_dataset(made, taken, self.config.type_map)
            write_sums(made)
            self.folders[self.space.dataset_init(f"fp.{number:06d}")] = made
            if not left:  # else the label stage counts its own
                self.figures(number + 1)["labelled"] = float(len(taken))
        self.tell(f"{len(taken)} finished labelling tasks of iteration {number} are taken, {len(left)} are left")
        if left:
            self.tell("what is still in remote_root was not seen: docs/from-dpgen.md says how to bring it")
            self.left(number, left)
        return len(left)

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
        accurate = shares(self.figures(iteration - 1)).get("accurate", 0.0)
        return "converged" if accurate >= self.config.convergence.accuracy else "exhausted"
