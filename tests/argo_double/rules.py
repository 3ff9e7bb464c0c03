"""What Argo refuses: its rules for names and variables, checked before a workflow is accepted.

After Argo's workflow/validate/validate.go: a variable must be known where it stands.
"""

from __future__ import annotations

import re
from typing import Any

_VARIABLE = re.compile(r"\{\{([^{}]*)\}\}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_GLOBAL = {"workflow.name", "workflow.uid", "workflow.namespace", "workflow.status"}


class Invalid(Exception):
    """Argo's answer would be 400."""


def validate(manifest: dict[str, Any]) -> None:
    """Raise `Invalid` for what Argo's server would refuse."""
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    if not _NAME.fullmatch(name) or len(name) > 63:
        raise Invalid(f"invalid workflow name {name!r}")
    templates = {template["name"]: template for template in spec["templates"]}
    if len(templates) != len(spec["templates"]):
        raise Invalid("a template's name is not unique")
    known = set(_GLOBAL)
    entry = templates.get(spec["entrypoint"])
    if entry is None:
        raise Invalid(f"entrypoint {spec['entrypoint']!r} does not exist")
    for group in entry["steps"]:
        for step in group:
            _step(step, templates, known)
        for step in group:
            outputs = templates[step["template"]].get("outputs", {})
            known |= {f"steps.{step['name']}.outputs.parameters.{p['name']}" for p in outputs.get("parameters", [])}
    for template in templates.values():
        if "script" in template:
            _template(template)


def _step(step: dict[str, Any], templates: dict[str, Any], known: set[str]) -> None:
    template = templates.get(step["template"])
    if template is None:
        raise Invalid(f"step {step['name']}: template {step['template']!r} does not exist")
    _resolve(step.get("withParam", ""), known, f"step {step['name']}.withParam")
    inside = known | ({"item"} if "withParam" in step else set())
    _resolve(step.get("when", ""), known, f"step {step['name']}.when")
    _resolve(step.get("arguments", {}), inside, f"step {step['name']}.arguments")
    for kind in ("parameters", "artifacts"):
        given = {each["name"] for each in step.get("arguments", {}).get(kind, [])}
        for wanted in template.get("inputs", {}).get(kind, []):
            if wanted["name"] not in given and not wanted.get("optional") and "s3" not in wanted:
                raise Invalid(f"step {step['name']}: inputs.{kind}.{wanted['name']} was not supplied")


def _template(template: dict[str, Any]) -> None:
    where = f"template {template['name']}"
    inputs, outputs = template.get("inputs", {}), template.get("outputs", {})
    parameters = {f"inputs.parameters.{each['name']}" for each in inputs.get("parameters", [])}
    for artifact in inputs.get("artifacts", []):
        _resolve(artifact, set(), f"{where}.inputs")  # a key with variables belongs to the step's arguments
    for artifact in outputs.get("artifacts", []):
        _resolve(artifact, parameters | _GLOBAL, f"{where}.outputs")
    paths = {f"inputs.artifacts.{each['name']}.path" for each in inputs.get("artifacts", [])}
    paths |= {f"outputs.{kind}.{each['name']}.path" for kind in outputs for each in outputs[kind]}
    _resolve(template["script"], parameters | paths | _GLOBAL, where)
    places = [each["path"] for each in [*inputs.get("artifacts", []), *outputs.get("artifacts", [])]]
    if len(set(places)) != len(places):
        raise Invalid(f"{where}: two artifacts have one path")


def _resolve(value: Any, known: set[str], where: str) -> None:
    if isinstance(value, str):
        for variable in _VARIABLE.findall(value):
            if variable not in known:
                raise Invalid(f"{where}: failed to resolve {{{{{variable}}}}}")
    elif isinstance(value, dict):
        for item in value.values():
            _resolve(item, known, where)
    elif isinstance(value, list):
        for item in value:
            _resolve(item, known, where)
