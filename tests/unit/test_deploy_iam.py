"""deploy/iam: each writer may write its keys and no others, by the keys that DataSpace really makes."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from conventions.names import STAGES
from conventions.space import DataSpace
from tests.conftest import Cli
from tests.stage_harness import newest

IAM = Path(__file__).parents[2] / "deploy/iam"
SPACE = DataSpace({"label": "cp2k", "train": "deepmd", "explore": "lammps", "select": "model_devi"})
SHA = "0" * 64
PLACES = [SPACE.stage(stage, 1, newest(stage, 1)).job("000002") for stage in STAGES]
CLAIMS = [place.claim(0) for place in PLACES]
STATE = [SPACE.state]
HISTORY = [SPACE.event(1), SPACE.damaged(SHA), SPACE.told("0-00000001-failed")]
CONFIG = [SPACE.config(0), SPACE.config(1), SPACE.configuration(SHA)]
CODE = [SPACE.package("operators", SHA), SPACE.function(SHA)]
PROBE = [f"{SPACE.probe}/0"]
BEGINNING = [SPACE.file(SHA, "POSCAR"), SPACE.dataset_init("a") + "/type.raw", SPACE.dataset_test("a") + "/type.raw"]
WORK = [
    *(f"{part}/file" for place in PLACES for part in (place.job_in, place.job_out, place.job_log, place.product)),
    *(key for place in PLACES for key in (place.job_done, place.report)),
    PLACES[0].labels + "/Cu1/type.raw",
]
EVERYTHING = {*STATE, *HISTORY, *CONFIG, *CODE, *PROBE, *BEGINNING, *CLAIMS, *WORK}

Statement = dict[str, Any]


def statements(policy: str) -> list[Statement]:
    document = json.loads((IAM / f"{policy}.json").read_text("utf-8"))
    assert document["Version"] == "2012-10-17"
    found: list[Statement] = document["Statement"]
    assert len({statement["Sid"] for statement in found}) == len(found)
    return found


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def covers(statement: Statement, action: str, key: str) -> bool:
    """IAM's matching: `*` also crosses `/`."""
    name = f"arn:aws:s3:::BUCKET/PREFIX/{key}"
    return any(fnmatchcase(action, each) for each in listed(statement["Action"])) and any(
        fnmatchcase(name, each) for each in listed(statement["Resource"])
    )


def may(policies: list[str], action: str) -> set[str]:
    """The keys that an identity with these policies may do `action` to."""
    found = [statement for policy in policies for statement in statements(policy)]
    assert all(statement["Effect"] == "Allow" for statement in found)
    return {key for key in EVERYTHING if any(covers(statement, action, key) for statement in found)}


def test_the_daemon_writes_state_history_code_and_claims_only() -> None:
    assert may(["daemon"], "s3:PutObject") == {*STATE, *HISTORY, *CONFIG, *CODE, *CLAIMS, *PROBE}
    assert may(["daemon"], "s3:DeleteObject") == {*PROBE}
    assert may(["daemon"], "s3:GetObject") == EVERYTHING


def test_who_begins_a_run_also_brings_files_and_data() -> None:
    own = {*STATE, *HISTORY, *CONFIG, *CODE, *CLAIMS, *PROBE}
    assert may(["daemon", "begin"], "s3:PutObject") == {*own, *BEGINNING}
    assert may(["begin"], "s3:DeleteObject") == {*BEGINNING} - {SPACE.file(SHA, "POSCAR")}


def test_jobs_write_their_stages_and_claims_only() -> None:
    assert may(["jobs"], "s3:PutObject") == {*WORK, *CLAIMS}
    assert may(["jobs"], "s3:DeleteObject") == set()
    assert may(["jobs"], "s3:GetObject") == EVERYTHING - {*STATE, *HISTORY, *PROBE}


def test_who_prunes_deletes_inputs_and_outputs_of_jobs_only() -> None:
    parts = {f"{part}/file" for place in PLACES for part in (place.job_in, place.job_out)}
    assert may(["prune"], "s3:DeleteObject") == parts and may(["prune"], "s3:PutObject") == set()
    assert not any(denied("s3:DeleteObject", key) for key in parts)


def test_a_pattern_for_several_runs_lets_the_daemon_look_for_them() -> None:
    """`--discover s3://BUCKET/runs` looks at runs/state.json first: refused, it would end there."""
    (reading,) = [each for each in statements("daemon") if each["Sid"] == "Read"]
    patterns = [each.replace("PREFIX", "runs/*") for each in listed(reading["Resource"])]
    for key in ("runs/state.json", "runs/cu/state.json"):
        assert any(fnmatchcase(f"arn:aws:s3:::BUCKET/{key}", each) for each in patterns)
    assert not any(fnmatchcase("arn:aws:s3:::BUCKET/other/state.json", each) for each in patterns)


@pytest.mark.parametrize("policy", ["daemon", "begin", "jobs", "prune", "bucket"])
def test_every_pattern_is_there_for_a_key(policy: str) -> None:
    for statement in statements(policy):
        for pattern in listed(statement["Resource"]):
            names = [
                "arn:aws:s3:::BUCKET",
                "arn:aws:s3:::BUCKET/PREFIX",
                *(f"arn:aws:s3:::BUCKET/PREFIX/{key}" for key in EVERYTHING),
            ]
            assert any(fnmatchcase(name, pattern) for name in names), pattern


def test_listing_stays_in_the_prefix() -> None:
    for policy in ("daemon", "jobs"):
        (listing,) = [each for each in statements(policy) if each["Action"] == "s3:ListBucket"]
        assert listing["Condition"] == {"StringLike": {"s3:prefix": ["PREFIX", "PREFIX/*"]}}


def denied(action: str, key: str, **headers: str) -> bool:
    """Does the bucket's policy refuse a request over TLS that has these conditions?"""
    context = {
        "aws:SecureTransport": "true",
        **{f"s3:{name.replace('_', '-')}": value for name, value in headers.items()},
    }

    def holds(condition: dict[str, dict[str, str]]) -> bool:
        for operator, tests in condition.items():
            assert operator in ("Null", "Bool")
            for name, wanted in tests.items():
                seen = str(name not in context).lower() if operator == "Null" else context.get(name)
                if seen != wanted:
                    return False
        return True

    return any(
        fnmatchcase(action, each)
        and covers({**statement, "Action": action}, action, key)
        and holds(statement.get("Condition", {}))
        for statement in statements("bucket")
        for each in listed(statement["Action"])
    )


def test_the_bucket_enforces_the_protocol() -> None:
    assert all(statement["Effect"] == "Deny" for statement in statements("bucket"))
    put = "s3:PutObject"
    assert denied(put, SPACE.state)
    assert not denied(put, SPACE.state, if_match="tag") and not denied(put, SPACE.state, if_none_match="*")
    for key in (*CLAIMS, *HISTORY):
        assert denied(put, key) and denied(put, key, if_match="tag")
        assert not denied(put, key, if_none_match="*")
    assert {key for key in EVERYTHING if denied("s3:DeleteObject", key)} == {*STATE, *CLAIMS, *HISTORY}
    assert not any(denied(put, key) for key in EVERYTHING - {*STATE, *CLAIMS, *HISTORY})


def test_all_that_init_writes_is_allowed(stub_run: Path, cli: Cli) -> None:
    assert cli("init", stub_run)[0] == 0
    prefix = stub_run.parent / "out"
    written = {path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if path.is_file()} - {".lock"}
    assert SPACE.state in written
    allowed = [*statements("daemon"), *statements("begin")]
    for key in written:
        assert any(covers(statement, "s3:PutObject", key) for statement in allowed), key
