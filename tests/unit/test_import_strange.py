"""Any value at any place of a source: refused with its place, or imported with a row for every key."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import ConfigError
from statemachine.importer.dpgen import keys
from statemachine.importer.make import make
from statemachine.importer.reading import read_source
from tests.unit.test_import_ai2kit import INPUT
from tests.unit.test_import_dpgen import MACHINE, PARAM

STRANGE: list[Any] = [None, True, -1, "x", {"a": 1}, [None]]
MORE: list[Any] = [3, 1.5, "", [], {}, [1], ["a"], [[]], 10**30, "0-3"]
VALUES = [*STRANGE, *(pytest.param(value, marks=pytest.mark.slow) for value in MORE)]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place below the top of a document."""
    if place:
        yield place
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in parts:
        yield from places(inner, (*place, name))


def put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place."""
    made = copy.deepcopy(document)
    here = made
    for part in place[:-1]:
        here = here[part]
    here[place[-1]] = value
    return made


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_no_value_makes_an_import_fall_over(tmp_path: Path, value: Any) -> None:
    """It is refused with a place, or imported; and every key has a row."""
    tables = (keys.PARAM, keys.TRAIN, keys.EXPLORE, keys.SELECT, keys.LABEL)
    documents = [(put(PARAM, place, value), MACHINE) for place in places(PARAM)]
    documents += [(PARAM, put(MACHINE, place, value)) for place in places(MACHINE)]
    documents += [({**PARAM, key.name: value}, MACHINE) for table in tables for key in table]
    documents += [(put(PARAM, ("model_devi_jobs", 0, key.name), value), MACHINE) for key in keys.JOB]
    refused = 0
    for param, machine in documents:
        (tmp_path / "param.json").write_text(json.dumps(param))
        (tmp_path / "machine.json").write_text(json.dumps(machine))
        try:
            report = make([tmp_path / "param.json", tmp_path / "machine.json"]).report
        except ConfigError as error:
            refused += 1
            assert ".json: " in str(error) or "give one param.json" in str(error)
        else:
            told = {row.source for row in report}
            assert {f"param.json: {key}" for key in param if not key.startswith("_")} <= told
    assert 0 < refused < len(documents)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_no_value_makes_an_import_of_ai2kit_fall_over(tmp_path: Path, value: Any) -> None:
    documents = [put(INPUT, place, value) for place in places(INPUT)]
    refused = 0
    for document in documents:
        (tmp_path / "cll.yml").write_text(json.dumps(document))
        try:
            report = make([tmp_path / "cll.yml"]).report
        except ConfigError as error:
            refused += 1
            assert "cll.yml: " in str(error)
        else:
            told = {row.source for row in report}
            assert {f"cll.yml: {key}" for key in document if not key.startswith((".", "_"))} <= told
    assert 0 < refused < len(documents)


def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    (tmp_path / "input.yml").write_text(laughs)
    with pytest.raises(ConfigError, match=r"input\.yml: .*aliases .* stand for more than"):
        read_source(tmp_path / "input.yml")
