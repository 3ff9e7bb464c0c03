"""Servers that die while a campaign runs, and a disk that is full: it waits or says so, and goes on to the same end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import servers
from tests.argo_double.server import NAMESPACE
from tests.conftest import STUBS
from tests.fault.conftest import RETRIES
from tests.fault.forkserver import ForkServer
from tests.fault.scene import Scene, Seen
from tests.fault.watched import daemon
from tests.figures import Figures
from tests.servers import ACCESS, SECRET, Mortal, Server

TOKEN = "token-of-the-argo-server-0123456789"


def argo(server: str, s3: Server, timeout: float = 30) -> dict[str, object]:
    """`engine:` of a run on the double."""
    keys = {"access_key": {"name": "store", "key": "id"}, "secret_key": {"name": "store", "key": "secret"}}
    repository = {"endpoint": s3.endpoint, "credentials": keys}
    return {"type": "argo", "server": server, "namespace": NAMESPACE, "repository": repository, "timeout": timeout}


@contextmanager
def double(folder: Path, prefix: str, port: int) -> Iterator[Server]:
    """The double of Argo in a process of its own; its pods outlive it."""
    env = servers.environment(
        DOUBLE_TOKEN=TOKEN,
        DOUBLE_SECRETS=json.dumps({"store": {"id": ACCESS, "secret": SECRET}}),
        PYTHONPATH=os.pathsep.join((str(STUBS), str(STUBS.parents[1]))),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "ab") as log:
        command = [sys.executable, "-m", "tests.argo_double", str(folder), prefix, str(port)]
        child = subprocess.Popen(command, cwd=STUBS.parents[1], env=env, stdout=log, stderr=log)
    try:
        servers.await_http(port, child, folder / "log")
        yield Server(f"http://127.0.0.1:{port}", pid=child.pid)
    finally:
        child.kill()
        child.wait()


def same(scene: Scene, undisturbed: Seen) -> None:
    seen = scene.look()
    assert seen.settled() == undisturbed.settled()
    assert seen.executions.keys() == undisturbed.executions.keys()


@pytest.mark.slow
def test_the_store_is_killed_in_every_stage(tmp_path: Path, aws: None, undisturbed: Seen, figure: Figures) -> None:
    """Where it stays away, daemon and workflow end in errors; then it is back, with all that it has acknowledged."""
    port = servers.free_port()
    store = Mortal(lambda: servers.ministack(tmp_path / "ministack", port))
    scene = Scene(tmp_path / "scene", store.server.prefix("outage"), RETRIES)
    killed = 0
    try:
        with daemon(scene) as watched:
            for event in watched.events():
                if event["event"] == "stopped":
                    break
                if event["event"] == "state" and event["at"].endswith(".running") and event["attempt"] == 0:
                    store.kill()
                    killed += 1
                    if event["stage"] in ("label", "explore"):
                        assert "/outage" in watched.until(event="error")["message"]
                    store.start()
            assert watched.process.wait() == 0, watched.text
        assert killed >= 3, "one commit may be told by nobody: it was applied, and then the store was away"
        same(scene, undisturbed)
        assert set(scene.look().executions.values()) == {1}, (
            "what was done is not done again: it only could not be told"
        )
    finally:
        store.close()
    figure("outages: deaths of the store's server", killed, exact=False)


@pytest.mark.slow
def test_argos_server_is_killed_and_all_its_workflows_are_lost(
    tmp_path: Path, s3: Server, undisturbed: Seen, figure: Figures
) -> None:
    port = servers.free_port()
    prefix = s3.prefix(f"argo/{tmp_path.name}")
    folder = tmp_path / "scene" / "world" / "argo"
    scene = Scene(tmp_path / "scene", prefix, RETRIES, argo(f"http://127.0.0.1:{port}", s3))
    server = Mortal(lambda: double(folder, prefix, port))
    lost = 0
    try:
        with daemon(scene, ARGO_TOKEN=TOKEN) as watched:
            watched.until(event="state", at="label.running")
            server.kill()
            assert f"127.0.0.1:{port} does not answer" in watched.until(event="error")["message"]
            server.start()
            for at in ("train.running", "explore.running"):
                watched.until(event="state", at=at)
                server.kill()
                lost += scene.kill_workflows() > 0  # the cluster is set up anew: pods and workflows are gone
                shutil.rmtree(folder / "workflow")
                server.start()
            watched.until(event="state", at="select.running")
            server.kill()
            server.start()
            watched.end()
        same(scene, undisturbed)
    finally:
        server.close()
        scene.kill_workflows()
    figure("outages: deaths of Argo's server", 4)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 4 MiB at a folder; skips where this process may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file, which a store does not see, that leaves so many blocks of 4 KiB."""
    ballast = disk / ".part-ballast"
    block = bytes(4096)
    with open(ballast, "wb", buffering=0) as stream:
        try:
            while stream.write(block) == len(block):
                pass
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() // 4096 - left) * 4096)
    return ballast


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_space(
    tmp_path: Path, forkserver: ForkServer, figure: Figures
) -> None:
    scene = Scene(tmp_path)
    failures = 0
    with small_disk(scene.world / "out"):
        assert forkserver.run("init", "run.yaml", cwd=scene.root, env=scene.environment())[0] == 0
        scene.save("begun")
        assert forkserver.run("run", "run.yaml", cwd=scene.root, env=scene.environment())[0] == 0
        undisturbed = scene.look()
        for left in (0, 8, 40, 120):
            scene.restore("begun")
            ballast = fill(scene.world / "out", left)
            code, output = forkserver.run("run", "run.yaml", cwd=scene.root, env=scene.environment())
            assert code in (0, 1) and "Traceback" not in output, output
            if code:
                failures += 1
                assert "No space left" in output, f"{left} blocks left: {output}"
            scene.wait()
            ballast.unlink()
            code, output = forkserver.run("resume", "run.yaml", cwd=scene.root, env=scene.environment())
            assert code == 0, output
            same(scene, undisturbed)  # what there was no space for was done again
    assert failures >= 3
    figure("outages: sizes of a full disk", 4)
