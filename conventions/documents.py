"""Base of all JSON documents, and the documents that jobs and stages write."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import DataError, TooNew
from .forms import DIGEST, form, form_error
from .names import STAGES, canonical_json

Stage = Literal["label", "train", "explore", "select"]
assert Stage.__args__ == STAGES  # type: ignore[attr-defined]

_ID = form(r"^[0-9]{6}$", "six digits: 000012")
_TASK = form(r"^task\.[0-9]{6}$", "a task's folder: task.000012")
_FILE = form(
    r"^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$",
    "a path of letters, digits and . _ + -: ckpt/model.1",
)

D = TypeVar("D", bound="Document")
# Only a JSON text with one of these, all digits taken as zeros, can hold an infinity or a lone surrogate: a positive
# exponent, 300 digits in a row, or an escape. Others need no second check, which takes longer than parsing.
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_TRAPS = (b"e0", b"e+", b"E", b"\\u", b"0" * 300)


class Strict(BaseModel):
    """No unknown keys, no coercion, no NaN or infinity, immutable."""

    foreign: ClassVar[dict[str, str]] = {}  # keys of other programs, and what an error says of them

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class Document(Strict):
    """A JSON document in the store.

    Examples
    --------
    >>> m = DoneMarker(job_id="000000", inputs="0" * 64, tasks=[], files=[])
    >>> DoneMarker.load(m.dump()) == m
    True
    """

    supported: ClassVar[int] = 1
    schema_version: int = Field(1, ge=1, description="Version of this document's format.")

    def dump(self) -> bytes:
        """Canonical bytes: equal documents have equal bytes."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"

    @classmethod
    def load(cls: type[D], data: bytes, where: str = "document") -> D:
        """Parse and check bytes from the store; raise `DataError` naming `where` for anything invalid."""
        return cls.from_json(parse_json(data, where), where)

    @classmethod
    def from_json(cls: type[D], value: Any, where: str = "document") -> D:
        if not isinstance(value, dict):
            raise DataError(f"{where}: a JSON object was expected, not {type(value).__name__}")
        version = value.get("schema_version")
        if type(version) is int and version > cls.supported:
            raise TooNew(
                f"{where}: written by a newer dpgen2-sm (schema_version {version}, this one reads up to "
                f"{cls.supported}); upgrade this installation"
            )
        try:
            return cls.model_validate_json(json.dumps(value))
        except (ValidationError, ValueError) as error:
            raise DataError(f"{where}: {_first_problem(error)}") from None


class TaskResult(Strict):
    """Exit code of one task of a job: 0 means a result to evaluate, anything else a task to repeat."""

    id: str = Field(pattern=_TASK)
    code: int


class OutputFile(Strict):
    name: str = Field(pattern=_FILE)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=DIGEST)


_SECONDS, _SUM = 10**11, 10**30  # more cannot be; what jobs write must not overflow later


class Used(Strict):
    """What a job used when it was last run."""

    began: int = Field(ge=0, le=_SECONDS, description="When it began by the clock of its machine, seconds since 1970.")
    wall: int = Field(ge=0, le=_SECONDS, description="Seconds from then to its end.")
    cpu: float = Field(
        ge=0, le=_SECONDS, description="Seconds of processors that the programs used which it started there."
    )
    queued: int | None = Field(
        None, ge=0, le=_SECONDS, description="Seconds that it had waited in the queue of a batch system."
    )


class DoneMarker(Document):
    """`done/{job_id}.json`: written last, names everything that must be in the job's `out/`."""

    supported: ClassVar[int] = 2
    schema_version: int = Field(2, ge=1)
    job_id: str = Field(pattern=_ID)
    inputs: str = Field(pattern=DIGEST, description="Digest of the job's `in/`.")
    tasks: list[TaskResult]
    files: list[OutputFile]
    used: Used | None = Field(None, description="Missing in markers of version 1.")

    @property
    def succeeded(self) -> bool:
        return bool(self.tasks) and all(task.code == 0 for task in self.tasks)


COSTS = ("job_hours", "cpu_hours", "gpu_hours")  # of an iteration, in its row of the table


class StageUsed(Strict):
    """What the jobs of a stage used, each when it was last run. Seconds."""

    began: int = Field(ge=0, le=_SECONDS, description="When the first of them began, since 1970.")
    wall: int = Field(ge=0, le=_SUM, description="Of all jobs together.")
    cpu: float = Field(ge=0, le=_SUM, description="Of all processors.")
    gpu: int | None = Field(
        None, ge=0, le=_SUM, description="`wall` times the GPUs of a job; missing where that is not known."
    )
    queued: float | None = Field(
        None, ge=0, le=_SECONDS, description="Mean wait of a job in the queue of a batch system."
    )

    @property
    def hours(self) -> dict[str, float]:
        """Figures for the iteration table."""
        found = zip(COSTS, (self.wall, self.cpu, self.gpu), strict=True)
        return {name: seconds / 3600 for name, seconds in found if seconds is not None}


class JobCounts(Strict):
    planned: int = Field(ge=0)
    finished: int = Field(ge=0)
    failed: int = Field(0, ge=0, description="Jobs without a good marker.")
    used: StageUsed | None = Field(None, description="Missing where no job told, as before version 2 of markers.")


class StageReport(Document):
    """`report.json`: what all_reduce concluded. `next` is the flag that decides whether the next stage has work."""

    supported: ClassVar[int] = 2
    schema_version: int = Field(2, ge=1)
    stage: Stage
    app: str
    iteration: int = Field(ge=0)
    attempt: int = Field(ge=0)
    complete: bool = Field(description="Enough succeeded and the product is written.")
    next: bool
    jobs: JobCounts
    files: dict[Literal["product", "labels"], dict[str, int]] = Field(
        default_factory=dict, description="Sizes of what the stage wrote: all of it must have arrived."
    )
    classes: dict[str, int] = Field(default_factory=dict, description="Counts of results by class.")
    summary: dict[str, float] = Field(default_factory=dict, description="Figures for the iteration table.")
    messages: list[str] = Field(default_factory=list, description="Messages for the user.")


def parse_json(data: bytes, where: str) -> Any:
    """Strict JSON: duplicate keys, NaN, huge numbers, wrong encodings and deep nesting are errors."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{where}: key {twice!r} appears twice")
        return found

    def constant(text: str) -> NoReturn:
        raise DataError(f"{where}: {text} is not a JSON number")

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
        # Refuses 1e999, which becomes infinity, and lone surrogates, which no other program could read.
        plain = data.translate(_ZEROS)
        if any(trap in plain for trap in _TRAPS):
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
        return value
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What a JSON text has that it must not have."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        if not error.doc.strip():
            return "it is empty"
        if error.doc.startswith(("//", "/*", "#"), error.pos):
            return f"line {error.lineno}: JSON has no comments; remove them"
    return str(error)


def _first_problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    pattern = first.get("ctx", {}).get("pattern")
    message = form_error(first["input"], pattern) if pattern else first["msg"]
    return f"{'.'.join(str(part) for part in first['loc']) or 'document'}: {message}"
