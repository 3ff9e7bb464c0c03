"""ai2-kit's executors: a machine that all stages use, and the command and script of each."""

from __future__ import annotations

import re
from typing import Any

from conventions.errors import ConfigError

from ..dispatcher import MACHINE, RESOURCES, reached
from ..draft import Draft
from ..report import Report
from ..source import Section
from .keys import CONTEXT, EXECUTOR, PROGRAM, PROGRAMS, QUEUE, QUEUES, SCRIPT, SSH

_PROGRAMS = {"train": ("deepmd", "dp_cmd"), "explore": ("lammps", "lammps_cmd")}
_LABELS = {"cp2k": ("cp2k", "cp2k_cmd"), "vasp": ("vasp", "vasp_cmd")}
_BATCH = {"slurm": "Slurm", "lsf": "LSF", "pbs": "PBS"}


def executors(given: Any, where: str, draft: Draft) -> None:
    """The first executor, as `hpc` and `command` of each stage."""
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{where}: a mapping of one executor or more is expected, not {given!r}")
    first = next(iter(given))
    for name in list(given)[1:]:
        draft.report.warn(f"{where}.{name}: {first} is used, the first one; `hpc` can be a list of several")
    for name, value in given.items():
        # Keys of the others have their rows, too; nothing is made of them.
        target = draft if name == first else Draft(draft.base, draft.folder, Report())
        target.config.setdefault("label", {"app": draft.config["label"]["app"]})
        _executor(Section(value, (EXECUTOR,), draft.report, f"{where}.{name}"), target)


def _executor(source: Section, draft: Draft) -> None:
    machine: dict[str, Any] = {"batch_type": "Shell", "context_type": "LocalContext"}
    if source.take("ssh") is not None:
        machine |= {"context_type": "SSHContext", "remote_profile": _login(source.part("ssh", SSH), draft)}
    queues = source.part("queue_system", QUEUES)
    for name, batch in _BATCH.items():
        if queues.take(name) is not None:
            machine["batch_type"] = batch
            queues.part(name, QUEUE).finish()
    queues.finish()
    root = source.text("work_dir")
    if root:
        machine["remote_root"] = root
    context = source.part("context", CONTEXT)
    for stage in ("train", "explore", "label"):
        known = dict([_PROGRAMS[stage]]) if stage in _PROGRAMS else dict(_LABELS.values())
        part = Section(context.of(stage, dict, {}), (PROGRAMS,), source.report, context.at(stage))
        for program in [key.name for key in PROGRAMS if key.name in part]:
            given = part.take(program)
            program_source = Section(given, (PROGRAM,), source.report, part.at(program))
            if program in known and (stage != "label" or program == draft.config["label"].get("app")):
                _program(program_source, stage, known[program], machine, draft)
            else:
                program_source.lose_rest(PROGRAM, f"{stage} is not done with {program} here")
            program_source.finish()
        part.finish()
    context.finish()
    source.finish()


def _login(source: Section, draft: Draft) -> dict[str, Any]:
    host = str(source.need("host"))
    match = re.fullmatch(r"(?:(?P<user>[^@]+)@)?(?P<host>[^:@]+)(?::(?P<port>\d+))?", host)
    if not match:
        raise ConfigError(f"{source.at('host')}: user@host or user@host:port is expected, not {host!r}")
    if source.take("gateway") is not None:
        draft.report.warn(f"{source.at('gateway')}: name it in ~/.ssh/config, or as remote_profile.proxy_command")
    if source.take("password"):
        draft.report.warn(f"{source.at('password')} was not copied: use an SSH agent or key_filename")
    source.finish()
    found: dict[str, Any] = {"hostname": match["host"]}
    if match["user"]:
        found["username"] = match["user"]
    if match["port"]:
        found["port"] = int(match["port"])
    return found


def _program(source: Section, stage: str, key: str, machine: dict[str, Any], draft: Draft) -> None:
    """Command and script of one stage."""
    if command := source.text(key):
        draft.put(f"{stage}.command", command, source.at(key))
    if source.flag("multi_gpus_per_job"):
        source.lose("multi_gpus_per_job", "a job runs its tasks one after the other on the GPUs that it was given")
    else:
        source.drop("multi_gpus_per_job", "off")
    script = source.part("script_template", SCRIPT)
    header = [line.strip() for line in str(script.text("header", "")).splitlines() if line.strip()]
    flags = [line for line in header if line.startswith("#")]
    setup = [line for line in header if not line.startswith("#")]
    setup += [line.strip() for line in str(script.text("setup", "")).splitlines() if line.strip()]
    after = [line for line in str(script.text("teardown", "")).splitlines() if line.strip()]
    resources = {"number_node": 1, "custom_flags": flags, "prepend_script": setup, "append_script": after}
    report = Report()
    reached(
        Section(machine, (MACHINE,), report, source.at("machine")),
        Section({name: value for name, value in resources.items() if value}, (RESOURCES,), report, source.at("script")),
        stage,
        draft,
        source.at("script_template"),
    )
    if "hpc" not in draft.config.get(stage, {}):
        if flags:
            script.drop("header", "no batch system is asked")
        if after:
            script.lose("teardown", "nothing is run behind the program on this machine")
    for text in report.warnings:
        draft.report.warn(text)
    script.finish()
