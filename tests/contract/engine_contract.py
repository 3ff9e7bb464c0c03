"""What every Engine must do. An engine's test class inherits this and makes `engine` and `store`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import NameTaken, NotFound
from conventions.names import SPEC_HASH, canonical_json, sha256
from operators.live import TASK_LOG
from operators.pod import scripts
from statemachine.engine import Engine, Phase, Status
from statemachine.store import Store


def manifest(name: str, script: str, items: str = '["000000","000001"]', reduce: str = "exit 0") -> dict[str, Any]:
    """A small workflow in the builder's form: plan gives items, jobs fan out, reduce ends."""

    def script_template(step: str, source: str, **more: Any) -> dict[str, Any]:
        return {
            "name": step,
            "inputs": {"parameters": more.get("inputs", []), "artifacts": []},
            "outputs": {"parameters": more.get("outputs", []), "artifacts": more.get("artifacts", [])},
            "script": {"image": "x", "command": ["sh"], "source": source, "env": more.get("env", [])},
        }

    ids = [
        {"name": "ids", "valueFrom": {"path": "/dpgen2/result/ids"}},
        {"name": "n", "valueFrom": {"path": "/dpgen2/result/n"}},
    ]
    plan = f"mkdir -p $(dirname $IDS); echo '{items}' >$IDS; echo {items.count('0000')} >$N"
    plan_env = [
        {"name": "IDS", "value": "{{outputs.parameters.ids.path}}"},
        {"name": "N", "value": "{{outputs.parameters.n.path}}"},
    ]
    out = [
        {
            "name": "out",
            "path": "/dpgen2/out",
            "s3": {"key": "job/{{inputs.parameters.job_id}}/out"},
            "archive": {"none": {}},
        }
    ]
    job_env = [
        {"name": "JOB_ID", "value": "{{inputs.parameters.job_id}}"},
        {"name": "OUT", "value": "{{outputs.artifacts.out.path}}"},
    ]
    found = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "annotations": {}},
        "spec": {
            "entrypoint": "main",
            "templates": [
                {
                    "name": "main",
                    "steps": [
                        [{"name": "plan", "template": "plan", "arguments": {}}],
                        [
                            {
                                "name": "jobs",
                                "template": "job",
                                "arguments": {"parameters": [{"name": "job_id", "value": "{{item}}"}]},
                                "withParam": "{{steps.plan.outputs.parameters.ids}}",
                                "when": "{{steps.plan.outputs.parameters.n}} > 0",
                                "continueOn": {"failed": True, "error": True},
                            }
                        ],
                        [{"name": "reduce", "template": "reduce", "arguments": {}}],
                    ],
                },
                script_template("plan", plan, outputs=ids, env=plan_env),
                script_template("job", script, inputs=[{"name": "job_id"}], artifacts=out, env=job_env),
                script_template("reduce", reduce),
            ],
        },
    }
    found["metadata"]["annotations"][SPEC_HASH] = sha256(canonical_json(found))  # type: ignore[index]
    return found


WRITE = 'mkdir -p "$OUT"; echo "$JOB_ID" >"$OUT/result"'


def seen_job(name: str, root: Path, run: str) -> dict[str, Any]:
    """A workflow with one job of one task, which the generic wrapper runs, as in a pod."""
    (root / "in/task.000000").mkdir(parents=True)
    (root / "in/task.000000/name").write_text("Cu")
    for file, text in (("digest", "0" * 64), ("outputs", "need result"), ("run.sh", run)):
        (root / "in" / file).write_text(f"{text}\n")
    found = manifest(name, scripts.JOB, items='["000000"]')
    out = "{{outputs.artifacts.out.path}}"
    places = {"JOB": str(root / "in"), "PREVIOUS": str(root / "none"), "TELL": "1"}
    places |= {"OUT": out, "LOG": f"{out}/../log", "DONE": f"{out}/../done"}
    job = next(template for template in found["spec"]["templates"] if template["name"] == "job")
    job["script"]["env"] += [{"name": f"JOB_{place}", "value": value} for place, value in places.items()]
    return found


def ended(engine: Engine, name: str) -> Status:
    """Wait for the end of a workflow."""
    engine.wait(name, 60)
    status = engine.status(name)
    assert status.phase is not Phase.running
    return status


class EngineContract:
    def test_jobs_run_and_their_outputs_are_in_the_store(self, engine: Engine, store: Store) -> None:
        assert engine.submit(manifest("w-a0", WRITE))
        status = ended(engine, "w-a0")
        assert (status.phase, status.finished, status.total) == (Phase.succeeded, 2, 2)
        assert store.get("job/000000/out/result").data == b"000000\n"
        assert store.get("job/000001/out/result").data == b"000001\n"

    def test_the_same_submission_again_is_the_same_workflow(self, engine: Engine) -> None:
        assert engine.submit(manifest("w-a0", WRITE))
        assert not engine.submit(manifest("w-a0", WRITE))
        ended(engine, "w-a0")
        assert not engine.submit(manifest("w-a0", WRITE))

    def test_every_job_runs_once(self, engine: Engine, tmp_path: Path) -> None:
        ledger = tmp_path / "ledger"
        for _ in range(2):
            engine.submit(manifest("w-a0", f'echo "$JOB_ID" >>{ledger}; {WRITE}'))
        ended(engine, "w-a0")
        assert sorted(ledger.read_text().split()) == ["000000", "000001"]

    def test_another_specification_under_the_name_is_an_error(self, engine: Engine) -> None:
        engine.submit(manifest("w-a0", WRITE))
        with pytest.raises(NameTaken):
            engine.submit(manifest("w-a0", "exit 3"))
        ended(engine, "w-a0")

    def test_a_failed_job_does_not_stop_the_others_and_leaves_its_outputs(self, engine: Engine, store: Store) -> None:
        engine.submit(manifest("w-a0", WRITE + '; [ "$JOB_ID" = 000001 ]'))
        assert ended(engine, "w-a0").phase is Phase.succeeded
        assert store.head("job/000000/out/result") is not None

    def test_a_failed_reduce_fails_the_workflow_and_says_why(self, engine: Engine) -> None:
        engine.submit(manifest("w-a0", WRITE, reduce="echo no bread >&2; exit 3"))
        status = ended(engine, "w-a0")
        assert status.phase is Phase.failed
        assert "no bread" in engine.explain("w-a0")
        assert any("no bread" in line for line in engine.logs("w-a0"))

    def test_no_jobs_are_skipped(self, engine: Engine, store: Store) -> None:
        engine.submit(manifest("w-a0", "exit 1", items="[]"))
        assert ended(engine, "w-a0").phase is Phase.succeeded
        assert list(store.list("job/")) == []

    def test_terminate_ends_it_and_is_repeatable(self, engine: Engine) -> None:
        engine.submit(manifest("w-a0", "sleep 600"))
        assert engine.status("w-a0").phase is Phase.running
        engine.terminate("w-a0")
        engine.terminate("w-a0")
        assert ended(engine, "w-a0").phase in (Phase.failed, Phase.gone)

    def test_an_unknown_workflow_is_gone(self, engine: Engine) -> None:
        assert engine.status("nothing").phase is Phase.gone
        with pytest.raises(NotFound):
            list(engine.logs("nothing"))
        engine.terminate("nothing")
        engine.delete("nothing")

    def test_check_says_where_it_is(self, engine: Engine) -> None:
        assert engine.check().partition(":")[0] in ("local", "argo")

    def test_a_job_is_seen_while_it_runs(self, engine: Engine, tmp_path: Path) -> None:
        for name in ("here", "go"):
            os.mkfifo(tmp_path / name)
        wait = f"echo >{tmp_path}/here; read -r go <{tmp_path}/go"
        engine.submit(seen_job("w-a0", tmp_path, f"echo step 1; {wait}; echo step 2; : >result"))
        (tmp_path / "here").read_text()
        while not (found := list(engine.job_logs("w-a0", "000000", lambda: False))):
            assert engine.status("w-a0").phase is Phase.running
        assert found == [("task.000000.log", b"step 1\n")]
        assert list(engine.job_logs("w-a0", "000001", lambda: False)) == []
        (job,) = engine.running("w-a0") or []
        assert job.job_id == "000000" and job.task and "step 1" in (job.read(TASK_LOG) or "")
        (tmp_path / "go").write_text("go\n")
        assert ended(engine, "w-a0").phase is Phase.succeeded
        assert not engine.running("w-a0")
        assert not engine.running("nothing") and list(engine.job_logs("nothing", "000000", lambda: False)) == []

    def test_delete_frees_the_name(self, engine: Engine) -> None:
        engine.submit(manifest("w-a0", WRITE))
        ended(engine, "w-a0")
        engine.delete("w-a0")
        assert engine.status("w-a0").phase is Phase.gone
        assert engine.submit(manifest("w-a0", "exit 3"))
        ended(engine, "w-a0")

    def test_braces_and_shell_characters_in_values_stay_inert(self, engine: Engine, store: Store) -> None:
        engine.submit(manifest("w-a0", WRITE, items='["000000; touch owned $(id) `id`"]'))
        ended(engine, "w-a0")
        assert [e.key for e in store.list("job/")] == ["job/000000; touch owned $(id) `id`/out/result"]
