"""Identifiers: fixed-width ids, workflow names, derived seeds and content hashes.

Everything here is a pure function of its arguments, so that an action repeated after a crash
finds the object that the first try made.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from .errors import DataError
from .forms import form

ID_WIDTH = 6
MAX_ID = 10**ID_WIDTH - 1
_ID = re.compile(rf"[0-9]{{{ID_WIDTH}}}")
RUN_NAME = form(
    r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$",
    "1-20 lower-case letters, digits and '-', beginning with a letter, not ending with '-': water-300k",
)
STAGES = ("label", "train", "explore", "select")
GPU_STAGES = ("train", "explore")  # whose jobs the local engine gives a GPU each
SPEC_HASH = "dpgen2-sm/spec-sha256"  # annotation of a workflow: tells one specification from another


def format_id(number: int) -> str:
    """Fixed-width id, so that lexical order is numeric order and no key is a prefix of a sibling.

    >>> format_id(7)
    '000007'
    """
    if not 0 <= number <= MAX_ID:
        raise DataError(f"id {number} is outside 0..{MAX_ID}")
    return f"{number:0{ID_WIDTH}d}"


def parse_id(text: str) -> int:
    """Inverse of `format_id`; anything but six ASCII digits is refused.

    >>> parse_id('000007')
    7
    """
    if not _ID.fullmatch(text) or not text.isascii():
        raise DataError(f"{text!r} is not an id of {ID_WIDTH} digits")
    return int(text)


def full_name(run: str, run_uid: str) -> str:
    """A run's name with the part of its uid that tells it from another run of that name.

    >>> full_name('cu', '0f3a99c1d2e4')
    'cu-0f3a99c1'
    """
    return f"{run}-{run_uid[:8]}"


def workflow_name(run: str, run_uid: str, iteration: int, stage: str, attempt: int) -> str:
    """The one name of the workflow that works on an attempt of a stage (<= 63 characters, DNS-1123).

    >>> workflow_name('cu', '0f3a99c1d2e4', 0, 'label', 0)
    'cu-0f3a99c1-000000-label-a0'
    """
    return f"{full_name(run, run_uid)}-{format_id(iteration)}-{stage}-a{attempt}"


def stage_of(workflow: str) -> str:
    """The stage in the name of a workflow.

    >>> stage_of('cu-0f3a99c1-000000-label-a0')
    'label'
    """
    return workflow.rpartition("-")[0].rpartition("-")[2]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 31-bit positive seed for one purpose, derived from the run's seed.

    >>> derive_seed(1, 'train', 0, 2, 'descriptor') == derive_seed(1, 'train', 0, 2, 'descriptor')
    True
    """
    digest = sha256(canonical_json([seed, *purpose]))
    return int(digest[:8], 16) % (2**31 - 2) + 1


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.encode()


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()
