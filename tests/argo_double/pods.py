"""The pods of the double: the embedded engine's interpreter under a cluster's rules.

    python -m tests.argo_double.pods FOLDER

A pod inherits nothing: its environment is what the manifest says, its files begin empty, its secrets come from the
cluster. A pod that dies of a signal was lost, and is repeated as `retryStrategy` says.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from statemachine.engine import Phase
from statemachine.engine.base import LOCKS
from statemachine.engine.interpreter import Interpreter
from statemachine.engine.scripts import run_process
from statemachine.store import Store, open_store


class InBucket:
    """A run's store, addressed by the keys of its bucket, as artifacts are."""

    def __init__(self, store: Store, key_prefix: str) -> None:
        self.store, self.key_prefix = store, key_prefix

    def fetch(self, key: str, scratch: Path) -> Path | None:
        return self.store.fetch(self._relative(key), scratch)

    def publish(self, path: Path, key: str) -> None:
        self.store.publish(path, self._relative(key))

    def _relative(self, key: str) -> str:
        assert key.startswith(self.key_prefix), f"{key} is not below {self.key_prefix}"
        return key[len(self.key_prefix) :]


class Cluster(Interpreter):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, self.pod)
        settings = json.loads((folder / "settings.json").read_bytes())
        self.store = InBucket(open_store(settings["store"]), settings["key_prefix"])  # type: ignore[assignment]
        self.secrets: dict[str, dict[str, str]] = settings["secrets"]
        self.work = folder / "pods"
        own = ("PATH", "DPGEN2_WORKFLOW_UID", "OMP_NUM_THREADS")
        self.environ = {name: value for name, value in self.environ.items() if name in own}
        self.environ["HOME"] = str(folder)
        strategies = [template.get("retryStrategy", {}) for template in self.templates.values()]
        self.retries = max(int(strategy.get("limit", 0)) for strategy in strategies)

    def environment(self, script: dict[str, Any]) -> dict[str, str]:
        told = [(entry["name"], entry.get("value", self.secret(entry))) for entry in script.get("env", [])]
        plain = [{"name": name, "value": value} for name, value in told if value is not None]
        found = super().environment({**script, "env": plain})
        found.pop("DPGEN2_SHARED", None)  # pods share no folder
        return found

    def pod(self, script: Mapping[str, Any], env: Mapping[str, str], place: Path, log: Path) -> int:
        with open(log, "wb") as stream:
            code = run_process(script, env, place, stream)
            for _ in range(self.retries):
                if code >= 0:
                    break
                code = run_process(script, env, place, stream)
        return code

    def secret(self, entry: dict[str, Any]) -> str | None:
        """The value from a Secret; None where it may be missing, and is."""
        reference = entry.get("valueFrom", {}).get("secretKeyRef", {"optional": True})
        found = self.secrets.get(reference.get("name"), {}).get(reference.get("key"))
        if found is None and not reference.get("optional"):
            raise KeyError(f"the pod waits for ever: there is no Secret {reference}")
        return found


def main() -> int:
    folder = Path(sys.argv[1])
    for lock in os.environ.pop(LOCKS).split():  # a pod lives on a node of its own
        os.set_inheritable(int(lock), False)
    return 0 if Cluster(folder).run() is Phase.succeeded else 1
