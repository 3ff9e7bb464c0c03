"""Workflows on Kubernetes, through an Argo server."""

from __future__ import annotations

import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from conventions.cluster import ArgoConfig
from conventions.errors import EngineError, NotFound
from conventions.names import SPEC_HASH
from operators.live import TASK_LOG
from operators.pod.hint import SAID
from operators.workflow.pods import JOB_LABEL, STEP_LABEL
from statemachine.machine import Phase

from .argo_client import AlreadyExists, ArgoClient
from .base import UNKNOWN, LiveJob, Status, name_taken
from .secret_scan import refuse_secrets

# Never `status.nodes`: that is megabytes for a large stage.
_STATUS = "metadata.name,metadata.uid,metadata.annotations,status.phase,status.progress,status.message"
# What Argo's executor adds to a pod's log.
_EXECUTORS_OWN = re.compile(r'^time=".* argo=true|^Error: exit status [0-9]+$')
_HEAD = re.compile(r"==> (task\.[0-9]+\.log) <==")  # in a job's log, before what a task prints
_JOB_NODE = re.compile(r"jobs\([0-9]+:([0-9]{6})\)")
_MOST_NODES = 200  # pods of a stage whose nodes are asked for again and again
_TAIL = "50"  # lines of a log that are asked for again and again
_PAUSE = 2.0  # seconds
_TROUBLED = ("Failed", "Error", "Pending")
_PHASES = {
    "": Phase.running,
    "Pending": Phase.running,
    "Running": Phase.running,
    "Succeeded": Phase.succeeded,
    "Failed": Phase.failed,
    "Error": Phase.failed,
}


class ArgoEngine:
    """Runs workflows in one namespace of a cluster.

    Parameters
    ----------
    settings
        `engine:` of the run's configuration.
    secrets
        Values that no manifest may hold, beside the server's token.
    """

    def __init__(self, settings: ArgoConfig, secrets: Callable[[], list[str]] = list) -> None:
        self.client = ArgoClient(settings)
        self._secrets = secrets
        self._place = f"/workflows/{self.client.namespace}"

    @property
    def home(self) -> str:
        return f"{self.client.url} namespace {self.client.namespace}"

    def finds(self, name: str) -> bool:
        """A server may have several addresses: a workflow that is found through this one is the one."""
        try:
            self.client.call("GET", f"{self._place}/{name}", fields="metadata.name")
        except NotFound:
            return False
        return True

    def submit(self, manifest: dict[str, Any]) -> bool:
        name = manifest["metadata"]["name"]
        refuse_secrets(manifest, [self.client.token(), *self._secrets()])
        try:
            self.client.call("POST", self._place, {"workflow": manifest})
        except AlreadyExists:
            return self._same_specification(name, manifest)
        return True

    def _same_specification(self, name: str, manifest: dict[str, Any]) -> bool:
        """False when the workflow with this name has our specification; raise when it has another."""
        try:
            found = self.client.call("GET", f"{self._place}/{name}", fields=_STATUS)
        except NotFound:
            raise EngineError(f"the workflow {name} existed and was deleted meanwhile: try again") from None
        hashes = [_part(each, "metadata", "annotations").get(SPEC_HASH) for each in (found, manifest)]
        if hashes[0] != hashes[1]:
            raise name_taken(name)
        return False

    def status(self, name: str) -> Status:
        try:
            found = self.client.call("GET", f"{self._place}/{name}", fields=_STATUS)
        except NotFound:
            found = self._archived(name)
            if found is None:
                return Status(Phase.gone, message=f"there is no workflow {name} any more")
        if _part(found, "metadata").get("name") != name:
            raise EngineError(f"{self.client.url} returned something else than the workflow {name} that was requested")
        return self._read(name, _part(found, "status"))

    def _read(self, name: str, status: dict[str, Any]) -> Status:
        word = str(status.get("phase") or "")
        if word not in _PHASES:
            raise EngineError(f"the workflow {name} is in an unknown phase: {word!r}")
        counts = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", str(status.get("progress")))
        finished, total = (int(counts[1]), int(counts[2])) if counts else (0, 0)
        return Status(_PHASES[word], "", finished, total, str(status.get("message") or ""))

    def explain(self, name: str) -> str:
        """The first pods that failed or cannot start, in Kubernetes' words, and what our own steps printed last."""
        try:
            found = self.client.call("GET", f"{self._place}/{name}", fields="status.nodes,status.message")
        except NotFound:
            return ""
        status = _part(found, "status")
        broken = [
            node
            for node in map(_part, _part(status, "nodes").values())
            if node.get("type") == "Pod" and node.get("phase") in _TROUBLED and node.get("message")
        ]
        broken.sort(key=lambda node: str(node.get("finishedAt", "")))
        messages = [f"{node.get('displayName', 'pod')}: {node['message']}" for node in broken]
        more = [f"and {len(messages) - 3} more"] if len(messages) > 3 else []
        return "; ".join([*messages[:3], *more, *self._telling_lines(name)]) or str(status.get("message") or "")

    def _archived(self, name: str) -> dict[str, Any] | None:
        """The workflow as the server's archive has it, where there is an archive."""
        where = f"metadata.namespace={self.client.namespace},metadata.name={name}"
        fields = "items.metadata.name,items.status.phase,items.status.message"
        try:
            found = self.client.call(
                "GET", "/archived-workflows", **{"listOptions.fieldSelector": where, "fields": fields}
            )
        except (EngineError, NotFound):
            return None
        items = found.get("items")
        for item in map(_part, items if isinstance(items, list) else []):
            if _part(item, "metadata").get("name") == name:
                return item
        return None

    def logs(self, name: str) -> Iterator[str]:
        for pod, text in self._lines(name, f"{STEP_LABEL} in (guard,plan,reduce)"):
            yield f"{pod}: {text}"

    def _lines(self, name: str, selector: str, **options: str) -> Iterator[tuple[str, str]]:
        """The log of a workflow's pods, each line with its pod's name."""
        query = {"logOptions.container": "main", "selector": selector, **options}
        for line in self.client.lines(f"{self._place}/{name}/log", **query):
            found = _part(line, "result")
            pod, text = str(found.get("podName", "")).removeprefix(f"{name}-"), str(found.get("content", ""))
            if found and not _EXECUTORS_OWN.search(text):
                yield pod, text

    def _telling_lines(self, name: str) -> list[str]:
        """The last line that guard, plan or reduce printed: pods that succeeded are gone by then."""
        try:
            lines = (line for line in self.logs(name) if not line.partition(": ")[2].startswith(SAID))
            return list(deque(lines, maxlen=1))
        except (EngineError, NotFound):
            return []

    def job_logs(self, name: str, job_id: str, goes_on: Callable[[], bool]) -> Iterator[tuple[str, bytes]]:
        """From the log of the job's pod, which prints what its tasks print."""
        shown = 0
        while True:
            more = goes_on()
            options = {"logOptions.follow": "true"} if more else {}
            task, seen = f"job {job_id}", 0
            try:
                for _, text in self._lines(name, f"{JOB_LABEL}={job_id}", **options):
                    seen += 1
                    head = _HEAD.fullmatch(text)
                    task = head[1] if head else task
                    if not head and seen > shown:
                        yield task, f"{text}\n".encode()
            except NotFound:
                return
            except EngineError:  # a log that stays silent for long ends so
                if not more:
                    raise
            shown = max(shown, seen)
            if not more:
                return
            time.sleep(_PAUSE)

    def running(self, name: str) -> list[LiveJob] | None:
        """From the workflow's nodes, in a stage that is not too large for that."""
        try:
            status = self.client.call("GET", f"{self._place}/{name}", fields="status.progress")
            if self._read(name, {"phase": "", **_part(status, "status")}).total > _MOST_NODES:
                return None
            found = self.client.call("GET", f"{self._place}/{name}", fields="status.nodes")
        except NotFound:
            return None
        pods = [node for node in map(_part, _part(found, "status", "nodes").values()) if node.get("type") == "Pod"]
        names = [_JOB_NODE.match(str(node.get("displayName"))) for node in pods if node.get("phase") == "Running"]
        return [self._live(name, job_id) for job_id in sorted({match[1] for match in names if match})]

    def _live(self, name: str, job_id: str) -> LiveJob:
        """A job whose pod runs; its log is asked for when it is read."""

        def read(file: str) -> str:
            if file != TASK_LOG:
                return ""
            lines = self._lines(name, f"{JOB_LABEL}={job_id}", **{"logOptions.tailLines": _TAIL})
            return "\n".join(text for _, text in itertools.islice(lines, int(_TAIL)) if not _HEAD.fullmatch(text))

        return LiveJob(job_id, task=UNKNOWN, read=read)

    def terminate(self, name: str) -> None:
        try:
            self.client.call("PUT", f"{self._place}/{name}/terminate", {"name": name})
        except NotFound:
            return
        except EngineError:
            if self.status(name).phase is Phase.running:
                raise

    def delete(self, name: str) -> None:
        try:
            self.client.call("DELETE", f"{self._place}/{name}")
        except NotFound:
            return

    def wait(self, name: str, seconds: float) -> None:
        time.sleep(max(seconds, 1.0))

    def check(self) -> str:
        version = self.client.call("GET", "/version").get("version", "of an unknown version")
        self.client.call("GET", self._place, **{"listOptions.limit": "1", "fields": "items.metadata.name"})
        return f"argo: server {version} at {self.client.url}, namespace {self.client.namespace}"


def _part(found: Any, *names: str) -> dict[str, Any]:
    """The mapping at a place of an answer; an empty one where there is none."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
