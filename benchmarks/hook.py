"""How long after a workflow's end the next stage is submitted when a hint tells of it, at an interval of a minute.

Alone: runs of instant stub jobs on the local engine. When a workflow has ended a signed hint that names it is sent; the
clock stops when the next workflow has been submitted and the state says so (the time of its file under event/).

On the double of Argo and an S3 server: the workflow sends the hint itself. The clock starts when the script of reduce
has ended and its outputs are in the store, and stops when the next workflow is there. A pod costs the double the
process that it runs; what a cluster adds for it, scheduling and the executor, it cannot show: pods are counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaigns import CONFIG, DPGEN2, ROOT, STRUCTURE, STUBS

sys.path[:0] = [str(ROOT), str(STUBS)]
KEY = "0123456789abcdef" * 2
TOKEN = "token-of-the-argo-server-0123456789"
INTERVAL = 60
STAGES = 8


def begin(folder: Path, prefix: str = "out", engine: dict[str, object] | None = None) -> None:
    (folder / "cu.xyz").write_text(STRUCTURE)
    text = CONFIG.format(label=2, train=2, explore=2).replace("accurate_after: 0", "accurate_after: 99")
    text = text.replace("prefix: out", f"prefix: {prefix}")
    if engine:
        text = text.replace("{type: local, slots: 2}", json.dumps(engine))
    (folder / "run.yaml").write_text(text)
    subprocess.run([*DPGEN2, "init", "run.yaml"], cwd=folder, env=environment(), check=True, capture_output=True)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(STUBS), "DPGEN2_HOOK_KEY": KEY}


@contextmanager
def daemon(folder: Path, prefix: str, port: int) -> Iterator[str]:
    """A daemon of that run; yields the address of its hook."""
    command = [*DPGEN2, "daemon", prefix, "--interval", str(INTERVAL), "--listen", str(port), "--log-format", "json"]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = json.loads(process.stderr.readline())["message"]
    try:
        yield said.split(";")[0].removeprefix("listening on ") + "/hook"
    finally:
        process.terminate()
        process.communicate()


def submitted(prefix: Path, after: int) -> tuple[int, float]:
    """Version and time of the next state that has a running workflow."""
    version = after
    while True:
        path = prefix / "event" / f"{version + 1:08d}.json"
        if not path.exists():
            time.sleep(0.005)
            continue
        version += 1
        if json.loads(path.read_bytes())["at"].endswith(".running"):
            return version, path.stat().st_mtime


def on_the_local_engine(folder: Path) -> list[float]:
    from operators.pod.hint import send
    from statemachine.run.opening import open_poller

    prefix = folder / "out"
    begin(folder)
    times = []
    with daemon(folder, "out", 0) as url:
        poller = open_poller(f"file://{prefix}")
        version, _ = submitted(prefix, 1)
        for _ in range(STAGES):
            workflow = poller.record.load().state.workflow
            poller.engine.wait(workflow, 300)
            hinted = time.time()
            if trouble := send(url, KEY, workflow):
                raise SystemExit(trouble)
            version, when = submitted(prefix, version)
            times.append(when - hinted)
        poller.engine.wait(poller.record.load().state.workflow, 300)
    return times


def on_the_double(folder: Path) -> tuple[list[float], set[int]]:
    """Seconds from the end of reduce to the next workflow; how many pods, but jobs, a workflow has."""
    from tests import servers
    from tests.argo_double.server import ArgoDouble

    os.environ.update(servers.environment(ARGO_TOKEN=TOKEN))
    secrets = {"store": {"id": servers.ACCESS, "secret": servers.SECRET}, "hook": {"key": KEY}}
    port = servers.free_port()
    with servers.ministack(folder / "s3") as s3:
        prefix = s3.prefix("hook")
        with ArgoDouble(folder / "argo", prefix, token=TOKEN, secrets=secrets) as double:
            keys = {"access_key": {"name": "store", "key": "id"}, "secret_key": {"name": "store", "key": "secret"}}
            engine = {
                "type": "argo",
                "server": double.url,
                "repository": {"endpoint": s3.endpoint, "credentials": keys},
                "hook": {"url": f"http://127.0.0.1:{port}/hook", "key": {"name": "hook", "key": "key"}},
            }
            begin(folder, prefix, engine)
            with daemon(folder, prefix, port):
                times, pods, reduced, seen = [], set(), 0.0, set()
                while len(times) < STAGES:
                    time.sleep(0.005)
                    for place in double.folders():
                        if place.name not in seen:
                            times += [time.time() - reduced] if reduced else []
                            seen.add(place.name)
                            last = reduced = 0.0
                        try:
                            step = json.loads((place / "status.json").read_bytes())["step"]
                        except FileNotFoundError:  # just begun, or just deleted
                            continue
                        if step == "reduce":
                            last = time.time()
                        elif last and not reduced:
                            reduced = time.time()
                            spec = json.loads((place / "manifest.json").read_bytes())["spec"]
                            pods.add(len([each for each in spec["templates"] if each["name"] != "job"]) - 1)
    return times, pods


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dpgen2-sm-hook-") as name:
        told(f"hint to submission, {STAGES} stages on the local engine", on_the_local_engine(Path(name)))
    with tempfile.TemporaryDirectory(prefix="dpgen2-sm-hook-") as name:
        times, pods = on_the_double(Path(name))
        told(f"end of reduce to submission, {STAGES} stages on the double", times)
        print(f"pods of a workflow beside its jobs: {', '.join(map(str, sorted(pods)))}")
    print(f"without hints up to {INTERVAL} s, at this interval")


def told(what: str, times: list[float]) -> None:
    print(f"{what:55s} median {statistics.median(times):.2f} s   longest {max(times):.2f} s")


if __name__ == "__main__":
    main()
