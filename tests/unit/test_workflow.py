"""The builder: one stage as one manifest; and the code that it ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conventions.names import SPEC_HASH, STAGES, sha256
from conventions.space import DataSpace, StageSpace
from operators.registry import app
from operators.workflow.builder import StageWorkflow, build
from operators.workflow.shipping import pack, ship
from statemachine.run.record import Record
from statemachine.run.submission import Submission
from statemachine.store import open_store
from tests.conftest import Cli
from tests.stage_harness import newest

APPS = {"label": "cp2k", "train": "deepmd", "explore": "lammps", "select": "model_devi"}


def place(stage: str) -> StageSpace:
    return DataSpace(APPS).stage(stage, 1, newest(stage, 1))


def made(stage: str, systems: Sequence[str] = ("init/a/Cu1",), **changes: Any) -> StageWorkflow:
    facts = {
        "iteration": 1, "attempt": 0, "last": False, "finished": 0,
        "has_models": True, "has_selected": True, "explore_stage": 0,
        "systems": list(systems), "calibration": {},
    }  # fmt: skip
    settings: dict[str, Any] = {"prefix": "file:///data/run", "key_prefix": "", "image": "img", **changes}
    return build(f"cu-00000000-000001-{stage}-a0", app(stage, APPS[stage]), place(stage), facts, **settings)


def templates(workflow: StageWorkflow) -> dict[str, Any]:
    return {template["name"]: template for template in workflow.manifest["spec"]["templates"]}


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_stage_gives_the_same_bytes(stage: str) -> None:
    first, second = made(stage), made(stage)
    assert json.dumps(first.manifest) == json.dumps(second.manifest)
    assert first.objects == second.objects
    assert (
        made(stage, image="other").spec_hash != first.spec_hash == first.manifest["metadata"]["annotations"][SPEC_HASH]
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_order_of_steps_and_what_may_fail(stage: str) -> None:
    workflow = made(stage)
    entry = templates(workflow)[workflow.manifest["spec"]["entrypoint"]]
    steps = [step for (step,) in entry["steps"]]
    assert [step["name"] for step in steps] == ["guard", "plan", "jobs", "reduce"]
    assert [step["continueOn"]["failed"] for step in steps] == [False, False, True, False]
    assert steps[2]["withParam"] == "{{steps.plan.outputs.parameters.job_ids}}"
    assert steps[2]["when"] == "{{steps.plan.outputs.parameters.n_todo}} > 0"


def test_keys_of_jobs_are_in_the_data_space() -> None:
    workflow = made("explore", key_prefix="runs/cu/")
    entry = templates(workflow)[workflow.manifest["spec"]["entrypoint"]]
    jobs = entry["steps"][2][0]
    sources = {artifact["name"]: artifact["s3"]["key"] for artifact in jobs["arguments"]["artifacts"]}
    assert sources == {
        "job": "runs/cu/explore/lammps/iter/000001/job/{{item}}/in",
        "previous": "runs/cu/explore/lammps/iter/000001/job/{{item}}/out",
        "models": "runs/cu/train/deepmd/iter/000001/product",
    }
    saved = {artifact["name"]: artifact["s3"]["key"] for artifact in templates(workflow)["job"]["outputs"]["artifacts"]}
    assert saved["done"] == "runs/cu/explore/lammps/iter/000001/done/{{inputs.parameters.job_id}}.json"
    assert list(saved)[-1] == "done", "the marker is published last"


@pytest.mark.parametrize("stage", STAGES)
def test_the_report_is_published_last(stage: str) -> None:
    saved = [artifact["name"] for artifact in templates(made(stage))["reduce"]["outputs"]["artifacts"]]
    assert len(saved) > 1 and saved[-1] == "report", "whoever is killed before has not said that the stage is complete"


def test_no_artifact_of_ours_is_packed() -> None:
    for stage in STAGES:
        for template in templates(made(stage)).values():
            assert all(artifact["archive"] == {"none": {}} for artifact in template["outputs"].get("artifacts", []))


def test_code_is_pinned_by_hash_from_the_manifest_on() -> None:
    workflow = made("train")
    plan = templates(workflow)["plan"]
    pin = next(entry["value"] for entry in plan["script"]["env"] if entry["name"] == "FN_SHA256")
    source = workflow.objects[DataSpace(APPS).function(pin)]
    assert sha256(source) == pin
    for package in ("conventions", "operators"):
        assert sha256(pack(package)) in source.decode()


def test_lists_travel_as_files_pinned_by_hash() -> None:
    """Linux allows an environment variable 128 KiB, and Argo's parameters have limits, too."""
    systems = [f"iter/000001/Cu{number}" for number in range(20_000)]
    workflow = made("train", systems)
    plan = templates(workflow)["plan"]
    env = {entry["name"]: entry["value"] for entry in plan["script"]["env"]}
    key = DataSpace(APPS).argument(env["SHA256_systems"])
    assert json.loads(workflow.objects[key]) == systems and sha256(workflow.objects[key]) == env["SHA256_systems"]
    (step,) = (
        step
        for (step,) in templates(workflow)[workflow.manifest["spec"]["entrypoint"]]["steps"]
        if step["name"] == "plan"
    )
    (given,) = (found for found in step["arguments"]["artifacts"] if found["name"] == "list-systems")
    assert given["s3"]["key"] == key
    assert max(map(len, env.values())) < 1000 and len(json.dumps(workflow.manifest)) < 50_000
    assert made("train", systems[1:]).spec_hash != workflow.spec_hash


def run_shipped(tmp_path: Path, function: bytes, packages: dict[str, Path]) -> subprocess.CompletedProcess[str]:
    """Run a shipped claim as a pod does: nothing of this project on the path."""
    (tmp_path / "fn.py").write_bytes(function)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {f"PACKAGE_{name}": str(path) for name, path in packages.items()}
    env |= {"PARAM_prefix": json.dumps(f"file://{tmp_path}/store"), "PARAM_key": '"claim/0"', "PARAM_owner": '"me"'}
    env |= {"RESULT_owner": str(tmp_path / "result")}
    return subprocess.run([sys.executable, "-S", "fn.py"], cwd=tmp_path, env=env, capture_output=True, text=True)


def shipped_claim(tmp_path: Path) -> tuple[bytes, dict[str, Path]]:
    from operators.pod.claim import claim

    shipped = ship(claim, DataSpace(APPS))
    paths = {}
    for name, key in shipped.packages.items():
        paths[name] = tmp_path / f"{name}.zip"
        paths[name].write_bytes(shipped.objects[key])
    return shipped.objects[shipped.function], paths


def test_a_shipped_operator_runs_with_the_standard_library_alone(tmp_path: Path) -> None:
    function, packages = shipped_claim(tmp_path)
    done = run_shipped(tmp_path, function, packages)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store" / "claim" / "0").read_text() == "me"
    assert json.loads((tmp_path / "result").read_text()) == "me"
    assert run_shipped(tmp_path, function, packages).returncode == 0, "the owner may come again"


def test_a_claim_of_another_owner_ends_the_workflow(tmp_path: Path) -> None:
    function, packages = shipped_claim(tmp_path)
    (tmp_path / "store" / "claim").mkdir(parents=True)
    (tmp_path / "store" / "claim" / "0").write_text("revoked")
    done = run_shipped(tmp_path, function, packages)
    assert done.returncode != 0
    assert "belongs to revoked" in done.stderr


def test_code_that_was_changed_in_the_store_is_not_run(tmp_path: Path) -> None:
    function, packages = shipped_claim(tmp_path)
    packages["operators"].write_bytes(packages["operators"].read_bytes() + b"\0")
    done = run_shipped(tmp_path, function, packages)
    assert done.returncode != 0
    assert "not the one that was submitted" in done.stderr
    assert not (tmp_path / "store").exists()


def test_code_that_was_cut_short_is_uploaded_again(
    cli: Cli, stub_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever submits next: else every attempt would fail. What is whole is not sent for each workflow."""
    assert cli("init", stub_run)[0] == 0
    store = open_store(f"file://{tmp_path}/out")
    state = Record(store).load().state
    Submission(store).prepare(state)
    whole = {entry.key: store.get(entry.key).data for entry in store.list(".dflow/")}
    cut, *others = whole
    assert others
    store.put(cut, whole[cut][:-1])
    sent: list[str] = []
    put = store.put
    monkeypatch.setattr(store, "put", lambda key, data, **conditions: (sent.append(key), put(key, data, **conditions)))
    Submission(store).prepare(state)
    assert [key for key in sent if key in whole] == [cut]
    assert store.get(cut).data == whole[cut]


def test_a_flipped_bit_of_the_code_costs_one_attempt(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    """Its size is right: a first attempt fails, and the next one looks at the content."""
    assert cli("init", stub_run)[0] == 0
    store = open_store(f"file://{tmp_path}/out")
    state = Record(store).load().state
    submission = Submission(store)
    submission.prepare(state)
    for key in [entry.key for entry in store.list(".dflow/")]:
        whole = store.get(key).data
        store.put(key, bytes([whole[0] ^ 1]) + whole[1:])
        submission.prepare(state.model_copy(update={"attempt": 1}))
        assert store.get(key).data == whole, key


@pytest.mark.parametrize("stage", STAGES)
def test_a_manifest_stays_small(stage: str) -> None:
    assert len(json.dumps(made(stage).manifest)) < 40_000
