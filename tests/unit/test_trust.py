"""A prefix is data: commands and servers are a person's word, kept outside it."""

from __future__ import annotations

import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

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
from statemachine.run.trust import authorise, reached, remember, trust_of
from statemachine.store import open_store
from tests.conftest import Cli
from tests.doubles import first_state

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


def test_who_patches_a_run_that_he_has_not_used_can_use_it(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    trust_of(out.as_uri()).path.unlink()
    stub_run.write_text(stub_run.read_text().replace("label: {app: stub}", "label: {app: stub, retries: 1}"))
    assert cli("patch", stub_run)[0] == cli("step", out)[0] == cli("cancel", out)[0] == 0


def test_all_of_a_configuration_is_shown_where_none_is_left_to_compare(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    out = stub_run.parent / "out"
    first = state_of(out).config_sha256
    forge(out, command("true"))
    for path in out.glob(f"config/**/*{first}*"):
        path.unlink()
    (out / "config/iter/000000/config.json").unlink()
    _, output, _ = cli("trust", out, "--yes")
    assert '"command": "true"' in output and "  structures: null -> " in output and "  seed: null -> 1" in output


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
    assert not trust_of(out.as_uri()).engines
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


def test_a_first_use_in_a_bucket_must_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(os.environ["XDG_CONFIG_HOME"]).write_text("a file")
    with pytest.raises(NotTrusted, match="set XDG_CONFIG_HOME"):
        authorise(SimpleNamespace(url=URL), first_state(), first_use=True)  # type: ignore[arg-type]


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CONFIG_HOME", named)
        assert trust_of(URL).path.parent == tmp_path / ".config/dpgen2-sm/trust"
    monkeypatch.setattr(Path, "home", mock.Mock(side_effect=RuntimeError))
    with pytest.raises(ConfigError, match="set HOME, or XDG_CONFIG_HOME"):
        trust_of(URL)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "read_text", mock.Mock(side_effect=PermissionError))
    with pytest.raises(ConfigError, match="you may not read it; set XDG_CONFIG_HOME"):
        trust_of(URL)


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


def test_a_persons_file_does_not_make_another_run_his(stub_run: Path, cli: Cli) -> None:
    """Its uid names workflows elsewhere, which `cancel` would stop."""
    cli("init", stub_run)
    record = Record(open_store((stub_run.parent / "out").as_uri()))
    loaded = record.load()
    assert record.commit(loaded, loaded.state.model_copy(update={"run_uid": "f" * 32}))
    changed = stub_run.parent / "changed.yaml"
    changed.write_text(stub_run.read_text().replace("label: {app: stub}", "label: {app: stub, retries: 1}"))
    for words in (("init", stub_run), ("run", stub_run), ("patch", changed), ("step", stub_run)):
        code, _, errors = cli(*words)
        assert code == 2 and "another run" in errors, words


def test_a_living_poller_keeps_to_its_run(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    prefix = (stub_run.parent / "out").as_uri()
    poller, record = open_poller(prefix), Record(open_store(prefix))
    loaded = record.load()
    assert record.commit(loaded, loaded.state.model_copy(update={"run_uid": "f" * 32, "at": "cancelling"}))
    poller._loaded = None
    terminated: list[str] = []
    poller.engine.terminate = terminated.append  # type: ignore[method-assign]
    with pytest.raises(NotTrusted, match="the state is that of another run now"):
        poller.step()
    assert terminated == []


def test_what_only_a_prefix_has_is_not_tried(stub_run: Path, cli: Cli) -> None:
    """A trial begins a run: it would read the paths that the configuration names, and trust what they hold."""
    cli("init", stub_run)
    code, output, _ = cli("doctor", "--try", stub_run.parent / "out")
    assert code == 0 and "try  not tried: name the configuration file" in output
    assert list(stub_run.parent.glob("out-trial-*")) == []


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
    remember(f"{URL}?region=eu", mine, first_state(), "0" * 64, begun=True)
    monkeypatch.setenv("ARGO_SERVER", EVIL)
    assert reached(URL, mine, UID) is mine
    with pytest.raises(NotTrusted, match=r'engine\.token_file: "~/token" -> "~/\.ssh/id_rsa"'):
        reached(URL, mine.model_copy(update={"token_file": "~/.ssh/id_rsa"}), UID)
    renewed = mine.model_copy(update={"token_file": "~/new"})
    remember(URL, renewed, first_state(), "1" * 64)  # by a patch, which takes effect with the next iteration
    assert reached(URL, mine, UID) is mine and reached(URL, renewed, UID) is renewed
    with pytest.raises(NotTrusted, match='"argo" -> "local"'):
        reached(URL, LocalConfig(), UID)


def test_an_engine_of_a_run_is_opened_in_that_way(stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("init", stub_run)
    store = open_store((stub_run.parent / "out").as_uri())
    assert engine_of(store, Record(store).load().state).home
    assert trust_of(store.url).engines == (Access(type="local"),)
