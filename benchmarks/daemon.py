"""What 1, 200 and 1,000 runs under one daemon cost, and how soon a hint is followed while the others are idle.

The daemon is a process of its own that looks at each run once a minute. Store and Argo server are one process, this
one, that answers from memory and counts requests. Every run waits for a workflow; of five, one after the other, it
ends, and a hint that names the run is sent: the clock stops when the next workflow arrives.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).parent.parent))

from conventions.documents import JobCounts, StageReport
from conventions.names import sha256
from conventions.state import State
from operators.pod.hint import send
from statemachine.daemon.schedule import NAMED
from tests import servers

ROOT = Path(__file__).parent.parent
STUBS = ROOT / "tests" / "stubapps"
KEY = "0123456789abcdef" * 2
INTERVAL = 60
HINTED = 5
MODIFIED = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"  # of each object
DPGEN2 = [sys.executable, "-c", "from statemachine.cli import main; main()"]
Answer = tuple[int, bytes, str]


class World:
    """An S3 store and an Argo server at one port, in memory."""

    def __init__(self) -> None:
        self.port = servers.free_port()
        self.objects: dict[str, bytes] = {}
        self.phases: dict[str, str] = {}
        self.arrived: dict[str, float] = {}
        self.asked: list[str] = []
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        ready.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        ready.set()
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip().split("\r\n")
                fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                if "expect" in fields:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                method, target, _ = first.split(" ")
                at = urlsplit(target)
                argo = at.path.startswith("/api/")
                self.asked.append(at.path)
                status, data, tag = (self._argo if argo else self._s3)(method, unquote(at.path), at.query, fields, body)
                lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", f'ETag: "{tag}"', MODIFIED]
                writer.write("\r\n".join([*lines, "", ""]).encode() + (data if method != "HEAD" else b""))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _s3(self, method: str, path: str, query: str, fields: dict[str, str], body: bytes) -> Answer:
        there = self.objects.get(path)
        tag = hashlib.md5(there).hexdigest() if there is not None else ""
        if method == "GET" and "list-type=2" in query:
            return 200, self._listing(path, parse_qs(query)["prefix"][0]), ""
        if method == "PUT":
            wanted = fields.get("if-match", f'"{tag}"').strip('"')
            if wanted != tag or ("if-none-match" in fields and there is not None):
                return 412, b"", ""
            self.objects[path] = body
            return 200, b"", hashlib.md5(body).hexdigest()
        if method == "DELETE":
            self.objects.pop(path, None)
            return 204, b"", ""
        return (200, there, tag) if there is not None else (404, b"", "")

    def _listing(self, bucket: str, prefix: str) -> bytes:
        root = f"{bucket.rstrip('/')}/"
        found = sorted(key for key in self.objects if key.startswith(root + prefix))
        item = "<Contents><Key>{}</Key><Size>{}</Size><ETag>0</ETag></Contents>"
        items = "".join(item.format(escape(key[len(root) :]), len(self.objects[key])) for key in found)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()

    def _argo(self, method: str, path: str, query: str, fields: dict[str, str], body: bytes) -> Answer:
        name = path.rpartition("/")[2]
        if method == "POST":
            name = json.loads(body)["workflow"]["metadata"]["name"]
            self.phases[name], self.arrived[name] = "Running", time.monotonic()
        found = {"metadata": {"name": name}, "status": {"phase": self.phases.get(name, "Running"), "progress": "0/1"}}
        return 200, json.dumps(found).encode(), ""

    def end(self, state: State, root: str) -> None:
        """The workflow of a run ends as it should."""
        place = state.place
        report = StageReport(
            stage=state.stage,
            app=place.app,
            iteration=state.iteration,
            attempt=state.attempt,
            complete=True,
            next=True,
            jobs=JobCounts(planned=1, finished=1),
        )
        self.objects[f"{root}/{place.job('000000').job_done}"] = b"{}"
        self.objects[f"{root}/{place.report}"] = report.dump()
        self.phases[state.workflow] = "Succeeded"


def begin(world: World, folder: Path, runs: int) -> dict[str, State]:
    """Runs that wait for their first workflow: one is begun, the others are like it. States by folder."""
    from operators.registry import load_config
    from statemachine.run.begin import begin as begin_run
    from statemachine.run.config_file import read_config
    from tests.conftest import CONFIG, STRUCTURE

    (folder / "cu.xyz").write_text(STRUCTURE)
    text = CONFIG.replace("prefix: out", f"prefix: {prefix(world, 'first')}")
    engine = json.dumps({"type": "argo", "server": world.url, "repository": {"endpoint": world.url}})
    (folder / "run.yaml").write_text(text.replace("{type: local, slots: 2}", engine))
    begin_run(read_config(folder / "run.yaml"), folder)
    first = {key.removeprefix("/runs/first/"): data for key, data in world.objects.items()}
    state = State.unseal(first["state.json"])
    space = state.place.space
    config = load_config(first[space.configuration(state.config_sha256)])
    states = {}
    for number in range(runs):
        name = f"run{number:04d}"
        document = config.model_copy(update={"prefix": prefix(world, name)}).dump()  # else it would be a copy
        own = {space.configuration(sha256(document)): document, space.config(0): document}
        identity = {"run_uid": hashlib.md5(name.encode()).hexdigest(), "config_sha256": sha256(document)}
        one = state.model_copy(update=identity)
        two = one.model_copy(update={"version": 2, "at": "label.running", "previous_sha256": sha256(one.seal())})
        history = {"event/00000001.json": one.seal(), "event/00000002.json": two.seal(), "state.json": two.seal()}
        world.objects |= {f"/runs/{name}/{key}": data for key, data in {**first, **own, **history}.items()}
        states[name] = two
    return states


def prefix(world: World, name: str) -> str:
    return f"s3://runs/{name}?endpoint={world.url}&region=us-east-1"


def used(pid: int) -> tuple[float, int, float]:
    """CPU seconds, threads and resident memory (MB) of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    threads, memory = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("Threads", "VmRSS"))  # type: ignore[index]
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), threads, memory / 1024


def ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/readyz", timeout=20).status == 200
    except urllib.error.HTTPError:
        return False


def measure(runs: int) -> None:
    world = World()
    with tempfile.TemporaryDirectory(prefix="dpgen2-sm-daemon-") as name:
        folder = Path(name)
        states = begin(world, folder, runs)
        options = ["--interval", str(INTERVAL), "--listen", "0", "--log-format", "json"]
        started = time.monotonic()
        command = [*DPGEN2, "daemon", *options, *(prefix(world, each) for each in states)]
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{STUBS}", "DPGEN2_HOOK_KEY": KEY, "ARGO_SERVER": world.url}
        with open(folder / "log", "wb") as log:
            daemon = subprocess.Popen(command, env=env, cwd=folder, stderr=log)
        try:
            follow(world, states, daemon.pid, folder / "log", started)
        finally:
            daemon.terminate()
            daemon.wait()


def follow(world: World, states: dict[str, State], pid: int, log: Path, started: float) -> None:
    while b"listening" not in log.read_bytes():
        time.sleep(0.1)
    url = re.search(r"listening on ([^;]*);", log.read_text())[1]  # type: ignore[index]
    while not ready(url):
        time.sleep(0.1)
    opened = time.monotonic() - started
    time.sleep(5)

    world.asked.clear()
    before, _, _ = used(pid)
    time.sleep(INTERVAL)
    cpu, threads, memory = used(pid)
    argo = sum(path.startswith("/api/") for path in world.asked)
    idle = f"{len(world.asked) - argo} + {argo}"

    times = []
    for number in range(min(HINTED, len(states))):
        name, state = list(states.items())[-1 - number]
        world.end(state, f"/runs/{name}")
        following = state.model_copy(update={"stage": "train"}).workflow
        hinted = time.monotonic()
        hint(url, state.workflow)
        while following not in world.arrived:
            time.sleep(0.002)
        times.append(world.arrived[following] - hinted)
    time.sleep(1)

    name, state = next(iter(states.items()))
    world.asked.clear()
    hint(url, state.workflow)
    time.sleep(sum(NAMED) + 3)
    named = sum(f"/{name}/" in path or state.run_uid[:8] in path for path in world.asked)
    world.asked.clear()
    hint(url, "")
    time.sleep(40)
    unnamed = len(world.asked)
    print(
        f"{len(states):5d} runs   {memory:4.0f} MB   {threads:3d} threads   ready after {opened:4.1f} s   idle "
        f"{cpu - before:5.2f} s of CPU and {idle} requests a minute   hint to submission median "
        f"{statistics.median(times):.2f} s   longest {max(times):.2f} s   requests of a hint that finds nothing: "
        f"{named} to the run that it names; {unnamed} to all in 40 s, unnamed",
        flush=True,
    )


def hint(url: str, name: str) -> None:
    if trouble := send(f"{url}/hook", KEY, name):
        raise SystemExit(trouble)


def main() -> None:
    os.environ.update(servers.environment())
    sys.path.insert(0, str(STUBS))
    for runs in [int(text) for text in sys.argv[1:]] or (1, 200, 1000):
        measure(runs)


if __name__ == "__main__":
    main()
