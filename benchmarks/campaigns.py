"""The campaigns that `orchestration.py` measures: the same tasks by dpgen2-sm, by DP-GEN, and by a bare loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stub_programs import CP2K_INPUT, INPUT_JSON, StubPrograms, write_structures, write_system
from tree import Usage, measure

ROOT = Path(__file__).parent.parent
STUBS = ROOT / "tests" / "stubapps"
PEERS = ROOT / ".venv-peers"
DPGEN2 = [sys.executable, "-c", "from statemachine.cli import main; main()"]
EXHAUSTED = 3  # exit code of `run`: ended without convergence

STRUCTURE = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\nCu 0 0 0\n'
CONFIG = """\
run: bench
prefix: out
engine: {{type: local, slots: 2}}
type_map: [Cu]
structures: {{start: {{files: cu.xyz}}}}
init: {{label: [start]}}
label: {{app: stub, tasks: {label}}}
train: {{app: stub, tasks: {train}}}
explore: {{app: stub, tasks: {explore}}}
select: {{app: stub, tasks: 1, accurate_after: 0}}
"""
# select finds the candidates and reads `label` of them. They are fewer than fp_task_min: the run ends here.
REAL_CONFIG = """\
run: bench
prefix: {prefix}
engine: {{type: local, slots: 2}}
type_map: [Cu]
structures:
  start: {{files: confs/000.vasp, pert_numb: {label}, pert_box: 0.02, pert_atom: 0.05}}
  grid: {{files: confs/*.vasp}}
init: {{label: [start]}}
label: {{app: cp2k, input: cp2k.inp, command: {cp2k}, group_size: {label_group}}}
train: {{app: deepmd, input: input.json, numb_models: {train}, command: {dp}}}
explore:
  app: lammps
  command: {lmp}
  group_size: {explore_group}
  stages:
    - - {{structures: [grid], ensemble: nvt, temps: {temps}, nsteps: 40, trj_freq: 10}}
select:
  app: model_devi
  f_trust_lo: 0.1
  f_trust_hi: 0.5
  fp_task_max_per_system: {label}
  fp_task_max: {too_many}
  fp_task_min: {too_many}
max_iterations: 1
"""
TEMPERATURES = list(range(300, 1300, 100))
# A task of the stub apps is three programs: sh, and cat twice.
STUB_TASK = '[ "$(cat name)" = "" ] && exit 1\ncat name >result\n'
# Two loops at once, each through its half of the tasks: a folder and a command a line.
LOOP = """\
loop() {
  while read -r folder command; do
    cd "$folder" && $command >log 2>&1 </dev/null || exit 1
  done <"$1"
}
loop "$1" & first=$!
loop "$2" && wait $first
"""


@dataclass(frozen=True)
class Size:
    """Tasks of an iteration."""

    train: int
    explore: int
    label: int

    def __str__(self) -> str:
        return f"{self.train} + {self.explore:,} + {self.label}"


def run_real(
    folder: Path,
    programs: StubPrograms,
    size: Size,
    explore_group: int,
    label_group: int,
    prefix: str = "out",
    env: Mapping[str, str] | None = None,
) -> Usage:
    """An iteration of dpgen2-sm with its real apps, from the configuration file on."""
    write_structures(folder / "confs", size.explore // len(TEMPERATURES))
    (folder / "cp2k.inp").write_text(CP2K_INPUT)
    (folder / "input.json").write_text(json.dumps(INPUT_JSON))
    text = REAL_CONFIG.format(
        prefix=json.dumps(prefix),
        train=size.train,
        label=size.label,
        too_many=size.label + 1,
        temps=TEMPERATURES,
        explore_group=explore_group,
        label_group=label_group,
        **{name: programs[name] for name in ("dp", "lmp", "cp2k")},
    )
    (folder / "run.yaml").write_text(text)
    usage = measure([*DPGEN2, "run", "run.yaml"], folder, env, codes=[EXHAUSTED])
    if prefix == "out":
        check(folder, size, "output.log")
    return usage


def run_stubs(folder: Path, size: Size, explore_group: int = 1) -> Usage:
    """An iteration of dpgen2-sm with the stub apps, in a run that was begun before."""
    begin_stubs(folder, label=size.label, train=size.train, explore=f"{size.explore}, group_size: {explore_group}")
    return measure([*DPGEN2, "run", "out"], folder, stub_apps())


def begin_stubs(folder: Path, **tasks: object) -> None:
    """A run with the stub apps, of which nothing has been started."""
    (folder / "cu.xyz").write_text(STRUCTURE)
    (folder / "run.yaml").write_text(CONFIG.format(**tasks))
    order(folder, "init", "run.yaml")


def order(folder: Path, *command: str) -> None:
    """A command of dpgen2-sm that is not measured."""
    env = {**os.environ, **stub_apps()}
    subprocess.run([*DPGEN2, *command], cwd=folder, env=env, check=True, capture_output=True)


def stub_apps() -> dict[str, str]:
    """The environment in which dpgen2-sm finds the stub apps."""
    return {"PYTHONPATH": str(STUBS)}


def loop_real(folder: Path, programs: StubPrograms, size: Size) -> Usage:
    """The stub programs of an iteration, two at a time, and nothing else."""
    tasks = [
        (f"train.{number:06d}", f"{programs['dp']} {what}")
        for number in range(size.train)
        for what in ("train", "freeze")
    ]
    tasks += [(f"explore.{number:06d}", programs["lmp"]) for number in range(size.explore)]
    tasks += [(f"label.{number:06d}", f"{programs['cp2k']} -i input.inp -o output.log") for number in range(size.label)]
    return loop(folder, tasks)


def loop_stubs(folder: Path, size: Size) -> Usage:
    """Three programs a task, two tasks at a time, and nothing else."""
    script = folder / "run.sh"
    script.write_text(STUB_TASK)
    count = size.train + size.explore + size.label + 1
    return loop(folder, [(f"task.{number:06d}", f"sh {script}") for number in range(count)])


def loop(folder: Path, tasks: list[tuple[str, str]]) -> Usage:
    for name in {name for name, _ in tasks}:
        (folder / name).mkdir()
        (folder / name / "name").write_text(name)
    half = (len(tasks) + 1) // 2
    for name, part in (("first", tasks[:half]), ("second", tasks[half:])):
        (folder / name).write_text("".join(f"{folder / name} {command}\n" for name, command in part))
    return measure(["sh", "-c", LOOP, "sh", str(folder / "first"), str(folder / "second")], folder)


def dpgen_version() -> str | None:
    """The version of DP-GEN in the peers' virtual environment; None where there is none."""
    python = PEERS / "bin" / "python"
    if not (PEERS / "bin" / "dpgen").exists():
        return None
    code = "from importlib.metadata import version; print(version('dpgen'))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def run_dpgen(folder: Path, programs: StubPrograms, size: Size, explore_group: int, label_group: int) -> Usage:
    """An iteration of DP-GEN on this machine, as dpdispatcher's shell jobs in the tasks' own folders.

    DP-GEN is stopped when its record says that the iteration is done: it would train once more.
    """
    write_structures(folder / "confs", size.explore // len(TEMPERATURES))
    write_system(folder / "init" / "cu")
    (folder / "POTCAR").write_text("a pseudopotential\n")
    (folder / "INCAR").write_text("ENCUT = 400\nKSPACING = 0.3\nKGAMMA = .TRUE.\nNSW = 0\n")
    param = {
        "type_map": ["Cu"],
        "mass_map": [63.546],
        "init_data_prefix": "init",
        "init_data_sys": ["cu"],
        "sys_configs": [["confs/*.vasp"]],
        "sys_configs_prefix": str(folder),
        "numb_models": size.train,
        "default_training_param": INPUT_JSON,
        "model_devi_dt": 0.001,
        "model_devi_skip": 0,
        "model_devi_f_trust_lo": 0.1,
        "model_devi_f_trust_hi": 0.5,
        "model_devi_jobs": [{"sys_idx": [0], "ensemble": "nvt", "temps": TEMPERATURES, "nsteps": 40, "trj_freq": 10}],
        "fp_style": "vasp",
        "fp_task_max": size.label,
        "fp_task_min": 1,
        "fp_pp_path": str(folder),
        "fp_pp_files": ["POTCAR"],
        "fp_incar": str(folder / "INCAR"),
    }
    here = {"batch_type": "Shell", "context_type": "LazyLocalContext", "local_root": "./"}

    def stage(program: str, group: int) -> list[dict[str, object]]:
        resources = {"number_node": 1, "cpu_per_node": 1, "gpu_per_node": 0, "queue_name": "", "group_size": group}
        return [{"command": programs[program], "machine": here, "resources": resources}]

    machine = {
        "api_version": "1.0",
        "deepmd_version": "3.0.0",
        "train": stage("dp", 1),
        "model_devi": stage("lmp", explore_group),
        "fp": stage("vasp", label_group),
    }
    (folder / "param.json").write_text(json.dumps(param))
    (folder / "machine.json").write_text(json.dumps(machine))
    command = [str(PEERS / "bin" / "dpgen"), "run", "param.json", "machine.json"]
    usage = measure(command, folder, until=(folder / "record.dpgen", "0 8"))
    check(folder, size, "OUTCAR")
    return usage


def check(folder: Path, size: Size, label: str) -> None:
    """Are the outputs of all tasks there? `label` is the name of the labelling program's."""
    for name, count in (("lcurve.out", size.train), ("model_devi.out", size.explore), (label, size.label)):
        if (found := sum(name in files for _, _, files in os.walk(folder))) < count:
            raise SystemExit(f"{folder}: {found} times {name} instead of {count}")
