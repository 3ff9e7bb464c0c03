"""DPGEN2's `step_configs`: images, groups of tasks, what may fail, and batch systems of a dispatcher."""

from __future__ import annotations

import shlex
from typing import Any

from ..dispatcher import MACHINE, RESOURCES, parted, reached
from ..draft import Draft
from ..report import Report
from ..source import Section
from .step_keys import EXECUTOR, SLICES, STEP, STEPS, TEMPLATE_CONFIG

_STAGES = {"run_train_config": "train", "run_explore_config": "explore", "run_fp_config": "label"}
_SELECT = "select_confs_config"


def steps(top: Section, draft: Draft, argo: bool) -> None:
    """All of default_step_config and step_configs."""
    source = top.part("step_configs", STEPS)
    without = [stage for key, stage in _STAGES.items() if source.take(key) is None]
    for key, stage in (*_STAGES.items(), (_SELECT, "select")):
        if source.take(key) is not None:
            _Step(source.part(key, STEP), stage, draft, argo).fill()
        elif key in source:
            source.drop(key, "not given")
    default = top.part("default_step_config", STEP)
    image = default.part("template_config", TEMPLATE_CONFIG).text("image")
    if argo and image:
        draft.put("engine.image", image, "default_step_config.template_config.image")
    if not without:
        for name in (key.name for key in STEP):
            default.take(name)
            default.drop(name, "every stage has a configuration of its own")
        default.finish()
    # A row for each key once, however many stages have it; of train, which may lose no task, only where it is alone.
    for number, stage in enumerate(sorted(without, key="train".__eq__)):
        report = draft.report if number == 0 else Report()
        _Step(Section(default.values, (STEP,), report, default.where), stage, draft, argo).fill()
    source.finish()


class _Step:
    """The configuration of one step."""

    def __init__(self, source: Section, stage: str, draft: Draft, argo: bool) -> None:
        self._source, self._stage, self._draft, self._argo = source, stage, draft, argo

    def fill(self) -> None:
        """Write all of it into the draft."""
        self._template()
        if isinstance(self._source.take("executor"), dict):
            self._executor()
        elif "executor" in self._source:
            self._source.drop("executor", "none: jobs run where the engine starts them")
        self._slices()
        self._failures()
        most = self._source.of("parallelism", int)
        if most and self._argo:
            engine = self._draft.config["engine"]
            self._draft.put(
                "engine.parallelism", max(most, engine.get("parallelism", 1)), self._source.at("parallelism")
            )
        elif "parallelism" in self._source:
            self._source.drop("parallelism", "`engine.slots` says how many jobs run at once on this machine")
        self._source.finish()

    def _put(self, key: str, value: Any, origin: str) -> None:
        self._draft.put(f"{self._stage}.{key}", value, origin)

    def _template(self) -> None:
        template = self._source.part("template_config", TEMPLATE_CONFIG)
        image = template.text("image")
        if image:
            self._put("image", image, template.at("image"))
        elif "image" in template:
            template.drop("image", "not given")
        seconds = template.number("timeout")
        if seconds and self._argo:
            self._put("pod.hours", seconds / 3600, template.at("timeout"))
        elif seconds:
            template.lose("timeout", "jobs on this machine have no limit; give a batch system's in custom_flags")
        elif "timeout" in template:
            template.drop("timeout", "none")
        again = template.of("retry_on_transient_error", int)
        if again is not None:
            self._put("retries", again, template.at("retry_on_transient_error"))
        elif "retry_on_transient_error" in template:
            template.drop("retry_on_transient_error", "not given")
        self._envs(template)
        template.finish()

    def _envs(self, template: Section) -> None:
        """Environment variables; secrets are left out."""
        given, secret = parted(template.of("envs", dict, {}))
        envs = {name: str(value) for name, value in given.items()}
        if envs and self._argo:
            self._put("pod.env", envs, template.at("envs"))
        elif envs:
            lines = [f"export {name}={shlex.quote(value)}" for name, value in envs.items()]
            before = self._draft.config[self._stage].get("setup", [])
            self._put("setup", [*lines, *before], template.at("envs"))
        if secret:
            names = ", ".join(secret)
            template.lose("envs", f"{names}: a secret is not copied: name a Kubernetes Secret in pod.secrets")
            self._draft.report.warn(f"{self._stage}: {names} was not copied: name a Kubernetes Secret in pod.secrets")
        elif not envs:
            template.drop("envs", "none")

    def _slices(self) -> None:
        slices = self._source.part("template_slice_config", SLICES)
        size = slices.of("group_size", int)
        if size and self._stage != "select":
            self._put("group_size", size, slices.at("group_size"))
        elif "group_size" in slices:
            slices.drop("group_size", "the default of the stage is used")
        if (slices.of("pool_size", int) or 1) == 1:
            slices.drop("pool_size", "1: the tasks of a job run one after the other")
        slices.finish()

    def _failures(self) -> None:
        """What may fail."""
        source = self._source
        ratio, always = source.number("continue_on_success_ratio"), source.flag("continue_on_failed")
        if self._stage == "train":
            for key, given in (("continue_on_success_ratio", ratio), ("continue_on_failed", always)):
                if given:
                    source.lose(key, "every model of the committee is needed")
        elif ratio is not None:
            self._put("ratio_failed", round(1 - ratio, 10), f"1 - {source.at('continue_on_success_ratio')}")
        elif always:
            self._put("ratio_failed", 1.0, source.at("continue_on_failed"))
            source.change("continue_on_failed", "ratio_failed 1: any number of tasks may fail")
        if ratio is None and "continue_on_success_ratio" in source:
            source.drop("continue_on_success_ratio", "not given")
        if "continue_on_failed" in source and not always:
            source.drop("continue_on_failed", "off")
        if source.take("continue_on_num_success") is None:
            source.drop("continue_on_num_success", "not given")

    def _executor(self) -> None:
        """The batch system of a dispatcher: the words are dpdispatcher's, and some stand beside them."""
        executor = self._source.part("executor", EXECUTOR)
        kind = executor.text("type", "dispatcher")
        if kind != "dispatcher":
            self._source.lose(
                "executor", f"{kind} is not there: jobs run on this machine, a batch system or Kubernetes"
            )
            self._draft.report.warn(f"{self._stage}: executor {kind} has no counterpart; give {self._stage}.hpc")
            return
        machine = dict(executor.of("machine_dict", dict, {}))
        profile = dict(machine.get("remote_profile") or {})
        for theirs, ours in (("host", "hostname"), ("port", "port"), ("username", "username"),
                             ("private_key_file", "key_filename")):  # fmt: skip
            value = executor.take(theirs)
            if value is not None:
                profile.setdefault(ours, str(value) if ours == "key_filename" else value)
        if executor.take("host") is not None:
            machine.setdefault("context_type", "SSHContext")
        if executor.take("remote_root") is not None:
            machine.setdefault("remote_root", executor.text("remote_root"))
        if profile:
            machine["remote_profile"] = profile
        resources = dict(executor.of("resources_dict", dict, {}))
        if executor.take("queue_name") is not None:
            resources.setdefault("queue_name", executor.text("queue_name"))
        if executor.take("password"):
            self._draft.report.warn(f"{self._stage}: password was not copied: use an SSH agent or a key file")
        report = Report()
        reached(
            Section(machine, (MACHINE,), report, executor.at("machine_dict")),
            Section(resources, (RESOURCES,), report, executor.at("resources_dict")),
            self._stage,
            self._draft,
            executor.at("machine_dict"),
        )
        for row in report:  # not of what stands beside the two in the source: it has rows of its own
            name = row.source.removeprefix(executor.where + ".").split(".")
            if _there(executor.values, name):
                self._draft.report.add(row.source, row.outcome, row.to, row.note)
        for text in report.warnings:
            self._draft.report.warn(text)
        executor.finish()


def _there(values: Any, names: list[str]) -> bool:
    for name in names:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True
