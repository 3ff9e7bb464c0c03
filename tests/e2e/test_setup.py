"""Setup lines that fail, in each stage of a run: real interpreter, wrapper and run.sh; played programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import HEAD, STRUCTURE, Cli
from tests.unit.test_explore_lammps import GOOD_DUMP, GOOD_ROWS, LOG
from tests.unit.test_train_deepmd import FAKE_DP

CONFIG = (
    HEAD
    + """\
label: {app: ase, command: my-python, calculator: "ase.calculators.emt:EMT", retries: 0, LABEL}
train: {app: deepmd, command: my-dp, input: input.json, numb_models: 2, retries: 0, TRAIN}
explore: {app: lammps, command: my-lmp, stages: [[MD]], retries: 0, EXPLORE}
select: {app: model_devi, command: my-python, f_trust_lo: 0.5, f_trust_hi: 1, fp_task_max: 1, retries: 0, SELECT}
"""
)
INPUT = '{"model": {}, "training": {"numb_steps": 60}}'
# What is typed in each stage, and what is seen.
TYPED = {
    "LABEL": ("setup: ['. ./no-such-env.sh']", "'. ./no-such-env.sh' ended with exit code "),
    "TRAIN": ("setup: ['export A=1', 'test -d /no/such/licence']", "'test -d /no/such/licence' ended with exit code 1"),
    "EXPLORE": ("shell: bash, setup: [source no-such-env.sh]", "no-such-env.sh: No such file or directory"),
    "SELECT": (
        "shell: bash, setup: ['module load cuda; export OMP_NUM_THREADS=1']",
        "'module load cuda; export OMP_NUM_THREADS=1' ended with exit code 127: module: command not found",
    ),
}


def write(folder: Path, setups: dict[str, str]) -> Path:
    text = CONFIG.replace("MD", "{structures: [start], ensemble: nvt, temps: [300], nsteps: 20}")
    for stage, setup in setups.items():
        text = text.replace(stage, setup)
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def programs(folder: Path) -> Path:
    """A folder of programs, and the script that a setup line reads so that they are found."""
    bin_ = folder / "bin"
    bin_.mkdir()
    for name, text in (("model_devi.out", GOOD_ROWS), ("traj.lammpstrj", GOOD_DUMP), ("log.lammps", LOG)):
        (folder / name).write_text(text)
    files = " ".join(str(folder / name) for name in ("model_devi.out", "traj.lammpstrj", "log.lammps"))
    scripts = {"my-python": f'exec {sys.executable} "$@"', "my-dp": FAKE_DP, "my-lmp": f"cp {files} ."}
    for name, script in scripts.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_ / name).chmod(0o755)
    env = folder / "env.sh"
    env.write_text(f"PATH={bin_}:$PATH\n")
    return env


@pytest.mark.slow
def test_in_every_stage_a_line_that_fails_is_named_and_what_is_mended_goes_on(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "cu.xyz").write_text(STRUCTURE)
    (tmp_path / "input.json").write_text(INPUT)
    env = programs(tmp_path)
    good = f"shell: bash, setup: [source {env}]"
    setups = {stage: typed for stage, (typed, _) in TYPED.items()}
    command = "run"
    for stage, (_, seen) in TYPED.items():
        path = write(tmp_path, setups)
        if command == "resume":
            assert cli("patch", path)[0] == 0
        assert cli(command, path)[0] == 1
        output = " ".join(cli("status", path)[1].split())
        assert f"{stage.lower()} of iteration 0 failed" in output and seen in output, output
        setups[stage] = good
        command = "resume"
    assert cli("patch", write(tmp_path, setups))[0] == 0
    code, output, errors = cli("resume", path)
    assert code == 0 and "converged" in output, output + errors
