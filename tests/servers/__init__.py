"""S3 servers for tests, on loopback, each with a life of its own: `with ministack(folder) as server: ...`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCESS, SECRET = "test-access-key-1", "test-secret-key-1-0123456789"


@dataclass(frozen=True)
class Server:
    """An endpoint; its credentials are ACCESS and SECRET."""

    endpoint: str
    bucket: str = "runs"
    pid: int = 0  # of its process, where a test may kill it

    def prefix(self, path: str) -> str:
        """URL of a run's prefix in its bucket."""
        return f"s3://{self.bucket}/{path}?endpoint={self.endpoint}&region=us-east-1"

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
        )

    def create_bucket(self) -> None:
        """Unless it is there."""
        client = self.client()
        if self.bucket not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=self.bucket)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """This environment without what would send a client elsewhere, and with the servers' credentials."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    kept["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # the servers are from PyPI
    return {**kept, "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, **more}


class Mortal:
    """A server that is killed and started anew, with the same port and the same files."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Server]]) -> None:
        self._begin, self._life = begin, ExitStack()
        self.start()

    def start(self) -> None:
        self.server = self._life.enter_context(self._begin())

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self._life.close()


@contextmanager
def process(command: list[str], port: int, env: Mapping[str, str], folder: Path) -> Iterator[Server]:
    """A server in a process of its own, with an empty bucket; ready when its port answers HTTP."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with open(log, "wb") as stream:
        child = subprocess.Popen(command, env=dict(env), cwd=folder, stdout=stream, stderr=stream)
    try:
        await_http(port, child, log)
        server = Server(f"http://127.0.0.1:{port}", pid=child.pid)
        server.create_bucket()
        yield server
    finally:
        child.terminate()
        child.wait()


def await_http(port: int, child: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    """Return when the server answers anything; raise when its process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if child.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"{child.args!r} did not start:\n{log.read_text('utf-8', 'replace')[-2000:]}")


@contextmanager
def ministack(folder: Path, port: int | None = None) -> Iterator[Server]:
    """A real HTTP server that keeps its objects in files: conditions as AWS documents them, atomic."""
    port = port or free_port()
    settings = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "s3"),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder / "state"),
        "LOG_LEVEL": "WARNING",
    }
    with process(["ministack"], port, environment(**settings), folder) as server:
        yield server


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """A server that ignores conditions on writes."""
    port = free_port()
    root = folder / "root"
    root.mkdir(parents=True)
    command = ["rclone", "serve", "s3", str(root), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS},{SECRET}"]
    with process([*command, "--config", "/dev/null"], port, environment(), folder) as server:
        yield server


@contextmanager
def ceph(folder: Path) -> Iterator[Server]:
    """Ceph's S3 gateway from Debian's packages, in half a minute: a real store. It wants tags without quotes."""
    script = Path(__file__).parent / "ceph-rgw.sh"
    root = Path(os.environ.get("CEPH_ROOT") or Path.home() / ".cache" / "dpgen2-sm" / "ceph")
    subprocess.run([str(script), "get", str(root)], check=True, stdout=subprocess.DEVNULL)
    port, *monitor = (free_port() for _ in range(3))
    command = [str(script), "run", str(root), str(folder / "data"), str(port), *map(str, monitor)]
    with process(command, port, environment(CEPH_ACCESS=ACCESS, CEPH_SECRET=SECRET), folder) as server:
        yield server


@contextmanager
def moto(atomic: bool = True, quoted: bool = True) -> Iterator[Server]:
    """moto's application in a thread of this process. It checks and then writes, so by itself it is not atomic.

    Without `quoted` it refuses tags in quotes, as Ceph 16 does.
    """
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *arguments: Any) -> None:
            pass

    application = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def one_by_one(environ: Any, start_response: Any) -> Any:
        with lock:
            if not quoted and environ.get("HTTP_IF_MATCH", "").startswith('"'):
                environ["HTTP_IF_MATCH"] = "another"
            return application(environ, start_response)

    # Its own errors under a race are what a test looks for: no tracebacks on the terminal.
    http = make_server("127.0.0.1", 0, one_by_one if atomic else application, threaded=True, request_handler=Quiet)
    http.log = lambda *arguments: None  # type: ignore[method-assign]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        server = Server(f"http://127.0.0.1:{http.server_port}")
        server.create_bucket()
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
