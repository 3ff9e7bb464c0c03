"""What `dpgen2 download` and `dpgen2 watch --download` leave of a campaign, or a workflow's folder of the bucket.

    iter-000001/prep-run-train/output/models/task.0000/frozen_model.pb    of download
    iter-000001/prep-run-train/outputs/task.0000/frozen_model.pb          of download --keys, and of watch
    iter-000001--run-train-group/model/task.0000/frozen_model.pb          in the bucket

It is only read. Both programs bring only steps that have succeeded. An `iter_data` holds the labels of all iterations
so far, in a folder of each. In the bucket dflow names by iteration what the parallel tasks of a step have made; all
else, such as `iter_data` and the chosen frames, is under the names of pods, which do not tell an iteration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conventions.errors import ConfigError

_GROUP = "iter-*--run-*-group"
_ITERATION = re.compile(r"iter-(\d{6})(?:--run-(?:train|lmp|fp)-group)?")
TRAIN, EXPLORE, FP, COLLECT = "prep-run-train", "prep-run-explore", "prep-run-fp", "collect-data"
_OLDER = {TRAIN: "prep-run-dp-train", EXPLORE: "prep-run-lmp"}
# In the bucket: a step's tasks, and what one of them calls its artifact.
_TASKS = {TRAIN: "run-train", EXPLORE: "run-lmp", FP: "run-fp"}
_OF_A_TASK = {"models": "model", "lcurves": "lcurve", "model_devis": "model_devi"}


@dataclass(frozen=True)
class Tree:
    """A folder of downloads.

    Parameters
    ----------
    iteration
        The last one of which there is anything.
    """

    root: Path
    iteration: int

    def path(self, iteration: int, *parts: str) -> Path:
        return self.root.joinpath(f"iter-{iteration:06d}", *parts)

    def artifact(self, iteration: int, step: str, kind: str, name: str) -> Path | None:
        """The folder that has an artifact, `kind` is input or output; None where it was not downloaded."""
        for folder in (step, _OLDER.get(step, step)):
            for found in (
                self.path(iteration, folder, kind, name),
                self.path(iteration, folder, f"{kind}s", name),
                self.path(iteration, folder, f"{kind}s"),
            ):
                if found.is_dir():
                    return found
        if kind == "output" and step in _TASKS:
            stored = self.root / f"iter-{iteration:06d}--{_TASKS[step]}-group" / _OF_A_TASK.get(name, name)
            return stored if stored.is_dir() else None
        return None

    def collected(self, iteration: int) -> Path | None:
        """The folder with the labels that CollectData made of an iteration, as it or a later one has it."""
        for number in range(iteration, self.iteration + 1):
            for step, kind in ((COLLECT, "output"), (TRAIN, "input")):
                if number == iteration and step == TRAIN:
                    continue  # what it was trained on was labelled before
                folder = self.artifact(number, step, kind, "iter_data")
                if folder is None:
                    continue
                own = sorted(path for path in folder.rglob(f"iter-{iteration:06d}") if path.is_dir())
                if own:
                    return own[0]
                # dflow leaves out the folder of an archive that holds only one: it is the first iteration's.
                if number == iteration == 0 and step == COLLECT and any(systems(folder)):
                    return folder
        return None

    def labelled(self, iteration: int) -> Path | None:
        """The folder with the labels of the tasks of an iteration, one below another."""
        folder = self.artifact(iteration, FP, "output", "labeled_data")
        if folder is None or any(systems(folder)):
            return folder
        # In the bucket, dflow makes this folder also for an iteration that has chosen nothing to label.
        return folder if folder.match(f"{_GROUP}/*") and iteration < self.iteration else None

    def chosen(self, iteration: int) -> Path | None:
        """The folder with the frames that an iteration has chosen."""
        folder = self.artifact(iteration, FP, "input", "confs")
        return folder if folder and any(systems(folder)) else None

    def models(self, iteration: int, suffix: str) -> list[Path]:
        """The models of an iteration's tasks of training, in their order."""
        folder = self.artifact(iteration, TRAIN, "output", "models")
        found = sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file()) if folder else []
        return [path for path in found if not path.name.startswith(".")]

    def deviations(self, iteration: int) -> list[Path]:
        """The model deviations of an iteration's trajectories."""
        folder = self.artifact(iteration, EXPLORE, "output", "model_devis")
        return sorted(path for path in folder.rglob("model_devi*.out") if path.is_file()) if folder else []


def systems(folder: Path) -> Iterator[Path]:
    """Folders of DeePMD-kit's data below one."""
    return (path.parent for path in folder.rglob("type.raw"))


def is_tree(root: Path) -> bool:
    return root.is_dir() and any(_ITERATION.fullmatch(path.name) for path in root.iterdir() if path.is_dir())


def workflows(root: Path) -> list[str]:
    """Folders of workflows in a copy of a bucket."""
    return sorted({path.parent.name for path in root.glob(f"*/{_GROUP}")})


def read_tree(root: Path) -> Tree:
    """What a folder of downloads has.

    Raises
    ------
    ConfigError
        When it is none, or an iteration is missing.
    """
    found = [_ITERATION.fullmatch(path.name) for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise ConfigError(f"{root}: no iter-000000; give the folder into which `dpgen2 download` has written")
    return Tree(root, numbers[-1])
