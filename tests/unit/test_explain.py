"""`explain`: why a frame was chosen and what became of it, what a job did, what an iteration came to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conventions.documents import DoneMarker, TaskResult
from conventions.errors import CommandRefused, ConfigError
from statemachine.report.explain import explain
from statemachine.report.figures import Reader
from statemachine.store import open_store
from tests.conftest import Cli
from tests.doubles import MemoryStore
from tests.report_run import SPACE, campaign


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    store = MemoryStore()
    campaign(store, 3, tmp_path)
    return store


def answer(store: MemoryStore, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in explain(store, Reader(store).read(), what):
        found[name] = f"{found[name]}\n{text}" if name in found else text
    return found


def test_a_frame(store: MemoryStore) -> None:
    found = answer(store, "0/2")
    assert found["frame"] == "0/2, of structure set bulk, explore job 000002 task.000000, step 20"
    assert found["explored"] == "from structure 2 of the set, temp 500.0 K, the trajectory is ok"
    assert found["candidate"] == "max_devi_f 0.17: between the trust levels (f_trust_lo 0.1, f_trust_hi 0.4)"
    assert found["filters"].endswith(": 2 too_close")
    assert "number 3 of 6 that were drawn at random from 3800 candidates (seed " in found["chosen"]
    assert found["label"].endswith("it is frame 2 of dataset/deepmd/iter/000001/Cu4")
    assert found["error then"] == "the model that explored was wrong by up to 0.51 eV/A, 3 times the deviation"
    assert found["error after"] == "the committee that was trained on it: up to 0.05 eV/A"
    assert found["trained"] == "in the committees of iterations 1, 2"


def test_a_frame_whose_label_failed(store: MemoryStore) -> None:
    found = answer(store, "0/5")
    assert found["label"].startswith("none: unconverged: SCF run NOT converged (iteration 1, label job 000005")
    assert "trained" not in found


def test_a_frame_that_waits_for_its_label(store: MemoryStore) -> None:
    assert answer(store, "2/0")["label"] == "it has not been labelled yet"


def test_an_iteration(store: MemoryStore) -> None:
    found = answer(store, "1")
    assert found["iteration"] == "1, exploration stage 0"
    assert found["train"].splitlines()[0] == (
        "attempt 0 was given up: attempt 0 did not complete the stage: model 1 diverged"
    )
    assert found["explored"] == "80.0% accurate, 19.0% candidate, 1.0% failed; 95% accurate are asked for"
    assert found["blind spot"].splitlines()[0].startswith("bulk: the errors of 3 labels were 3 times the deviation")
    assert "state" not in found


def test_a_job(store: MemoryStore) -> None:
    place = SPACE.stage("label", 1).job("000005")
    store.put(place.job_digest, b"0" * 64)
    assert "the next attempt runs it again" in answer(store, "label/1/5")["marker"]
    tasks = [TaskResult(id="task.000000", code=0), TaskResult(id="task.000001", code=9)]
    store.put(place.job_done, DoneMarker(job_id="000005", inputs="0" * 64, tasks=tasks, files=[]).dump())
    found = answer(store, "label/1/5")
    assert found["marker"].startswith("1 of 2 tasks ended well")
    assert found["task"] == "task.000001: exit code 9"
    assert found["frame"] == "task.000000: unconverged: SCF run NOT converged"
    assert found["logs"] == "dpgen2-sm logs RUN --stage label --iter 1 --job 5"


@pytest.mark.parametrize(
    "what", ["", "x", "1/", "label/1", "labels/1/2", "-1", "1.5", "1/2/3", "\u0663", "label/1/1234567"]
)
def test_what_is_nothing(store: MemoryStore, what: str) -> None:
    with pytest.raises((ConfigError, CommandRefused)):
        answer(store, what)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("9", "no iteration 9; its last is 2"),
        ("9/0", "no iteration 9"),
        ("0/6", "chose 6 frames"),
        ("label/0/99", "has no job 99"),
    ],
)
def test_what_is_not_there(store: MemoryStore, what: str, why: str) -> None:
    with pytest.raises(CommandRefused, match=why):
        answer(store, what)


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    campaign(open_store(f"file://{tmp_path}/run"), 2, tmp_path)
    code, out, _ = cli("explain", tmp_path / "run", "0/1")
    assert code == 0 and out.splitlines()[0].startswith("frame")
    code, out, _ = cli("explain", tmp_path / "run", "0/1", "--json")
    assert json.loads(out)[0]["what"] == "frame"
    code, _, error = cli("explain", tmp_path / "run", "zero")
    assert code == 2 and "give an iteration (3)" in error
