"""Interprets one workflow manifest in a process of its own, which `local.py` starts.

It knows the part of Argo that the builder uses: steps, script templates, parameters, artifacts by key,
`withParam`, `when` and `continueOn`. Outputs are published also when a script fails, as Argo does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from conventions.names import GPU_STAGES, stage_of
from conventions.secrets import without_pollers
from operators.pod import scripts
from statemachine.machine import Phase
from statemachine.store import Mirror, Store, local_folder, open_store

from .base import LOCKS, Status
from .given import Given
from .scripts import Execute, Runner

_VARIABLE = re.compile(r"\{\{([^{}]+)\}\}")


class StepFailed(Exception):
    """A step whose failure ends the workflow."""


def expand(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace `{{name}}` in every string; an unknown name is an error, as in Argo."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: variables[match[1]], value) if "{{" in value else value
    if isinstance(value, dict):
        return {key: expand(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, variables) for item in value]
    return value


def holds(condition: str) -> bool:
    """Evaluate the `when` of the builder: `A > B` of integers."""
    left, right = condition.split(">")
    return int(left) > int(right)


class Interpreter:
    """Runs the manifest in `folder`; `status.json` there tells how far it is. `execute` runs the pods' scripts."""

    def __init__(self, folder: Path, execute: Execute) -> None:
        self.folder, self.execute = folder, execute
        self.manifest = json.loads((folder / "manifest.json").read_bytes())
        settings = json.loads((folder / "settings.json").read_bytes())
        self.work = Path(settings["work"])
        self.mirror = Mirror(self.work.parent / "mirror")
        self.store: Store = open_store(settings["store"], self.mirror)
        self.given = None if local_folder(self.store.url) else Given(self.work.parent / "unfinished.jsonl")
        self.templates = {template["name"]: template for template in self.manifest["spec"]["templates"]}
        self.gpus: list[str] = settings["gpus"] if self.uses_gpus() else []
        self.slots: int = min(settings["slots"], len(self.gpus) or settings["slots"])
        self.free_gpus: SimpleQueue[str] = SimpleQueue()  # known here only: nothing is taken when this process is gone
        for gpu in self.gpus:
            self.free_gpus.put(gpu)
        self.variables = {"workflow.name": self.manifest["metadata"]["name"], "workflow.uid": settings["uid"]}
        self.environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        self.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.slots)))
        self.shared = folder / "shared"  # where jobs tell each other what they have checked
        self.total = self.finished = 0
        self.messages: list[str] = []
        self.fetched: dict[str, Path | None] = {}  # by key, in this step; None: there is nothing
        self._lock = threading.Lock()
        self._written = 0.0

    def uses_gpus(self) -> bool:
        """Jobs of a batch system are given theirs there."""
        ours = any(template.get("script", {}).get("source") == scripts.JOB for template in self.templates.values())
        return ours and stage_of(self.manifest["metadata"]["name"]) in GPU_STAGES

    def run(self) -> Phase:
        entry = self.templates[self.manifest["spec"]["entrypoint"]]
        try:
            for (step,) in entry["steps"]:
                self.step(step)
        except StepFailed:
            self.report(Phase.failed, step["name"])
            return Phase.failed
        self.report(Phase.succeeded, "")
        return Phase.succeeded

    def step(self, step: dict[str, Any]) -> None:
        name = step["name"]
        self.report(Phase.running, name)
        self.fetched.clear()
        if "when" in step and not holds(expand(step["when"], self.variables)):
            return
        if "withParam" in step:
            items = json.loads(expand(step["withParam"], self.variables))
            self.total, self.finished = len(items), 0
            self.report(Phase.running, name)
            with ThreadPoolExecutor(self.slots) as pool:
                passed = all(list(pool.map(lambda item: self.task(step, f"{name}-{item}", item), items)))
        else:
            passed = self.task(step, name, None)
        if not passed and not step.get("continueOn", {}).get("failed"):
            raise StepFailed(name)

    def task(self, step: dict[str, Any], name: str, item: str | None) -> bool:
        """One pod of a step: fetch its inputs, run its script, publish its outputs."""
        template = self.templates[step["template"]]
        scope = self.variables if item is None else {**self.variables, "item": item}
        arguments = expand(step["arguments"], scope)
        # The place of a job is the same in every attempt, so that an interrupted task finds what it had done.
        place = self.work / (f"{self.variables['workflow.name'].rpartition('-')[0]}-{name}")
        if item is None:  # a step of ours begins anew: what a killed one left must not be published with its outputs
            shutil.rmtree(place, ignore_errors=True)
        try:
            variables = {**scope, **self.inputs(arguments, place)}
            outputs = self.outputs(template, variables, place)
            passed = self.script(expand(template["script"], variables), name, place)
            for artifact in outputs["artifacts"]:
                path, key = Path(artifact["path"]), expand(artifact["s3"]["key"], variables)
                if path.exists():
                    if self.given and step["name"] == "plan":
                        self.given.planned(key, path)
                    elif self.given and artifact["name"] == "out" and not passed:
                        self.given.unfinished(key, path)
                    self.store.publish(path, key)
                elif passed and not artifact.get("optional"):
                    raise FileNotFoundError(f"the step left no {artifact['name']}")
            for parameter in outputs["parameters"]:
                path = Path(parameter["valueFrom"]["path"])
                if passed:
                    self.variables[f"steps.{step['name']}.outputs.parameters.{parameter['name']}"] = path.read_text()
        except Exception as error:  # whatever a job left: it must not end the other jobs' process
            passed = False
            self.messages.append(f"{name}: {error if str(error) else type(error).__name__}")
        if item is None or passed:
            with contextlib.suppress(RecursionError):  # of folders in folders in folders
                shutil.rmtree(place, ignore_errors=True)
        if item is not None:
            with self._lock:
                self.finished += 1
                if time.monotonic() - self._written > 0.2:
                    self.report(Phase.running, step["name"])
        return passed

    def inputs(self, arguments: dict[str, Any], place: Path) -> dict[str, str]:
        """Variables of the parameters and of the fetched artifacts."""
        found = {f"inputs.parameters.{p['name']}": p["value"] for p in arguments.get("parameters", [])}
        for artifact in arguments.get("artifacts", []):
            key = artifact["s3"]["key"]
            path = self.fetched[key] if key in self.fetched else self.store.fetch(key, place / "in" / artifact["name"])
            if path is None and not artifact.get("optional"):
                raise FileNotFoundError(f"there is nothing at {key}")
            if path and self.given:
                if artifact["name"] == "previous":
                    self.given.sift(key, path)
                else:
                    self.given.check(key, path)
            if not (path and path.is_relative_to(place)):  # it stays: the step's other jobs need not ask for it
                self.fetched[key] = path
            found[f"inputs.artifacts.{artifact['name']}.path"] = str(path or place / "none")
        return found

    def outputs(self, template: dict[str, Any], variables: dict[str, str], place: Path) -> dict[str, Any]:
        """The template's outputs with paths below `place`; adds their variables."""
        declared = {"artifacts": [], "parameters": [], **template["outputs"]}
        artifacts = [{**a, "path": str(place / "out" / a["name"])} for a in declared["artifacts"]]
        parameters = [{**p, "valueFrom": {"path": str(place / "result" / p["name"])}} for p in declared["parameters"]]
        variables.update({f"outputs.artifacts.{a['name']}.path": a["path"] for a in artifacts})
        variables.update({f"outputs.parameters.{p['name']}.path": p["valueFrom"]["path"] for p in parameters})
        (place / "out").mkdir(parents=True, exist_ok=True)
        return {"artifacts": artifacts, "parameters": parameters}

    def script(self, script: dict[str, Any], name: str, place: Path) -> bool:
        log = self.folder / f"{name}.log"
        with self.gpu(script) as given:
            code = self.execute(script, {**self.environment(script), **given}, place, log)
        last = log.read_text("utf-8", "replace").strip().rpartition("\n")[2] if log.exists() else ""
        if code and (last or not name.startswith("jobs-")):
            self.messages.append(f"{name}: {last or f'exit code {code}'}")
        if not last:
            log.unlink(missing_ok=True)
        return code == 0

    @contextlib.contextmanager
    def gpu(self, script: dict[str, Any]) -> Iterator[dict[str, str]]:
        """The variable that gives a job its GPU, as long as it runs."""
        if script["source"] != scripts.JOB or not self.gpus:
            yield {}
            return
        gpu = self.free_gpus.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            self.free_gpus.put(gpu)

    def environment(self, script: dict[str, Any]) -> dict[str, str]:
        """What a script sees: all that this process does, but a job gets none of the poller's secrets."""
        is_job = script["source"] == scripts.JOB or scripts.is_batch(script["source"])
        common = without_pollers(self.environ) if is_job else dict(self.environ)
        if script["source"] == scripts.JOB:
            common["DPGEN2_SHARED"] = str(self.shared)
        return {**common, **{entry["name"]: entry["value"] for entry in script.get("env", [])}}

    def report(self, phase: Phase, step: str) -> None:
        message = "; ".join(self.messages[:3])
        status = asdict(Status(phase, step, self.finished, self.total, message)) | {"phase": phase.value}
        part = self.folder / "status.part"
        part.write_text(json.dumps(status))
        part.replace(self.folder / "status.json")
        self._written = time.monotonic()


def main() -> int:
    gc.set_threshold(100_000)  # as in the command line: imported modules are no garbage
    atexit.register(gc.freeze)
    folder = Path(sys.argv[1])
    lock, members = map(int, os.environ.pop(LOCKS).split())
    os.set_inheritable(lock, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, exit codes of jobs cannot be had
    with contextlib.closing(Runner(lock, [members])) as runner:
        interpreter = Interpreter(folder, runner.run)
        phase = interpreter.run()
    interpreter.mirror.forget()
    return 0 if phase is Phase.succeeded else 1
