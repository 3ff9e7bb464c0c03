"""Jobs on a real Slurm of one node: campaigns, waiters that are killed, cancelled runs, jobs that Slurm kills."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from statemachine.engine.local import UID_VARIABLE
from tests.conftest import CONFIG, STRUCTURE, STUBS
from tests.e2e.engines import need

pytestmark = pytest.mark.servers
SERVER = Path(__file__).parents[1] / "servers/slurm.sh"
COMMAND = [sys.executable, "-c", "from statemachine.cli import main; main()"]
MACHINE = "machine: {batch_type: Slurm, context_type: LocalContext, remote_root: %s}"
RESOURCES = """\
resources: {queue_name: main, custom_flags: ["#SBATCH --time=10"], prepend_script: ["export A='b c' PATH=%s:$PATH"]}"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SLURM_CONF of a running Slurm."""
    need("slurmctld", "slurmd", "munged")
    root = tmp_path_factory.mktemp("slurm")
    command = ["bash", str(SERVER), str(root), str(free_port()), str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline() == "ready\n", server.stdout.read()
        yield root / "slurm.conf"
        server.terminate()


@pytest.fixture(scope="session")
def sshd(slurm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A remote_profile of this machine, with Slurm where one logs in."""
    need("sshd", "ssh-keygen")
    root, port = tmp_path_factory.mktemp("ssh"), free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    (root / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/user.pub\n"
        f"PasswordAuthentication no\nStrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n"
        f"SetEnv SLURM_CONF={slurm}\n"
    )
    with suppress(PermissionError):
        Path("/run/sshd").mkdir(exist_ok=True)
    command = [str(shutil.which("sshd")), "-D", "-e", "-f", str(root / "sshd_config")]
    kind, key, *_ = (root / "host.pub").read_text().split()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        assert "listening" in server.stderr.readline()
        yield (
            f"{{hostname: 127.0.0.1, port: {port}, username: {getpass.getuser()}, key_filename: {root}/user, "
            f"host_key: '{kind} {key}'}}"
        )
        server.terminate()


class Campaign:
    """A stub run whose labels are made on Slurm, with a gate that can hold one task."""

    def __init__(self, root: Path, slurm: Path) -> None:
        self.root, self.gate, self.ledger, self.remote = root, root / "gate", root / "ledger", root / "remote"
        self.conf = slurm
        self.gate.mkdir()
        self.ledger.mkdir()
        for name in ("entered", "go"):
            os.mkfifo(self.gate / name)
        hpc = f"hpc: {{{MACHINE % self.remote}, {RESOURCES % Path(sys.executable).parent}, poll: 1}}"
        text = CONFIG.replace("accurate_after: 1", "accurate_after: 0")
        self.write(text.replace("label: {app: stub}", f"label: {{app: stub, tasks: 1, retries: 1, {hpc}}}"))
        (root / "cu.xyz").write_text(STRUCTURE)
        stub = {"STUB_LEDGER": str(self.ledger), "STUB_GATE": str(self.gate), "STUB_FAIL": str(root / "fail")}
        self.env = {**os.environ, **stub, "PYTHONPATH": str(STUBS), "SLURM_CONF": str(slurm), "SOME_TOKEN": "geheim"}

    def write(self, text: str) -> None:
        (self.root / "run.yaml").write_text(text)

    def text(self) -> str:
        return (self.root / "run.yaml").read_text()

    def start(self, command: str, gate_at: str = "", options: Sequence[str] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, command, "run.yaml", *options],
            env={**self.env, "STUB_GATE_AT": gate_at},
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self, command: str, *options: str) -> tuple[int, str]:
        process = self.start(command, options=options)
        output, _ = process.communicate()
        return process.returncode, output

    def used(self) -> dict[str, float]:
        """What the only label job used, as its stage reports it."""
        (report,) = self.root.glob("out/label/*/iter/000000/report.json")
        found: dict[str, float] = json.loads(report.read_text())["jobs"]["used"]
        return found

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, check=True, text=True, stdout=subprocess.PIPE).stdout

    def jobs(self) -> dict[str, list[str]]:
        """States of this run's batch jobs, by their name without the run's."""
        run = json.loads((self.root / "out/state.json").read_text())["run_uid"][:8]
        found: dict[str, list[str]] = {}
        for line in self.slurm("scontrol", "show", "jobs", "-o").splitlines():
            match = re.search(rf"JobName=stub-{run}-(\S+)-[0-9a-f]{{8}} .*JobState=(\w+)", line)
            if match:
                found.setdefault(match[1], []).append(match[2])
        return found

    def executions(self) -> dict[str, int]:
        return {path.name: len(path.read_text().split()) for path in self.ledger.iterdir()}

    def log(self, attempt: int) -> str:
        found = self.root.glob(f"out/.engine/workflow/*-label-a{attempt}/jobs-000000.log")
        return "".join(path.read_text() for path in found)

    def kill_everything(self, process: subprocess.Popen[str]) -> None:
        """kill -9 of the command and of every process of its workflows; what Slurm runs is not among them."""
        process.kill()
        process.communicate()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                data = path.read_bytes()
                if UID_VARIABLE.encode() in data and str(self.root).encode() in data:
                    os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.fixture
def campaign(slurm: Path, tmp_path: Path) -> Iterator[Campaign]:
    made = Campaign(tmp_path, slurm)
    yield made
    subprocess.run(["scancel", "--partition", "main"], env=made.env)


def until(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Until a condition holds; an error when the command ends before."""
    while not condition():
        with suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=0.05)
            pytest.fail(f"it ended before:\n{output}")


def test_a_campaign_with_jobs_on_slurm(campaign: Campaign) -> None:
    label = 'label: {app: ase, calculator: "ase.calculators.emt:EMT", '
    campaign.write(campaign.text().replace("label: {app: stub, tasks: 1, ", label))
    code, output = campaign.finish("run")
    assert code == 0 and "converged" in output, output
    assert campaign.jobs() == {"000000-label-000000": ["COMPLETED"]}
    assert list(campaign.remote.iterdir()) == [], "what was fetched is removed"
    (energy,) = (campaign.root / "out/dataset").rglob("energy*")
    assert energy.stat().st_size
    used = campaign.used()
    assert used["cpu"] > 0.1 and used["queued"] >= 0, "measured in the job; the wait by the clock of its node"
    script = campaign.slurm("scontrol", "write", "batch_script", "1", "-")
    assert "#SBATCH --partition main\n#SBATCH --job-name stub-" in script
    assert "#SBATCH --time=10\n" in script and "export A='b c' PATH=" in script


def test_a_campaign_that_logs_in_to_submit(campaign: Campaign, sshd: str) -> None:
    here = f"LocalContext, remote_root: {campaign.remote}"
    there = f"SSHContext, remote_root: {campaign.remote}, remote_profile: {sshd}"
    campaign.write(campaign.text().replace(here, there))
    del campaign.env["SLURM_CONF"]
    code, output = campaign.finish("run")
    assert code == 0, output
    campaign.env["SLURM_CONF"] = str(campaign.conf)
    assert campaign.jobs() == {"000000-label-000000": ["COMPLETED"]}
    assert list(campaign.remote.iterdir()) == []
    assert campaign.used()["queued"] >= 0


def test_doctor_logs_in_asks_for_the_queue_and_runs_a_tiny_job(campaign: Campaign, sshd: str) -> None:
    here = f"LocalContext, remote_root: {campaign.remote}"
    there = f"SSHContext, remote_root: {campaign.remote}, remote_profile: {sshd}"
    text = campaign.text().replace(here, there)
    campaign.write(text.replace("queue_name: main", "queue_name: gone"))
    del campaign.env["SLURM_CONF"]
    code, output = campaign.finish("doctor")
    assert code == 1 and "ok  label/stub: login  " in output and "ok  label/stub: Slurm  " in output, output
    assert "NO  label/stub: queue  there is no gone" in output, output
    campaign.write(text)
    code, output = campaign.finish("doctor", "--try")
    assert code == 0 and "ok  label/stub: queue  main" in output and output.count("ok  try ") == 4, output
    assert list(campaign.remote.iterdir()) == []
    assert [path for path in campaign.root.iterdir() if "trial" in path.name] == []
    campaign.env["SLURM_CONF"] = str(campaign.conf)
    assert "JobName=trial-" in campaign.slurm("scontrol", "show", "jobs", "-o")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """SSH_AUTH_SOCK of an agent without keys."""
    need("ssh-agent", "ssh-add")
    socket_ = str(tmp_path / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket_], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout and "SSH_AUTH_SOCK" in server.stdout.readline()
        yield socket_
        server.terminate()


def test_a_key_with_a_passphrase_is_used_through_the_agent(campaign: Campaign, sshd: str, agent: str) -> None:
    """What was typed: `ssh-add KEY`, `dpgen2-sm run`. Without the first, the error says so."""
    (plain,) = re.findall(r"key_filename: (\S+),", sshd)
    locked = campaign.root / "locked"
    shutil.copy(plain, locked)
    shutil.copy(f"{plain}.pub", f"{locked}.pub")
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "geheim", "-f", locked], check=True)
    here = f"LocalContext, remote_root: {campaign.remote}"
    profile = sshd.replace(plain, str(locked))
    campaign.write(
        campaign.text().replace(here, f"SSHContext, remote_root: {campaign.remote}, remote_profile: {profile}")
    )
    campaign.env["SSH_AUTH_SOCK"] = agent
    code, output = campaign.finish("run")
    assert code == 1 and "ssh-add FILE" in output and "there is no SSH agent with keys" in output, output
    assert campaign.jobs() == {}
    others = [campaign.root / f"other{number}" for number in range(7)]  # more than the server tries
    for key in others:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    subprocess.run(["ssh-add", "-q", *others, plain], env=campaign.env, check=True)
    code, output = campaign.finish("resume")
    assert code == 0, output
    assert campaign.jobs() == {"000000-label-000000": ["COMPLETED"]}


@pytest.mark.parametrize("context", ["here", "ssh"])
def test_a_job_on_slurm_is_seen_while_it_runs(campaign: Campaign, sshd: str, context: str) -> None:
    """`dpgen2-sm logs run.yaml --job 0`"""
    # The gate is in the configuration: what one logs in to does not inherit the environment.
    gate = f"echo step 1 of 2, 'echo entered >{campaign.gate}/entered', 'read -r go <{campaign.gate}/go'"
    text = campaign.text().replace("app: stub, tasks: 1, ", f"app: stub, tasks: 1, setup: [{gate}], ")
    if context == "ssh":
        there = f"SSHContext, remote_root: {campaign.remote}, remote_profile: {sshd}"
        text = text.replace(f"LocalContext, remote_root: {campaign.remote}", there)
    campaign.write(text)
    process = campaign.start("run")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    until(process, lambda: "step 1 of 2" in campaign.finish("logs", "--job", "0")[1])
    follower = campaign.start("logs", options=("--job", "0", "--follow"))
    assert follower.stdout
    assert any("step 1 of 2" in line for line in follower.stdout)
    (campaign.gate / "go").write_text("go\n")
    follower.communicate()
    assert follower.returncode == 0
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_a_waiter_that_was_killed_is_followed_by_one_that_finds_the_job(campaign: Campaign) -> None:
    process = campaign.start("run", gate_at="label-0-0")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    campaign.kill_everything(process)
    assert campaign.jobs() == {"000000-label-000000": ["RUNNING"]}
    again = campaign.start("resume")
    until(again, lambda: "taken up again" in campaign.log(1))
    (campaign.gate / "go").write_text("go\n")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert campaign.jobs() == {"000000-label-000000": ["COMPLETED"]}
    assert campaign.executions()["label-0-0"] == 1


def waiters(campaign: Campaign) -> list[int]:
    """Processes of a run's workflows that are Python scripts: each waits for batch jobs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            script = b"".join(path.read_bytes().split(b"\0")[1:2])
            if script.startswith(os.fsencode(campaign.root)) and script.endswith(b".py"):
                found.append(int(path.parent.name))
    return found


def many(campaign: Campaign) -> None:
    """Four jobs, all in the queue at once."""
    campaign.write(campaign.text().replace("tasks: 1", "tasks: 4").replace("slots: 2", "slots: 4"))


def test_one_process_waits_for_all_jobs_and_its_death_loses_none(campaign: Campaign) -> None:
    many(campaign)
    process = campaign.start("run", gate_at="label-0-0")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    until(process, lambda: len(campaign.jobs()) == 4)
    (waiter,) = waiters(campaign)
    os.kill(waiter, signal.SIGKILL)
    until(process, lambda: "taken up again" in campaign.log(1))
    (campaign.gate / "go").write_text("go\n")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert waiters(campaign) == []
    executions = campaign.executions()
    assert [executions[f"label-0-{task}"] for task in range(4)] == [1] * 4
    assert list(campaign.jobs().values()) == [["COMPLETED"]] * 4


def test_a_cancelled_run_cancels_all_of_many_jobs(campaign: Campaign) -> None:
    many(campaign)
    process = campaign.start("run", gate_at="label-0-0")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    until(process, lambda: len(campaign.jobs()) == 4)
    code, output = campaign.finish("cancel")
    assert code == 0, output
    process.communicate()
    states = campaign.jobs()
    assert states.pop("000000-label-000000") == ["CANCELLED"]
    assert all(state in (["CANCELLED"], ["COMPLETED"]) for state in states.values()), states


def test_a_workflow_that_was_killed_leaves_no_job_without_a_waiter(campaign: Campaign) -> None:
    process = campaign.start("run", gate_at="label-0-0")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    (waiter,) = waiters(campaign)
    workflow = int(Path(f"/proc/{waiter}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(workflow, signal.SIGKILL)
    assert (campaign.gate / "entered").read_text() == "entered\n", "of the next attempt"
    assert waiter not in waiters(campaign) and len(waiters(campaign)) == 1
    (campaign.gate / "go").write_text("go\n")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert campaign.jobs() == {"000000-label-000000": ["CANCELLED", "COMPLETED"]}


def connections(port: int) -> int:
    """Of this machine to a port of its own."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines[1:])


def test_many_jobs_share_a_login(campaign: Campaign, sshd: str) -> None:
    many(campaign)
    here = f"LocalContext, remote_root: {campaign.remote}"
    there = f"SSHContext, remote_root: {campaign.remote}, remote_profile: {sshd}"
    gate = f"export STUB_GATE={campaign.gate} STUB_GATE_AT=label-0-0"  # a login has not this environment
    campaign.write(campaign.text().replace(here, there).replace("export", gate))
    process = campaign.start("run")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    until(process, lambda: len(campaign.jobs()) == 4)
    (port,) = map(int, re.findall(r"port: (\d+)", sshd))
    assert connections(port) == 1
    code, output = campaign.finish("cancel")
    assert code == 0, output
    process.communicate()
    assert campaign.jobs()["000000-label-000000"] == ["CANCELLED"]
    assert connections(port) == 0


def test_a_cancelled_run_cancels_its_jobs(campaign: Campaign) -> None:
    process = campaign.start("run", gate_at="label-0-0")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    code, output = campaign.finish("cancel")
    assert code == 0, output
    process.communicate()
    assert campaign.jobs() == {"000000-label-000000": ["CANCELLED"]}
    assert "batch job" in campaign.log(0) and "cancelled" in campaign.log(0)


def test_a_job_that_slurm_killed_is_submitted_again(campaign: Campaign) -> None:
    process = campaign.start("run", gate_at="label-0-0")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    campaign.slurm("scancel", "--state", "RUNNING")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    (campaign.gate / "go").write_text("go\n")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert campaign.jobs() == {"000000-label-000000": ["CANCELLED", "COMPLETED"]}
    assert campaign.executions()["label-0-0"] == 2


def test_a_task_that_fails_is_a_result_and_not_a_lost_job(campaign: Campaign) -> None:
    (campaign.root / "fail").touch()
    code, output = campaign.finish("run")
    assert code == 1 and "failed" in output
    attempts = output.count("label.running")
    assert campaign.jobs() == {"000000-label-000000": ["COMPLETED"] * attempts}, "once in each attempt"
    (marker,) = campaign.root.glob("out/label/stub/iter/000000/done/*.json")
    assert json.loads(marker.read_text())["tasks"] == [{"id": "task.000000", "code": 7}]
    (campaign.root / "fail").unlink()
    assert campaign.finish("resume")[0] == 0
    assert campaign.jobs() == {"000000-label-000000": ["COMPLETED"] * (attempts + 1)}


def test_no_secret_of_the_environment_reaches_a_job(campaign: Campaign) -> None:
    process = campaign.start("run", gate_at="label-0-0")
    assert (campaign.gate / "entered").read_text() == "entered\n"
    at_gate = f"STUB_GATE={campaign.gate}".encode()
    seen = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            data = path.read_bytes()
            if at_gate in data and b"SLURM_JOB_ID=" in data:
                seen.append(data)
    assert seen and not any(b"geheim" in data or UID_VARIABLE.encode() in data for data in seen)
    campaign.kill_everything(process)
