"""The batch systems that a stage's jobs may go to, its routes. Needs dpdispatcher, nothing of ours.

Part of the script that `batch_waiter.py` ends.
"""

import copy
import math
import time
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from operators.pod.batch_login import check_logins

CLOSED = 300.0  # seconds in which a route that refused a job is not asked again


class Route:
    """One batch system: a connection to it, what a job asks of it, and which of the jobs are there."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.poll: float = settings["poll"]
        self.type: str = settings["machine"]["batch_type"]
        self.capacity: int | None = settings["capacity"]
        self.jobs: set[str] = set()
        self.closed_until = 0.0

    def __str__(self) -> str:
        where = self.settings["machine"]["remote_profile"].get("hostname", "this machine")
        queue = self.settings["resources"]["queue_name"]
        return f"{self.type} of {where}" + (f", {queue}" if queue else "")

    @property
    def room(self) -> float:
        """How many more jobs it may have now."""
        if time.monotonic() < self.closed_until:
            return 0
        return math.inf if self.capacity is None else self.capacity - len(self.jobs)

    def close(self) -> None:
        """It refused a job: leave it alone for a while."""
        self.closed_until = time.monotonic() + CLOSED

    @cached_property
    def machine(self) -> Any:
        """dpdispatcher's machine; where it is reached by SSH, it is logged in."""
        try:
            import dpdispatcher
        except ImportError:
            raise SystemExit(
                "dpdispatcher is missing where jobs are handed over: pip install 'dpgen2-sm[hpc]'"
            ) from None
        machine = copy.deepcopy({**self.settings["machine"], "local_root": "."})
        if machine["context_type"] == "LocalContext":
            machine["remote_root"] = str(Path(machine["remote_root"]).expanduser())
        profile = machine["remote_profile"]
        if machine["context_type"] == "SSHContext":
            key = self.settings["ssh_key"]
            if key and Path(key).is_file():
                profile["key_filename"] = key
            elif "key_filename" in profile:
                profile["key_filename"] = str(Path(profile["key_filename"]).expanduser())
            host_key, key_file = profile.pop("host_key", None), profile.get("key_filename")
            check_logins(profile["hostname"], profile["port"], host_key, key_file)
        return dpdispatcher.Machine.load_from_dict(machine)

    def submission(self, name: str, outputs: Collection[str]) -> Any:
        """The job of the current folder as dpdispatcher's submission."""
        machine = copy.copy(self.machine)
        machine.context = copy.copy(machine.context)  # it knows the job's folders; the connection is everyone's
        machine.context.temp_local_root = str(Path.cwd())
        import dpdispatcher

        task = dpdispatcher.Task(
            command="sh batch.sh",
            task_work_path=".",
            forward_files=["in.d", "job.sh", "batch.sh"],
            backward_files=list(outputs),
            outlog="batch.log",
            errlog="batch.log",
            task_name=name,
        )
        resources = dpdispatcher.Resources.load_from_dict(dict(self.settings["resources"], group_size=1))
        found = dpdispatcher.Submission(".", machine=machine, resources=resources, task_list=[task])
        found.generate_jobs()
        return found


class Routes:
    """All routes of a stage, and which of them a job takes.

    `alone`: this process has one job of many, and knows nothing of the others.
    """

    def __init__(self, hpc: dict[str, Any], alone: bool) -> None:
        self.all = [Route(settings) for settings in hpc["routes"]]
        self.poll = min(route.poll for route in self.all)
        self.types = {route.type for route in self.all}
        self.alone = alone

    def choose(self, job: str, refused: Collection[Route]) -> Route | None:
        """The route for a job: that with the most room. None: there is no room now.

        A process that has one job cannot know how much room there is, so there the jobs are dealt out by capacity.
        """
        left = [route for route in self.all if route not in refused and route.room > 0]
        if not left:
            return None
        if self.alone:
            dealt = [route for route in left for _ in range(route.capacity or 1)]
            return dealt[int(job) % len(dealt)]
        return max(left, key=lambda route: (route.room, -len(route.jobs)))
