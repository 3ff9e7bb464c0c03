"""Manifests for a cluster: what pods ask for, where artifacts are, and that Argo's types know every field."""

from __future__ import annotations

import gzip
import json
import math
from datetime import date
from typing import Any

import pytest

from conventions.cluster import ArgoConfig
from conventions.config import StageConfig
from conventions.names import STAGES
from operators.jobs import MAX_JOBS, pack
from operators.pod.s3 import Place
from operators.registry import app
from operators.workflow.builder import SPEC_HASH, StageWorkflow
from operators.workflow.pods import JOB_LABEL, STEP_LABEL
from statemachine.run.submission import argo_workflow
from tests.argo_double.rules import validate

from .test_workflow import APPS, place

PREFIX = "s3://bucket/runs/cu?endpoint=https://s3.example.org&region=eu-west-1"
KEYS = {"access_key": {"name": "store", "key": "id"}, "secret_key": {"name": "store", "key": "secret"}}
ENGINE: dict[str, Any] = {
    "type": "argo",
    "server": "https://argo.example.org:2746",
    "service_account": "workflows",
    "image": "dpgen2-sm:0.1",
    "parallelism": 50,
    "hours": 48.0,
    "labels": {"team": "alloys"},
    "pod": {"cpu": 1.0, "memory": "2Gi"},
    "repository": {"endpoint": "http://minio.argo:9000", "credentials": KEYS},
    "hook": {"url": "http://dpgen2-sm.argo:8080/hook", "key": {"name": "hook", "key": "key"}},
}
POD: dict[str, Any] = {
    "cpu": 0.5,
    "memory": "8Gi",
    "gpu": 1,
    "scratch": "20Gi",
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "env": {"OMP_NUM_THREADS": "4"},
    "secrets": {"LICENCE": {"name": "vasp", "key": "licence"}},
    "pull_policy": "IfNotPresent",
    "hours": 24.0,
    "patch": {"priorityClassName": "low"},
}


def dressed(stage: str = "explore", engine: dict[str, Any] | None = None, **settings: Any) -> StageWorkflow:
    facts = {
        "iteration": 1, "attempt": 0, "last": False, "finished": 0,
        "has_models": True, "has_selected": True, "explore_stage": 0,
        "systems": ["init/a/Cu1"],
        "calibration": {},
    }  # fmt: skip
    what = (f"cu-00000000-000001-{stage}-a0", app(stage, APPS[stage]), place(stage), facts)
    config = StageConfig.model_validate({"app": APPS[stage], "image": "deepmd:3", "pod": POD, **settings})
    return argo_workflow(what, ArgoConfig.model_validate(engine or ENGINE), config, Place.parse(PREFIX))


def template(workflow: StageWorkflow, name: str) -> dict[str, Any]:
    return next(each for each in workflow.manifest["spec"]["templates"] if each["name"] == name)


def artifacts(value: Any) -> list[dict[str, Any]]:
    """Every artifact with a place in a manifest."""
    if isinstance(value, list):
        return [found for item in value for found in artifacts(item)]
    if isinstance(value, dict):
        return ([value] if "s3" in value else []) + [found for item in value.values() for found in artifacts(item)]
    return []


@pytest.mark.parametrize("engine", [ENGINE, {"type": "argo"}], ids=["all settings", "no settings"])
@pytest.mark.parametrize("stage", STAGES)
def test_argos_types_know_every_field(stage: str, engine: dict[str, Any]) -> None:
    from hera.workflows.models import Workflow  # takes more than a second

    manifest = dressed(stage, engine).manifest
    read = Workflow.model_validate(manifest)
    assert json.loads(read.model_dump_json(by_alias=True, exclude_unset=True)) == manifest
    validate(manifest)


def test_pods_of_jobs_and_of_operators_ask_for_their_own() -> None:
    workflow = dressed()
    job, reduce = template(workflow, "job"), template(workflow, "reduce")
    wanted = {"cpu": "0.5", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert job["script"]["resources"] == {"requests": wanted, "limits": wanted}
    assert (job["script"]["image"], job["script"]["imagePullPolicy"]) == ("deepmd:3", "IfNotPresent")
    assert job["nodeSelector"] == {"pool": "gpu"}
    assert job["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert job["activeDeadlineSeconds"] == 24 * 3600
    assert json.loads(job["podSpecPatch"]) == {"priorityClassName": "low"}
    assert job["volumes"] == [{"name": "dpgen2", "emptyDir": {"sizeLimit": "20Gi"}}]
    env = {each["name"]: each.get("value") or each["valueFrom"] for each in job["script"]["env"]}
    assert env["OMP_NUM_THREADS"] == "4"
    assert env["LICENCE"] == {"secretKeyRef": {"name": "vasp", "key": "licence"}}
    assert reduce["script"]["image"] == "dpgen2-sm:0.1"
    assert reduce["script"]["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}
    assert "podSpecPatch" not in reduce and "nodeSelector" not in reduce
    assert reduce["metadata"]["labels"] == {STEP_LABEL: "reduce"}
    assert job["metadata"]["labels"] == {STEP_LABEL: "job", JOB_LABEL: "{{inputs.parameters.job_id}}"}
    assert "JOB_TELL" in env and "JOB_TELL" not in {each["name"] for each in reduce["script"]["env"]}


def test_an_image_of_any_user_reads_what_argo_fetched() -> None:
    """Seen on a cluster: the executor makes folders and files that only its own user can enter."""
    for found in dressed().manifest["spec"]["templates"]:
        for artifact in found["inputs"].get("artifacts", []):
            assert (artifact["mode"], artifact["recurseMode"]) == (0o755, True)
            assert artifact["path"].count("/") == 2, "a folder in between would be closed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": {"bad key!": "x"}}, {"labels": {"team": "x" * 64}}, {"labels": {"a": "b c"}}, {"labels": {"": "x"}},
        {"pod": {"node_selector": {"pool": "{{item}}"}}}, {"pod": {"env": {"HF_TOKEN": "abc"}}},
        {"pod": {"env": {"DB_PASSWORD": "abc"}}}, {"pod": {"patch": {"a": ["{{item}}"]}}},
        {"pod": {"patch": {"a": date(2026, 1, 1)}}}, {"pod": {"patch": {"a": [math.nan]}}},
        {"pod": {"patch": {"a\0": 1}}},
    ],
    ids=str,
)  # fmt: skip
def test_what_kubernetes_would_refuse_or_show_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ArgoConfig.model_validate({"type": "argo", **wrong})
    good = {"labels": {"example.org/team": "a.b-C_1", "x": ""}, "pod": {"node_selector": {"node.kubernetes.io/x": "1"}}}
    ArgoConfig.model_validate({"type": "argo", **good})


def test_a_persons_variables_do_not_move_our_places() -> None:
    script = template(dressed(pod={"env": {"JOB_OUT": "/elsewhere"}}), "job")["script"]
    values = [each["value"] for each in script["env"] if each["name"] == "JOB_OUT"]
    assert values[-1] == "{{outputs.artifacts.out.path}}"


def test_the_last_step_sends_the_hint_and_no_pod_is_made_for_it() -> None:
    """Without the Secret it sends none: a pod that waits for one would hold up the run for ever."""
    workflow = dressed()
    env = {each["name"]: each for each in template(workflow, "reduce")["script"]["env"]}
    assert env["DPGEN2_HINT_URL"]["value"] == "http://dpgen2-sm.argo:8080/hook"
    assert env["DPGEN2_HINT_NAME"]["value"] == "{{workflow.name}}"
    assert env["DPGEN2_HOOK_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "hook", "key": "key", "optional": True}}
    spec = workflow.manifest["spec"]
    assert not {"hooks", "onExit"} & set(spec)
    assert {each["name"] for each in spec["templates"] if "script" in each} == {"guard", "plan", "job", "reduce"}
    quiet = dressed(engine={key: value for key, value in ENGINE.items() if key != "hook"})
    assert "DPGEN2_HINT_URL" not in json.dumps(quiet.manifest)


def test_jobs_without_an_image_use_the_engines() -> None:
    assert template(dressed(image=None), "job")["script"]["image"] == "dpgen2-sm:0.1"


def test_only_guard_and_the_last_step_get_keys_and_only_by_name() -> None:
    workflow = dressed()
    found = {
        (each["name"], entry["name"]): entry["valueFrom"]["secretKeyRef"]
        for each in workflow.manifest["spec"]["templates"]
        for entry in each.get("script", {}).get("env", [])
        if "valueFrom" in entry and each["name"] != "job"
    }
    assert found == {
        ("guard", "AWS_ACCESS_KEY_ID"): KEYS["access_key"],
        ("guard", "AWS_SECRET_ACCESS_KEY"): KEYS["secret_key"],
        ("reduce", "DPGEN2_HOOK_KEY"): {"name": "hook", "key": "key", "optional": True},
    }


def test_the_workflow_is_kept_until_the_poller_deletes_it() -> None:
    spec = dressed().manifest["spec"]
    assert min(spec["ttlStrategy"].values()) >= 30 * 24 * 3600 and len(spec["ttlStrategy"]) == 3
    assert spec["podGC"] == {"strategy": "OnPodSuccess"}
    assert (spec["serviceAccountName"], spec["parallelism"], spec["activeDeadlineSeconds"]) == (
        "workflows", 50, 48 * 3600,
    )  # fmt: skip
    assert all(each["retryStrategy"]["retryPolicy"] == "OnError" for each in spec["templates"] if "script" in each), (
        "a script that failed is the next attempt's matter"
    )


def made(spec: dict[str, Any], name: str) -> dict[str, Any]:
    """The pod that Argo 3.6 makes of a template, as far as Pod Security goes: workflow/controller/workflowpod.go."""
    (found,) = [each for each in spec["templates"] if each["name"] == name]
    pod = {
        "initContainers": [{"name": "init"}],
        "containers": [{"name": "wait"}, {"name": "main", **found["script"]}],
        "securityContext": found.get("securityContext") or spec.get("securityContext") or {},
        "volumes": [{"name": each, "emptyDir": {}} for each in ("var-run-argo", "tmp-dir-argo", "argo-staging")],
    }
    pod["volumes"] += found["volumes"]
    for patch in filter(None, (spec.get("podSpecPatch"), found.get("podSpecPatch"))):
        pod = merged(pod, json.loads(patch))
    return pod


def merged(whole: Any, patch: Any) -> Any:
    """Kubernetes' strategic merge, of mappings and of lists with names."""
    if isinstance(patch, dict) and isinstance(whole, dict):
        return {**whole, **{key: merged(whole.get(key), value) for key, value in patch.items()}}
    if isinstance(patch, list) and patch and isinstance(patch[0], dict) and "name" in patch[0]:
        changes = {each["name"]: each for each in patch}
        assert changes.keys() <= {each["name"] for each in whole}, "it would add a container"
        return [merged(each, changes.get(each["name"], {})) for each in whole]
    return patch


def unrestricted(pod: dict[str, Any]) -> set[str]:
    """What of a pod the Pod Security Standard `restricted` refuses."""
    found = {
        f"a volume {each}"
        for each in pod["volumes"]
        if not {"emptyDir", "secret", "configMap", "projected"} & set(each)
    }
    found |= {each for each in ("hostNetwork", "hostPID", "hostIPC") if pod.get(each)}
    for container in [*pod["initContainers"], *pod["containers"]]:
        own, name = container.get("securityContext", {}), container["name"]
        both = {**pod["securityContext"], **own}
        wanted = {
            "runs as root": both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0,
            "no seccomp": both.get("seccompProfile") != {"type": "RuntimeDefault"},
            "gains rights": own.get("allowPrivilegeEscalation") is not False or bool(own.get("privileged")),
            "has capabilities": own.get("capabilities") != {"drop": ["ALL"]},
        }
        found |= {f"{name} {what}" for what, is_so in wanted.items() if is_so}
    return found


@pytest.mark.parametrize("name", ["guard", "plan", "job", "reduce"])
def test_pods_meet_the_standard_restricted_where_that_is_asked_for(name: str) -> None:
    """With the containers that Argo adds to each; a patch of the user's goes on top."""
    assert len(unrestricted(made(dressed().manifest["spec"], name))) == 12
    repository = {**ENGINE["repository"], "ca": {"name": "store-ca", "key": "ca.crt"}}
    spec = dressed(
        engine={**ENGINE, "repository": repository, "pod_security": "restricted"},
        pod={**POD, "patch": {"securityContext": {"runAsUser": 1000}, "priorityClassName": "low"}},
    ).manifest["spec"]
    pod = made(spec, name)
    assert unrestricted(pod) == set()
    user = 1000 if name == "job" else 8737
    assert pod["securityContext"]["runAsUser"] == user and pod["securityContext"]["fsGroup"] == 8737
    assert not any("runAsUser" in each.get("securityContext", {}) for each in pod["containers"]), "all are one user"
    assert (pod.get("priorityClassName") == "low") == (name == "job")


def test_artifacts_say_where_the_store_is_as_pods_see_it() -> None:
    workflow = dressed()
    found = artifacts(workflow.manifest)
    assert len(found) > 20
    for artifact in found:
        assert {key: value for key, value in artifact["s3"].items() if key != "key"} == {
            "bucket": "bucket",
            "endpoint": "minio.argo:9000",
            "insecure": True,
            "region": "eu-west-1",
            "accessKeySecret": KEYS["access_key"],
            "secretKeySecret": KEYS["secret_key"],
        }
        assert artifact["s3"]["key"].startswith("runs/cu/")
    guard = workflow.manifest["spec"]["templates"][0]["steps"][0][0]
    prefix = next(each["value"] for each in guard["arguments"]["parameters"] if each["name"] == "prefix")
    assert json.loads(prefix) == "s3://bucket/runs/cu?endpoint=http://minio.argo:9000&region=eu-west-1"


def test_artifacts_of_a_repository_that_the_cluster_knows_have_only_keys() -> None:
    for repository in ({}, {"config_map": "artifact-repositories", "key": "minio"}, {"config_map": "x"}):
        spec = dressed(engine={"type": "argo", "repository": repository}).manifest["spec"]
        assert all(list(artifact["s3"]) == ["key"] for artifact in artifacts(spec))
        named = {"config_map": "configMap", "key": "key"}
        wanted = {named[key]: value for key, value in repository.items()}
        assert spec.get("artifactRepositoryRef", {}) == wanted


def test_a_private_authority_of_the_store() -> None:
    """Argo's executor is told with each artifact; only the guard speaks to the store itself."""
    ca = {"name": "store-ca", "key": "ca.crt"}
    engine = {**ENGINE, "repository": {**ENGINE["repository"], "endpoint": "https://minio.argo:9000", "ca": ca}}
    workflow = dressed(engine=engine)
    validate(workflow.manifest)
    assert all(each["s3"]["caSecret"] == ca for each in artifacts(workflow.manifest))
    guard = template(workflow, "guard")
    assert guard["volumes"][-1] == {
        "name": "ca",
        "secret": {"secretName": "store-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]},
    }
    assert {"name": "AWS_CA_BUNDLE", "value": "/dpgen2-ca/ca.crt"} in guard["script"]["env"]
    assert not any(volume["name"] == "ca" for volume in template(workflow, "plan")["volumes"])
    known = dressed(engine={"type": "argo", "repository": {"config_map": "x", "ca": ca}})
    assert all(list(each["s3"]) == ["key"] for each in artifacts(known.manifest)), "the cluster's own says it"
    assert template(known, "guard")["volumes"][-1]["name"] == "ca"


def test_without_credentials_pods_use_their_service_account() -> None:
    engine = {"type": "argo", "repository": {"endpoint": "https://s3.amazonaws.com"}}
    found = artifacts(dressed(engine=engine).manifest)
    assert all(each["s3"]["useSDKCreds"] is True and "accessKeySecret" not in each["s3"] for each in found)


def test_another_setting_is_another_specification() -> None:
    hashes = {
        dressed(**more).manifest["metadata"]["annotations"][SPEC_HASH]
        for more in ({}, {"image": "deepmd:4"}, {"pod": {**POD, "cpu": 1.0}}, {"engine": {"type": "argo"}})
    }
    assert len(hashes) == 4
    assert dressed().spec_hash == dressed().spec_hash


def test_a_stage_of_100_000_tasks_fits() -> None:
    """Within what Kubernetes stores of one object: 1.5 MB, and 1 MB of compressed node status before offloading."""
    group = pack(100_000, 1)
    jobs = -(-100_000 // group)
    assert jobs <= MAX_JOBS
    items = json.dumps([f"{job:06d}" for job in range(jobs)])
    workflow = dressed()
    nodes = {}
    for job in range(jobs):
        for kind in ("Retry", "Pod"):  # what Argo's status says of a job, after v1alpha1.NodeStatus
            name = f"{workflow.name}-{job:010d}-{kind}"
            step = workflow.manifest["spec"]["templates"][0]["steps"][2][0]
            inputs = json.loads(json.dumps(step["arguments"]).replace("{{item}}", f"{job:06d}"))
            outputs = json.dumps(template(workflow, "job")["outputs"])
            nodes[name] = {
                "id": name,
                "name": f"{workflow.name}[2].jobs({job}:{job:06d})",
                "displayName": f"jobs({job}:{job:06d})",
                "type": kind,
                "templateName": "job",
                "templateScope": f"local/{workflow.name}",
                "phase": "Succeeded",
                "boundaryID": workflow.name,
                "startedAt": f"2026-01-01T00:{job // 60 % 60:02d}:{job % 60:02d}Z",
                "finishedAt": f"2026-01-01T01:{job // 60 % 60:02d}:{job % 60:02d}Z",
                "progress": "1/1",
                "resourcesDuration": {"cpu": job * 7 % 3600, "memory": job * 13 % 3600},
                "inputs": inputs,
                "outputs": json.loads(outputs.replace("{{inputs.parameters.job_id}}", f"{job:06d}")),
                "hostNodeName": f"node-{job * 31 % 97}",
            }
    status = gzip.compress(json.dumps(nodes).encode())
    manifest = json.dumps(workflow.manifest)
    assert len(manifest) + len(items) < 200_000
    assert len(status) * 4 / 3 < 1_000_000, "base64 of it is what is stored"
