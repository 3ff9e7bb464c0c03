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
    given = Given()
    given.note("p/job", jobs)
    (script.parent / "numpy.py").write_text("evil")
    given.check("p/job/000000/in", jobs / "000000/in")
    assert [path.name for path in script.parent.iterdir()] == ["run.sh"], "what was added is left out"
    given.check("p/job/000001/in", jobs / "000000/in")
    script.write_text("evil")
    with pytest.raises(DataError, match=r"task\.000000/run\.sh is not what plan wrote"):
        given.check("p/job/000000/in", jobs / "000000/in")
    script.unlink()
    with pytest.raises(DataError, match="is not what plan wrote"):
        given.check("p/job/000000/in", jobs / "000000/in")


def test_a_configuration_is_what_its_name_says(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    Given().check(f"config/run/{sha256(b'{}')}.json", path)
    with pytest.raises(DataError, match="not the configuration that its name says"):
        Given().check(f"bucket/cu/config/run/{'0' * 64}.json", path)


def steps(tmp_path: Path) -> Interpreter:
    """A workflow whose plan makes one job, at a store that others write to."""
    (tmp_path / "workflow").mkdir()
    job = {"name": "job", "s3": {"key": "job/{{item}}/in"}}
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
                    [{"name": "jobs", "template": "job", "arguments": {"artifacts": [job]},
                      "withParam": "{{steps.plan.outputs.parameters.ids}}"}],
                ]},
                {"name": "plan", "script": {"source": "plan"},
                 "outputs": {"artifacts": [made], "parameters": [listed]}},
                {"name": "job", "script": {"source": "job"}, "outputs": {}},
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
        return 0

    found = Interpreter(tmp_path / "workflow", execute)
    assert found.given is None, "a folder is not checked"
    found.given = Given()
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
