"""Hands one job to a batch system, waits for it and brings home what it left. Needs dpdispatcher, nothing of ours.

The script of a job's pod (or process) with two lines put before it:

    WRAPPER = "<the generic job wrapper, job.sh>"
    HPC = {"name": ..., "places": ["JOB_JOB", ...], "machine": ..., "resources": ..., "poll": ..., "ssh_key": ...}

The environment names the job's places, as for the wrapper. What is submitted depends on the job and on HPC only, so
whoever waits next finds the same submission again in the batch system's own folder, by its hash.
"""

import base64
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

BATCH = """\
# Two of us in one folder would be one too many: the second waits, and finds the marker.
exec 9>lock
! command -v flock >/dev/null || flock 9 || echo "no locks in this folder" >&2
mkdir -p "$JOB_OUT" "$JOB_LOG"
[ -e "$JOB_DONE" ] || sh job.sh || [ -e "$JOB_DONE" ]
"""
STOPPED: list[int] = []
OUTPUTS = {"JOB_OUT": "out/out", "JOB_LOG": "out/log", "JOB_DONE": "out/done"}
SECRET = re.compile("TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|_KEY$")


def main(wrapper: str, hpc: dict[str, Any]) -> int:
    signal.signal(signal.SIGTERM, stop)
    os.chdir(Path(os.environ["JOB_OUT"]).parents[1])
    digest = Path(os.environ["JOB_JOB"], "digest").read_text().strip()
    code = ended(digest)
    if code != 0:
        if code:
            shutil.rmtree("out")
        stage(wrapper, hpc["places"])
        clean_environment(hpc["machine"]["batch_type"])
        run(submission(hpc, digest), hpc["poll"])
        code = ended(digest)
    return 70 if code is None else code


def ended(digest: str) -> int | None:
    """What the job's marker says: 0, or 1 if a task failed; None without a marker of these inputs."""
    with contextlib.suppress(OSError, ValueError):
        marker = json.loads(Path(os.environ["JOB_DONE"]).read_bytes())
        if marker["inputs"] == digest:
            return int(any(task["code"] for task in marker["tasks"]))
    return None


def stage(wrapper: str, names: list[str]) -> None:
    """Put together what travels: the inputs, the wrapper, and a script that tells it the places in its own folder."""
    shutil.rmtree("in.d", ignore_errors=True)
    Path("in.d").mkdir()
    for name, place in places(names).items():
        given = Path(os.environ[name]).absolute()
        if place.startswith("in.d/") and given.exists():
            Path(place).symlink_to(given)
    exports = "".join(f'export {name}="$PWD"/{place}\n' for name, place in places(names).items())
    Path("job.sh").write_text(wrapper)
    Path("batch.sh").write_text(f"export JOB_ID={shlex.quote(os.environ['JOB_ID'])}\n{exports}{BATCH}")


def places(names: list[str]) -> dict[str, str]:
    """Where the job finds each of its places, below its own folder: what it writes is where it will be here."""
    return {name: OUTPUTS.get(name) or f"in.d/{name}" for name in names}


def clean_environment(batch_type: str) -> None:
    """A batch job inherits what submits it: no secret, no threads counted for this machine, no mark of the engine.

    The mark would let the engine end `scancel` together with this process. Jobs of the plain shell keep it, so that
    they end with their workflow: nothing else would end them.
    """
    for name in list(os.environ):
        if SECRET.search(name.upper()) or name == "OMP_NUM_THREADS":
            del os.environ[name]
    if batch_type != "Shell":
        os.environ.pop("DPGEN2_WORKFLOW_UID", None)


def submission(hpc: dict[str, Any], digest: str) -> Any:
    """The job as dpdispatcher's submission."""
    # dpdispatcher makes ~/.dpdispatcher when it is imported; a pod's user may have no home.
    if not os.access(Path.home(), os.W_OK):
        os.environ["HOME"] = str(Path.cwd())
    try:
        import dpdispatcher
    except ImportError:
        raise SystemExit("dpdispatcher is missing where jobs are handed over: pip install 'dpgen2-sm[hpc]'") from None
    machine = dict(hpc["machine"], local_root=".")
    if machine["context_type"] == "LocalContext":
        machine["remote_root"] = str(Path(machine["remote_root"]).expanduser())
    profile = machine["remote_profile"]
    if machine["context_type"] == "SSHContext":
        if hpc["ssh_key"] and Path(hpc["ssh_key"]).is_file():
            profile["key_filename"] = hpc["ssh_key"]
        elif "key_filename" in profile:
            profile["key_filename"] = str(Path(profile["key_filename"]).expanduser())
        check_host_keys(profile["hostname"], profile["port"], profile.pop("host_key", None))
    task = dpdispatcher.Task(
        command="sh batch.sh",
        task_work_path=".",
        forward_files=["in.d", "job.sh", "batch.sh"],
        backward_files=list(OUTPUTS.values()),
        outlog="batch.log",
        errlog="batch.log",
        task_name=f"{hpc['name']}-{os.environ['JOB_ID']}-{digest[:8]}",
    )
    resources = dpdispatcher.Resources.load_from_dict(dict(hpc["resources"], group_size=1))
    found = dpdispatcher.Submission(
        ".", machine=dpdispatcher.Machine.load_from_dict(machine), resources=resources, task_list=[task]
    )
    found.generate_jobs()
    return found


def run(found: Any, poll: int) -> None:
    """Submit, or take up what was submitted before, and wait for the end.

    This is `run_submission` in its own public parts, except that it uploads nothing into the folder of a job that
    runs, finds a job whose number was written down but not yet recorded, and stops when it is told to.
    """
    context = found.machine.context
    found.try_recover_from_json()
    (job,) = found.belonging_jobs
    if not job.job_id and context.check_file_exists(f"{job.job_hash}_job_id"):
        job.register_job_id(context.read_file(f"{job.job_hash}_job_id").strip())
    found.update_submission_state()
    if job.job_id:
        say(job, "taken up again")
    while not found.check_all_finished():
        if STOPPED:
            found.remove_unfinished_tasks()
            say(job, "cancelled")
            raise SystemExit(143)
        number = job.job_id
        if not number:
            found.upload_jobs()
        found.handle_unexpected_submission_state()
        if job.job_id != number:
            say(job, "submitted")
            found.submission_to_json()
        rest(poll)
        if not STOPPED:
            found.update_submission_state()
    found.download_jobs(include_failed=True)
    say(job, "ended")
    # Without a marker among what came home, the job begins anew the next time.
    context.clean()


def stop(number: int, frame: Any) -> None:
    """Once is enough: the engine repeats itself, and what cancels the job inherits that this is ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    STOPPED.append(number)


def rest(seconds: int) -> None:
    """Sleep, but not on when this process is to stop."""
    until = time.monotonic() + seconds
    while not STOPPED and time.monotonic() < until:
        time.sleep(0.2)


def say(job: Any, what: str) -> None:
    print(f"batch job {job.job_id} of {os.environ['JOB_ID']}: {what}", flush=True)


def check_host_keys(hostname: str, port: int, host_key: str | None) -> None:
    """dpdispatcher trusts any host; here the host's key is known before, or there is no connection."""
    import paramiko
    from dpdispatcher.contexts import ssh_context

    name = hostname if port == 22 else f"[{hostname}]:{port}"
    known = paramiko.HostKeys()
    if host_key:
        kind, text = host_key.split()[:2]
        known.add(name, kind, paramiko.PKey.from_type_string(kind, base64.b64decode(text)))
    else:
        for path in (Path.home() / ".ssh/known_hosts", Path("/etc/ssh/ssh_known_hosts")):
            with contextlib.suppress(OSError):
                known.load(str(path))
    kinds = set(known.lookup(name) or ())
    if not kinds:
        raise SystemExit(
            f"the host {name} is not known: compare `ssh-keyscan -p {port} {hostname}` with what its owner publishes, "
            "then put it into ~/.ssh/known_hosts, or into hpc.machine.remote_profile.host_key"
        )

    class Transport(paramiko.Transport):  # type: ignore[misc]
        def start_client(self, event: Any = None, timeout: Any = None) -> None:
            options = self.get_security_options()
            options.key_types = [kind for kind in options.key_types if re.sub("^rsa-sha2.*", "ssh-rsa", kind) in kinds]
            super().start_client(event, timeout)
            if not known.check(name, self.get_remote_server_key()):
                raise SystemExit(f"the host {name} has another key than the known one: nothing was sent to it")

    paramiko.Transport = Transport
    # rsync is called with the checking of host keys turned off: files go over the connection that was checked.
    ssh_context.SSHSession.rsync_available = False


if __name__ == "__main__":
    sys.exit(main(globals()["WRAPPER"], globals()["HPC"]))
