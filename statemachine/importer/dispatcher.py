"""dpdispatcher's words for batch systems, which DP-GEN's machine.json and an executor of DPGEN2 are written in."""

from __future__ import annotations

import re
from typing import Any

from conventions.secrets import looks_like_key

from .draft import Draft
from .report import lost, maps, unneeded
from .source import Section, Table

MACHINE: Table = (
    maps("batch_type", "{stage}.hpc.machine.batch_type"),
    maps("context_type", "{stage}.hpc.machine.context_type"),
    unneeded("local_root", "prefix says where the run is kept"),
    maps("remote_root", "{stage}.hpc.machine.remote_root"),
    maps("remote_profile", "{stage}.hpc.machine.remote_profile"),
    maps("retry_count", "{stage}.hpc.machine.retry_count"),
    unneeded("clean_asynchronously", "what a job leaves there is removed when it has ended"),
)

_SECRET = "a secret is not copied: log in with an SSH agent or a key file"

PROFILE: Table = (
    maps("hostname", "{stage}.hpc.machine.remote_profile.hostname"),
    maps("username", "{stage}.hpc.machine.remote_profile.username"),
    maps("port", "{stage}.hpc.machine.remote_profile.port"),
    maps("key_filename", "{stage}.hpc.machine.remote_profile.key_filename"),
    maps("proxy_command", "{stage}.hpc.machine.remote_profile.proxy_command"),
    maps("timeout", "{stage}.hpc.machine.remote_profile.timeout"),
    maps("tar_compress", "{stage}.hpc.machine.remote_profile.tar_compress"),
    maps("symlink", "{stage}.hpc.machine.remote_profile.symlink"),
    unneeded("look_for_keys", "SSH looks for keys as it is set up on this machine"),
    unneeded("execute_command", "not run at login; prepend_script has shell lines of a job"),
    lost("password", _SECRET),
    lost("passphrase", _SECRET),
    lost("totp_secret", _SECRET),
)

RESOURCES: Table = (
    unneeded("batch_type", "machine says it"),
    maps("number_node", "{stage}.hpc.resources.number_node"),
    maps("cpu_per_node", "{stage}.hpc.resources.cpu_per_node"),
    maps("gpu_per_node", "{stage}.hpc.resources.gpu_per_node"),
    maps("queue_name", "{stage}.hpc.resources.queue_name"),
    maps("group_size", "{stage}.group_size"),
    maps("custom_flags", "{stage}.hpc.resources.custom_flags"),
    maps("strategy", ""),
    lost("para_deg", "the tasks of a job run one after the other: take a smaller group_size"),
    maps("source_list", "{stage}.hpc.resources.source_list, or {stage}.setup"),
    maps("module_purge", "{stage}.hpc.resources.module_purge"),
    maps("module_unload_list", "{stage}.hpc.resources.module_unload_list"),
    maps("module_list", "{stage}.hpc.resources.module_list, or {stage}.setup"),
    maps("envs", "{stage}.hpc.resources.envs, or {stage}.setup"),
    maps("prepend_script", "{stage}.hpc.resources.prepend_script, or {stage}.setup"),
    maps("append_script", "{stage}.hpc.resources.append_script"),
    unneeded("wait_time", "`hpc.poll` says how often the queue is asked"),
    maps("kwargs", "{stage}.hpc.resources.kwargs"),
)

_CONTEXTS = {
    "ssh": "SSHContext", "sshcontext": "SSHContext", "local": "LocalContext", "localcontext": "LocalContext",
    "lazylocal": "LocalContext", "lazylocalcontext": "LocalContext", "lazy-local": "LocalContext",
}  # fmt: skip
_BATCHES = {
    "slurm": "Slurm", "slurmjobarray": "Slurm", "pbs": "PBS", "torque": "Torque", "sge": "SGE", "lsf": "LSF",
    "shell": "Shell", "fugaku": "Fugaku", "jh_unischeduler": "JH_UniScheduler",
}  # fmt: skip
_DIRECTIVES = {
    "Slurm": "#SBATCH", "PBS": "#PBS", "Torque": "#PBS", "SGE": "#$", "LSF": "#BSUB", "Fugaku": "#PJM",
    "JH_UniScheduler": "#JSUB",
}  # fmt: skip
_PLAIN = ("number_node", "cpu_per_node", "gpu_per_node", "queue_name", "module_purge")
_LISTS = ("custom_flags", "module_unload_list", "module_list", "source_list", "prepend_script", "append_script")

# What DP-GEN itself, or the person, put behind the program: its arguments are the run's.
_ARGUMENTS = re.compile(r"\s+(?:-i|-in|-input)\s|\s*(?:[<>|;]|&&|2>)")

# A variable for the program alone, before it.
_VARIABLE = re.compile(r"[A-Za-z_]\w*=\S*\s")


def reached(machine: Section, resources: Section, stage: str, draft: Draft, origin: str) -> None:
    """The batch system of a stage and what its jobs ask of it, or the setup where there is none; finishes both."""
    group = resources.of("group_size", int)
    if group:
        draft.put(f"{stage}.group_size", group, resources.at("group_size"))
    elif group == 0:
        resources.change("group_size", "0 is no limit there; the default of the stage is used")
    if resources.number("para_deg", 1) == 1:
        resources.drop("para_deg", "1: the tasks of a job run one after the other")
    batch = str(machine.text("batch_type", "Shell"))
    context = str(machine.text("context_type", "LocalContext"))
    found = _machine(machine, batch, context, draft, stage)
    envs = _envs(resources, stage, draft)
    if found is None:
        _setup(resources, envs, stage, draft)
    else:
        plain = {name: resources.take(name) for name in (*_PLAIN, "kwargs") if name in resources}
        lists = {name: _texts(resources, name) for name in _LISTS if name in resources}
        lists["custom_flags"] = _directives(lists.get("custom_flags", []), found["batch_type"], resources)
        wanted = {**plain, **lists, "envs": envs}
        hpc: dict[str, Any] = {"machine": found, "resources": _in_shell(_cleaned(wanted))}
        draft.put(f"{stage}.hpc", hpc, f"{origin}, {resources.where.rpartition('.')[2]}")
    _strategy(resources)
    resources.finish()
    machine.finish()


def _machine(machine: Section, batch: str, context: str, draft: Draft, stage: str) -> dict[str, Any] | None:
    """hpc.machine; None where the jobs run where the engine starts them."""
    known = _CONTEXTS.get(context.lower())
    kind = _BATCHES.get(batch.lower())
    if known is None or kind is None:
        name, value = ("batch_type", batch) if kind is None else ("context_type", context)
        for key in ("batch_type", "context_type", "remote_root", "remote_profile", "retry_count"):
            if key in machine:
                machine.lose(key, f"{value} is not there: jobs run on this machine, a batch system or Kubernetes")
        draft.report.warn(f"{stage}: {name} {value} has no counterpart; give {stage}.hpc, or engine: {{type: argo}}")
        return None
    profile = Section(machine.take("remote_profile") or {}, (PROFILE,), machine.report, machine.at("remote_profile"))
    found: dict[str, Any] = {"batch_type": kind, "context_type": known}
    if batch.lower() == "slurmjobarray":
        machine.change("batch_type", "Slurm: a job for each group, no job arrays")
    reach = {name: profile.take(name) for name in _PROFILE if name in profile}
    for name in ("password", "passphrase", "totp_secret"):
        if name in profile and profile.take(name):
            draft.report.warn(f"{stage}: {name} was not copied: use an SSH agent or key_filename")
    profile.finish()
    if kind == "Shell" and known == "LocalContext":
        for name in ("batch_type", "context_type", "remote_root", "retry_count"):
            machine.take(name)
            if name in machine:
                machine.drop(name, "the local engine starts the jobs; `engine.slots` says how many at once")
        return None
    root = machine.text("remote_root")
    if root is None:
        root = str(draft.folder / "work")
        machine.change("context_type", f"jobs work in {root}, not beside their inputs")
    found["remote_root"] = root
    if not root.startswith(("/", "~/")):
        found["remote_root"] = str(draft.base / root) if known == "LocalContext" else root
        draft.report.warn(f"{stage}.hpc.machine.remote_root: {root} is no absolute path; write the whole one")
    if reach:
        found["remote_profile"] = reach if known == "SSHContext" else {"symlink": bool(reach.get("symlink", False))}
    if known == "SSHContext" and not reach.get("username"):
        draft.report.warn(f"{stage}.hpc.machine.remote_profile.username: give the name of your account there")
    if "retry_count" in machine:
        found["retry_count"] = int(machine.number("retry_count"))
    return found


_SHELL = re.compile(r"[$`;&|<>()*?\[\]{}~#]")
_PROFILE = ("hostname", "username", "port", "key_filename", "proxy_command", "timeout", "tar_compress", "symlink")


def parted(envs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Environment variables that are copied, and the names of those that look like secrets; comments are neither.

    >>> parted({"OMP_NUM_THREADS": 4, "_note": "x", "API_TOKEN": "y"})
    ({'OMP_NUM_THREADS': 4}, ['API_TOKEN'])
    """
    given = {name: value for name, value in envs.items() if not name.startswith("_")}
    secret = [name for name in given if looks_like_key(name)]
    return {name: value for name, value in given.items() if name not in secret}, secret


def _texts(resources: Section, name: str) -> list[str]:
    """A list without the empty texts that templates have."""
    return [str(text) for text in resources.items(name) if str(text).strip()]


def _directives(flags: list[str], kind: str, resources: Section) -> list[str]:
    """Options that were given alone become lines that the batch system reads; the shell would run them."""
    word = _DIRECTIVES.get(kind)
    if word is None or not any(flag.startswith("-") for flag in flags):
        return flags
    resources.change("custom_flags", f"options alone are no lines of a script: {word} is written before each")
    return [f"{word} {flag}" if flag.startswith("-") else flag for flag in flags]


def _envs(resources: Section, stage: str, draft: Draft) -> dict[str, Any]:
    """Environment variables, without those whose names say that they are secrets."""
    envs, secret = parted(resources.of("envs", dict, {}))
    if secret:
        why = f"{', '.join(secret)}: a secret is not copied: let a file on the batch system set it (source_list)"
        resources.lose("envs", why)
        draft.report.warn(f"{stage}: {why}")
    return envs


def _setup(resources: Section, envs: dict[str, Any], stage: str, draft: Draft) -> None:
    """What prepares a job that no batch system prepares: shell lines."""
    lines = [f"module unload {name}" for name in _texts(resources, "module_unload_list")]
    if resources.flag("module_purge"):
        lines.insert(0, "module purge")
    lines += [f"module load {name}" for name in _texts(resources, "module_list")]
    lines += [f"source {file}" for file in _texts(resources, "source_list")]
    lines += [
        f'export {name}="{value}"'
        for name, given in envs.items()
        for value in (given if isinstance(given, list) else [given])
    ]
    lines += _texts(resources, "prepend_script")
    if lines:
        draft.put(f"{stage}.setup", lines, resources.at("module_list, source_list, envs"))
        draft.put(f"{stage}.shell", "bash", "")
    for name in (*_PLAIN, "custom_flags", "append_script", "kwargs"):
        if name in resources and resources.untaken(name):
            resources.drop(name, "no batch system is asked")


def _strategy(resources: Section) -> None:
    strategy = resources.of("strategy", dict, {})
    told = []
    if strategy.get("if_cuda_multi_devices"):
        told.append(
            "a job runs its tasks one after the other on the GPUs that it was given; `engine.gpus` shares those of "
            "this machine among jobs"
        )
    if strategy.get("ratio_unfinished"):
        told.append("`ratio_failed` of the stage says how many may be missing")
    if strategy.get("customized_script_header_template_file"):
        told.append("there is no header of your own; custom_flags has directives")
    if told:
        resources.lose("strategy", "; ".join(told))
    else:
        resources.drop("strategy", "its values are the defaults")


def command_of(text: str) -> str:
    """The program and how it is started, without the arguments that the run itself gives it.

    >>> command_of("mpirun -n 16 pw.x < input > output")
    'mpirun -n 16 pw.x'

    Variables for the program alone are set by `env`: a shell does not see them in a command that a variable holds.

    >>> command_of("OMP_NUM_THREADS=8 dp")
    'env OMP_NUM_THREADS=8 dp'
    """
    found = _ARGUMENTS.search(text)
    program = (text[: found.start()] if found else text).strip()
    return f"env {program}" if _VARIABLE.match(program) else program


def _cleaned(wanted: dict[str, Any]) -> dict[str, Any]:
    """Values as they are needed here: numbers of nodes that are not 0, lists."""
    found = {}
    for name, value in wanted.items():
        if value in (None, "", [], {}) or (name in ("number_node", "cpu_per_node") and not value):
            continue
        found[name] = value
    return found


def _in_shell(resources: dict[str, Any]) -> dict[str, Any]:
    """Files to source whose names the shell has to expand become lines of the script."""
    plain = [file for file in resources.get("source_list", []) if not _SHELL.search(str(file))]
    others = [f". {file}" for file in resources.get("source_list", []) if _SHELL.search(str(file))]
    if not others:
        return resources
    rest = {name: value for name, value in resources.items() if name != "source_list"}
    lines = [*others, *rest.get("prepend_script", [])]
    return {**rest, **({"source_list": plain} if plain else {}), "prepend_script": lines}
