"""Secrets appear nowhere: a campaign with DEBUG logs of everything, with errors on purpose, and then a search."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import yaml

from conventions.cluster import ArgoConfig
from conventions.errors import Dpgen2Error
from conventions.space import DataSpace
from conventions.state import State
from operators.pod.hint import signed
from statemachine import logs
from statemachine.daemon.hints import keys_from
from statemachine.engine.argo_client import ArgoClient
from statemachine.notify import Notifier, take
from statemachine.notify.senders import senders_of
from statemachine.store import open_store
from tests import servers
from tests.argo_double.server import NAMESPACE, ArgoDouble
from tests.conftest import CONFIG, STRUCTURE, STUBS
from tests.figures import Figures

SECRETS = {
    "access key": "AKIA7SENTINELACCESS0",
    "secret key": "w0Qk/sentinel+secret/key0123456789abcdefg",
    "session token": "FwoG/sentinel+session=token==0123456789" * 3,
    "token in the environment": "eyJhbGciOiJSUzI1NiJ9.sentinel-env-token-0123456789",
    "token in a file": "dGhlIGZpbGU.sentinel-file-token-0123456789",
    "hook key": "h00kkey-sentinel-0123456789abcdef",
    "hook token": "h1tok-sentinel-0123456789abcdef",
    "password in an address": "pAssw0rd-sentinel-in-url",
    "webhook key": "w3bh00k-sentinel-0123456789abcdef",
    "webhook address": "T0K3N-sentinel-webhook-address",
    "notification token": "B0TT0K3N-sentinel-notification",
    "notification password": "n0tify-sentinel-password",
}
AWS = {
    "AWS_ACCESS_KEY_ID": SECRETS["access key"],
    "AWS_SECRET_ACCESS_KEY": SECRETS["secret key"],
    "AWS_SESSION_TOKEN": SECRETS["session token"],
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_CONFIG_FILE": os.devnull,
}
# Whoever starts the program has turned everything on, before it, and keeps it on.
DEBUG = """\
import logging
logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s %(args)s")
logging.Logger.setLevel = lambda self, level: None
"""


def traces(data: bytes) -> list[str]:
    """Whose secrets a text holds: whole, encoded, or their first eight characters."""
    return [
        name
        for name, secret in SECRETS.items()
        if any(form.encode() in data for form in {*logs.forms(secret), secret[: logs.SHORTEST]})
    ]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_the_search_sees(secret: str) -> None:
    import base64
    from urllib.parse import quote

    for text in (secret, quote(secret, safe=""), secret[:8], base64.b64encode(f"user:{secret}".encode()).decode()):
        assert traces(f"<{text}>".encode()), text


class Echo(BaseHTTPRequestHandler):
    """Answers with an error that repeats all that it was sent, as S3 and proxies do."""

    def any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sent = " ".join(f"{name}: {value}" for name, value in self.headers.items())
        if "Bearer" in sent:
            body = json.dumps({"code": 7, "message": f"forbidden: {sent}"}).encode()
        else:
            key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
            body = (
                "<Error><Code>AccessForbidden</Code>"
                f"<Message>{escape(sent)}</Message><AWSAccessKeyId>{key}</AWSAccessKeyId></Error>"
            ).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = any

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Scene:
    """A run on the double, commands with everything at DEBUG, and all that they printed."""

    def __init__(self, root: Path, s3: servers.Server, double: ArgoDouble, prefix: str) -> None:
        self.root, self.s3, self.double, self.prefix = root, s3, double, prefix
        self.printed: list[tuple[str, str]] = []
        (root / "debug").mkdir()
        (root / "debug" / "sitecustomize.py").write_text(DEBUG)
        (root / "secrets").mkdir()
        (root / "secrets" / "token").write_text(SECRETS["token in a file"])
        (root / "secrets" / "hook").write_text(SECRETS["hook key"])
        (root / "cu.xyz").write_text(STRUCTURE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "ARGO_", "DPGEN2_"))}
        self.env = {**kept, **AWS, "PYTHONPATH": f"{root / 'debug'}:{STUBS}"}

    def configure(self, name: str, prefix: str, server: str, hook: str | None = None) -> None:
        keys = {field: {"name": "store", "key": key} for field, key in (("access_key", "id"), ("secret_key", "secret"))}
        config = yaml.safe_load(CONFIG.replace("accurate_after: 1", "accurate_after: 0"))
        config["prefix"] = prefix
        config["engine"] = {"type": "argo", "server": server, "namespace": NAMESPACE}
        config["engine"]["repository"] = {"endpoint": self.s3.endpoint, "credentials": keys}
        if hook:
            config["engine"]["hook"] = {"url": hook, "key": {"name": "hook", "key": "key"}}
        (self.root / name).write_text(yaml.safe_dump(config))

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-c", "from statemachine.cli import main; main()", *arguments]
        with open(self.root / "printed", "wb") as printed:
            return subprocess.Popen(line, cwd=self.root, env={**self.env, **env}, stdout=printed, stderr=printed)

    def finish(self, process: subprocess.Popen[bytes], what: str = "printed") -> int:
        code = process.wait()
        self.printed.append((" ".join(map(str, process.args[3:])), (self.root / what).read_text()))
        return code

    def run(self, *arguments: str, **env: str) -> int:
        return self.finish(self.start(*arguments, **env))

    def follow(self, process: subprocess.Popen[bytes], end: str) -> None:
        """Wait until the run is there, with a process that must live on."""
        store = open_store(self.prefix)
        while (at := State.unseal(store.get(DataSpace.state).data).at) != end:
            assert process.poll() is None and at != "failed", self.finish(process) or self.printed[-1]
            time.sleep(0.3)

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """Objects with their keys, manifests and logs of the cluster, and what was printed."""
        store = open_store(self.prefix)
        for entry in store.list(""):
            yield entry.key, entry.key.encode() + store.get(entry.key).data
        for path in (self.root / "argo").rglob("*"):
            # The double's own copy of the cluster's Secrets is the one place where they belong.
            if path.is_file() and path.name != "settings.json":
                yield str(path), path.read_bytes()
        for what, text in self.printed:
            yield what, text.encode()


def ask(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> str:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {}), timeout=10) as answer:
            return str(answer.headers) + str(answer.read(), "utf-8")
    except urllib.error.HTTPError as error:
        return str(error.headers) + str(error.read(), "utf-8")


@pytest.fixture
def scene(tmp_path: Path, s3: servers.Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    prefix = s3.prefix(f"secrets/{tmp_path.name}")
    secrets = {
        "store": {"id": SECRETS["access key"], "secret": SECRETS["secret key"]},
        "hook": {"key": SECRETS["hook key"]},
    }
    with ArgoDouble(tmp_path / "argo", prefix, token=SECRETS["token in a file"], secrets=secrets) as double:
        yield Scene(tmp_path, s3, double, prefix)


@pytest.mark.servers
def test_a_campaign_gives_no_secret_away(scene: Scene, figure: Figures) -> None:
    with echo() as loud:
        campaign(scene, loud)
    searched = 0
    for where, data in scene.everything():
        assert traces(data) == [], where
        searched += len(data)
    debug = "".join(text for _, text in scene.printed)
    for sign in (
        "botocore.auth CanonicalRequest",
        "botocore.endpoint Sending http request",
        "httpcore",
        "urllib3",
        "apprise",
        "not sent by webhook: the receiver answered 403",
        "not sent by address 1 of DPGEN2_NOTIFY_URLS",
        "***",
    ):
        assert sign in debug, f"{sign}: the logs were not on"
    assert "Signature=***" in debug
    figure("security: secrets looked for in all that a campaign writes, prints and serves", len(SECRETS))


def notifications(loud: str) -> dict[str, str]:
    """Targets that answer with what they were sent."""
    login = f"me:{SECRETS['notification password']}@"
    return {
        "DPGEN2_NOTIFY_URLS": f"{loud.replace('http://', f'json://{login}')}/{SECRETS['notification token']}",
        "DPGEN2_NOTIFY_ON": "converged,paused,needs_person,iteration",
        "DPGEN2_WEBHOOK_URL": f"{loud}/{SECRETS['webhook address']}",
        "DPGEN2_WEBHOOK_KEY": SECRETS["webhook key"],
    }


def campaign(scene: Scene, loud: str) -> None:
    """All of a run, by the daemon, and then by other commands."""
    port = servers.free_port()
    hook = f"http://127.0.0.1:{port}/hook"
    token_file = {"ARGO_TOKEN_FILE": str(scene.root / "secrets/token")}
    token = {"ARGO_TOKEN": SECRETS["token in the environment"]}
    hooks = {
        "DPGEN2_HOOK_KEY_FILE": str(scene.root / "secrets/hook"),
        "DPGEN2_HOOK_TOKEN": SECRETS["hook token"],
    }
    scene.configure("run.yaml", scene.prefix, scene.double.url, hook)
    assert scene.run("init", "run.yaml", **token_file) == 0, scene.printed[-1]
    scene.double.faults += ["lose", 503, "lose"]
    daemon = scene.start("daemon", "--interval", "0.5", "--listen", str(port), "--log-format", "json", "--stay",
                         scene.prefix, **token_file, **hooks, **notifications(loud))  # fmt: skip
    served = []
    scene.follow(daemon, "converged")
    for path in ("healthz", "readyz", "metrics", "hook", "nothing"):
        served.append(ask(f"http://127.0.0.1:{port}/{path}"))
    for headers in (
        {"Authorization": f"Bearer {SECRETS['hook token']}"},
        {"Authorization": f"Bearer {SECRETS['hook token']}x"},
        signed(SECRETS["hook key"], b"hint"),
        signed(SECRETS["hook key"] + "x", b"hint"),
    ):
        served.append(ask(hook, b"hint", headers))
    assert served[-4].endswith("accepted\n")
    assert 'dpgen2_notifications_total{result="failed"}' in served[2]
    daemon.terminate()
    assert scene.finish(daemon) == 0, scene.printed[-1]
    scene.printed += [("served", text) for text in served]
    assert scene.run("notify", hook, DPGEN2_HOOK_KEY=SECRETS["hook key"]) == 1, "nobody listens any more"
    scene.double.token = SECRETS["token in the environment"]
    for command in ("status", "plan", "logs", "doctor", "step", "resume", "run"):
        scene.run(command, scene.prefix, **token, **notifications(loud))
    assert scene.run("daemon", "--test-notify", **notifications(loud)) == 1
    for name in ("DPGEN2_NOTIFY_URLS", "DPGEN2_WEBHOOK_URL", "DPGEN2_WEBHOOK_KEY"):  # each spoilt in turn
        wrong = {**notifications(loud), name: f"{SECRETS['notification token']} {SECRETS['webhook address']}"}
        assert scene.run("daemon", "--test-notify", **wrong) != 0
    errors_on_purpose(scene, {**token_file, **token})


def errors_on_purpose(scene: Scene, tokens: dict[str, str]) -> None:
    """Refusals that repeat what was sent, nobody there, passwords in addresses."""
    password = SECRETS["password in an address"]
    closed = f"http://127.0.0.1:{servers.free_port()}"
    with echo() as loud:
        for command, endpoint in (("status", loud), ("doctor", loud), ("run", loud), ("status", closed)):
            assert scene.run(command, f"s3://bucket/run?endpoint={endpoint}&region=us-east-1", **tokens) != 0
        scene.configure("loud.yaml", f"{scene.prefix.partition('?')[0]}2?{scene.prefix.partition('?')[2]}", loud)
        for command in ("init", "step", "status", "doctor"):
            scene.run(command, "loud.yaml", **tokens)
        assert "forbidden" in scene.printed[-1][1]
        for place in (f"s3://me:{password}@bucket/run", f"s3://bucket/run?endpoint=http://me:{password}@127.0.0.1:1"):
            assert scene.run("status", place) == 2
        scene.configure("wrong.yaml", scene.prefix, f"https://me:{password}@127.0.0.1:1")
        assert scene.run("validate", "wrong.yaml") == 2
        scene.configure("wrong.yaml", scene.prefix, closed, f"http://me:{password}@127.0.0.1:1/hook")
        assert scene.run("validate", "wrong.yaml") == 2
        address = loud.replace("//", f"//me:{password}@")
        assert scene.run("status", "s3://bucket/run", AWS_ENDPOINT_URL=address) != 0
        assert scene.run("status", "s3://bucket/run", AWS_ENDPOINT_URL="http://127.0.0.1:1", HTTP_PROXY=address) != 0


def test_what_is_shown_of_objects_and_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """repr of what holds a secret, and the errors of what was refused."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ARGO_TOKEN", SECRETS["token in the environment"])
    environ = {"DPGEN2_HOOK_KEY": SECRETS["hook key"], "DPGEN2_HOOK_TOKEN": SECRETS["hook token"]}
    targets = take(notifications("http://127.0.0.1:1"))
    senders = senders_of(targets)
    client = ArgoClient(ArgoConfig(type="argo", server="http://127.0.0.1:1"))
    store = open_store("s3://bucket/run?endpoint=http://127.0.0.1:1&region=us-east-1")
    shown = [repr(found) for found in (client, store, keys_from(environ), logs.known, store.__dict__)]
    shown += [repr(found) for found in (targets, senders, Notifier(), [sender.name for sender in senders])]
    (tmp_path / "token").write_text(SECRETS["token in a file"] + "\nsecond line")
    monkeypatch.setenv("ARGO_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(Dpgen2Error) as refused:
        ArgoClient(ArgoConfig(type="argo", server="http://127.0.0.1:1")).token()
    shown.append(repr(refused.value))
    for url in (f"s3://x:{SECRETS['password in an address']}@b/c", f"s3://b/c?key={SECRETS['secret key']}@x"):
        with pytest.raises(Dpgen2Error) as refused:
            open_store(url)
        shown.append(repr(refused.value))
    assert [traces(text.encode()) for text in shown] == [[]] * len(shown)


def test_records_of_every_logger_are_clean(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever's handler it is: what is not a text, does not fit its format, or comes as a traceback."""
    monkeypatch.setattr(logs, "known", logs.Redactor([SECRETS["secret key"]]))
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("of.another.library")
    logger.addHandler(handler)
    try:
        logs.guard()
        logs.guard()
        assert logging.getLogRecordFactory()._make is logging.LogRecord, "once is enough"  # type: ignore[attr-defined]
        secret = SECRETS["secret key"]
        logger.warning("a %s and %d", secret, secret)
        logger.warning({"key": secret})
        logger.warning("%s", secret.encode())
        logger.warning("https://me:other@host/ Signature=%s", "0" * 64)
        try:
            raise ValueError(secret)
        except ValueError:
            logger.exception("it broke")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    shown = capsys.readouterr().err
    assert traces(shown.encode()) == [] and "other" not in shown and "0" * 64 not in shown
    assert "ValueError: ***" in shown and shown.count("***") >= 6
