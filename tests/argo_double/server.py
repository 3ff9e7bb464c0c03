"""A double of the Argo server: its HTTP API, run by the embedded engine's interpreter against a real S3 server.

It answers as Argo 3.6 does (codes, messages, JSON), keeps names unique while a workflow exists, deletes what has
ended when told to, and can be made to answer late, with an error, or not at all after it has done what was asked.
"""

from __future__ import annotations

import json
import shutil
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from conventions.errors import NameTaken
from operators.pod.s3 import Place
from operators.workflow.pods import JOB_LABEL
from statemachine.engine import Phase
from statemachine.engine.local import LocalEngine

from .rules import Invalid, validate

NAMESPACE = "argo"
_WORDS = {Phase.running: "Running", Phase.succeeded: "Succeeded", Phase.failed: "Failed", Phase.gone: "Failed"}


class Pods(LocalEngine):
    interpreter = "tests.argo_double.pods"

    def __init__(self, root: Path, store_url: str, key_prefix: str, secrets: dict[str, dict[str, str]]) -> None:
        super().__init__(root, store_url, slots=4)
        self.more = {"key_prefix": key_prefix, "secrets": secrets}

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self.more}


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class ArgoDouble:
    """A cluster with its Argo server.

    Parameters
    ----------
    store_url
        Where the artifacts are; keys begin with `key_prefix`, by default the path of that prefix in its bucket.
    token
        Who has another one is refused.
    secrets
        The namespace's Secrets: values by name and key.
    port
        Where it listens; 0 is any free one.

    Attributes
    ----------
    requests
        Method, path and query of each request that came.
    faults
        What happens to the next requests: an HTTP status to answer with, `"lose"` (do it, then hang up), or a
        function to call before the answer (to wait for an event).
    """

    def __init__(
        self,
        root: Path,
        store_url: str,
        token: str = "",
        secrets: dict[str, dict[str, str]] | None = None,
        key_prefix: str | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        if key_prefix is None:
            key_prefix = f"{Place.parse(store_url).path}/"
        self.pods = Pods(root, store_url, key_prefix, secrets or {})
        self.token = token
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[int | str | Callable[[], None]] = []
        self.archive: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.server = Quiet(("127.0.0.1", port), _handler(self))
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> ArgoDouble:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self.folders():
            self.pods.terminate(folder.name)
        self.server.shutdown()
        self.server.server_close()

    def folders(self) -> list[Path]:
        return sorted((self.pods.root / "workflow").glob("[!.]*"))

    def manifests(self) -> list[dict[str, Any]]:
        return [json.loads((folder / "manifest.json").read_bytes()) for folder in self.folders()]

    def collect_garbage(self, archive: bool = False) -> None:
        """Time to live: forget every workflow that has ended."""
        for folder in self.folders():
            if self.pods.status(folder.name).phase is not Phase.running:
                if archive:
                    self.archive[folder.name] = self.workflow(folder.name)
                shutil.rmtree(folder)

    def workflow(self, name: str) -> dict[str, Any]:
        status = self.pods.status(name)
        manifest = json.loads((self.pods.root / "workflow" / name / "manifest.json").read_bytes())
        progress = f"{status.finished}/{status.total}" if status.total else "0/1"
        settings = json.loads((self.pods.root / "workflow" / name / "settings.json").read_bytes())
        return {
            "metadata": {**manifest["metadata"], "uid": settings["uid"]},
            "status": {
                "phase": _WORDS[status.phase],
                "progress": progress,
                "message": status.message,
                # A large stage's nodes are kept elsewhere; whoever asks for them pays.
                "nodes": self.nodes(name),
            },
        }

    def nodes(self, name: str) -> dict[str, Any]:
        """A pod for each log that a step left, and many that are of no interest."""
        status = self.pods.status(name)
        many = {f"{name}-{n}": {"type": "Pod", "phase": "Succeeded", "displayName": "x" * 1000} for n in range(100)}
        for place in (self.pods.root / "workflow" / name / "pods").glob("*-jobs-*"):
            job_id = place.name.rpartition("-jobs-")[2]
            if status.phase is Phase.running:
                many[job_id] = {"type": "Pod", "phase": "Running", "displayName": f"jobs({int(job_id)}:{job_id})(0)"}
        failed = {"type": "Pod", "phase": "Failed", "displayName": status.step, "message": "Error (exit code 1)"}
        return {**many, name: failed} if status.phase is Phase.failed else many


class Refusal(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message, "error": message}

    def streamed(self) -> dict[str, Any]:
        """As it is told where the answer would have been a stream."""
        code, message = self.body["code"], self.body["message"]
        return {"error": {"grpc_code": code, "http_code": self.status, "message": message, "http_status": "x"}}


def _handler(double: ArgoDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with double.lock:
                double.requests.append((self.command, parts.path, query))
                fault = double.faults.pop(0) if double.faults else None
            if callable(fault):
                fault()
            if isinstance(fault, int):
                self.answer(fault, {"code": 14, "message": "the server is away"})
                return
            try:
                found = self.serve(parts.path, query, body)
            except Refusal as refusal:
                self.answer(refusal.status, refusal.streamed() if parts.path.endswith("/log") else refusal.body)
                return
            if fault == "lose":
                self.close_connection = True
                return
            if isinstance(found, list):
                self.stream(found)
            else:
                self.answer(200, found)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def serve(self, path: str, query: dict[str, str], body: bytes) -> Any:
            if double.token and self.headers.get("Authorization") != f"Bearer {double.token}":
                raise Refusal(401, 16, "token not valid for running mode")
            kind, _, rest = path.removeprefix("/api/v1/").partition("/")
            if kind == "version":
                return {"version": "v3.6.0"}
            if kind == "archived-workflows":
                return {"items": list(double.archive.values())}
            namespace, _, rest = rest.partition("/")
            if kind != "workflows" or namespace != NAMESPACE:
                raise Refusal(403, 7, f"cannot access {kind} in the namespace {namespace!r}")
            name, _, verb = rest.partition("/")
            if self.command == "GET" and not name:
                return {"items": []}
            if self.command == "POST":
                return self.create(json.loads(body)["workflow"])
            if not (double.pods.root / "workflow" / name).is_dir():
                raise Refusal(404, 5, f'workflows.argoproj.io "{name}" not found')
            if verb == "log":
                lines = [line.partition(": ") for line in double.pods.logs(name) if _selects(query, line)]
                last = int(query.get("logOptions.tailLines", len(lines)))
                found = lines[max(0, len(lines) - last) :]
                return [{"result": {"podName": f"{name}-{step}", "content": text}} for step, _, text in found]
            if verb == "terminate":
                if double.pods.status(name).phase is not Phase.running:
                    raise Refusal(400, 3, "cannot shutdown a completed workflow")
                double.pods.terminate(name)
            elif self.command == "DELETE":
                double.pods.terminate(name)
                shutil.rmtree(double.pods.root / "workflow" / name)
                return {}
            return _only(double.workflow(name), query.get("fields", ""))

        def create(self, manifest: dict[str, Any]) -> Any:
            name = manifest["metadata"]["name"]
            try:
                validate(manifest)
            except Invalid as invalid:
                raise Refusal(400, 3, str(invalid)) from None
            exists = Refusal(409, 6, f'workflows.argoproj.io "{name}" already exists')
            try:
                if not double.pods.submit(manifest):
                    raise exists
            except NameTaken:
                raise exists from None
            return double.workflow(name)

        def answer(self, status: int, found: Any) -> None:
            data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def stream(self, found: list[Any]) -> None:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"".join(json.dumps(each).encode() + b"\n" for each in found))
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _selects(query: dict[str, str], line: str) -> bool:
    """Does a log request ask for that line's pod?"""
    label, _, value = query.get("selector", "").partition("=")
    return line.startswith(f"jobs-{value}: ") if label == JOB_LABEL else not line.startswith("jobs-")


def _only(found: dict[str, Any], fields: str) -> dict[str, Any]:
    """What `fields=` leaves of an answer."""
    if not fields:
        return found
    picked: dict[str, Any] = {}
    for field in fields.split(","):
        source, target = found, picked
        *above, last = field.split(".")
        for part in above:
            source, target = source.get(part, {}), target.setdefault(part, {})
        if last in source:
            target[last] = source[last]
    return picked
