"""Hands jobs to a batch system, waits for them and brings home what they left. Needs dpdispatcher, nothing of ours.

The script of a job's pod, after the other `batch_*.py` and two lines put before all:

    WRAPPER = "<the generic job wrapper, job.sh>"
    HPC = {"name": ..., "places": ["JOB_JOB", ...], "routes": [{"machine": ..., "resources": ..., "poll": ...,
           "capacity": ..., "ssh_key": ...}, ...]}

A pod's environment names the places of its one job, as for the wrapper. Where there is no JOB_ID, this is the one
process for all jobs of a workflow on this machine: each line that it reads is a job's places in JSON, with the file of
its log as LOG; each line that it writes is a job's id and exit code.

What is submitted depends on the job and its route only, so whoever waits next finds the same submission again in the
batch system's own folder, by its hash.
"""

import contextlib
import heapq
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from operators.pod.batch_live import see, unsee
    from operators.pod.batch_routes import Route, Routes

BATCH = """\
# Two of us in one folder would be one too many: the second waits, and finds the marker.
exec 9>lock
! command -v flock >/dev/null || flock 9 || echo "no locks in this folder" >&2
mkdir -p "$JOB_OUT" "$JOB_LOG"
[ ! -f in.d/submitted ] || export JOB_SUBMITTED="$(cat in.d/submitted)"
[ -e "$JOB_DONE" ] || sh job.sh || [ -e "$JOB_DONE" ]
"""
# What is stopped starts nothing more, and does not leave its children to another parent.
END_TREE = """\
end() { kill -STOP $1 || return 0
for child in $(ps -A -o ppid= -o pid= | awk -v parent=$1 '$1 == parent { print $2 }'); do end $child; done
kill -KILL $1; }; end """
FAILED, NO_MARKER, CANCELLED = 1, 70, 143
CANCELLED_AT_ONCE = 8  # of the ten sessions that sshd gives a connection, the transfer of files has one
STOPPED: list[int] = []
ARRIVALS: "SimpleQueue[Mapping[str, str] | None]" = SimpleQueue()  # places of jobs; None after the last one
OUTPUTS = {"JOB_OUT": "out/out", "JOB_LOG": "out/log", "JOB_DONE": "out/done"}
SECRET = re.compile("TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|_KEY$")


def main(wrapper: str, hpc: dict[str, Any]) -> int:
    signal.signal(signal.SIGTERM, stop)
    places = dict(os.environ)
    batch = Batch(wrapper, hpc["name"], hpc["places"], Routes(hpc, alone="JOB_ID" in places))
    clean_environment(batch.routes.types)
    # dpdispatcher makes ~/.dpdispatcher when it is imported; a pod's user may have no home.
    if not os.access(Path.home(), os.W_OK):
        os.environ["HOME"] = str(home_of(places) if "JOB_ID" in places else Path.cwd())
    if "JOB_ID" not in places:
        return serve(batch)
    codes: list[int] = []
    ARRIVALS.put(places)
    ARRIVALS.put(None)
    return wait(batch, lambda job, code: codes.append(code)) or codes[0]


def serve(batch: "Batch") -> int:
    """Take jobs from stdin until it ends, which it also does when the engine dies; those that came are waited for."""
    # What is started for a job must find neither of the two at its usual place.
    given, answers, nothing = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)

    def receive() -> None:
        rest = b""
        while data := os.read(given, 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                ARRIVALS.put(json.loads(line))
        ARRIVALS.put(None)

    def answer(job: str, code: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(answers, f"{job} {code}\n".encode())

    threading.Thread(target=receive, daemon=True).start()
    return wait(batch, answer)


def wait(batch: "Batch", ended: Callable[[str, int], None]) -> int:
    """Give the jobs their turns, in this one thread, until all have ended; cancel them when told to stop."""
    more, numbers = True, itertools.count()
    jobs: list[tuple[float, int, Job]] = []  # a heap by the time of the next turn
    while not STOPPED and (more or jobs):
        pause = max(0.0, jobs[0][0] - time.monotonic()) if jobs else None
        try:
            places = ARRIVALS.get(timeout=pause)
        except Empty:
            _, number, job = heapq.heappop(jobs)
            code = job.turn()
            if code is None:
                heapq.heappush(jobs, (time.monotonic() + job.pause, number, job))
            else:
                ended(job.id, code)
        else:
            more = more and places is not None
            if places is not None:
                heapq.heappush(jobs, (time.monotonic(), next(numbers), Job(batch, places)))
    if STOPPED:
        cancel([job for _, _, job in sorted(jobs)])
        return CANCELLED
    return 0


def stop(number: int, frame: Any) -> None:
    """Once is enough: the engine repeats itself, and what cancels the jobs inherits that this is ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    STOPPED.append(number)
    ARRIVALS.put(None)


def cancel(jobs: list["Job"]) -> None:
    """Several at once: the engine does not wait for long. A job may be in the queue since an earlier attempt."""
    for job in jobs:
        if job.submission is None:
            job.turn()
    with ThreadPoolExecutor(CANCELLED_AT_ONCE) as pool:
        said = list(pool.map(Job.cancel, jobs))
    for job, words in zip(jobs, said, strict=True):
        with job.at_home():
            print(words, end="")


class Batch(NamedTuple):
    """What the jobs have in common."""

    wrapper: str
    name: str
    places: list[str]
    routes: "Routes"


class Job:
    """One job: where it is, how far it is, and its submission as soon as it has one."""

    def __init__(self, batch: "Batch", places: Mapping[str, str]) -> None:
        self.batch, self.places, self.id = batch, places, places["JOB_ID"]
        self.route: Route | None = None
        self.submission: Any = None
        self.pause = 0.0
        self._steps = self._run()

    def turn(self) -> int | None:
        """Go on to the next pause; the exit code when the job has ended."""
        with self.at_home():
            try:
                self.pause = next(self._steps)
            except StopIteration as ending:
                return int(ending.value)
            except SystemExit as ending:
                print(ending.code, file=sys.stderr)
                return FAILED
            except Exception:
                traceback.print_exc()
                return FAILED
        return None

    def cancel(self) -> str:
        """Cancel the batch job, if there is one; what to say of it."""
        if self.submission is None or not self.batch_job.job_id:
            return ""
        try:
            if (
                self.route and self.route.type == "Shell"
            ):  # dpdispatcher ends the script, and not what the script has started
                self.submission.machine.context.block_call(f"{END_TREE}{self.batch_job.job_id}")
            self.submission.remove_unfinished_tasks()
        except Exception:
            return traceback.format_exc()
        return f"batch job {self.batch_job.job_id} of {self.id}: cancelled\n"

    @property
    def batch_job(self) -> Any:
        (job,) = self.submission.belonging_jobs
        return job

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        """In the job's folder, with its log for all that is printed here or by what is started."""
        os.chdir(home_of(self.places))
        if "LOG" in self.places:
            with open(self.places["LOG"], "ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _run(self) -> Generator[float, None, int]:
        """All of a job; it yields the seconds until its next turn."""
        digest = Path(self.places["JOB_JOB"], "digest").read_text().strip()
        code = ended(self.places, digest)
        if code != 0:
            if code:
                shutil.rmtree("out")
            stage(self.batch, self.places)
            unsee()
            yield from self._submit_and_wait(f"{self.batch.name}-{self.id}-{digest[:8]}")
            unsee()
            code = ended(self.places, digest)
        return NO_MARKER if code is None else code

    def _submit_and_wait(self, name: str) -> Generator[float, None, None]:
        """Submit, or take up what was submitted before, and wait for the end.

        This is `run_submission` in its own public parts, except that it uploads nothing into the folder of a job that
        runs, and finds a job whose number was written down but not yet recorded.
        """
        there = self._was_submitted(name)
        yield 0.0  # from here on it can be cancelled
        if not there:
            yield from self._submit(name)
        assert self.route
        self.route.jobs.add(self.id)
        try:
            yield from self._wait()
        finally:
            self.route.jobs.discard(self.id)

    def _was_submitted(self, name: str) -> bool:
        """Is it on one of the routes, since an earlier attempt?"""
        for route in self.batch.routes.all:
            try:
                self._take(route, name)
            except (Exception, SystemExit) as error:
                if len(self.batch.routes.all) == 1:
                    raise
                self._refused(route, error)
                continue
            if self.batch_job.job_id:
                self._say("taken up again")
                return True
        return False

    def _take(self, route: "Route", name: str) -> None:
        """Make it the submission of a route, with its number there if it has one; each look is a call over SSH."""
        if self.route is route:
            return
        self.route, self.submission = route, route.submission(name, OUTPUTS.values())
        context = self.submission.machine.context
        self.submission.try_recover_from_json()
        if not self.batch_job.job_id and context.check_file_exists(f"{self.batch_job.job_hash}_job_id"):
            self.batch_job.register_job_id(context.read_file(f"{self.batch_job.job_hash}_job_id").strip())

    def _submit(self, name: str) -> Generator[float, None, None]:
        """Submit it on a route that has room; where one refuses it, on another."""
        refused: dict[Route, str] = {}
        while True:
            route = self.batch.routes.choose(self.id, refused)
            if route is None:
                yield self.batch.routes.poll
                continue
            try:
                self._take(route, name)
                self.submission.update_submission_state()
                Path("in.d/submitted").write_text(f"{time.time():.0f}\n")
                self._keep()
            except (Exception, SystemExit) as error:
                if len(self.batch.routes.all) == 1:
                    raise
                refused[route] = self._refused(route, error)
                if len(refused) == len(self.batch.routes.all):
                    raise SystemExit(f"error: every route refused the job: {'; '.join(refused.values())}") from None
            else:
                return

    def _refused(self, route: "Route", error: BaseException) -> str:
        """Leave a route alone for a while; why."""
        route.close()
        self.submission = self.route = None
        while error.__cause__:  # dpdispatcher says last where it was, and first what happened
            error = error.__cause__
        why = f"{route}: {' '.join(str(error).split())[-300:] or type(error).__name__}"
        print(f"job {self.id} goes elsewhere: {why}", flush=True)
        return why

    def _keep(self) -> None:
        """Have it in the queue: submit what is not there, and again what the batch system ended."""
        number = self.batch_job.job_id
        if not number:
            self.submission.upload_jobs()
        self.submission.handle_unexpected_submission_state()
        if self.batch_job.job_id != number:
            self._say("submitted")
            self.submission.submission_to_json()

    def _wait(self) -> Generator[float, None, None]:
        found, context = self.submission, self.submission.machine.context
        assert self.route
        found.update_submission_state()
        while not found.check_all_finished():
            self._keep()
            see(context)
            yield self.route.poll
            found.update_submission_state()
        found.download_jobs(include_failed=True)
        self._say("ended")
        # Without a marker among what came home, the job begins anew the next time.
        context.clean()

    def _say(self, what: str) -> None:
        where = f" on {self.route}" if len(self.batch.routes.all) > 1 else ""
        print(f"batch job {self.batch_job.job_id} of {self.id}: {what}{where}", flush=True)


def home_of(places: Mapping[str, str]) -> Path:
    """The folder of a job's outputs, from which it is submitted."""
    return Path(places["JOB_OUT"]).parents[1]


def ended(places: Mapping[str, str], digest: str) -> int | None:
    """What the job's marker says: 0, or 1 if a task failed; None without a marker of these inputs."""
    with contextlib.suppress(OSError, ValueError):
        marker = json.loads(Path(places["JOB_DONE"]).read_bytes())
        if marker["inputs"] == digest:
            return int(any(task["code"] for task in marker["tasks"]))
    return None


def stage(batch: Batch, given: Mapping[str, str]) -> None:
    """Put together what travels: the inputs, the wrapper, and a script that tells it the places in its own folder."""
    places = {name: OUTPUTS.get(name) or f"in.d/{name}" for name in batch.places}
    shutil.rmtree("in.d", ignore_errors=True)
    Path("in.d").mkdir()
    for name, place in places.items():
        path = Path(given[name]).absolute()
        if place.startswith("in.d/") and path.exists():
            Path(place).symlink_to(path)
    exports = "".join(f'export {name}="$PWD"/{place}\n' for name, place in places.items())
    Path("job.sh").write_text(batch.wrapper)
    Path("batch.sh").write_text(f"export JOB_ID={shlex.quote(given['JOB_ID'])}\n{exports}{BATCH}")


def clean_environment(types: set[str]) -> None:
    """A batch job inherits what submits it: no secret, no threads counted for this machine, no mark of the engine.

    The mark would let the engine end `scancel` together with this process. Jobs of the plain shell keep it, so that
    they end with their workflow also when this process is killed.
    """
    for name in list(os.environ):
        if SECRET.search(name.upper()) or name == "OMP_NUM_THREADS":
            del os.environ[name]
    if "Shell" not in types:
        os.environ.pop("DPGEN2_WORKFLOW_UID", None)


if __name__ == "__main__":
    sys.exit(main(globals()["WRAPPER"], globals()["HPC"]))
