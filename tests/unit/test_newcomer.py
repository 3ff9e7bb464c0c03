"""What newcomers typed, and what they see now. Data and structures: test_data.py; lines of setup: test_setup.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conventions import documents, forms, state
from conventions.cluster import ArgoConfig
from operators import registry
from statemachine.engine.argo_client import ArgoClient
from statemachine.run import stage_checks
from statemachine.run.config_file import read_config
from tests.conftest import CONFIG, Cli
from tests.explore_run import ExploreRun
from tests.train_run import INPUT
from tests.unit.test_explore_lammps import CU, NVT

LABEL = "label: {app: stub}"
EXPLORE = "explore: {app: stub, tasks: 3}"
MACHINE = "batch_type: Slurm, context_type: LocalContext, remote_root: /scratch/me"


def seen(cli: Cli, path: Path, command: str = "validate") -> list[str]:
    """The lines of an error of bad input."""
    code, output, errors = cli(command, path)
    assert (code, output) == (2, ""), output + errors
    return [line.removeprefix(f"error: {path}: ") for line in errors.splitlines()]


def test_all_problems_of_hpc_at_once(cli: Cli, stub_run: Path) -> None:
    """`local_root`, which every machine.json has, hid all the others."""
    machine = (
        "batch_type: Slurn, local_root: ./, context_type: SSHContext, remote_root: work, remote_profile: {password: x}"
    )
    hpc = f"hpc: {{machine: {{{machine}}}, resources: {{group_size: 5, queue: main, cpu_per_node: 0}}}}"
    stub_run.write_text(CONFIG.replace(LABEL, f"label: {{app: stub, {hpc}}}"))
    found = dict(line.split(": ", 1) for line in seen(cli, stub_run))
    assert found.keys() == {
        f"label.hpc.{name}"
        for name in (
            "machine.batch_type", "machine.local_root", "machine.remote_root", "machine.remote_profile.password",
            "resources.group_size", "resources.queue", "resources.cpu_per_node",
        )
    }  # fmt: skip
    assert found["label.hpc.machine.local_root"] == "not needed, remove it: it is the job's own folder"
    assert "'Slurm'" in found["label.hpc.machine.batch_type"]
    assert found["label.hpc.resources.queue"] == "unknown key; did you mean 'queue_name'?"


def test_unknown_keys_do_not_hide_what_does_not_fit(cli: Cli, stub_run: Path) -> None:
    machine = "batch_type: Slurm, local_root: ./, context_type: ssh, remote_root: /scratch"
    text = CONFIG.replace(LABEL, f"label: {{app: stub, hpc: {{machine: {{{machine}}}}}}}").replace("slots", "slot")
    stub_run.write_text(text)
    assert [line.split(": ", 1)[0] for line in seen(cli, stub_run)] == [
        "engine.slot", "label.hpc.machine.local_root", "label.hpc.machine",
    ]  # fmt: skip


def test_hpc_is_written_once(cli: Cli, stub_run: Path) -> None:
    settings = f"machine: {{{MACHINE}}}, resources: {{queue_name: main, cpu_per_node: 4}}"
    text = CONFIG.replace(LABEL, "label: {app: stub, hpc: *slurm}")
    text = text.replace("train: {app: stub}", "train: {app: stub, hpc: {<<: *slurm, poll: 5}}")
    stub_run.write_text(f"_hpc: &slurm {{{settings}}}\n{text}")
    assert cli("validate", stub_run)[0] == 0
    config = read_config(stub_run)
    assert config.label.hpc.resources.cpu_per_node == config.train.hpc.resources.cpu_per_node == 4
    assert (config.label.hpc.poll, config.train.hpc.poll) == (30, 5)


def test_home_is_expanded_where_a_path_is(
    cli: Cli, stub_run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    (home / "cu.xyz").write_bytes((stub_run.parent / "cu.xyz").read_bytes())
    (home / "tool").write_text("#!/bin/sh\n")
    (home / "tool").chmod(0o755)
    machine = MACHINE.replace("/scratch/me", "~/scratch")
    text = CONFIG.replace("cu.xyz", "~/cu.xyz").replace("prefix: out", "prefix: ~/out")
    text = text.replace(LABEL, f"label: {{app: stub, hpc: {{machine: {{{machine}}}}}}}")
    group = "{structures: [start], ensemble: nve, temps: [1], nsteps: 10}"
    text = text.replace(EXPLORE, f"explore: {{app: lammps, command: ~/tool, stages: [[{group}]]}}")
    stub_run.write_text(text.replace("train: {app: stub}", "train: {app: deepmd, input: ~/i}"))
    (home / "i").write_text(json.dumps(INPUT))
    code, output, errors = cli("validate", stub_run)
    assert code == 0 and f"file://{home}/out" in output, errors
    monkeypatch.setattr(stage_checks, "_path", lambda: "/usr/bin:/bin")  # dp takes long to say that it is there
    assert f"explore/lammps: {home}/tool" in cli("doctor", stub_run)[1]


def test_home_is_expanded_in_the_files_of_an_argo_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text("secret-of-home\n")
    client = ArgoClient(ArgoConfig(type="argo", server="http://127.0.0.1:1", token_file="~/token"))
    assert client._token_file == str(tmp_path / "token")


def test_a_calculator_by_its_class_alone(cli: Cli, stub_run: Path) -> None:
    stub_run.write_text(CONFIG.replace(LABEL, "label: {app: ase, calculator: EMT}"))
    assert seen(cli, stub_run) == [
        "label.calculator: 'EMT' is not valid; expected: module:Class, as Python imports it: ase.calculators.emt:EMT, "
        "tblite.ase:TBLite"
    ]


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("CuAu", "cuau"),
        ("Cu_Au 300K", "cu-au-300k"),
        ("3H2O", "h2o"),
        ("A-very-long-name-of-a-run", "a-very-long-name-of"),
    ],
)
def test_a_run_with_capitals(cli: Cli, stub_run: Path, name: str, better: str) -> None:
    stub_run.write_text(CONFIG.replace("run: stub", f"run: {name}"))
    (line,) = seen(cli, stub_run)
    assert line.startswith(f"run: {name!r} is not valid; expected: 1-20 lower-case letters") and line.endswith(
        f"; write {better}"
    )
    stub_run.write_text(CONFIG.replace("run: stub", f"run: {better}"))
    assert cli("validate", stub_run)[0] == 0


def test_press_with_nvt_is_not_used(cli: Cli, stub_run: Path, tmp_path: Path) -> None:
    """6 of 14 inputs of DP-GEN have it."""
    group = "{structures: [start], ensemble: nvt, temps: [300], press: [1.0, 2.0], nsteps: 20}"
    text = CONFIG.replace(EXPLORE, f"explore: {{app: lammps, stages: [[{group}]]}}")
    (stub_run.parent / "input.json").write_text(json.dumps(INPUT))
    stub_run.write_text(text.replace("train: {app: stub}", "train: {app: deepmd, input: input.json}"))
    for command in ("validate", "init"):
        code, _, errors = cli(command, stub_run)
        assert code == 0
        assert "note: explore.stages.0.0: press is not used with ensemble nvt; npt uses it\n" in errors
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[{**NVT, "press": [1.0, 2.0]}]], ["Cu"])
    without = ExploreRun(tmp_path / "out", {"cu": [CU]}, [[NVT]], ["Cu"])
    assert run.plan().n_jobs == without.plan().n_jobs
    assert (run.task(0) / "in.lammps").read_bytes() == (without.task(0) / "in.lammps").read_bytes()


PARAM = {"type_map": ["Cu"], "init_data_sys": [], "sys_configs": [["POSCAR"]], "numb_models": 4, "model_devi_jobs": []}
MACHINE_JSON = {"api_version": "1.0", "train": [{}], "model_devi": [{}], "fp": [{}]}
DPGEN2 = {"dflow_config": {}, "default_step_config": {}, "inputs": {"type_map": ["Cu"]}, "train": {}, "fp": {}}


@pytest.mark.parametrize(
    ("typed", "what"),
    [
        ("run param.json machine.json", r"DP-GEN's param.json \(init_data_sys, model_devi_jobs, sys_configs\)"),
        ("run machine.json", "DP-GEN's machine.json"),
        ("run machine.json param.json", "DP-GEN's machine.json"),
        ("validate param.json", "DP-GEN's param.json"),
        ("init param.yaml", "DP-GEN's param.json"),
        ("run input.json", "DPGEN2's input.json"),
        ("status input.json", "DPGEN2's input.json"),
    ],
)
def test_the_files_of_dpgen(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("param.json", PARAM),
        ("machine.json", MACHINE_JSON),
        ("input.json", DPGEN2),
        ("param.yaml", PARAM),
    ):
        Path(name).write_text(json.dumps(text))
    code, output, errors = cli(*typed.split())
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert re.search(rf"this is {what}.*, not a configuration of dpgen2-sm; `dpgen2-sm import FILE...`", errors)


def test_our_own_files_with_a_key_of_theirs_are_ours(cli: Cli, stub_run: Path) -> None:
    stub_run.write_text(CONFIG + "fp: {}\n")
    assert seen(cli, stub_run)[0].startswith("fp: unknown key; ")
    stub_run.with_suffix(".json").write_text("{}")
    assert "label.app: this key is required" in seen(cli, stub_run.with_suffix(".json"))[0]


def patterns(schema: Any) -> Iterator[str]:
    """Every pattern of a JSON Schema, also those of keys."""
    if isinstance(schema, dict):
        yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        yield from schema.get("patternProperties", {})
        for value in schema.values():
            yield from patterns(value)
    if isinstance(schema, list):
        for value in schema:
            yield from patterns(value)


def test_no_pattern_is_shown_raw() -> None:
    """Every one in a configuration, and in what the store holds, has words and an example."""
    models = [registry.full_model(), state.State, documents.DoneMarker, documents.StageReport]
    found = {pattern for model in models for pattern in patterns(model.model_json_schema())}
    assert len(found) > 12
    for pattern in found:
        said = forms.form_error("odd", pattern)
        assert pattern not in said and said.startswith("'odd' is not valid; expected: ")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            "pod: {memory: 8 GB}",
            "label.pod.memory: '8 GB' is not valid; expected: a number with a unit of Kubernetes: 8Gi",
        ),
        ("pod: {env: {2x: a}}", "label.pod.env.2x: '2x' is not valid; expected: letters, digits and '_'"),
        ("image: a b", "label.image: 'a b' is not valid; expected: an image's name without spaces: "),
        ("pod: {node_selector: {-a: b}}", "label.pod.node_selector.-a: '-a' is not valid; expected: a label's key"),
        (
            f"hpc: {{machine: {{{MACHINE}, remote_profile: {{hostname: me@host}}}}}}",
            "label.hpc.machine.remote_profile.hostname: 'me@host' is not valid; expected: a host's name or address",
        ),
    ],
)
def test_words_for_patterns(cli: Cli, stub_run: Path, typed: str, words: str) -> None:
    stub_run.write_text(CONFIG.replace(LABEL, f"label: {{app: stub, {typed}}}"))
    (line,) = seen(cli, stub_run)
    assert line.startswith(words)
