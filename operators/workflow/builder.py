"""The builder: one stage of one iteration as one DFlow workflow manifest.

    guard (claim) -> plan -> jobs (fan-out over plan's job ids) -> reduce

Templates are generated from the operators' annotations. The manifest names no secret, no host and no clock:
equal arguments give equal bytes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from conventions.errors import DataError
from conventions.hpc import Hpc
from conventions.names import SPEC_HASH, canonical_json, sha256
from conventions.space import StageSpace
from operators.core import App, Input, Operator, Output, Planned, Signature, artifacts, signature
from operators.pod import scripts
from operators.pod.claim import claim

from .hpc import executor
from .shipping import Shipped, ship

_ROOT = "/dpgen2"
_EMPTY = "podGC initContainers sidecars volumes tolerations nodeSelector volumeMounts resources hooks arguments".split()
_dflow_globals = threading.Lock()


@dataclass(frozen=True)
class StageWorkflow:
    """A workflow ready to submit: its manifest, and the code that it expects in the store."""

    name: str
    manifest: dict[str, Any]
    objects: dict[str, bytes]

    @property
    def spec_hash(self) -> str:
        return str(self.manifest["metadata"]["annotations"][SPEC_HASH])


def build(
    name: str,
    app: App,
    place: StageSpace,
    facts: Mapping[str, Any],
    *,
    prefix: str,
    key_prefix: str = "",
    image: str,
    job_image: str | None = None,
    routes: Sequence[Hpc] = (),
    parallelism: int | None = None,
) -> StageWorkflow:
    """Build the workflow of a stage.

    Parameters
    ----------
    name
        The workflow's name (`conventions.names.workflow_name`).
    place
        The stage's part of the data space.
    facts
        Values for the operators' parameters, by field name; each operator gets those that it declares.
    prefix, key_prefix
        URL of the run's prefix as the workflow sees it, and what its keys begin with inside the artifact repository.
    image, job_image
        Images of the Python operators and of the jobs; jobs without one use the operators'.
    routes
        The batch systems that the jobs may be handed to; none: they run in their pods.
    """
    import dflow
    from dflow.op_template import ScriptOPTemplate

    objects: dict[str, bytes] = {}

    def s3(key: str) -> Any:
        return dflow.S3Artifact(key=key_prefix + key)

    def python_template(step: str, shipped: Shipped, parts: Signature, lists: Mapping[str, str]) -> Any:
        envs: dict[str, Any] = {"FN_SHA256": shipped.digest, "FN": "{{inputs.artifacts.fn.path}}"}
        template = ScriptOPTemplate(step, image=image, command=["sh"], script=scripts.OPERATOR, envs=envs)
        for name in parts.texts:
            template.inputs.parameters[name] = dflow.InputParameter()
            envs[f"PARAM_{name}"] = _variable(f"inputs.parameters.{name}")
        for name in parts.lists:
            template.inputs.artifacts[f"list-{name}"] = dflow.InputArtifact(path=f"{_ROOT}/list.{name}.json")
            envs[f"LIST_{name}"] = _variable(f"inputs.artifacts.list-{name}.path")
            envs[f"SHA256_{name}"] = lists[name]
        for package in shipped.packages:
            template.inputs.artifacts[f"pkg-{package}"] = dflow.InputArtifact(path=f"{_ROOT}/pkg.{package}.zip")
            envs[f"PACKAGE_{package}"] = _variable(f"inputs.artifacts.pkg-{package}.path")
        template.inputs.artifacts["fn"] = dflow.InputArtifact(path=f"{_ROOT}/fn.py")
        for field in fields(parts.result):
            template.outputs.parameters[field.name] = dflow.OutputParameter(
                value_from_path=f"{_ROOT}/result/{field.name}"
            )
            envs[f"RESULT_{field.name}"] = _variable(f"outputs.parameters.{field.name}.path")
        _declare(template, parts.artifacts, place, envs, "ARTIFACT_{}")
        return template

    def _declare(
        template: Any, found: Mapping[str, Input | Output], at: StageSpace, envs: dict[str, Any], env: str
    ) -> None:
        # What says that all is there goes last: Argo and the embedded engine save outputs in this order.
        for field, mark in sorted(found.items(), key=lambda each: each[0] == "report"):
            if isinstance(mark, Output):
                saved = s3(mark.at(at))
                template.outputs.artifacts[field] = dflow.OutputArtifact(
                    path=f"{_ROOT}/out/{field}",
                    save=[saved],
                    optional=True,  # what counts is what markers and report say
                    archive=None,  # type: ignore[arg-type]  # None means: no tar, the prefix stays listable
                )
                envs[env.format(field)] = _variable(f"outputs.artifacts.{field}.path")
            elif mark.at(at) is not None:
                template.inputs.artifacts[field] = dflow.InputArtifact(
                    path=f"{_ROOT}/in.{field}", optional=mark.optional
                )
                envs[env.format(field)] = _variable(f"inputs.artifacts.{field}.path")

    def sources(found: Mapping[str, Input | Output], at: StageSpace) -> dict[str, Any]:
        inputs = {field: mark.at(at) for field, mark in found.items() if isinstance(mark, Input)}
        return {field: s3(key) for field, key in inputs.items() if key is not None}

    def python_step(step: str, operator: Operator, more: Mapping[str, Any]) -> Any:
        shipped, parts = ship(operator, place.space), signature(operator)
        values = {**facts, **more}
        files = {name: canonical_json(values[name]) for name in parts.lists}
        lists = {name: sha256(data) for name, data in files.items()}
        objects.update({**shipped.objects, **{place.space.argument(lists[name]): files[name] for name in files}})
        given = {f"list-{name}": s3(place.space.argument(digest)) for name, digest in lists.items()}
        code = {f"pkg-{package}": s3(key) for package, key in shipped.packages.items()}
        return dflow.Step(
            step,
            python_template(step, shipped, parts, lists),
            parameters={name: _text(name, values[name]) for name in parts.texts},
            artifacts={"fn": s3(shipped.function), **code, **given, **sources(parts.artifacts, place)},
        )

    def jobs_step() -> Any:
        found = artifacts(app.job)
        envs: dict[str, Any] = {"JOB_ID": "{{inputs.parameters.job_id}}"}
        template = ScriptOPTemplate("job", image=job_image or image, command=["sh"], script=scripts.JOB, envs=envs)
        template.inputs.parameters["job_id"] = dflow.InputParameter()
        _declare(template, found, place.job("{{inputs.parameters.job_id}}"), envs, "JOB_{}")
        template.envs = {key.upper(): value for key, value in envs.items()}
        return dflow.Step(
            "jobs",
            template,
            parameters={"job_id": "{{item}}"},
            artifacts=sources(found, place.job("{{item}}")),
            with_param=planned["job_ids"],
            when=f"{planned['n_todo']} > 0",
            continue_on_failed=True,
            continue_on_error=True,
            executor=executor(list(routes), name.rpartition("-")[0], image) if routes else None,
        )

    planned = {field.name: _variable(f"steps.plan.outputs.parameters.{field.name}") for field in fields(Planned)}
    attempt = {"prefix": prefix, "key": place.claim(facts["attempt"]), "owner": '"{{workflow.uid}}"'}
    with _dflow_globals:
        dflow.s3_config["prefix"] = ""
        workflow = dflow.Workflow(name=name, id=name, parallelism=parallelism)
        workflow.add(python_step("guard", claim, attempt))
        workflow.add(python_step("plan", app.plan, {}))
        workflow.add(jobs_step())
        workflow.add(python_step("reduce", app.reduce, planned))
        spec = workflow.to_dict()["spec"]
    manifest = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "annotations": {}, "labels": {}},
        "spec": _lean(spec),
    }
    return StageWorkflow(name, seal(manifest), objects)


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the hash of all else in a manifest into it: what tells one specification from another."""
    annotations = manifest["metadata"]["annotations"]
    annotations.pop(SPEC_HASH, None)
    annotations[SPEC_HASH] = sha256(canonical_json(manifest))
    return manifest


def _lean(spec: dict[str, Any]) -> dict[str, Any]:
    """Without what dflow writes down empty or fills in for its own clusters."""
    del spec["serviceAccountName"], spec["arguments"]
    for template in spec["templates"]:
        template.pop("metadata", None)
        for part in (spec, template, template.get("script", {}), *(step for (step,) in template.get("steps", []))):
            for key in [key for key, value in part.items() if key in _EMPTY and not value]:
                del part[key]
        for ports in ("inputs", "outputs"):
            template[ports] = {kind: found for kind, found in template[ports].items() if found}
    return spec


def _variable(name: str) -> str:
    return "{{" + name + "}}"


def _text(name: str, value: Any) -> str:
    """A parameter's text: a variable, or a value in which Argo finds nothing to expand."""
    if isinstance(value, str) and value.strip('"').startswith("{{") and value.strip('"').endswith("}}"):
        return value
    text = json.dumps(value)
    if "{{" in text:
        raise DataError(f"the workflow was not built: Argo would expand '{{{{' in its parameter {name}: {text[:300]}")
    return text
