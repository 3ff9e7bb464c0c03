"""The frames that a select stage chose: where each came from, and by which deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conventions.documents import parse_json
from conventions.errors import DataError
from statemachine.store import Store

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Chosen:
    """A frame of a trajectory. Deviations in eV/Angstrom and, where virials are used, eV/atom.

    `check` frames were drawn among the accurate, the others are candidates.
    """

    structure: str
    job_id: str
    task_id: str
    step: int
    max_devi_f: float
    max_devi_v: float | None = None
    check: bool = False


def read_chosen(store: Store, product: str) -> list[Chosen]:
    """The frames in the product of a select stage, in the order of the choice.

    Raises
    ------
    NotFound
        When there is no list of them.
    DataError
        When it is damaged.
    """
    key = f"{product}/{MANIFEST}"
    found: Any = parse_json(store.get(key).data, store.at(key))
    try:
        return [
            Chosen(
                str(one["structure"]),
                str(one["job_id"]),
                str(one["task_id"]),
                int(one["step"]),
                float(one["max_devi_f"]),
                float(one["max_devi_v"]) if "max_devi_v" in one else None,
                one.get("check") is True,
            )
            for one in found["frames"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(f"{store.at(key)}: not a list of chosen frames: {error!r}"[:300]) from None
