"""The state of a run: `state.json`, advanced by compare-and-swap only."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from .documents import Document, Stage, Strict, parse_json
from .errors import DataError, StateError, TooNew
from .forms import DIGEST, form
from .names import RUN_NAME, STAGES, canonical_json, sha256, workflow_name
from .space import DataSpace, StageSpace, check_name

ENDED = ("converged", "exhausted", "failed", "cancelled")
_TRAINED = {"rmse_f", "train_rmse_f"}
_FINAL = form(r"^(converged|exhausted|)$", "converged, exhausted or nothing")
_SHA256 = form(r"^([0-9a-f]{64})?$", "64 hexadecimal digits, or nothing")
_UID = form(r"^[0-9a-f]{32}$", "32 hexadecimal digits")
_PHASE = form(
    r"^((label|train|explore|select)\.(submitting|running)|cancelling|converged|exhausted|failed|cancelled)$",
    "a phase of a run: label.running, converged",
)


class Convergence(Strict):
    """When exploration counts as converged, and whether a stage of it is repeated until it has."""

    repeat: Literal["until_converged", "once"] = Field(
        "until_converged",
        description="once: each exploration stage takes one iteration, whatever it finds, as a job of DP-GEN does.",
    )
    accuracy: float = Field(
        0.95, gt=0, le=1, description="Minimum fraction of explored frames whose model deviation is below f_trust_lo."
    )
    clean_iterations: int = Field(1, ge=1, description="How many iterations in a row must be accurate.")
    level_drift: float | None = Field(
        None,
        gt=0,
        description="Maximum relative change of the 95th percentile of max_devi_f between two iterations in a row; "
        "with select.adaptive, of the lower trust level.",
    )
    rmse_f: float | None = Field(
        None,
        gt=0,
        description="The run has converged only when the force RMSE is not above this, eV/A: on init.test; without a "
        "test set the upper end of its 95 % confidence interval on the check frames (select.check_fraction).",
    )

    @model_validator(mode="after")
    def _in_a_row(self) -> Convergence:
        if self.repeat == "once" and self.clean_iterations > 1:
            raise ValueError(
                "clean_iterations: with `repeat: once` no stage has a second iteration; take one of them out"
            )
        return self


class Policy(Strict):
    """The rules of a run that the machine needs, taken from the configuration."""

    apps: dict[str, str]
    max_iterations: int = Field(ge=1)
    explore_stages: int = Field(ge=1)
    retries: dict[str, int]
    convergence: Convergence = Convergence()

    @model_validator(mode="after")
    def _all_stages(self) -> Policy:
        if not set(self.apps) == set(self.retries) == set(STAGES):
            raise ValueError(f"apps and retries must name the stages {', '.join(STAGES)}")
        try:
            for app in self.apps.values():
                check_name(app)
        except DataError as error:  # for pydantic, which knows ValueError only
            raise ValueError(str(error)) from None
        return self


class IterationSummary(Strict):
    """A row of the iteration table."""

    iteration: int = Field(ge=0)
    explore_stage: int = Field(0, ge=0)
    figures: dict[str, float] = Field(default_factory=dict, description="What the stages reported.")
    stages: list[Stage] = Field([], description="Stages that were done here, and whose products are used.")
    left: bool = Field(False, description="A rewind dropped this iteration; a later one replaces it.")
    clean: int = Field(0, ge=0, description="Accurate iterations in a row before this one.")
    final: str = Field("", pattern=_FINAL, description="It only labels what was chosen last, and trains on it.")


class Earlier(Strict):
    """Names the object that holds the iterations before those of a trail, and says what they amount to."""

    sha256: str = Field(pattern=DIGEST)
    iterations: int = Field(ge=1, description="Rows in that object and in those before it.")
    left: int = Field(ge=0, description="How many of them a rewind dropped.")
    newest: dict[Stage, int] = Field(description="Iteration of each stage's newest product among them that counts.")
    level: float | None = Field(description="`level` of the last of them that counts.")


class Past(Document):
    """`event/trail/{sha256}.json`: rows of the iteration table, and the name of the object with those before."""

    rows: list[IterationSummary] = Field(min_length=1)
    earlier: Earlier | None = None

    @property
    def name(self) -> Earlier:
        """What a state, or a later object, keeps of it."""
        before = self.earlier
        counted = [row for row in self.rows if not row.left]
        return Earlier(
            sha256=sha256(self.dump()),
            iterations=len(self.rows) + (before.iterations if before else 0),
            left=len(self.rows) - len(counted) + (before.left if before else 0),
            newest=_newest(before, self.rows),
            level=counted[-1].figures.get("level") if counted else before.level if before else None,
        )


class Systems(Strict):
    """The training systems that the newest train stage was given."""

    iteration: int = Field(ge=0, description="Labels of later iterations are not among them.")
    sha256: str = Field(pattern=DIGEST, description="SHA-256 of the list, which is kept by content.")


class Goal(Strict):
    """Where a rewind goes back to, once the workflow has stopped."""

    iteration: int = Field(ge=0)
    stage: Stage


class State(Document):
    """The whole state of a run.

    `at` is the machine's state: `{stage}.submitting` (the workflow's name is decided, it may or may not
    exist), `{stage}.running`, `cancelling`, or one of the four ends.
    """

    supported: ClassVar[int] = 4
    schema_version: int = Field(4, ge=1)
    run: str = Field(pattern=RUN_NAME)
    run_uid: str = Field(pattern=_UID)
    version: int = Field(ge=1, lt=10**8)
    nonce: str
    previous_sha256: str
    writer: str
    updated_at: str
    at: str = Field(pattern=_PHASE)
    iteration: int = Field(ge=0, lt=10**6)
    stage: Stage
    attempt: int = Field(0, ge=0)
    stalled: int = Field(0, ge=0, description="Attempts in a row that finished no further job.")
    finished: int = Field(0, ge=0, description="Jobs of this stage known to be finished.")
    home: str = Field(
        "", max_length=1000, description="Where the current attempt is submitted; only there it is known to be dead."
    )
    explore_stage: int = Field(0, ge=0)
    clean: int = Field(0, ge=0, description="Accurate iterations in a row.")
    final: str = Field("", pattern=_FINAL, description="Set while the last labels are trained.")
    hold: bool = Field(False, description="Paused: nothing new is submitted.")
    reason: str = ""
    config_sha256: str = Field("", pattern=_SHA256, description="SHA-256 of the configuration of the current attempt.")
    next_config_sha256: str = Field(
        "", pattern=_SHA256, description="SHA-256 of the patched one, for the next iteration."
    )
    next_keeps_sha256: str = Field(
        "",
        pattern=_SHA256,
        description="SHA-256 of a configuration that plans the same jobs as the patched one: see `resume`.",
    )
    goal: Goal | None = Field(None, description="Set while a run is stopped for a rewind.")
    policy: Policy
    systems: Systems | None = Field(None, description="Unset after a rewind, until the next train stage.")
    pruned: int = Field(
        0, ge=0, description="What jobs of iterations before this one left may be deleted: see `prune`."
    )
    trail: list[IterationSummary] = Field(default_factory=list, description="The newest rows of the iteration table.")
    earlier: Earlier | None = Field(None, description="Where the rows before are, once there are many.")

    @property
    def ended(self) -> bool:
        return self.at in ENDED

    @property
    def newest(self) -> dict[Stage, int]:
        """Iteration of each stage's newest product that no rewind dropped."""
        return _newest(self.earlier, self.trail)

    @property
    def figures(self) -> dict[str, float]:
        """What the stages of this iteration have reported so far."""
        return self.trail[-1].figures if self.trail and self.trail[-1].iteration == self.iteration else {}

    @property
    def level_before(self) -> float | None:
        """`level` of the last iteration before this one that no rewind dropped."""
        for row in reversed(self.trail):
            if row.iteration < self.iteration and not row.left:
                return row.figures.get("level")
        return self.earlier.level if self.earlier else None

    @property
    def round(self) -> int:
        """Number of this iteration among those that no rewind dropped."""
        left = self.earlier.left if self.earlier else 0
        return self.iteration - left - sum(row.left for row in self.trail if row.iteration < self.iteration)

    @property
    def place(self) -> StageSpace:
        """Keys of the stage that the run is in."""
        space = DataSpace(self.policy.apps)
        return space.stage(self.stage, self.iteration, self.newest, space.configuration(self.config_sha256))

    @property
    def workflow(self) -> str:
        """Name of the workflow of the current attempt."""
        return self.workflow_of(self.attempt)

    def workflow_of(self, attempt: int) -> str:
        """Name of the workflow of an attempt of the current stage."""
        return workflow_name(self.run, self.run_uid, self.iteration, self.stage, attempt)

    @classmethod
    def from_json(cls, value: Any, where: str = DataSpace.state) -> State:
        if isinstance(value, dict) and value.get("schema_version") == 1:
            try:
                value = _from_version_1(value)
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{where}: not a state of schema_version 1: {error!r}") from None
        if isinstance(value, dict) and value.get("schema_version") in (2, 3):  # all rows in the state; no home
            value = {**value, "schema_version": 4}
        return super().from_json(value, where)

    def seal(self) -> bytes:
        """The document's bytes with a checksum of its own."""
        return _sealed(self.model_dump(mode="json"))

    @classmethod
    def unseal(cls, data: bytes, where: str = DataSpace.state) -> State:
        """Inverse of `seal`; raise `StateError` when the bytes are not exactly what was sealed."""
        try:
            body: Any = parse_json(data, where)
            if not isinstance(body, dict) or "sha256" not in body:
                raise DataError(f"{where}: not a state document of dpgen2-sm")
            checksum = body.pop("sha256")
            if checksum != sha256(canonical_json(body)):
                raise DataError(f"{where}: its checksum does not match; it was edited or damaged")
            if data != _sealed(body):
                raise DataError(f"{where}: not the bytes that were written; it was edited or damaged")
            return cls.from_json(body, where)
        except TooNew:
            raise
        except DataError as error:
            raise StateError(str(error)) from None


def _newest(earlier: Earlier | None, rows: list[IterationSummary]) -> dict[Stage, int]:
    """Iteration of each stage's newest product that counts."""
    return {**(earlier.newest if earlier else {}), **{stage: row.iteration for row in rows for stage in row.stages}}


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no rewind: the newest models had a field of their own, and no iteration was dropped."""
    here = STAGES.index(body["stage"]) + (body["at"] in ("converged", "exhausted"))

    def done(stage: str, row: dict[str, Any]) -> bool:
        if row["iteration"] == body["iteration"] and STAGES.index(stage) >= here:
            return False
        if stage == "label":
            return "labelled" in row["figures"]
        return stage != "train" or bool(row["iteration"] == body["trained"] or _TRAINED & set(row["figures"]))

    trail = [{**row, "stages": [stage for stage in STAGES if done(stage, row)]} for row in body["trail"]]
    for row in trail[-1:]:
        if row["iteration"] == body["iteration"]:
            row |= {"clean": body["clean"], "final": body["final"]}
    rest = {key: value for key, value in body.items() if key != "trained"}
    return {**rest, "schema_version": 2, "trail": trail}


def _sealed(body: dict[str, Any]) -> bytes:
    return canonical_json({**body, "sha256": sha256(canonical_json(body))}) + b"\n"
