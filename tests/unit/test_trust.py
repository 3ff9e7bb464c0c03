"""A prefix is data: commands and servers are a person's word, kept outside it."""

from __future__ import annotations

import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from conventions.cluster import ArgoConfig, LocalConfig
from conventions.errors import ConfigError, NotTrusted
from conventions.names import sha256
from conventions.state import State
from statemachine.daemon.daemon import Daemon
from statemachine.engine.argo import ArgoEngine
from statemachine.logs import Redactor
from statemachine.run.access import Access
from statemachine.run.opening import engine_of, open_poller
from statemachine.run.record import Record
from statemachine.run.trust import reached, remember, trust_of
from statemachine.store import open_store
from tests.conftest import Cli

URL = "s3://bucket/runs/cu"
UID = "0" * 32
EVIL = "https://evil.example.org:2746"


@pytest.fixture(autouse=True)
def _a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has said nothing yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ARGO_SERVER", "ARGO_NAMESPACE", "ARGO_TOKEN", "ARGO_TOKEN_FILE", "DPGEN2_POLICY"):
        monkeypatch.delenv(name, raising=False)


def forge(prefix: Path, change: Any) -> None:
    """What somebody with write access can do: another configuration, in a state that is sealed again."""
    store = open_store(prefix.as_uri())
    record = Record(store)
    loaded = record.load()
    document = json.loads(store.get(loaded.state.place.config).data)
    change(document)
    data = json.dumps(document).encode()
    store.put(loaded.state.place.space.configuration(sha256(data)), data)
    assert record.commit(loaded, loaded.state.model_copy(update={"config_sha256": sha256(data)}))


def command(text: str) -> Any:
    return lambda document: document["label"].update(command=text)


def argo(document: dict[str, Any]) -> None:
    document["engine"] = {"type": "argo", "server": EVIL, "token_file": "/etc/passwd"}


def state_of(prefix: Path) -> State:
    return Record(open_store(prefix.as_uri())).load().state


# --- commands of the local engine ---------------------------------------------------------------------------


def test_a_configuration_that_somebody_else_changed_runs_nothing(stub_run: Path, cli: Cli) -> None:
    assert cli("init", stub_run)[0] == 0
    out = stub_run.parent / "out"
    forge(out, command("touch /tmp/owned;"))
    code, _, errors = cli("step", out)
    assert code == 2 and 'label.command: null -> "touch /tmp/owned;"' in errors and "dpgen2-sm trust" in errors
    assert state_of(out).at == "label.submitting" and not (out / ".engine/workflow").exists()
    code, output, _ = cli("trust", out, "--yes")
    assert code == 0 and "touch /tmp/owned;" in output
    assert cli("trust", out)[1] == "nothing is new: you trust this run as it is\n"
    forge(out, command("true"))
    assert cli("step", out)[0] == 2
    forge(out, command("touch /tmp/owned;"))
    assert cli("step", out)[:1] == (0,) and state_of(out).at == "label.running"
    assert cli("cancel", out)[0] == 0


def test_who_patches_trusts(stub_run: Path, cli: Cli) -> None:
    out = stub_run.parent / "out"
    cli("init", stub_run)
    stub_run.write_text(stub_run.read_text().replace("label: {app: stub}", "label: {app: stub, retries: 1}"))
    assert cli("patch", stub_run)[0] == 0
    assert len(trust_of(out.as_uri()).configurations) == 2
    assert cli("run", stub_run)[0] == 0, "one after the other, each of them is used"


def test_a_patch_that_is_refused_trusts_nothing(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    stub_run.write_text(stub_run.read_text().replace("type_map: [Cu]", "type_map: [Cu, Al]"))
    assert cli("patch", stub_run)[0] == 2
    assert len(trust_of((stub_run.parent / "out").as_uri()).configurations) == 1


def test_the_first_use_is_remembered(stub_run: Path, cli: Cli, caplog: pytest.LogCaptureFixture) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    trust_of(out.as_uri()).path.unlink()
    with caplog.at_level(logging.WARNING):
        assert cli("step", out)[0] == 0
    assert "used here for the first time" in caplog.text
    assert cli("cancel", out)[0] == 0
    forge(out, command("true"))
    assert cli("resume", out)[0] == 2


def test_looking_is_no_use(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    trust_of(out.as_uri()).path.unlink()
    assert cli("status", out)[0] == cli("plan", out)[0] == 0
    assert trust_of(out.as_uri()).engine is None
    code, output, _ = cli("doctor", out)
    assert code == 0 and "not tried: " in output and "neither begun nor used" in output


def test_a_run_that_a_daemon_discovers_must_be_known(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    trust_of(out.as_uri()).path.unlink()
    daemon = Daemon([], 0.1, Redactor(), discover=[stub_run.parent.as_uri()])
    daemon._look_below(stub_run.parent.as_uri())
    (run,) = daemon.runs
    assert run.step() == {"failed": True} and "you have neither begun nor used this run" in run.error
    assert cli("trust", out)[0] == 0
    assert run.step()["changed"] and run.state is not None and run.state.at == "label.running"
    assert cli("cancel", out)[0] == 0


def test_what_cannot_be_remembered_is_said(stub_run: Path, cli: Cli, caplog: pytest.LogCaptureFixture) -> None:
    Path(os.environ["XDG_CONFIG_HOME"]).write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert cli("run", stub_run)[0] == 0
    assert "what you trust is not remembered" in caplog.text


def test_a_damaged_record_trusts_nobody(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    trust_of((stub_run.parent / "out").as_uri()).path.write_text("[]\n")
    code, _, errors = cli("step", stub_run)
    assert code == 2 and "cannot be used" in errors and "delete it" in errors


@pytest.mark.parametrize("forged", [False, True])
def test_extend_does_not_make_trusted_what_is_not(stub_run: Path, cli: Cli, forged: bool) -> None:
    stub_run.write_text(stub_run.read_text().replace("accurate_after: 1", "accurate_after: 2") + "max_iterations: 2\n")
    out = stub_run.parent / "out"
    assert cli("run", stub_run)[0] == 3
    if forged:
        forge(out, command("true"))
    assert cli("extend", out, "--iterations", 1)[0] == (2 if forged else 0)


@pytest.mark.parametrize("forged", [False, True])
def test_a_fork_is_trusted_as_far_as_the_run_was(stub_run: Path, cli: Cli, forged: bool) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    if forged:
        forge(out, command("true"))
    moved = out.rename(stub_run.parent / "moved")
    assert cli("fork", moved)[0] == 0
    assert (state_of(moved).config_sha256 in trust_of(moved.as_uri()).configurations) is not forged


# --- engines and servers ------------------------------------------------------------------------------------


def test_another_engine_is_refused_and_shown(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    forge(out, argo)
    code, _, errors = cli("step", out)
    assert code == 2 and f'engine.server: null -> "{EVIL}"' in errors and 'engine.type: "local" -> "argo"' in errors
    code, output, _ = cli("status", out)
    assert code == 0 and "another engine" in output
    for words in (("cancel",), ("logs",), ("pause",)):
        assert cli(*words, out)[0] == 2


def test_a_state_does_not_lead_to_the_workflows_of_another_run(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    record = Record(open_store(out.as_uri()))
    loaded = record.load()
    assert record.commit(loaded, loaded.state.model_copy(update={"run_uid": "f" * 32}))
    code, _, errors = cli("cancel", out)
    assert code == 2 and f'run_uid: "{loaded.state.run_uid}" -> "{"f" * 32}"' in errors


def test_a_living_poller_does_not_take_over_another_engine(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    poller = open_poller(out.as_uri())
    forge(out, argo)
    poller._loaded = None
    with pytest.raises(NotTrusted, match="its configuration is none that you trust"):
        poller.step()


class Server:
    """Takes whatever is asked, and keeps the tokens that came with it."""

    def __init__(self) -> None:
        self.tokens: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.tokens.append(self.headers.get("Authorization"))
                self.send_response(404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server() -> Any:
    found = Server()
    yield found
    found.close()


@pytest.mark.parametrize(("named", "sent"), [("", "Bearer mine"), ("the server", "Bearer mine"), (EVIL, None)])
def test_a_token_goes_only_to_its_server(
    server: Server, monkeypatch: pytest.MonkeyPatch, named: str, sent: str | None
) -> None:
    monkeypatch.setenv("ARGO_TOKEN", "mine")
    monkeypatch.setenv("ARGO_SERVER", server.url if named == "the server" else named)
    engine = ArgoEngine(ArgoConfig(type="argo", server=server.url))
    with pytest.raises(Exception, match="404"):
        engine.client.call("GET", "/version")
    assert server.tokens == [sent]


def test_a_token_file_of_the_environment_too(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("mine\n")
    monkeypatch.setenv("ARGO_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("ARGO_SERVER", EVIL)
    with pytest.raises(Exception, match="404"):
        ArgoEngine(ArgoConfig(type="argo", server=server.url)).client.call("GET", "/version")
    assert server.tokens == [None]


def test_a_server_that_only_the_prefix_names_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGO_TOKEN", "mine")
    with pytest.raises(NotTrusted, match=f"names the Argo server {EVIL}, to which nothing was sent"):
        reached(URL, ArgoConfig(type="argo", server=EVIL), UID)


def test_the_environment_says_how_a_process_reaches_argo(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ArgoConfig(type="argo", server=EVIL, ca_file="/laptop/ca.pem", token_file="/laptop/token", hours=3)
    monkeypatch.setenv("ARGO_SERVER", "https://argo.svc:2746")
    found = reached(URL, run, UID)
    assert isinstance(found, ArgoConfig) and found == ArgoConfig(type="argo", hours=3)
    elsewhere = run.model_copy(update={"namespace": "materials"})
    with pytest.raises(NotTrusted, match="names the namespace materials"):
        reached(URL, elsewhere, UID)
    monkeypatch.setenv("ARGO_NAMESPACE", "materials")
    assert reached(URL, elsewhere, UID) == ArgoConfig(type="argo", namespace="materials", hours=3)


def test_what_a_person_began_is_reached_as_his_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ArgoConfig(type="argo", server="https://argo.example.org", token_file="~/token")
    remember(f"{URL}?region=eu", mine, UID, "0" * 64)
    monkeypatch.setenv("ARGO_SERVER", EVIL)
    assert reached(URL, mine, UID) is mine
    with pytest.raises(NotTrusted, match=r'engine\.token_file: "~/token" -> "~/\.ssh/id_rsa"'):
        reached(URL, mine.model_copy(update={"token_file": "~/.ssh/id_rsa"}), UID)
    with pytest.raises(NotTrusted, match='"argo" -> "local"'):
        reached(URL, LocalConfig(), UID)


# --- the policy file of a daemon ----------------------------------------------------------------------------

RULES = """\
runs:
  - prefix: s3://bucket/runs
    engine: {type: argo, server: "https://argo.svc:2746", namespace: dpgen2}
  - prefix: s3://bucket/team?region=eu
    engine: {type: argo}
  - prefix: data
    engine: {type: local}
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(RULES)
    monkeypatch.setenv("DPGEN2_POLICY", str(path))
    return path


def test_the_first_entry_that_covers_decides(rules: Path) -> None:
    run = ArgoConfig(type="argo", server=EVIL, token_file="/etc/passwd", hours=3)
    found = reached(URL, run, UID)
    assert found == ArgoConfig(type="argo", server="https://argo.svc:2746", namespace="dpgen2", hours=3)
    assert reached("s3://bucket/team/cu?region=eu", run, UID) == ArgoConfig(type="argo", hours=3)
    for other in ("s3://bucket/team/cu", "s3://bucket/runsx/cu", "s3://elsewhere/runs/cu"):
        with pytest.raises(NotTrusted, match="no entry of"):
            reached(other, run, UID)
    with pytest.raises(NotTrusted, match="its engine is local; DPGEN2_POLICY allows argo there"):
        reached(URL, LocalConfig(), UID)
    local = (rules.parent / "data/cu").as_uri()
    assert reached(local, LocalConfig(slots=2), UID) == LocalConfig(slots=2)


def test_a_changed_policy_file_is_read_anew(rules: Path) -> None:
    rules.write_text("runs: []\n")
    os.utime(rules, ns=(1, 1))
    with pytest.raises(NotTrusted):
        reached(URL, ArgoConfig(type="argo"), UID)
    rules.write_text(RULES)
    assert reached(URL, ArgoConfig(type="argo"), UID)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: [{prefix: a, engin: {type: local}}]", "did you mean 'engine'?"),
        ("runs: [{prefix: a, engine: {type: slurm}}]", "'local' or 'argo'"),
        ("runs: {}", "a list is expected"),
        ("[]", "a mapping of keys is expected"),
        ("runs: [{prefix: 'ftp://a', engine: {type: local}}]", "use file:///absolute/path"),
    ],
)
def test_a_policy_file_with_mistakes_is_refused(rules: Path, text: str, said: str) -> None:
    rules.write_text(text)
    with pytest.raises(ConfigError) as caught:
        reached(URL, LocalConfig(), UID)
    assert said in str(caught.value)
    rules.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        reached(URL, LocalConfig(), UID)


def test_a_policy_file_lets_commands_be_run_and_trust_decides_nothing(stub_run: Path, cli: Cli, rules: Path) -> None:
    rules.write_text("runs: [{prefix: out, engine: {type: local}}]\n")
    rules.replace(stub_run.parent / "policy.yaml")
    cli("init", stub_run)
    out = stub_run.parent / "out"
    forge(out, command("true"))
    assert cli("step", out)[0] == 0
    code, _, errors = cli("trust", out, "--yes")
    assert code == 2 and "DPGEN2_POLICY decides" in errors
    assert cli("cancel", out)[0] == 0


def test_an_engine_of_a_run_is_opened_in_that_way(stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("init", stub_run)
    store = open_store((stub_run.parent / "out").as_uri())
    assert engine_of(store, Record(store).load().state).home
    assert trust_of(store.url).engine == Access(type="local")
