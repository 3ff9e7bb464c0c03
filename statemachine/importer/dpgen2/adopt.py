"""What was downloaded of a campaign of DPGEN2 becomes a run that goes on where it stopped.

The exploration scheduler is kept by Argo only. Its table is counted anew from the downloaded model deviations, and with
it the stage that explores next; where that cannot be done, a person is told.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conventions.documents import Stage
from conventions.errors import CommandRefused, ConfigError
from operators.select.score import ACCURATE, CANDIDATE, FAILED, classify, read_deviations
from statemachine.machine.outlook import shares
from statemachine.run.data import as_extxyz
from statemachine.run.earlier import Earlier

from ..adoption import Adoption, Tell, count
from ..values import data_format
from .tree import COLLECT, EXPLORE, FP, TRAIN, Tree, systems

if TYPE_CHECKING:
    from ase import Atoms

_NEAR = 0.01  # Angstrom: labels are read from outputs of 5 decimals


class Downloads(Adoption):
    """One folder of downloads, for one configuration."""

    def __init__(self, tree: Tree, config: Any, scratch: Path, tell: Tell) -> None:
        super().__init__(config, scratch, tell)
        self.tree = tree
        self.suffix = Path(self.committee[0]).suffix

    def earlier(self) -> Earlier:
        last = self.tree.iteration
        ended = [self._labelled(number) for number in range(last + 1)][-1]
        stage, iteration = self._next(ended)
        explored = self._stages()
        done = ended and explored[-1] >= self.stages
        if done and "labelled" not in self.figures(last + 1):
            raise CommandRefused(
                f"{self.tree.root}: this campaign has converged, and its last models are trained on all its labels; "
                "to go on, add stages and import it again"
            )
        newest = last if stage != "train" or iteration > last else last - 1
        if newest >= 0:
            self._models(newest)
        reason = f"taken over from DPGEN2: iteration {last}"
        state = self.state(
            stage, iteration, lambda number: min(explored[number], self.stages - 1), "converged" if done else "", reason
        )
        return Earlier(self.data, self.folders, state)

    def _next(self, ended: bool) -> tuple[Stage, int]:
        """The stage and the iteration that come next."""
        last = self.tree.iteration
        if ended:
            return "train", last + 1
        if self.tree.chosen(last) or self.tree.labelled(last):
            return "label" if self._half_labelled() else "train", last + 1
        found = len(self.tree.models(last, self.suffix))
        if found == len(self.committee):
            return "explore", last
        if self.tree.path(last, TRAIN).is_dir():
            self.tell(f"{self.tree.path(last, TRAIN)}: {self._lacking(found)}: iteration {last} is trained again")
        return "train", last

    def _labelled(self, number: int) -> bool:
        """Take the labels of an iteration; whether it had come to its end."""
        folder = self.tree.collected(number)
        if folder is None and number < self.tree.iteration:
            folder = self.tree.labelled(number)
        if folder is None and number < self.tree.iteration:
            raise ConfigError(
                f"{self.tree.path(number)}: the labels of this iteration are missing; download {COLLECT}/output/"
                f"iter_data of it or of a later one, or {FP}/output/labeled_data (in the bucket: "
                f"{self.tree.path(number).name}--run-fp-group/labeled_data)"
            )
        if folder is not None and any(systems(folder)):
            self.labels(number, self.load(folder.resolve(), data_format(folder)))
        return folder is not None

    def _models(self, number: int) -> None:
        found = self.tree.models(number, self.suffix)
        if len(found) != len(self.committee):
            folder = self.tree.path(number, TRAIN)
            self.tell(f"{folder}: {self._lacking(len(found))}: the next training begins with new ones")
            return
        curves = self.tree.artifact(number, TRAIN, "output", "lcurves")
        files = sorted(curves.rglob("lcurve.out")) if curves else []
        self.models(number, found, {"lcurve": files if len(files) == len(found) else []})

    def _lacking(self, found: int) -> str:
        text = f"{len(self.committee)} models *{self.suffix} are expected, as numb_models and the backend say; "
        text += f"there are {found}"
        if self.suffix == ".pth" and self.tree.models(self.tree.iteration, ".pt"):
            text += " (DPGEN2 keeps checkpoints: `dp --pt freeze` makes a .pth beside each)"
        return text

    def _half_labelled(self) -> int:
        """Labels of tasks that are there, and the chosen frames without one, which are counted."""
        last, folder = self.tree.iteration, self.tree.labelled(self.tree.iteration)
        taken = self.load(folder.resolve(), data_format(folder)) if folder else {}
        frames = self._frames()
        if not frames:
            self.tell(f"iteration {last}: {FP}/input/confs is not there: chosen frames without a label are left out")
        left = _without(frames, list(_atoms(taken)))
        found = len(frames) - len(left)
        if left and found != count(taken):
            self.tell(
                f"{folder}: {count(taken)} labels are there, and only {found} of them are seen to be of one of the "
                f"{len(frames)} chosen frames: none of these is labelled again"
            )
            left = []
        self.tell(f"{count(taken)} labels of iteration {last} are taken, {len(left)} frames are left to label")
        if left:
            if taken:
                self.data[self.space.dataset_init(f"fp.{last:06d}")] = taken
            self.left(last, left)
        elif taken:
            self.labels(last, taken)
        return len(left)

    def _frames(self) -> list[Atoms]:
        """The frames that the last iteration has chosen."""
        import ase.io

        folder = self.tree.chosen(self.tree.iteration)
        read: list[Atoms] = []
        for path in sorted(set(systems(folder))) if folder else []:
            text = as_extxyz(path, data_format(path), str(path), self.config.type_map).decode()
            read += ase.io.read(io.StringIO(text), ":", format="extxyz")
        for frame in read:
            frame.info = {"structure": "confs"}
        return read

    def _stages(self) -> list[int]:
        """The exploration stage of each iteration, and of the next one, as DPGEN2's rule has it."""
        rules, stage, clean, found = self.config.convergence, 0, 0, []
        unknown = []
        for number in range(self.tree.iteration + 1):
            found.append(stage)
            figures = self._explored(number)
            self.figures(number).update(figures)
            if not figures:
                unknown.append(number)
            clean = clean + 1 if shares(figures).get("accurate", 0.0) >= rules.accuracy else 0
            if clean >= rules.clean_iterations:
                stage, clean = min(stage + 1, self.stages), 0
        if unknown and self.tree.path(unknown[0], EXPLORE).is_dir() and self._adaptive:
            self.tell("the levels were adaptive: how many frames were accurate is not in the downloads")
        elif unknown and (unknown[0] < self.tree.iteration or self.tree.path(unknown[0], EXPLORE).is_dir()):
            numbers = ", ".join(map(str, unknown))
            self.tell(f"iteration {numbers}: no model deviations; {EXPLORE}/output/model_devis has them")
        if unknown and self.stages > 1 and (len(unknown) > 1 or unknown[0] < self.tree.iteration):
            self.tell(
                f"stage {min(stage, self.stages - 1)} is explored next, since iterations without figures count as not "
                "converged; `dpgen2 status` shows where the campaign was"
            )
        return [*found, stage]

    @property
    def _adaptive(self) -> bool:
        return self.config.select.adaptive is not None

    def _explored(self, number: int) -> dict[str, float]:
        """How many frames were accurate, candidates, failed, by the levels of the run."""
        files = self.tree.deviations(number)
        levels = [getattr(self.config.select, f"{kind}_trust_{end}") for kind in "fv" for end in ("lo", "hi")]
        if not files or self._adaptive or any(isinstance(level, dict) for level in levels):
            return {}
        counts = {"accurate": 0.0, "candidate": 0.0, "failed": 0.0}
        for path in files:
            try:
                rows = read_deviations(path, virial=levels[2] is not None)
            except (OSError, ValueError) as error:
                raise ConfigError(f"{path}: {error}; download it again, or remove it") from None
            _, _, classes = classify(rows, levels)
            for name, kind in (("accurate", ACCURATE), ("candidate", CANDIDATE), ("failed", FAILED)):
                counts[name] += float((classes == kind).sum())
        return counts


def _without(frames: list[Atoms], known: list[Atoms]) -> list[Atoms]:
    """Frames that none of the known ones is like; each known one stands for one frame."""
    left = list(frames)
    for atoms in known:
        place = next((place for place, frame in enumerate(left) if _same(frame, atoms)), None)
        if place is not None:
            del left[place]
    return left


def _atoms(taken: dict[str, Any]) -> Iterator[Atoms]:
    """The frames of labels."""
    from ase import Atoms

    for system in taken.values():
        symbols = [system.data["atom_names"][kind] for kind in system.data["atom_types"]]
        for cell, positions in zip(system.data["cells"], system.data["coords"], strict=True):
            yield Atoms(symbols, positions, cell=cell, pbc=not system.nopbc)


def _same(one: Atoms, other: Atoms) -> bool:
    """Are they one frame, however its cell is turned? Atoms of one element keep their order."""
    import numpy as np

    one, other = (frame[np.argsort(frame.numbers, kind="stable")] for frame in (one, other))
    if list(one.numbers) != list(other.numbers) or one.pbc.any() != other.pbc.any():
        return False
    if not one.pbc.any():
        return bool(np.allclose(one.get_all_distances(), other.get_all_distances(), rtol=0, atol=_NEAR))
    if not np.allclose(one.cell.cellpar(), other.cell.cellpar(), rtol=0, atol=_NEAR):
        return False
    shift = one.get_scaled_positions() - other.get_scaled_positions()
    return bool(np.abs((shift - np.round(shift)) @ one.cell.array).max(initial=0.0) < _NEAR)
