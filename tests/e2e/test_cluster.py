"""The production path: real S3 over HTTP, the double of the Argo server, the command line in processes of its own."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conventions.names import STAGES
from conventions.space import DataSpace
from statemachine.run.opening import open_poller
from statemachine.store import Store, open_store
from tests.argo_double.server import NAMESPACE, ArgoDouble
from tests.conftest import CONFIG, STRUCTURE, STUBS
from tests.e2e.engines import need
from tests.e2e.test_campaigns import CONFIG as COPPER
from tests.e2e.test_campaigns import EXAMPLE, EXHAUSTED
from tests.servers import ACCESS, SECRET, Server, free_port

COMMAND = [sys.executable, "-c", "from statemachine.cli import main; main()"]
TOKEN = "token-of-the-argo-server-0123456789"
HOOK = "key-of-the-daemons-hook-0123456789"


class Cluster:
    """A run on the double: its configuration, its store, and everything that its commands printed."""

    def __init__(self, root: Path, s3: Server, double: ArgoDouble, prefix: str) -> None:
        self.root, self.s3, self.double, self.prefix = root, s3, double, prefix
        self.store: Store = open_store(prefix)
        self.printed: list[str] = []

    def configure(self, text: str, **pods: dict[str, Any]) -> None:
        """The configuration of a laptop, with another prefix and another engine."""
        config = yaml.safe_load(text)
        config["prefix"] = self.prefix
        config["engine"] = {
            "type": "argo",
            "server": self.double.url,
            "namespace": NAMESPACE,
            "repository": {
                "endpoint": self.s3.endpoint,
                "credentials": {
                    "access_key": {"name": "store", "key": "id"},
                    "secret_key": {"name": "store", "key": "secret"},
                },
            },
        }
        for stage, pod in pods.items():
            config[stage]["pod"] = pod
        (self.root / "run.yaml").write_text(yaml.safe_dump(config))

    def hold(self, text: str, **at: str) -> tuple[Path, Path]:
        """Let a task of each of these stages wait at the gate; return the ledger of all tasks, and the gate."""
        ledger, gate = self.root / "ledger", self.root / "gate"
        ledger.mkdir()
        gate.mkdir()
        for name in ("entered", "go"):
            os.mkfifo(gate / name)
        (self.root / "cu.xyz").write_text(STRUCTURE)
        env = {"STUB_LEDGER": str(ledger), "STUB_GATE": str(gate)}
        self.configure(text, **{stage: {"env": {**env, "STUB_GATE_AT": at.get(stage, "")}} for stage in STAGES})
        return ledger, gate

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, "PYTHONPATH": str(STUBS), "ARGO_TOKEN": TOKEN, **env},
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> int:
        self.printed.append(process.communicate()[0])
        return process.returncode

    def everything_written(self) -> Iterator[tuple[str, bytes]]:
        """Objects of the store, manifests and logs of the cluster, and what was printed."""
        for entry in self.store.list(""):
            yield entry.key, self.store.get(entry.key).data
        for path in (self.root / "argo").rglob("*"):
            # The double's own copy of the cluster's Secrets is the one place where they belong.
            if path.is_file() and path.name != "settings.json":
                yield str(path), path.read_bytes()
        for index, text in enumerate(self.printed):
            yield f"output {index}", text.encode()


@pytest.fixture
def cluster(tmp_path: Path, s3: Server) -> Iterator[Cluster]:
    prefix = s3.prefix(f"runs/{tmp_path.name}")
    secrets = {"store": {"id": ACCESS, "secret": SECRET}, "hook": {"key": HOOK}}
    with ArgoDouble(tmp_path / "argo", s3.prefix("runs"), token=TOKEN, secrets=secrets) as double:
        yield Cluster(tmp_path, s3, double, prefix)


@pytest.mark.servers
def test_killed_in_every_stage_nothing_is_lost_done_twice_or_given_away(cluster: Cluster) -> None:
    text = CONFIG.replace("accurate_after: 1", "accurate_after: 0")
    ledger, gate = cluster.hold(text, **{stage: f"{stage}-0-1" for stage in STAGES})
    process = cluster.start("run", "run.yaml")
    for _ in STAGES:
        assert (gate / "entered").read_text() == "entered\n"
        os.killpg(process.pid, signal.SIGKILL)
        cluster.finish(process)
        process = cluster.start("resume", cluster.prefix)
        (gate / "go").write_text("go\n")
    assert cluster.finish(process) == 0, cluster.printed[-1]
    executions = {path.name: len(path.read_text().split()) for path in ledger.iterdir()}
    tasks = {f"{stage}-0-{index}" for stage in STAGES for index in range(3 if stage == "explore" else 2)}
    assert executions == dict.fromkeys(tasks, 1)
    assert cluster.double.manifests() == [], "what was consumed is deleted"
    assert all("nodes" not in query.get("fields", "nodes") for method, path, query in cluster.double.requests
               if method == "GET" and "/workflows/" in path and not path.endswith("/log"))  # fmt: skip
    for where, data in cluster.everything_written():
        for secret in (TOKEN, ACCESS, SECRET):
            assert secret.encode() not in data, where


@pytest.mark.servers
def test_doctor_runs_a_tiny_campaign_in_the_cluster_and_leaves_nothing(cluster: Cluster) -> None:
    (cluster.root / "cu.xyz").write_text(STRUCTURE)
    cluster.configure(CONFIG.replace("accurate_after: 1", "accurate_after: 0"))
    code = cluster.finish(cluster.start("doctor", "--try", "run.yaml"))
    (output,) = cluster.printed
    assert code == 0 and output.count("ok  try ") == 4, output
    assert output.count("not tried: it runs in pods") == 4
    assert cluster.double.manifests() == []
    assert list(open_store(cluster.s3.prefix("runs")).list(f"{cluster.root.name}-trial")) == []


@pytest.mark.servers
def test_lost_answers_and_collected_workflows_do_no_harm(cluster: Cluster) -> None:
    """Every answer of the Argo server to the first requests of a stage is lost or an error, in turn."""
    ledger, gate = cluster.hold(CONFIG, label="label-0-1")
    assert cluster.finish(cluster.start("init", "run.yaml")) == 0, cluster.printed[-1]
    cluster.double.faults += ["lose", 503, "lose"]
    assert cluster.finish(cluster.start("step", cluster.prefix)) == 0, cluster.printed[-1]
    assert (gate / "entered").read_text() == "entered\n"
    cluster.double.faults += [503] * 4
    assert cluster.finish(cluster.start("status", cluster.prefix)) == 0, "the state is shown also then"
    assert "label.running" in cluster.printed[-1] and "answered 503" in cluster.printed[-1]
    (gate / "go").write_text("go\n")
    (name,) = (manifest["metadata"]["name"] for manifest in cluster.double.manifests())
    cluster.double.pods.wait(name, 60)
    cluster.double.collect_garbage()
    cluster.double.faults += [429, "lose"]
    assert cluster.finish(cluster.start("step", cluster.prefix)) == 0, cluster.printed[-1]
    assert "train.running" in cluster.printed[-1], "gone, but all that it had to leave is there"
    assert cluster.finish(cluster.start("cancel", cluster.prefix)) == 0, cluster.printed[-1]
    executions = {path.name: len(path.read_text().split()) for path in ledger.glob("label-*")}
    assert executions == {"label-0-0": 1, "label-0-1": 1}


def executions(ledger: Path) -> dict[str, int]:
    """How often each task has begun."""
    return {path.name: len(path.read_text().split()) for path in ledger.iterdir()}


def nobody_waits(gate: Path) -> bool:
    """Is the job's process gone that had come to the gate?"""
    try:
        os.close(os.open(gate / "go", os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


@pytest.mark.servers
def test_a_rewind_while_jobs_run_stops_them_and_nothing_of_them_counts(cluster: Cluster) -> None:
    """A daemon is at work meanwhile: the two are rivals for each commit, and both stop the workflow."""
    ledger, gate = cluster.hold(CONFIG.replace("accurate_after: 1", "accurate_after: 0"), train="train-0-1")
    assert cluster.finish(cluster.start("init", "run.yaml")) == 0, cluster.printed[-1]
    daemon = cluster.start("daemon", "--interval", "0.2", cluster.prefix)
    assert (gate / "entered").read_text() == "entered\n"
    rewind = cluster.start("rewind", "--yes", "--iter", "0", "--stage", "label", cluster.prefix)
    assert cluster.finish(rewind) == 0, cluster.printed[-1]
    assert nobody_waits(gate), "its workflow has been terminated"
    assert cluster.finish(daemon) == 0, cluster.printed[-1]
    assert "converged" in cluster.printed[-1]
    first = {"label-0-0", "label-0-1", "train-0-0", "train-0-1"}
    again = {f"{stage}-1-{index}" for stage in STAGES for index in range(3 if stage == "explore" else 2)}
    assert executions(ledger) == dict.fromkeys(first | again, 1), "each task once, and none after the rewind"
    state = open_poller(cluster.prefix).record.load().state
    assert [(row.iteration, row.stages) for row in state.trail] == [(0, []), (1, [*STAGES])]
    assert cluster.double.manifests() == []


@pytest.mark.servers
def test_a_cancel_while_jobs_run_stops_them_and_resume_repeats_only_those(cluster: Cluster) -> None:
    ledger, gate = cluster.hold(CONFIG.replace("accurate_after: 1", "accurate_after: 0"), explore="explore-0-2")
    assert cluster.finish(cluster.start("init", "run.yaml")) == 0, cluster.printed[-1]
    daemon = cluster.start("daemon", "--interval", "0.2", cluster.prefix)
    assert (gate / "entered").read_text() == "entered\n"
    assert cluster.finish(cluster.start("cancel", "--yes", cluster.prefix)) == 0, cluster.printed[-1]
    assert "cancelled" in cluster.printed[-1] and nobody_waits(gate)
    assert cluster.finish(daemon) == 0, "a cancelled run has ended"
    before, place = executions(ledger), open_poller(cluster.prefix).record.load().state.place
    kept = {place.space.parse(entry.key).job_id for entry in cluster.store.list(place.done + "/")}
    resumed = cluster.start("resume", cluster.prefix)
    assert (gate / "entered").read_text() == "entered\n"
    (gate / "go").write_text("go\n")
    assert cluster.finish(resumed) == 0, cluster.printed[-1]
    again = {f"explore-0-{index}" for index in range(3) if f"{index:06d}" not in kept}
    more = {"explore-0-2", *again, "select-0-0", "select-0-1"}
    tasks = before.keys() | more
    assert executions(ledger) == {task: before.get(task, 0) + (task in more) for task in tasks}


@pytest.mark.servers
def test_hints_alone_carry_a_run_to_its_end(cluster: Cluster) -> None:
    """Each is sent before Argo shows its workflow as ended; a daemon that waited for its interval would wait a day."""
    (cluster.root / "cu.xyz").write_text(STRUCTURE)
    port = free_port()
    cluster.configure(CONFIG.replace("accurate_after: 1", "accurate_after: 0"))
    config = yaml.safe_load((cluster.root / "run.yaml").read_text())
    config["engine"]["hook"] = {"url": f"http://127.0.0.1:{port}/hook", "key": {"name": "hook", "key": "key"}}
    (cluster.root / "run.yaml").write_text(yaml.safe_dump(config))
    assert cluster.finish(cluster.start("init", "run.yaml")) == 0, cluster.printed[-1]
    daemon = cluster.start("daemon", "--interval", "86400", "--listen", str(port), cluster.prefix, DPGEN2_HOOK_KEY=HOOK)
    assert cluster.finish(daemon) == 0, cluster.printed[-1]
    assert "converged" in cluster.printed[-1] and cluster.printed[-1].count("woken by a hint") >= len(STAGES)
    assert not any(HOOK.encode() in data for _, data in cluster.everything_written())


@pytest.mark.engines
def test_a_campaign_of_real_engines(cluster: Cluster) -> None:
    """dp and lmp in pods that inherit nothing: everything comes through S3."""
    need("dp", "dpgen2-lmp")
    for name in ("cu.vasp", "input.json"):
        shutil.copy(EXAMPLE / name, cluster.root)
    settings = json.loads((cluster.root / "input.json").read_text())
    settings["training"] |= {"disp_freq": 50, "save_freq": 50}
    (cluster.root / "input.json").write_text(json.dumps(settings))
    cluster.configure(COPPER)
    assert cluster.finish(cluster.start("run", "run.yaml")) == EXHAUSTED, cluster.printed[-1]
    apps = {"label": "ase", "train": "deepmd", "explore": "lammps", "select": "model_devi"}
    space = DataSpace(apps)
    models = [entry for entry in cluster.store.list(space.stage("train", 1).product + "/") if ".pb" in entry.key]
    assert len(models) == 2 and all(entry.size > 10_000 for entry in models)
    folder = cluster.store.fetch(space.dataset_iter(1), cluster.root / "dataset")
    assert folder is not None
    forces = np.load(folder / "Cu32/set.000/force.npy")
    assert forces.shape[1] == 96 and np.isfinite(forces).all() and abs(forces).max() > 0.01
