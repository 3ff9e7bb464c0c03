"""Can jobs be handed to a batch system from this machine? A process of its own tries it, as the one that waits would.

What is started there is told how to log in and what to look for; each line that it writes is what it found, in JSON.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from conventions.hpc import Hpc
from conventions.secrets import without_pollers
from operators.workflow.hpc import settings_of

from .local import python

PATIENCE = 60  # seconds beyond those that the profile gives a connection
# What submits, and what fails where there is no such queue.
SYSTEMS = {
    "Slurm": ("sbatch", "sinfo --noheader --format=%R --partition={queue} | grep -q ."),
    "PBS": ("qsub", "qstat -Q {queue}"),
    "Torque": ("qsub", "qstat -Q {queue}"),
    "SGE": ("qsub", "qconf -sq {queue}"),
    "LSF": ("bsub", "bqueues {queue}"),
    "Fugaku": ("pjsub", ""),
    "JH_UniScheduler": ("jsub", ""),
    "Shell": ("sh", ""),
}


class Finding(NamedTuple):
    """What was tried, whether it is good (None: it could not be tried), and what to say."""

    what: str
    good: bool | None
    detail: str


def check_batch(hpc: Hpc) -> Iterator[Finding]:
    """Log in, look for the program that submits, the folder and the queue."""
    patience = hpc.machine.remote_profile.timeout + PATIENCE
    with tempfile.TemporaryDirectory() as folder:  # dpdispatcher writes its log where it is started
        try:
            done = subprocess.run(
                python(__name__),
                cwd=folder,
                env=without_pollers(os.environ),
                input=json.dumps(settings_of(hpc)).encode(),
                capture_output=True,
                timeout=patience,
            )
        except subprocess.TimeoutExpired:
            yield Finding("batch system", False, f"no answer in {patience} s")
            return
    found = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("[")]
    yield from (Finding(*json.loads(line)) for line in found)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        yield Finding("batch system", False, said[-1])


def main() -> int:
    """The process."""
    from operators.pod import batch_login, batch_routes, batch_waiter

    hpc = json.load(sys.stdin)
    kind, root = hpc["machine"]["batch_type"], hpc["machine"]["remote_root"]
    vars(batch_routes)["check_logins"] = batch_login.check_logins  # in pods they are one script
    batch_waiter.clean_environment({kind})
    context = batch_routes.Route(hpc).machine.context
    context.remote_root = "/"
    if "hostname" in hpc["machine"]["remote_profile"]:
        profile = hpc["machine"]["remote_profile"]
        _tell("login", True, f"{profile['username']}@{profile['hostname']}")
    submits, has_queue = SYSTEMS[kind]
    code, said = _call(context, f"command -v {submits}")
    _tell(kind, code == 0, said if code == 0 else f"there is no {submits}")
    folder = shlex.quote(os.path.expanduser(root))  # noqa: PTH111
    write = f'mkdir -p {folder} && file=$(mktemp {folder}/.XXXXXX) && rm "$file"'
    code, said = _call(context, f"{write} && df -Pk {folder}")
    _tell("remote_root", code == 0, f"{root}: {_free(said) if code == 0 else said}")
    queue = hpc["resources"]["queue_name"]
    if not queue:
        _tell("queue", None, "no queue_name is given: the batch system chooses one")
    elif not has_queue:
        _tell("queue", None, f"{queue}: not tried on {kind}")
    else:
        code, said = _call(context, has_queue.format(queue=shlex.quote(queue)))
        _tell("queue", code == 0, queue if code == 0 else f"there is no {queue}: {said}".rstrip(": "))
    return 0


def _call(context: Any, command: str) -> tuple[int, str]:
    """Exit code, and the last line of what a command says."""
    code, _, out, error = context.block_call(f"{{ {command}; }} 2>&1")
    text: bytes | str = out.read() or error.read()
    lines = (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).strip().splitlines()
    return code, lines[-1] if lines else ""


def _free(row: str) -> str:
    """The free space in a row of `df -Pk`."""
    return f"{int(row.split()[3]) / 2**20:.1f} GiB free"


def _tell(what: str, good: bool | None, detail: str) -> None:
    print(json.dumps(Finding(what, good, detail)), flush=True)
