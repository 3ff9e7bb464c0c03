"""Jobs for a batch system: dflow's `DispatcherExecutor` with a rendering of our own.

What `DispatcherExecutor.render` of pydflow 1.8.134 makes of a job's template cannot be used here:

- The template's name gets a random ending: equal arguments give unequal manifests, so a submission that is repeated
  after a crash would be refused as foreign. `{{pod.name}}` and ARGO_TEMPLATE go into dpdispatcher's hash: a pod that
  is started anew submits a second time instead of taking up what runs.
- Settings are pasted into Python between quotes: `prepend_script: ["export A='b c'"]` is a syntax error in the pod.
- A private key is uploaded to the artifact repository; a password, and every environment variable of the pod, is
  written into the manifest or the batch script.
- A failing task makes the job fail, is submitted four times, and then its outputs, log and marker are not fetched.
- It works in `/`, needs Argo's own variables, gives the job the pod's absolute paths, and after SIGTERM goes on.

So this subclass keeps the executor's place in dflow and the words of its `machine_dict` and `resources_dict`, and
renders `operators/pod/batch_waiter.py`.
"""

from __future__ import annotations

import copy
from typing import Any

from conventions.cluster import SecretKey
from conventions.hpc import Hpc
from operators.pod import scripts

_KEYS = "/dpgen2-ssh"
_KEY = "key"
_READ_BY_OWNER = 0o400


def executor(routes: list[Hpc], name: str, image: str) -> Any:
    """The dflow executor of a stage's jobs.

    Parameters
    ----------
    routes
        The batch systems that the jobs may go to.
    name
        What the stage's batch jobs are called; the same in every attempt.
    image
        Image of the pods that wait: the operators', with dpdispatcher.
    """
    from dflow.plugins.dispatcher import DispatcherExecutor

    class Executor(DispatcherExecutor):
        def render(self, template: Any) -> Any:
            waiting = copy.deepcopy(template)
            places = sorted(key for key in template.envs if key != "JOB_ID")
            settings = [settings_of(route, number) for number, route in enumerate(routes)]
            given = {"name": name, "places": places, "routes": settings}
            waiting.script = f"WRAPPER = {template.script!r}\nHPC = {given!r}\n{scripts.BATCH}"
            waiting.command = ["python3"]
            waiting.image = self.image
            for number, route in enumerate(routes):
                if route.ssh_key:
                    _mount_key(waiting, route.ssh_key, number)
            return waiting

    first = routes[0]
    return Executor(image=image, machine_dict=first.machine.model_dump(), resources_dict=first.resources.model_dump())


def settings_of(hpc: Hpc, number: int = 0) -> dict[str, Any]:
    """What the job's script is told of a route, in dpdispatcher's words."""
    machine = hpc.machine.model_dump()
    local = hpc.machine.context_type == "LocalContext"
    machine["remote_profile"] = {
        key: value
        for key, value in machine["remote_profile"].items()
        if (key == "symlink") == local and value is not None
    }
    return {
        "machine": machine,
        "resources": hpc.resources.model_dump(),
        "poll": hpc.poll,
        "capacity": hpc.capacity,
        "ssh_key": f"{_folder(number)}/{_KEY}" if hpc.ssh_key else None,
    }


def _folder(number: int) -> str:
    """Where the key of a route is mounted."""
    return f"{_KEYS}-{number}" if number else _KEYS


def _mount_key(template: Any, key: SecretKey, number: int) -> None:
    from argo.workflows.client import V1KeyToPath, V1SecretVolumeSource, V1Volume, V1VolumeMount

    secret = V1SecretVolumeSource(
        secret_name=key.name,
        default_mode=_READ_BY_OWNER,
        items=[V1KeyToPath(key=key.key, path=_KEY)],
    )
    name = f"ssh-key-{number}" if number else "ssh-key"
    template.volumes = [*template.volumes, V1Volume(name=name, secret=secret)]
    template.mounts = [*template.mounts, V1VolumeMount(name=name, mount_path=_folder(number), read_only=True)]
