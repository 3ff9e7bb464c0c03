"""The data space: every key of a run is made and parsed here, and nowhere else.

Keys are relative to the run's prefix and use `/`. See the README for the tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .errors import DataError
from .names import ID_WIDTH, STAGES, format_id, parse_id

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_EVENT_KEY = re.compile(r"event/([0-9]{8})\.json")
_JOB_KEY = re.compile(
    rf"({'|'.join(STAGES)})/({_NAME.pattern})/iter/([0-9]{{{ID_WIDTH}}})/"
    rf"(?:job/([0-9]{{{ID_WIDTH}}})/(in|out|log)/(.+)|done/([0-9]{{{ID_WIDTH}}})\.json)",
    re.DOTALL,
)


def check_name(text: str) -> str:
    """One path component that is safe on every store and file system."""
    if not _NAME.fullmatch(text) or len(text) > 128:
        raise DataError(f"{text!r} is not a plain name (letters, digits, '.', '_', '-')")
    return text


class JobFile(NamedTuple):
    """A parsed key below `{stage}/{app}/iter/{iter_id}/job/`."""

    stage: str
    app: str
    iteration: int
    job_id: str
    part: str
    path: str


class DoneKey(NamedTuple):
    """A parsed key of the flat completion index."""

    stage: str
    app: str
    iteration: int
    job_id: str


@dataclass(frozen=True)
class DataSpace:
    """All keys of one run. `apps` says which software each stage uses: it is part of the keys."""

    apps: dict[str, str]

    state = "state.json"
    probe = ".probe"
    events = "event"
    configurations = "config"
    files = "config/file"
    code = ".dflow/python"
    trail = "event/trail"
    dataset = "dataset/deepmd"

    def config(self, iteration: int) -> str:
        """Configuration of an iteration, frozen when it begins."""
        return f"config/iter/{format_id(iteration)}/config.json"

    def configuration(self, sha256: str) -> str:
        """A present or past configuration of the run, by content: what the operators read."""
        return f"config/run/{sha256}.json"

    def file(self, sha256: str, name: str) -> str:
        """A file that the user's configuration names, by content."""
        return f"{self.files}/{sha256}/{check_name(name)}"

    def event(self, version: int) -> str:
        """Copy of `state.json` at one version."""
        return f"{self.events}/{version:08d}.json"

    def past(self, sha256: str) -> str:
        """Rows of the iteration table that the state does not hold any more, by content."""
        return f"{self.trail}/{sha256}.json"

    def damaged(self, sha256: str) -> str:
        """A damaged state, or a damaged version of it: moved here by `doctor --restore`, by content."""
        return f"{self.events}/damaged/{sha256}"

    def told(self, event: str) -> str:
        """Taken, by a create-only write, by whoever sends the notification of an event."""
        return f"{self.events}/told/{check_name(event)}"

    def version(self, key: str) -> int | None:
        """The version that a key of the history is for; None for other keys."""
        found = _EVENT_KEY.fullmatch(key)
        return int(found[1]) if found else None

    def dataset_init(self, name: str) -> str:
        """Initial labelled data, imported once."""
        return f"{self.dataset}/init/{check_name(name)}"

    def dataset_iter(self, iteration: int) -> str:
        """Training data labelled in an iteration."""
        return f"{self.dataset}/iter/{format_id(iteration)}"

    def dataset_test(self, name: str) -> str:
        """Independent test data, for the RMSE; never trained on."""
        return f"{self.dataset}/test/{check_name(name)}"

    def is_imported(self, key: str) -> bool:
        """Is it below `dataset_init` or `dataset_test`, which only `init` writes?"""
        return key.startswith((f"{self.dataset}/init/", f"{self.dataset}/test/"))

    def package(self, name: str, sha256: str) -> str:
        """A shipped Python package (zip), content-addressed."""
        return f".dflow/python/pkg/{check_name(name)}/{sha256}.zip"

    def function(self, sha256: str) -> str:
        """The entry point of a shipped operator, content-addressed."""
        return f".dflow/python/fn/{sha256}.py"

    def argument(self, sha256: str) -> str:
        """A list that an operator is given, content-addressed: it may be longer than a parameter can be."""
        return f".dflow/python/arg/{sha256}.json"

    packages = ".dflow/python/pkg"

    def stage(
        self, stage: str, iteration: int, newest: Mapping[Any, int] | None = None, config: str = ""
    ) -> StageSpace:
        """The keys of one stage of one iteration."""
        if stage not in STAGES:
            raise DataError(f"{stage!r} is not a stage")
        return StageSpace(self, stage, iteration, newest or {}, config or self.config(iteration))

    def training_system(self, key: str) -> str | None:
        """The system directory (relative to `dataset`) if `key` is its `type.raw` and it is for training."""
        head, _, name = key.rpartition("/")
        for part in ("init", "iter"):
            if name == "type.raw" and head.startswith(f"{self.dataset}/{part}/"):
                return head[len(self.dataset) + 1 :]
        return None

    def sums(self, folder: str) -> str:
        """SHA256SUMS of a folder of the dataset (relative to `dataset`)."""
        return f"{self.dataset}/{folder}/SHA256SUMS"

    def parse(self, key: str) -> JobFile | DoneKey | None:
        """Parse a key of a job; `None` for keys that belong to no job, such as a user's own files."""
        found = _JOB_KEY.fullmatch(key)
        if found is None:
            return None
        stage, app, iter_id, job_id, part, path, done = found.groups()
        if done is not None:
            return DoneKey(stage, app, parse_id(iter_id), done)
        return JobFile(stage, app, parse_id(iter_id), job_id, part, path)


@dataclass(frozen=True)
class StageSpace:
    """Keys of one stage of one iteration, and of what it reads from other stages.

    `newest` is the iteration of each stage's newest product, `config` the key of the configuration; `job_id` is set
    where keys of a job are meant (it may be an Argo variable such as `{{item}}`).
    """

    space: DataSpace
    stage: str
    iteration: int
    newest: Mapping[Any, int]
    config: str
    job_id: str = ""

    @property
    def app(self) -> str:
        return self.space.apps[self.stage]

    @property
    def root(self) -> str:
        return f"{self.stage}/{self.app}/iter/{format_id(self.iteration)}"

    @property
    def jobs(self) -> str:
        return f"{self.root}/job"

    @property
    def done(self) -> str:
        return f"{self.root}/done"

    @property
    def report(self) -> str:
        return f"{self.root}/report.json"

    @property
    def product(self) -> str:
        """What all_reduce made for the next stage."""
        return f"{self.root}/product"

    @property
    def files(self) -> str:
        """Those of the user's files that jobs of this stage read, by content, for all its iterations."""
        return f"{self.stage}/{self.app}/file"

    @property
    def claims(self) -> str:
        return f"{self.root}/claim"

    def claim(self, attempt: int) -> str:
        return f"{self.claims}/{attempt}"

    def attempt_of(self, key: str) -> int | None:
        """The attempt that a key below `claims` is for; None for other keys."""
        name = key.removeprefix(f"{self.claims}/")
        return int(name) if name.isascii() and name.isdecimal() else None

    def job(self, job_id: str) -> StageSpace:
        return replace(self, job_id=job_id)

    @property
    def job_in(self) -> str:
        return f"{self.jobs}/{self.job_id}/in"

    @property
    def job_digest(self) -> str:
        """The hash of a job's inputs, which its marker repeats."""
        return f"{self.job_in}/digest"

    @property
    def job_out(self) -> str:
        return f"{self.jobs}/{self.job_id}/out"

    @property
    def job_log(self) -> str:
        return f"{self.jobs}/{self.job_id}/log"

    @property
    def job_done(self) -> str:
        return f"{self.done}/{self.job_id}.json"

    @property
    def labels(self) -> str:
        """Where this iteration's label stage puts its data."""
        return self.space.dataset_iter(self.iteration)

    def of(self, stage: str) -> StageSpace | None:
        """The keys of a stage's latest iteration; `None` when there is none yet."""
        iteration = self.newest.get(stage)
        return None if iteration is None else replace(self, stage=stage, iteration=iteration, job_id="")

    def newest_product(self, stage: str) -> str | None:
        """The latest product of a stage; `None` when there is none yet."""
        found = self.of(stage)
        return found.product if found else None
