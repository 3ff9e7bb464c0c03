"""What steps of the local engine are given by a store that others may write to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import DataError
from conventions.names import sha256
from statemachine.engine import Phase
from statemachine.engine.given import Given
from statemachine.engine.interpreter import Interpreter


def test_a_job_gets_what_plan_wrote(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    (jobs / "000000/in/task.000000").mkdir(parents=True)
    script = jobs / "000000/in/task.000000/run.sh"
    script.write_text("lmp")
    given = Given(tmp_path / "left")
    given.planned("p/job", jobs)
    (script.parent / "numpy.py").write_text("evil")
    (jobs / "000000/in/task.999999/a").mkdir(parents=True)
    (jobs / "000000/in/task.999999/a/x").write_text("evil")
    given.check("p/job/000000/in", jobs / "000000/in")
    there = [str(path.relative_to(jobs)) for path in sorted((jobs / "000000").rglob("*"))]
    assert there == ["000000/in", "000000/in/task.000000", "000000/in/task.000000/run.sh"], "what was added is left out"
    given.check("p/job/000001/in", jobs / "000000/in")
    script.write_text("evil")
    with pytest.raises(DataError, match=r"task\.000000/run\.sh is not what plan wrote"):
        given.check("p/job/000000/in", jobs / "000000/in")
    assert not script.exists(), "it is downloaded again"
    with pytest.raises(DataError, match="is not what plan wrote"):
        given.check("p/job/000000/in", jobs / "000000/in")


def test_a_job_goes_on_from_what_it_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "ckpt").mkdir(parents=True)
    (out / "ckpt/model").write_text("ours")
    Given(tmp_path / "left").unfinished("p/out", out)
    (out / "ckpt/meta").write_text("evil")
    (out / "task.9").mkdir()
    later = Given(tmp_path / "left")
    later.sift("p/out", out)
    assert [str(path.relative_to(out)) for path in sorted(out.rglob("*"))] == ["ckpt", "ckpt/model"]
    (out / "ckpt/model").write_text("evil")
    later.sift("p/out", out)
    assert list(out.iterdir()) == [], "nothing is better than what somebody has changed"
    (out / "model").write_text("evil")
    Given(tmp_path / "nothing").sift("p/out", out)
    assert list(out.iterdir()) == []


def test_a_configuration_is_what_its_name_says(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    Given(tmp_path / "left").check(f"config/run/{sha256(b'{}')}.json", path)
    with pytest.raises(DataError, match="not the configuration that its name says"):
        Given(tmp_path / "left").check(f"bucket/cu/config/run/{'0' * 64}.json", path)


def steps(tmp_path: Path, fails: int = 0) -> Interpreter:
    """A workflow whose plan makes one job, at a store that others write to."""
    (tmp_path / "workflow").mkdir(exist_ok=True)
    job = {"name": "job", "s3": {"key": "job/{{item}}/in"}}
    previous = {"name": "previous", "optional": True, "s3": {"key": "job/{{item}}/out"}}
    out = {"name": "out", "path": "p", "optional": True, "s3": {"key": "job/{{item}}/out"}}
    earlier = {"name": "EARLIER", "value": "{{inputs.artifacts.previous.path}}"}
    wanted = {"name": "config", "s3": {"key": f"config/run/{sha256(b'{}')}.json"}}
    made = {"name": "jobs", "path": "p", "s3": {"key": "job"}}
    listed = {"name": "ids", "valueFrom": {"path": "q"}}
    manifest = {
        "metadata": {"name": "cu-0-000000-label-a0"},
        "spec": {
            "entrypoint": "main",
            "templates": [
                {"name": "main", "steps": [
                    [{"name": "plan", "template": "plan", "arguments": {"artifacts": [wanted]}}],
                    [{"name": "jobs", "template": "job", "arguments": {"artifacts": [job, previous]},
                      "withParam": "{{steps.plan.outputs.parameters.ids}}"}],
                ]},
                {"name": "plan", "script": {"source": "plan"},
                 "outputs": {"artifacts": [made], "parameters": [listed]}},
                {"name": "job", "script": {"source": "job", "env": [earlier]}, "outputs": {"artifacts": [out]}},
            ],
        },
    }  # fmt: skip
    (tmp_path / "workflow/manifest.json").write_text(json.dumps(manifest))
    settings = {"uid": "u", "store": (tmp_path / "store").as_uri(), "slots": 1, "gpus": [], "work": f"{tmp_path}/work"}
    (tmp_path / "workflow/settings.json").write_text(json.dumps(settings))
    ran: list[str] = []

    def execute(script: Any, env: Any, place: Path, log: Path) -> int:
        ran.append(script["source"])
        if script["source"] == "plan":
            (place / "out/jobs/000000/in").mkdir(parents=True)
            (place / "out/jobs/000000/in/run.sh").write_text("lmp")
            (place / "result").mkdir()
            (place / "result/ids").write_text('["000000"]')
        elif "EARLIER" in env:
            ran.extend(sorted(path.name for path in Path(env["EARLIER"]).glob("*")))
            (place / "out/out").mkdir(parents=True, exist_ok=True)
            (place / "out/out/ckpt").write_text("half")
        return fails if script["source"] == "job" else 0

    found = Interpreter(tmp_path / "workflow", execute)
    assert found.given is None, "a folder is not checked"
    found.given = Given(tmp_path / "left")
    found.store.put(wanted["s3"]["key"], b"{}")  # type: ignore[index]
    found.ran = ran  # type: ignore[attr-defined]
    return found


def test_jobs_are_run_as_planned(tmp_path: Path) -> None:
    interpreter = steps(tmp_path)
    assert interpreter.run() is Phase.succeeded and interpreter.ran == ["plan", "job"]  # type: ignore[attr-defined]


def test_a_changed_job_is_not_run(tmp_path: Path) -> None:
    interpreter = steps(tmp_path)
    publish = interpreter.store.publish

    def forged(path: Path, key: str) -> None:
        publish(path, key)
        interpreter.store.put("job/000000/in/run.sh", b"evil")

    interpreter.store.publish = forged  # type: ignore[method-assign, assignment]
    assert interpreter.run() is Phase.failed and interpreter.ran == ["plan"]  # type: ignore[attr-defined]
    assert interpreter.messages == ["jobs-000000: job/000000/in/run.sh is not what plan wrote: somebody has changed it"]


def test_plan_does_not_read_another_configuration(tmp_path: Path) -> None:
    interpreter = steps(tmp_path)
    interpreter.store.put(f"config/run/{sha256(b'{}')}.json", b'{"label": {}}')
    assert interpreter.run() is Phase.failed and interpreter.ran == []  # type: ignore[attr-defined]


def test_an_attempt_gets_what_the_one_before_left_and_nothing_else(tmp_path: Path) -> None:
    assert steps(tmp_path, fails=1).run() is Phase.failed
    interpreter = steps(tmp_path)
    interpreter.store.put("job/000000/out/finished", b"evil")
    assert interpreter.run() is Phase.succeeded
    assert interpreter.ran == ["plan", "job", "ckpt"]  # type: ignore[attr-defined]
