"""How the embedded engine runs a pod's script: operators in forked children where the code is ours."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conventions.names import sha256
from conventions.space import DataSpace
from operators.pod import runner, scripts
from operators.pod.claim import ClaimContext, Claimed, ClaimParams, claim
from operators.pod.hint import NONCE, SIGNATURE, TIMESTAMP, sign
from operators.workflow import shipping
from statemachine.engine.scripts import Runner
from tests.contract.job_places import Job
from tests.receiver import receiver

OPERATOR = {"source": scripts.OPERATOR, "command": ["sh"]}


class Pod:
    """What the runner is given for one step."""

    def __init__(self, folder: Path, operator: Any) -> None:
        self.folder, found = folder, shipping.ship(operator, DataSpace({}))
        (folder / "fn.py").write_bytes(found.objects[found.function])
        self.env = {"FN": str(folder / "fn.py"), "FN_SHA256": found.digest, "PATH": os.environ["PATH"], "MARK": "here"}
        for name, key in found.packages.items():
            (folder / f"{name}.zip").write_bytes(found.objects[key])
            self.env[f"PACKAGE_{name}"] = str(folder / f"{name}.zip")
        self.env |= {"PARAM_prefix": f'"file://{folder}/store"', "PARAM_key": '"claim/0"', "PARAM_owner": '"me"'}
        self.env["RESULT_owner"] = str(folder / "result")
        self.env["PATH"] = f"{Path(sys.executable).parent}:{self.env['PATH']}"
        self.lock = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT)
        self.runner = Runner(self.lock)

    def run(self, script: dict[str, Any] = OPERATOR) -> int:
        return self.runner.run(script, self.env, self.folder, self.folder / "log")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def was_forked(self) -> bool:
        """A process of its own has its script in a file."""
        return not (self.folder / "script").exists()


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    found = Pod(tmp_path, claim)
    yield found
    os.close(found.lock)


def operate(pod: Pod, monkeypatch: pytest.MonkeyPatch, body: Any) -> int:
    """Let the guard do something else, in the child."""

    def instead(params: ClaimParams, ctx: ClaimContext) -> Claimed:
        body()
        return Claimed("somebody")

    instead.__annotations__ = {"params": ClaimParams, "ctx": ClaimContext, "return": Claimed}
    monkeypatch.setattr("operators.pod.claim.claim", instead)
    return pod.run()


def test_an_operator_of_the_installed_code_runs_in_a_forked_child(pod: Pod) -> None:
    assert pod.run() == 0, pod.log
    assert pod.was_forked
    assert (pod.folder / "store/claim/0").read_text() == "me" and (pod.folder / "result").read_text() == '"me"'


@pytest.mark.parametrize("inside", [True, False], ids=["forked", "as in a pod"])
def test_a_workflows_last_step_tells_the_daemon_and_one_that_failed_does_not(pod: Pod, inside: bool) -> None:
    script = OPERATOR if inside else {**OPERATOR, "source": f"# in a process of its own\n{scripts.OPERATOR}"}
    with receiver() as daemon:
        daemon.status = 202
        pod.env |= {"DPGEN2_HINT_URL": f"{daemon.url}/hook", "DPGEN2_HINT_NAME": "cu-a0", "DPGEN2_HOOK_KEY": "k" * 16}
        assert pod.run(script) == 0, pod.log
        assert pod.was_forked == inside
        path, headers, body = daemon.arrived.get_nowait()
        assert (path, body) == ("/hook", b'{"name": "cu-a0"}') and (pod.folder / "result").exists()
        assert headers[SIGNATURE] == sign("k" * 16, headers[TIMESTAMP], headers[NONCE], body)
        pod.env["PARAM_owner"] = '"somebody else"'
        assert pod.run(script) != 0 and daemon.arrived.empty()


def test_the_child_has_the_steps_environment_and_folder_and_this_process_keeps_its_own(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, here = dict(os.environ), Path.cwd()
    assert operate(pod, monkeypatch, lambda: print(sorted(os.environ), Path.cwd(), sys.stdin.read())) == 0
    names, _, rest = pod.log.partition("]")
    expected = {*pod.env, "DPGEN2_APPS"}
    assert {name.strip(" '[") for name in names.split(",")} - {"LC_CTYPE"} == expected
    assert rest.split() == [str(pod.folder)]
    assert dict(os.environ) == before and Path.cwd() == here


def fail(error: BaseException) -> Any:
    def body(*_: Any) -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (fail(ValueError("too bad")), 1, "ValueError: too bad"),
        (fail(SystemExit("not today")), 1, "not today"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL, ""),
    ],
)
def test_how_an_operator_ends(pod: Pod, monkeypatch: pytest.MonkeyPatch, body: Any, code: int, said: str) -> None:
    assert operate(pod, monkeypatch, body) == code
    assert said in pod.log and not (pod.folder / "result").exists()


def test_no_child_keeps_the_workflows_lock(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow is alive for as long as its interpreter is: what the interpreter started must not look like it."""
    fcntl.flock(pod.lock, fcntl.LOCK_EX)

    def is_open() -> None:
        print([path.name for path in Path("/proc/self/fd").iterdir() if path.resolve() == lock])

    lock = pod.folder / "lock"
    assert operate(pod, monkeypatch, is_open) == 0
    assert pod.log == "[]\n"


@pytest.mark.parametrize("what", ["operators.zip", "conventions.zip"])
def test_a_damaged_package_does_not_run(pod: Pod, what: str) -> None:
    with open(pod.folder / what, "ab") as stream:
        stream.write(b"x")
    assert pod.run() != 0
    assert "is not the one that was submitted" in pod.log and not (pod.folder / "store").exists()


def test_a_damaged_entry_point_does_not_run(pod: Pod) -> None:
    with open(pod.folder / "fn.py", "ab") as stream:
        stream.write(b"\nprint('evil')")
    assert pod.run() == 66
    assert "differs from what was submitted" in pod.log and "evil" not in pod.log


def test_code_of_another_version_runs_as_it_was_shipped(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation was upgraded after the workflow had been submitted: it is not the installed code that runs."""
    monkeypatch.setattr("operators.pod.claim.claim", fail(AssertionError("the installed code ran")))
    monkeypatch.setattr(shipping, "read_package", lambda package: b"another version")
    assert pod.run() == 0, pod.log
    assert not pod.was_forked and (pod.folder / "store/claim/0").read_text() == "me"


def test_an_upgrade_between_two_steps_is_seen(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage may take days: reduce must not run other code than plan did."""
    assert pod.run() == 0 and pod.was_forked
    monkeypatch.setattr(shipping, "read_package", lambda package: b"another version")
    assert pod.run() == 0 and not pod.was_forked


def test_an_operator_that_cannot_be_imported_says_so_in_its_log(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", fail(ImportError("half an upgrade")))
    assert pod.run() == 1
    assert "ImportError: half an upgrade" in pod.log


def test_a_runner_of_another_version_runs_as_it_was_shipped(pod: Pod) -> None:
    source = (pod.folder / "fn.py").read_bytes() + b"\nprint('of another version')\n"
    (pod.folder / "fn.py").write_bytes(source)
    pod.env["FN_SHA256"] = sha256(source)
    assert pod.run() == 0 and not pod.was_forked
    assert pod.log == "of another version\n"


def test_a_damaged_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in (("good", b'["a"]'), ("bad", b'["b"]')):
        (tmp_path / name).write_bytes(data)
    monkeypatch.setenv("SHA256_systems", sha256(b'["a"]'))
    assert runner.read_list("systems", tmp_path / "good") == ["a"]
    with pytest.raises(SystemExit, match="systems is not the one that was submitted"):
        runner.read_list("systems", tmp_path / "bad")


def test_any_other_script_is_a_process_of_its_own(pod: Pod) -> None:
    assert pod.run({"source": "echo $MARK; pwd; exit 3", "command": ["sh"]}) == 3
    assert pod.log == f"here\n{pod.folder}\n"


@pytest.mark.parametrize(
    ("once", "code", "said"), [("", 0, []), ("exit 1\n", 70, ["job runner: once.sh failed, see log/job.log\n"])]
)
def test_a_job_has_a_log_where_it_has_to_say_something(tmp_path: Path, once: str, code: int, said: list[str]) -> None:
    job = Job(tmp_path / "job", once=once)
    log = tmp_path / "jobs-000007.log"
    assert Runner(-1).run({"source": scripts.JOB, "command": ["sh"]}, job.env, job.place, log) == code
    assert [path.read_text() for path in tmp_path.glob("*.log")] == said
