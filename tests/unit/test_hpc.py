"""Jobs on a batch system: the configuration's words, the rendered template, and a job through dpdispatcher's Shell."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from pydantic import ValidationError

from conventions.config import StageConfig
from conventions.hpc import Hpc
from conventions.space import DataSpace
from operators.jobs import telling_line
from operators.live import TASK_LOG
from operators.pod import batch_live, batch_login, batch_waiter
from operators.registry import app
from operators.setup import SETUP_FAILED, with_setup
from operators.workflow.builder import StageWorkflow, build
from statemachine.engine.local import UID_VARIABLE
from statemachine.engine.local_jobs import LocalJobs
from statemachine.run.config_file import explain
from tests.conftest import Cli
from tests.stage_harness import newest

SSH = {"hostname": "login.example.org", "username": "me", "host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmc"}
SLURM = {"batch_type": "Slurm", "context_type": "SSHContext", "remote_root": "/scratch/me", "remote_profile": SSH}
KEY = {"name": "hpc-ssh", "key": "id_ed25519"}


def hpc(**changes: Any) -> Hpc:
    return Hpc.model_validate_json(json.dumps({"machine": SLURM, **changes}))


def test_the_words_of_machine_json() -> None:
    resources = {"number_node": 2, "cpu_per_node": 32, "gpu_per_node": 4, "queue_name": "gpu", "module_list": ["lmp/1"]}
    found = hpc(machine={**SLURM, "batch_type": "slurm", "context_type": "ssh"}, resources=resources)
    assert (found.machine.batch_type, found.machine.context_type) == ("Slurm", "SSHContext")
    assert found.resources.model_dump().items() >= resources.items()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": {**SLURM, "remote_profile": {**SSH, "password": "geheim"}}}, "password: secrets do not belong"),
        ({"machine": {**SLURM, "remote_profile": {**SSH, "passphrase": "geheim"}}}, "passphrase: secrets do not"),
        ({"machine": {**SLURM, "remote_profile": {**SSH, "totp_secret": "geheim"}}}, "totp_secret: secrets do not"),
        ({"machine": {**SLURM, "remote_profile": {**SSH, "key_filename": "-----BEGIN PRIVATE KEY"}}}, "name of its"),
        ({"machine": {**SLURM, "remote_profile": {"hostname": "h"}}}, "needs a hostname and a username"),
        ({"machine": {**SLURM, "context_type": "LocalContext"}}, "did you mean context_type: SSHContext"),
        ({"machine": {**SLURM, "remote_root": "scratch"}}, "is not an absolute path"),
        ({"machine": {**SLURM, "remote_root": "~/x"}}, "write the full path there: `ssh login.example.org '"),
        ({"resources": {"source_list": ["~/env.sh"]}}, "write the full path, or `. ~/env.sh` in prepend_script"),
        ({"machine": {**SLURM, "remote_profile": {**SSH, "host_key": "login ssh-rsa"}}}, "without the host"),
        ({"resources": {"group_size": 5}}, "group_size: this is the stage's own"),
        ({"resources": {"envs": {"API_TOKEN": "geheim"}}}, "API_TOKEN looks like a secret"),
        ({"resources": {"source_list": ["$HOME/env.sh"]}}, "belongs in prepend_script"),
        ({"resources": {"custom_flags": ["--mem=8G"]}}, "#SBATCH"),
        ({"resources": {"prepend_script": ["echo {{workflow.name}}"]}}, "must not contain '{{'"),
        ({"ssh_key": KEY, "machine": {**SLURM, "remote_profile": {**SSH, "host_key": None}}}, "ssh-keyscan HOST"),
    ],
)  # fmt: skip
def test_what_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        hpc(**change)
    (problem,) = caught.value.errors()
    said = explain(Hpc, problem, change)
    assert words in said and "geheim" not in said


def test_a_misspelt_key_and_a_password_in_a_file(cli: Cli, stub_run: Path) -> None:
    text = stub_run.read_text()
    machine = "machine: {batch_type: Slurm, context_type: local, remote_root: /scratch"
    for more, words in (
        ("}, resources: {queue: main}", "label.hpc.resources.queue: unknown key; did you mean 'queue_name'?"),
        (", remote_profile: {password: geheim}}", "label.hpc.machine.remote_profile.password: secrets do not belong"),
    ):
        stub_run.write_text(
            text.replace("label: {app: stub}", f"label: {{app: stub, hpc: {{_why: x, {machine}{more}}}}}")
        )
        code, _, errors = cli("validate", stub_run)
        assert code == 2 and words in errors and "geheim" not in errors


@pytest.mark.parametrize(
    ("hpc", "words"),
    [
        ("[]", "label.hpc: "),
        ("[{M}, {M, resources: {queue: main}}]", "label.hpc.1.resources.queue: unknown key; did you mean"),
        ("[{M}, {M, machine: {remote_profile: {password: geheim}}}]", "label.hpc.1.machine.remote_profile.password:"),
        ("[{M, capacity: 0}]", "label.hpc.0.capacity: "),
        ("[{M}, 7]", "label.hpc.1: "),
        ("{M, capacities: 1}", "label.hpc.capacities: unknown key; did you mean 'capacity'?"),
        ("7", "label.hpc: "),
    ],
)  # fmt: skip
def test_a_list_of_machines_that_is_refused(cli: Cli, stub_run: Path, hpc: str, words: str) -> None:
    machine = "machine: {batch_type: Slurm, context_type: local, remote_root: /scratch}"
    hpc = hpc.replace("M, machine: {", f"{machine[:-1]}, ").replace("M", machine)
    stub_run.write_text(stub_run.read_text().replace("label: {app: stub}", f"label: {{app: stub, hpc: {hpc}}}"))
    code, _, errors = cli("validate", stub_run)
    assert code == 2 and words in errors and "geheim" not in errors and len(errors.splitlines()) == 1, errors


def made(*routes: Hpc, stage: str = "explore", attempt: int = 0) -> StageWorkflow:
    apps = {"label": "cp2k", "train": "deepmd", "explore": "lammps", "select": "model_devi"}
    facts = {
        "iteration": 1,
        "attempt": attempt,
        "last": False,
        "finished": 0,
        "has_models": True,
        "has_selected": True,
        "explore_stage": 0,
        "systems": [],
        "calibration": {},
    }
    place = DataSpace(apps).stage(stage, 1, newest(stage, 1))
    name = f"cu-00000000-000001-{stage}-a{attempt}"
    return build(
        name, app(stage, apps[stage]), place, facts, prefix="s3://b/x", image="ours", job_image="x", routes=routes
    )


def job(workflow: StageWorkflow) -> dict[str, Any]:
    (found,) = (item for item in workflow.manifest["spec"]["templates"] if item["name"] == "job")
    return dict(found)


def test_only_the_script_of_the_job_changes() -> None:
    plain, handed = job(made()), job(made(hpc()))
    assert handed["script"]["image"] == "ours" and handed["script"]["command"] == ["python3"]
    del plain["script"], handed["script"]
    assert plain == handed


def test_a_quote_in_the_settings_stays_a_quote() -> None:
    line = "export A='b c' B=\"d\""
    source = job(made(hpc(resources={"prepend_script": [line]})))["script"]["source"]
    names: dict[str, Any] = {"__name__": "script"}
    exec(compile(source, "script", "exec"), names)
    assert names["HPC"]["routes"][0]["resources"]["prepend_script"] == [line]
    assert names["HPC"]["routes"][0]["machine"]["remote_profile"] == {
        **SSH,
        "port": 22,
        "timeout": 10,
        "tar_compress": True,
    }


def test_the_next_attempt_renders_the_same_job() -> None:
    assert job(made(hpc(), attempt=0)) == job(made(hpc(), attempt=1))
    assert "{{pod" not in json.dumps(made(hpc()).manifest)


def test_the_manifest_is_valid_and_mounts_the_key_for_its_owner() -> None:
    from hera.workflows.models import Workflow

    manifest = made(hpc(ssh_key=KEY)).manifest
    assert json.loads(Workflow.model_validate(manifest).model_dump_json(by_alias=True, exclude_none=True)) == manifest
    template = job(made(hpc(ssh_key=KEY)))
    assert template["volumes"] == [
        {
            "name": "ssh-key",
            "secret": {"secretName": "hpc-ssh", "defaultMode": 0o400, "items": [{"key": "id_ed25519", "path": "key"}]},
        }
    ]
    (mount,) = template["script"]["volumeMounts"]
    assert mount == {"name": "ssh-key", "mountPath": "/dpgen2-ssh", "readOnly": True}
    several = job(made(hpc(), hpc(ssh_key=KEY)))
    assert [volume["name"] for volume in several["volumes"]] == ["ssh-key-1"]
    assert several["script"]["volumeMounts"][0]["mountPath"] == "/dpgen2-ssh-1"
    assert "'ssh_key': '/dpgen2-ssh-1/key'" in several["script"]["source"]


def test_what_a_batch_job_inherits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"AWS_SECRET_ACCESS_KEY": "x", "PATH": "p", UID_VARIABLE: "u"})
    batch_waiter.clean_environment({"Shell"})
    assert os.environ == {"PATH": "p", UID_VARIABLE: "u"}
    batch_waiter.clean_environment({"Slurm"})
    assert os.environ == {"PATH": "p"}


class ShellJob:
    """One job of two tasks, as a pod has it, handed to dpdispatcher's Shell."""

    def __init__(self, root: Path, run: str) -> None:
        self.root, self.remote = root / "pod", root / "remote"
        given = root / "given"
        for task in ("task.000000", "task.000001"):
            (given / task).mkdir(parents=True)
            (given / task / "name").write_text(task)
        (given / "digest").write_text("0" * 64 + "\n")
        (given / "outputs").write_text("1 result\n")
        (given / "run.sh").write_text(run)
        self.root.mkdir()
        machine = {"batch_type": "Shell", "context_type": "LocalContext", "remote_root": "~/remote"}
        settings = Hpc.model_validate_json(json.dumps({"machine": machine, "poll": 1}))
        (self.root / "script").write_text(job(made(settings))["script"]["source"])
        self.env = {**os.environ, "JOB_ID": "000007", "JOB_JOB": str(given), "HOME": str(root), "ROOT": str(root)}
        for name in ("PREVIOUS", "MODELS"):
            self.env[f"JOB_{name}"] = str(root / "none")
        for name in ("OUT", "LOG", "DONE"):
            self.env[f"JOB_{name}"] = str(self.root / "out" / name.lower())

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "script"], cwd=self.root, env=self.env, text=True, stdout=subprocess.PIPE
        )

    def codes(self) -> list[int]:
        return [task["code"] for task in json.loads((self.root / "out/done").read_text())["tasks"]]


@pytest.mark.slow
def test_a_job_through_the_shell(tmp_path: Path) -> None:
    """What came home, what a failing task is, and that nothing is done again for a good marker."""
    given = ShellJob(tmp_path, 'echo ran >>"$ROOT/ledger"; cp name result; [ -e "$ROOT/well" ] || exit 7\n')
    with given.start() as process:
        assert process.wait() == 1
    assert given.codes() == [7, 7] and (given.root / "out/log/task.000001.log").exists()
    assert list(given.remote.iterdir()) == []
    (tmp_path / "well").touch()
    for _ in range(2):
        with given.start() as process:
            assert process.wait() == 0
    assert given.codes() == [0, 0]
    assert json.loads((given.root / "out/done").read_text())["used"]["queued"] >= 0
    assert (given.root / "out/out/task.000001/result").read_text() == "task.000001"
    assert (tmp_path / "ledger").read_text().split() == ["ran"] * 4


def test_a_setup_line_that_fails_in_a_batch_job(tmp_path: Path) -> None:
    stage = StageConfig(app="x", shell="bash", setup=["module load cp2k"])
    given = ShellJob(tmp_path, with_setup(stage, "cp name result\n"))
    with given.start() as process:
        assert process.wait() == 1
    assert given.codes() == [SETUP_FAILED, SETUP_FAILED]
    said = telling_line(given.root / "out/log/task.000001.log")
    assert said.startswith("the setup line 'module load cp2k' ended with exit code 127: module: ")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.mark.slow
def test_a_batch_job_is_seen_while_it_runs(tmp_path: Path) -> None:
    """What its first task has printed, how far it is, and that nothing of that stays."""
    for name in ("entered", "go"):
        os.mkfifo(tmp_path / name)
    wait = 'cp name seen; echo >"$ROOT/entered"; read -r go <"$ROOT/go"'
    given = ShellJob(tmp_path, f'[ "$(cat name)" = task.000000 ] || {{ echo step 1; {wait}; }}; cp name result\n')
    (tmp_path / "work").mkdir()
    (tmp_path / "work/w-jobs-000007").symlink_to(given.root)
    (tmp_path / "w-a0").mkdir()
    for name in ("settings.json", "jobs-000007.log"):
        (tmp_path / "w-a0" / name).touch()
    jobs = LocalJobs(tmp_path / "work", tmp_path / "w-a0")
    with given.start() as process:
        (tmp_path / "entered").read_text()
        while not (found := jobs.running()):
            assert process.poll() is None
        (job,) = found
        assert (job.job_id, job.codes, job.task) == ("000007", {"task.000000": 0}, "task.000001")
        assert (job.read(TASK_LOG), job.read("seen"), job.read("name")) == ("step 1\n", "task.000001", "task.000001")
        assert list(jobs.logs("000007", lambda: False))[-1] == ("task.000001.log", b"step 1\n")
        (tmp_path / "go").write_text("go\n")
        assert process.wait() == 0
    assert jobs.running() == [] and not os.path.lexists(given.root / "live")


def test_a_waiter_goes_on_when_it_sees_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    batch_live.see(SimpleNamespace())


def test_all_that_a_waiter_prints_is_in_the_log_of_the_job(tmp_path: Path) -> None:
    script = """
import sys
from types import SimpleNamespace
from operators.pod import batch_waiter
places = {"JOB_OUT": sys.argv[1] + "/job/000000/out", "LOG": sys.argv[1] + "/log"}
with batch_waiter.Job.at_home(SimpleNamespace(places=places)):
    print("submitted", flush=True)
    print("a warning", file=sys.stderr)
"""
    (tmp_path / "job").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "log").read_text() == "submitted\na warning\n"


class Sftp:
    """What a look over SSH asks for, of folders on this machine; and which files it has read, and how much of each."""

    def __init__(self) -> None:
        self.read: list[tuple[str, int]] = []

    def listdir_attr(self, folder: str) -> list[SimpleNamespace]:
        paths = sorted(Path(folder).iterdir())
        return [SimpleNamespace(filename=path.name, st_size=path.stat().st_size) for path in paths]

    @contextlib.contextmanager
    def open(self, path: str, mode: str) -> Iterator[IO[bytes]]:
        with open(path, mode) as stream:
            yield stream
            end = stream.tell()
        self.read.append((Path(path).name, end))


def test_a_look_over_ssh_copies_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = SimpleNamespace(sftp=Sftp(), remote_root=str(tmp_path / "there"))
    log, code, seen = "log/task.000000.log", "work/task.000000.code", tmp_path / "live"
    for name, text in ((log, "step 1\n"), ("log/core", "no log"), (code, "0\n")):
        path = tmp_path / "there/out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    batch_live.see(there)
    assert ((seen / log).read_text(), (seen / code).read_text()) == ("step 1\n", "0\n")
    assert [path.name for path in (seen / "log").iterdir()] == ["task.000000.log"]
    there.sftp.read.clear()
    with open(tmp_path / "there/out" / log, "a") as stream:
        stream.write("step 2\n")
    batch_live.see(there)
    assert (seen / log).read_text() == "step 1\nstep 2\n" and there.sftp.read == [("task.000000.log", 14)]
    batch_live.see(there)
    assert len(there.sftp.read) == 1, "nothing is new"
    (tmp_path / "there/out" / log).write_text("anew\n")
    batch_live.see(there)
    assert (seen / log).read_text() == "anew\n"
    batch_live.unsee()
    assert not seen.exists()


def test_a_waiter_that_is_told_to_stop(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "entered")
    given = ShellJob(tmp_path, 'sleep 600 & echo $! >"$ROOT/entered"; wait\n')
    with given.start() as process:
        task = int((tmp_path / "entered").read_text())
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
    assert process.returncode == 143 and "cancelled" in output
    assert not (given.root / "out/done").exists()
    assert not alive(task), "what the script had started is ended, too"


@pytest.fixture
def server() -> Iterator[tuple[int, str]]:
    """Port and host key of an SSH server that nobody can log in to."""
    import paramiko

    key = paramiko.ECDSAKey.generate()
    listening = socket.create_server(("127.0.0.1", 0))
    serve = paramiko.Transport

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            transport = serve(connection)
            transport.add_server_key(key)
            transport.start_server(threading.Event(), paramiko.ServerInterface())

    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()[1], f"{key.get_name()} {key.get_base64()}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def test_a_host_with_another_key_gets_nothing(
    server: tuple[int, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import paramiko

    monkeypatch.chdir(tmp_path)  # dpdispatcher opens its log where it is imported
    from dpdispatcher.contexts import ssh_context
    from dpdispatcher.contexts.ssh_context import SSHSession

    port, right = server
    wrong = paramiko.ECDSAKey.generate()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    original = paramiko.Transport
    for host_key, words in (
        (right, "ssh-add FILE"),
        (f"{wrong.get_name()} {wrong.get_base64()}", "another key than the known one"),
        (None, "is not known"),
    ):
        monkeypatch.setattr(paramiko, "Transport", original)
        monkeypatch.setattr(ssh_context, "SSHSession", SSHSession)
        with pytest.raises(SystemExit, match=words):
            batch_login.check_logins("127.0.0.1", port, host_key)
            ssh_context.SSHSession("127.0.0.1", "me", port=port)
