"""machine.json as DP-GEN before 0.10 had it, written as those of today are.

Flat keys (`train_machine`, `lmp_command`), or today's groups with the older names inside (`numb_node`, `work_path`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conventions.errors import ConfigError

from .. import dispatcher
from ..report import Report, lost, maps, unneeded
from ..source import Section, Table
from .machine import STAGES

_PARTS = ("machine", "resources", "command", "group_size", "user_forward_files", "user_backward_files")

FLAT: Table = (
    unneeded("deepmd_path", "train.command says which dp; setup or source_list make it known"),
    unneeded("deepmd_version", "dp itself is asked"),
    maps("python_path", "train.command"),
    unneeded("python_test_path", "models are tested by dp test"),
    maps("lmp_command", "explore.command"),
    unneeded("api_version", "both forms are read"),
    *(maps(f"{stage}_{part}", f"{ours}.{part}") for stage, ours in STAGES.items() for part in _PARTS),
    *(maps(stage, ours) for stage, ours in STAGES.items()),
)  # fmt: skip

MACHINE: Table = (
    maps("machine_type", "hpc.machine.batch_type", "", "batch"),
    maps("lazy_local", "hpc.machine.context_type"),
    maps("hostname", "hpc.machine.remote_profile.hostname"),
    maps("port", "hpc.machine.remote_profile.port"),
    maps("username", "hpc.machine.remote_profile.username"),
    maps("key_filename", "hpc.machine.remote_profile.key_filename"),
    maps("work_path", "hpc.machine.remote_root"),
    lost("password", "a secret is not copied: log in with an SSH agent or a key file"),
    *(key for key in dispatcher.MACHINE if key.name not in ("local_root",)),
    unneeded("local_root", "prefix says where the run is kept"),
)

RESOURCES: Table = (
    maps("numb_node", "hpc.resources.number_node"),
    maps("task_per_node", "hpc.resources.cpu_per_node", "", "cpu_per_task"),
    maps("numb_gpu", "hpc.resources.gpu_per_node"),
    maps("partition", "hpc.resources.queue_name"),
    maps("time_limit", "hpc.resources.custom_flags"),
    maps("mem_limit", "hpc.resources.custom_flags"),
    maps("exclude_list", "hpc.resources.custom_flags"),
    maps("constraint_list", "hpc.resources.custom_flags"),
    maps("license_list", "hpc.resources.custom_flags"),
    maps("qos", "hpc.resources.custom_flags"),
    maps("account", "hpc.resources.custom_flags"),
    maps("with_mpi", "{stage}.command"),
    maps("manual_cuda_devices", ""),
    maps("manual_cuda_multiplicity", ""),
    unneeded("allow_failure", "ratio_failed of the stage says how many may fail"),
    maps("cpus_per_task", "hpc.resources.custom_flags"),
    lost("node_cpu", "write a directive of LSF into custom_flags: -R span[ptile=...]"),
    lost("cuda_multi_tasks", "the tasks of a job run one after the other"),
    unneeded("fp_max_errors", "a frame whose SCF fails is told, not repeated with other settings"),
    unneeded("cvasp", "a frame whose SCF fails is told, not repeated with other settings"),
    unneeded("name", "jobs have names of their own", "job_name"),
    *dispatcher.RESOURCES,
)

_SLURM = {
    "time_limit": "--time={}", "exclude_list": "--exclude={}", "constraint_list": "--constraint={}",
    "license_list": "--licenses={}", "qos": "--qos={}", "account": "--account={}",
    "cpus_per_task": "--cpus-per-task={}",
}  # fmt: skip


def is_flat(document: Mapping[str, Any]) -> bool:
    """Is it in the older form?"""
    if any(f"{stage}_machine" in document or f"{stage}_resources" in document for stage in STAGES):
        return True
    return any(_is_old(_first(document.get(stage))) for stage in STAGES)


def flat(document: Mapping[str, Any], report: Report, where: str) -> dict[str, Any]:
    """The same in today's form; each key of the older one gets its row here."""
    top = Section(document, (FLAT,), report, where)
    made: dict[str, Any] = {}
    for stage in STAGES:
        given = _first(top.take(stage)) or {}
        if not isinstance(given, dict):
            raise ConfigError(f"{top.at(stage)}: machine, resources and command are expected, not {str(given)[:60]!r}")
        parts = {part: given.get(part, top.take(f"{stage}_{part}")) for part in _PARTS}
        command = parts["command"]
        if stage == "train" and not command and (python := top.text("python_path")):
            command = f"{python} -m deepmd"
        if stage == "model_devi" and not command:
            command = top.text("lmp_command")
        if not parts["machine"] and not parts["resources"] and not command:
            continue
        machine = Section(parts["machine"] or {}, (MACHINE,), report, top.at(f"{stage}_machine"))
        resources = Section(parts["resources"] or {}, (RESOURCES,), report, top.at(f"{stage}_resources"))
        batch = str(machine.text("machine_type", machine.text("batch_type", "shell")))
        asked = _resources(resources, batch)
        ranks = asked["cpu_per_node"] * asked["number_node"]
        if resources.flag("with_mpi") and command and ranks > 1 and "mpirun" not in command:
            command = f"mpirun -n {ranks} {command}"
        made[stage] = {
            "machine": _machine(machine, batch),
            "resources": {**asked, "group_size": parts["group_size"] or asked.get("group_size", 1)},
            **({"command": command} if command else {}),
            **({"user_forward_files": parts["user_forward_files"]} if parts["user_forward_files"] else {}),
        }
        machine.finish()
        resources.finish()
    top.finish()
    return made


def _machine(machine: Section, batch: str) -> dict[str, Any]:
    host = machine.text("hostname")
    here = batch == "local" or machine.flag("lazy_local") or (host in (None, "localhost", "127.0.0.1"))
    profile = {name: machine.take(name) for name in ("hostname", "port", "username", "key_filename")}
    found: dict[str, Any] = {
        "batch_type": "shell" if batch == "local" else batch,
        "context_type": machine.text("context_type", "local" if here else "ssh"),
    }
    root = machine.text("work_path", machine.text("remote_root"))
    if root:
        found["remote_root"] = root
    if not here:
        found["remote_profile"] = {name: value for name, value in profile.items() if value is not None}
    nested = machine.take("remote_profile")
    return {**found, **({"remote_profile": nested} if nested else {})}


def _resources(resources: Section, batch: str) -> dict[str, Any]:
    gpus = resources.number("numb_gpu", resources.number("gpu_per_node", 0))
    found: dict[str, Any] = {
        "number_node": int(resources.number("numb_node", resources.number("number_node", 1))) or 1,
        "cpu_per_node": int(resources.number("task_per_node", resources.number("cpu_per_node", 1))) or 1,
        "gpu_per_node": max(0, int(gpus)),
        "queue_name": resources.text("partition", resources.text("queue_name", "")),
    }
    flags = [str(flag) for flag in resources.items("custom_flags")]
    for name, form in _SLURM.items():
        value = resources.take(name)
        if value in (None, "", [], -1):
            continue
        words = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        flags.append(f"#SBATCH {form.format(words)}")
        if batch != "slurm":
            resources.lose(name, f"write a directive of {batch} into custom_flags: {words}")
            flags.pop()
    memory = resources.number("mem_limit", 0)
    if memory and memory > 0:
        if batch == "slurm":
            flags.append(f"#SBATCH --mem={memory:g}G")
        else:
            resources.lose("mem_limit", f"write a directive of {batch} into custom_flags: {memory:g} GB")
    if not resources.take("cuda_multi_tasks"):
        resources.drop("cuda_multi_tasks", "off")
    for name in ("manual_cuda_devices", "manual_cuda_multiplicity"):
        if resources.take(name):
            resources.lose(name, "engine.gpus shares the GPUs of this machine among jobs")
    if flags:
        found["custom_flags"] = flags
    kept = [key.name for key in dispatcher.RESOURCES if key.name not in (*found, "custom_flags", "batch_type")]
    return {**found, **{name: value for name in kept if (value := resources.take(name)) is not None}}


def _first(given: Any) -> Any:
    return given[0] if isinstance(given, list) and given else given


def _is_old(stage: Any) -> bool:
    if not isinstance(stage, dict):
        return False
    machine, resources = stage.get("machine") or {}, stage.get("resources") or {}
    if not isinstance(machine, dict) or not isinstance(resources, dict):
        return False
    return bool({"machine_type", "batch", "work_path"} & set(machine) | {"numb_node", "task_per_node"} & set(resources))
