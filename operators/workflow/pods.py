"""A stage's manifest for a cluster: what its pods ask of Kubernetes, and where Argo finds the artifacts.

The builder's manifest says what is done; this says where. Nothing here is a secret: credentials are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from conventions.cluster import ArgoConfig, Hook, Pod, Repository, SecretKey
from conventions.config import StageConfig
from operators.pod.hint import KEY
from operators.pod.s3 import Place

from .builder import seal

STEP_LABEL = "dpgen2-sm/step"
JOB_LABEL = "dpgen2-sm/job"
_ROOT = "/dpgen2"
_CA = "/dpgen2-ca"
_MONTH = 30 * 24 * 3600
# What the Pod Security Standard `restricted` asks for. The executor's containers, which are Argo's, are reached by the
# patch only. All are one user, so that the executor reads what a job leaves with mode 600; 8737 is the executor's own.
_USER = 8737
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "fsGroup": _USER,  # for keys of SSH, which a Secret shows to root and to this group
    "seccompProfile": {"type": "RuntimeDefault"},
}
_UNPRIVILEGED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_CONTAINERS = {"initContainers": ["init"], "containers": ["wait", "main"]}
_JOB, _GUARD, _LAST = "job", "guard", "reduce"


def dress(manifest: dict[str, Any], engine: ArgoConfig, stage: StageConfig, store: Place) -> dict[str, Any]:
    """The manifest as Argo gets it. Changes and returns `manifest`.

    Parameters
    ----------
    engine, stage
        Settings of the run's engine and of the stage's jobs.
    store
        The run's prefix as the configuration names it.
    """
    spec = manifest["spec"]
    manifest["metadata"]["labels"].update(engine.labels)
    # The poller deletes what it has consumed. An earlier end by a cluster's default would free the name too soon.
    spec["ttlStrategy"] = dict.fromkeys(
        ("secondsAfterCompletion", "secondsAfterSuccess", "secondsAfterFailure"), _MONTH
    )
    spec["podGC"] = {"strategy": "OnPodSuccess"}
    if engine.service_account:
        spec["serviceAccountName"] = engine.service_account
    if engine.hours:
        spec["activeDeadlineSeconds"] = _seconds(engine.hours)
    if engine.pod_security == "restricted":
        _restrict(spec)
    if engine.repository.config_map:
        reference = {"configMap": engine.repository.config_map, "key": engine.repository.key}
        spec["artifactRepositoryRef"] = {name: value for name, value in reference.items() if value}
    place = coordinates(engine.repository, store)
    for artifact in _artifacts(spec):
        artifact["s3"].update(place)
    for template in spec["templates"]:
        if "script" in template:
            pod = stage.pod if template["name"] == _JOB else engine.pod
            own = _secrets_of(template["name"], engine)
            _dress_template(template, pod.model_copy(update={"secrets": {**pod.secrets, **own}}))
            if template["name"] == _GUARD and engine.repository.ca:
                _mount_ca(template, engine.repository.ca)
            if template["name"] == _LAST and engine.hook:
                template["script"]["env"] += _hint(engine.hook)
    return seal(manifest)


def coordinates(repository: Repository, store: Place) -> dict[str, Any]:
    """What an artifact says of its place beside its key; nothing where the cluster knows the repository."""
    endpoint = repository.endpoint or store.endpoint
    if repository.config_map or not (repository.endpoint or repository.credentials):
        return {}
    scheme, _, host = (endpoint or "https://s3.amazonaws.com").partition("://")
    found: dict[str, Any] = {"bucket": store.bucket, "endpoint": host, "insecure": scheme == "http"}
    if store.region:
        found["region"] = store.region
    if repository.ca:
        found["caSecret"] = repository.ca.model_dump()
    if repository.credentials is None:
        return {**found, "useSDKCreds": True}
    secrets = repository.credentials
    return {
        **found,
        "accessKeySecret": secrets.access_key.model_dump(),
        "secretKeySecret": secrets.secret_key.model_dump(),
    }


def _restrict(spec: dict[str, Any]) -> None:
    """For all pods of a workflow; a template's own patch is merged after this one."""
    spec["securityContext"] = {**_POD_SECURITY}
    patch = {
        kind: [{"name": name, "securityContext": _UNPRIVILEGED} for name in names]
        for kind, names in _CONTAINERS.items()
    }
    spec["podSpecPatch"] = json.dumps(patch, sort_keys=True)


def _dress_template(template: dict[str, Any], pod: Pod) -> None:
    script = template["script"]
    for artifact in template["inputs"].get("artifacts", []):
        # Argo's executor may be another user than the image's, and keeps what it fetches to itself.
        artifact.update(mode=0o755, recurseMode=True)
    labels = {STEP_LABEL: template["name"]}
    own = _environment(pod)
    if template["name"] == _JOB:
        labels[JOB_LABEL] = "{{inputs.parameters.job_id}}"
        own.append({"name": "JOB_TELL", "value": "1"})  # what its tasks print is seen in the pod's log only
    template["metadata"] = {"labels": labels}
    # A pod that the cluster lost is repeated; a script that failed is the next attempt's matter.
    template["retryStrategy"] = {
        "limit": "3",
        "retryPolicy": "OnError",
        "backoff": {"duration": "10s", "factor": "2", "maxDuration": "10m"},
    }
    if pod.hours:
        template["activeDeadlineSeconds"] = _seconds(pod.hours)
    # On a volume of the pod every user may write, also where an image's root is read-only.
    template["volumes"] = [
        *template.get("volumes", []),
        {"name": "dpgen2", "emptyDir": {"sizeLimit": pod.scratch} if pod.scratch else {}},
    ]
    script["volumeMounts"] = [*script.get("volumeMounts", []), {"name": "dpgen2", "mountPath": _ROOT}]
    resources = _resources(pod)
    if resources:
        script["resources"] = {"requests": resources, "limits": resources}
    if pod.pull_policy:
        script["imagePullPolicy"] = pod.pull_policy
    script["env"] = [*own, *script.get("env", [])]  # of two with one name the last counts: ours
    if pod.node_selector:
        template["nodeSelector"] = pod.node_selector
    if pod.tolerations:
        template["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in pod.tolerations]
    if pod.patch:
        template["podSpecPatch"] = json.dumps(pod.patch, sort_keys=True)


def _mount_ca(template: dict[str, Any], ca: SecretKey) -> None:
    """For the pod that speaks to the store itself; Argo's executor is told with each artifact."""
    script = template["script"]
    volume = {"name": "ca", "secret": {"secretName": ca.name, "items": [{"key": ca.key, "path": ca.key}]}}
    template["volumes"] = [*template["volumes"], volume]
    script["volumeMounts"] = [*script["volumeMounts"], {"name": "ca", "mountPath": _CA, "readOnly": True}]
    script["env"] = [*script["env"], {"name": "AWS_CA_BUNDLE", "value": f"{_CA}/{ca.key}"}]


def _resources(pod: Pod) -> dict[str, str]:
    found = {"cpu": f"{pod.cpu:g}" if pod.cpu else None, "memory": pod.memory}
    found[pod.gpu_resource] = str(pod.gpu) if pod.gpu else None
    return {name: value for name, value in found.items() if value}


def _environment(pod: Pod) -> list[dict[str, Any]]:
    plain = [{"name": name, "value": value} for name, value in pod.env.items()]
    return plain + [
        {"name": name, "valueFrom": {"secretKeyRef": secret.model_dump()}} for name, secret in pod.secrets.items()
    ]


def _secrets_of(step: str, engine: ArgoConfig) -> dict[str, SecretKey]:
    """The guard writes its claim into the store itself: only it gets the store's key."""
    keys = engine.repository.credentials
    if step == _GUARD and keys:
        return {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    return {}


def _hint(hook: Hook) -> list[dict[str, Any]]:
    """What the last step needs to send its hint; without the Secret it sends none, rather than wait for it for ever."""
    key = {"secretKeyRef": {**hook.key.model_dump(), "optional": True}}
    return [
        {"name": "DPGEN2_HINT_URL", "value": hook.url},
        {"name": "DPGEN2_HINT_NAME", "value": "{{workflow.name}}"},
        {"name": KEY, "valueFrom": key},
    ]


def _artifacts(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every artifact with a key: inputs of steps, outputs of templates."""
    arguments = []
    for template in spec["templates"]:
        arguments += [step["arguments"] for group in template.get("steps", []) for step in group]
        arguments.append(template.get("outputs", {}))
    for argument in arguments:
        yield from (artifact for artifact in argument.get("artifacts", []) if "s3" in artifact)


def _seconds(hours: float) -> int:
    return max(1, round(hours * 3600))
