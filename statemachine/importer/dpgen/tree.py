"""A run directory of DP-GEN: how far it is, and where its labels, models and frames lie. It is only read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conventions.documents import Stage
from conventions.errors import ConfigError

RECORD = "record.dpgen"
# What a line of record.dpgen says is done: the second of its two numbers.
TASKS = (
    "make_train", "run_train", "post_train", "make_model_devi", "run_model_devi", "post_model_devi", "make_fp",
    "run_fp", "post_fp",
)  # fmt: skip
_CLASSES = {"accurate": "rest_accurate", "candidate": "candidate", "failed": "rest_failed"}


@dataclass(frozen=True)
class Tree:
    """A run directory.

    Parameters
    ----------
    iteration, task
        What was done last: an iteration, and the place of a task in `TASKS`.
    """

    root: Path
    iteration: int
    task: int

    def path(self, iteration: int, *parts: str) -> Path:
        return self.root.joinpath(f"iter.{iteration:06d}", *parts)

    @property
    def labelled(self) -> int:
        """How many iterations have collected their labels."""
        return self.iteration + (self.task == len(TASKS) - 1)

    @property
    def stage(self) -> tuple[int, Stage]:
        """The iteration and the stage that come next: a run labels when an iteration begins, DP-GEN when it ends."""
        if self.task < TASKS.index("post_train"):
            return self.iteration, "train"
        if self.task < TASKS.index("make_fp"):
            return self.iteration, "explore"
        return self.iteration + 1, "label" if self.task < len(TASKS) - 1 else "train"

    def labels(self, iteration: int) -> list[Path]:
        """The folders with the labels of an iteration."""
        return sorted(path for path in self.path(iteration, "02.fp").glob("data.*") if path.is_dir())

    def fp_tasks(self) -> Iterator[tuple[int, Path]]:
        """The labelling tasks of the last iteration, with the numbers of their systems."""
        for folder in sorted(self.path(self.iteration, "02.fp").glob("task.*")):
            match = re.fullmatch(r"task\.(\d+)\.(\d+)", folder.name)
            if match:
                yield int(match[1]), folder

    def models(self, iteration: int, suffix: str) -> list[Path]:
        return sorted(self.path(iteration, "00.train").glob(f"graph.[0-9][0-9][0-9]{suffix}"))

    def figures(self, iteration: int) -> dict[str, float]:
        """How many frames were accurate, candidates, failed, by the lists of make_fp; nothing where it left none."""
        folder = self.path(iteration, "02.fp")
        found = {
            name: [path for path in folder.glob(f"{part}.shuffled.*.out") if path.is_file()]
            for name, part in _CLASSES.items()
        }
        if not any(found.values()):
            return {}
        figures = {name: float(sum(map(_lines, files))) for name, files in found.items()}
        return {**figures, "selected": float(len(list(folder.glob("task.*"))))}


def read_tree(root: Path) -> Tree:
    """What a run directory says of itself.

    Raises
    ------
    ConfigError
        When it is none, or its record is damaged.
    """
    record = root / RECORD
    try:
        lines = record.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{record}: {error.strerror}; give the folder in which DP-GEN ran, or that `dpgen2 download` has filled"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{record}: not text") from None
    if not lines:
        raise ConfigError(f"{record}: it is empty: nothing was done; import without --adopt")
    last = (0, -1)
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 or not all(word.isascii() and word.isdecimal() for word in words):
            raise ConfigError(
                f"{record}: line {number}: {line!r} is not an iteration and a task; restore the line, or remove it: "
                "what the line before says then counts as done last"
            )
        last = int(words[0]), int(words[1])
        if last[1] >= len(TASKS):
            raise ConfigError(f"{record}: line {number}: there is no task {last[1]}; tasks are 0 to {len(TASKS) - 1}")
    tree = Tree(root, *last)
    for iteration in range(tree.iteration + 1):
        if not tree.path(iteration).is_dir():
            raise ConfigError(f"{tree.path(iteration)}: this folder is missing, but {RECORD} says that it was there")
    return tree


def _lines(path: Path) -> int:
    with open(path, "rb") as stream:
        return sum(1 for line in stream if line.strip())
