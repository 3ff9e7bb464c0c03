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

from conventions.hpc import Hpc
from operators.pod import scripts

_KEY_FOLDER = "/dpgen2-ssh"
_KEY = "key"
_READ_BY_OWNER = 0o400


def executor(hpc: Hpc, name: str, image: str) -> Any:
    """The dflow executor of a stage's jobs.

    Parameters
    ----------
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
            given = {"name": name, "places": places, **settings_of(hpc)}
            waiting.script = f"WRAPPER = {template.script!r}\nHPC = {given!r}\n{scripts.BATCH}"
            waiting.command = ["python3"]
            waiting.image = self.image
            if hpc.ssh_key:
                _mount_key(waiting, hpc)
            return waiting

    machine = hpc.machine.model_dump()
    return Executor(image=image, machine_dict=machine, resources_dict=hpc.resources.model_dump())


def settings_of(hpc: Hpc) -> dict[str, Any]:
    """What the job's script is told, in dpdispatcher's words."""
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
        "ssh_key": f"{_KEY_FOLDER}/{_KEY}" if hpc.ssh_key else None,
    }


def _mount_key(template: Any, hpc: Hpc) -> None:
    from argo.workflows.client import V1KeyToPath, V1SecretVolumeSource, V1Volume, V1VolumeMount

    assert hpc.ssh_key
    secret = V1SecretVolumeSource(
        secret_name=hpc.ssh_key.name,
        default_mode=_READ_BY_OWNER,
        items=[V1KeyToPath(key=hpc.ssh_key.key, path=_KEY)],
    )
    template.volumes = [*template.volumes, V1Volume(name="ssh-key", secret=secret)]
    template.mounts = [*template.mounts, V1VolumeMount(name="ssh-key", mount_path=_KEY_FOLDER, read_only=True)]
