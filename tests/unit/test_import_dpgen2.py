"""`dpgen2-sm import` of DPGEN2's input.json: each key goes where the tables say, and nothing is lost in silence."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from conventions.errors import ConfigError
from statemachine.importer.dpgen2 import explore_keys, keys, step_keys
from statemachine.importer.dpgen2.commands import split
from statemachine.importer.dpgen2.label import with_tags
from statemachine.importer.make import make
from statemachine.importer.report import Outcome
from statemachine.importer.source import Table
from statemachine.run.config_file import read_config
from tests.conftest import Cli

SLURM: dict[str, Any] = {
    "type": "dispatcher",
    "host": "login.example.org",
    "port": 22,
    "username": "jdoe",
    "remote_root": "/scratch/jdoe",
    "private_key_file": "~/.ssh/id",
    "machine_dict": {"batch_type": "Slurm", "context_type": "SSHContext"},
    "resources_dict": {"number_node": 1, "cpu_per_node": 4, "gpu_per_node": 1, "queue_name": "gpu", "module_list": []},
    "clean": False,
}
STEP: dict[str, Any] = {"template_config": {"image": "registry.example.org/all:1", "_note": "x"}, "executor": SLURM}
INPUT: dict[str, Any] = {
    "_comment": "a campaign",
    "name": "alloys",
    "default_step_config": {"template_config": {"image": "registry.example.org/python:1"}},
    "step_configs": {
        "run_train_config": STEP,
        "run_explore_config": {
            **STEP,
            "continue_on_success_ratio": 0.8,
            "template_slice_config": {"group_size": 20, "pool_size": 1},
        },
        "run_fp_config": {**STEP, "continue_on_success_ratio": 0.9, "template_slice_config": {"group_size": 5}},
    },
    "upload_python_packages": "/opt/dpgen2",
    "inputs": {
        "type_map": ["Al", "Mg"],
        "mass_map": [27, 24],
        "mixed_type": False,
        "init_data_prefix": "init",
        "init_data_sys": ["a", "b"],
    },
    "train": {
        "type": "dp",
        "numb_models": 4,
        "template_script": "dp.json",
        "config": {"impl": "pytorch", "init_model_policy": "no"},
    },
    "explore": {
        "type": "lmp",
        "config": {"command": "lmp -var restart 0"},
        "convergence": {"type": "fixed-levels", "conv_accuracy": 0.92, "level_f_lo": 0.05, "level_f_hi": 0.5},
        "max_numb_iter": 5,
        "fatal_at_max": True,
        "output_nopbc": False,
        "configurations": [
            {"type": "alloy", "lattice": ["fcc", 4.57], "replicate": [2, 2, 2], "numb_confs": 30,
             "concentration": [[1.0, 0.0], [0.5, 0.5], [0.0, 2.0]]},
            {"type": "file", "files": ["x/*", "y"], "prefix": "confs", "fmt": "deepmd/npy"},
        ],
        "stages": [
            [
                {"type": "lmp-md", "ens": "npt", "nsteps": 50, "press": [1.0], "temps": [50], "trj_freq": 5,
                 "conf_idx": [0], "n_sample": 3},
                {"type": "lmp-template", "lmp": "in.lmp", "plm": "in.plm", "trj_freq": 20,
                 "revisions": {"V_T": [100, 200], "V_N": 9}, "sys_idx": [1]},
            ],
            [{"type": "lmp-npt", "Ts": [300], "conf_idx": ["0-2"]}],
        ],
    },
    "fp": {
        "type": "vasp",
        "task_max": 7,
        "inputs_config": {
            "pp_files": {"Al": "pp/Al", "Mg": "pp/Mg", "Cu": "pp/Cu"}, "incar": "INCAR", "kspacing": 0.32,
        },
        "run_config": {"command": "source /opt/setvars.sh && OMP_NUM_THREADS=1 mpirun -n 16 vasp_std"},
    },
}  # fmt: skip


def changed(**changes: Any) -> dict[str, Any]:
    """The campaign with other values: `explore__stages=...` is of explore.stages; None takes a key away."""
    document = copy.deepcopy(INPUT)
    for key, value in changes.items():
        *parts, last = key.split("__")
        here = document
        for part in parts:
            here = here.setdefault(part, {})
        if value is None:
            here.pop(last, None)
        else:
            here[last] = copy.deepcopy(value)
    return document


def imported(tmp_path: Path, document: dict[str, Any]) -> tuple[Any, Any]:
    """The configuration that an import makes, and its report."""
    source = tmp_path / "input.json"
    source.write_text(json.dumps(document))
    made = make([source])
    made.write()
    return YAML(typ="safe").load((made.folder / "run.yaml").read_text()), made.report


def at(config: Any, place: str) -> Any:
    for part in place.split("/"):
        config = config[int(part)] if isinstance(config, list) else config[part]
    return config


def test_a_whole_campaign(tmp_path: Path) -> None:
    config, report = imported(tmp_path, INPUT)
    assert (config["run"], config["type_map"], config["mass_map"]) == ("alloys", ["Al", "Mg"], [27, 24])
    assert config["init"] == {
        "data": {
            name: {"path": f"../init/{folder}", "format": "deepmd/npy"}
            for name, folder in (("init000", "a"), ("init001", "b"))
        }
    }
    lattice = {"files": ["conf000.fcc.poscar"], "format": "vasp", "super_cell": [2, 2, 2]}
    assert config["structures"] == {
        "conf000.0": lattice,
        "conf000.1": {**lattice, "substitute": {"Al": {"Al": 0.5, "Mg": 0.5}}, "pert_numb": 10},
        "conf000.2": {**lattice, "substitute": {"Al": {"Mg": 1.0}}},
        "conf001": {"files": ["../confs/x/*", "../confs/y"], "format": "deepmd/npy"},
    }
    alloys = ["conf000.0", "conf000.1", "conf000.2"]
    defaults = {"dt": 0.001, "tau_t": 0.05, "tau_p": 0.5}
    assert config["explore"]["stages"] == [
        [
            {"structures": alloys, "n_sample": 3, "ensemble": "npt", "temps": [50.0], "press": [1.0], "nsteps": 50,
             "trj_freq": 5, **defaults},
            {"structures": ["conf001"], "template": "../in.lmp", "plumed": "../in.plm",
             "revisions": {"V_T": [100, 200], "V_N": [9]}, "trj_freq": 20},
        ],
        [{"structures": [*alloys, "conf001"], "ensemble": "nve", "temps": [300.0], "nsteps": 100, "trj_freq": 10,
          **defaults}],
    ]  # fmt: skip
    assert config["max_iterations"] == 10, "5 for each of two stages"
    assert config["convergence"] == {"accuracy": 0.92}, "stages are repeated until they have converged"
    assert config["select"] == {
        "app": "model_devi",
        "f_trust_lo": 0.05,
        "f_trust_hi": 0.5,
        "fp_task_max": 7,
        "model_devi_skip": 0,
    }
    label = config["label"]
    assert label["potcar"] == {"Al": "../pp/Al", "Mg": "../pp/Mg"} and label["incar"] == "../INCAR"
    assert (label["command"], label["setup"], label["shell"]) == (
        "mpirun -n 16 vasp_std", ["source /opt/setvars.sh", "export OMP_NUM_THREADS=1"], "bash"
    )  # fmt: skip
    assert (label["group_size"], label["ratio_failed"]) == (5, 0.1)
    explore = config["explore"]
    assert (explore["command"], explore["group_size"], explore["ratio_failed"]) == ("lmp", 20, 0.2)
    train = config["train"]
    assert (train["backend"], train["numb_models"], train["input"]) == ("pytorch", 4, "../dp.json")
    assert train["image"] == "registry.example.org/all:1" and "training_reuse_iter" not in train
    assert train["hpc"] == {
        "machine": {
            "batch_type": "Slurm", "context_type": "SSHContext", "remote_root": "/scratch/jdoe",
            "remote_profile": {"hostname": "login.example.org", "username": "jdoe", "port": 22,
                               "key_filename": "~/.ssh/id"},
        },
        "resources": {"number_node": 1, "cpu_per_node": 4, "gpu_per_node": 1, "queue_name": "gpu"},
    }  # fmt: skip
    assert report.losses == [] and "engine" not in config
    assert not [row.source for row in report if "machine_dict.remote" in row.source], "what the source does not have"
    assert any("KSPACING = 0.32, KGAMMA = T" in text for text in report.warnings), "the INCAR is not there to be copied"
    read_config(tmp_path / "dpgen2-sm/run.yaml")


def test_the_run_says_where_each_value_is_from(tmp_path: Path) -> None:
    imported(tmp_path, INPUT)
    text = (tmp_path / "dpgen2-sm/run.yaml").read_text().replace("  #", " #")
    for line in (
        "# Made by `dpgen2-sm import` of input.json",
        "tau_t: 0.05 # DPGEN2's default",
        "ensemble: nve # DPGEN2's default",
        "# explore.configurations[1]\n",
        "# explore.stages[1]\n",
        "fp_task_max: 7 # fp.task_max",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("lattice", "atoms", "nearest"),
    [
        (["fcc", 4.0], 4, 4.0 / 2**0.5),
        (["bcc", 4.0], 2, 4.0 * 3**0.5 / 2),
        (["sc", 4.0], 1, 4.0),
        (["hcp", 4.0], 2, 4.0 / 2**0.5),
        (["diamond", 4.0], 2, 8.0 * 3**0.5 / 4),
    ],
)
def test_the_cell_of_a_lattice_is_dpgen2s(tmp_path: Path, lattice: list[Any], atoms: int, nearest: float) -> None:
    from ase.io import read

    config, _ = imported(tmp_path, changed(explore__configurations=[{"type": "alloy", "lattice": lattice}] * 2))
    (file,) = config["structures"]["conf000"]["files"]
    made: Any = read(tmp_path / "dpgen2-sm" / file, format="vasp")
    assert len(made) == atoms and set(made.get_chemical_symbols()) == {"Al"}
    assert min(made.repeat(3).get_all_distances(mic=True)[0][1:]) == pytest.approx(nearest)


def adaptive(**more: Any) -> dict[str, Any]:
    given = {"type": "adaptive-lower", "level_f_hi": 0.4, "conv_tolerance": 0.02, "n_checked_steps": 8, **more}
    return {"explore__convergence": given}


def group(**more: Any) -> dict[str, Any]:
    return {"explore__stages": [[{"type": "lmp-md", "conf_idx": [1], "temps": [50], "nsteps": 90, **more}]]}


def step(**parts: Any) -> dict[str, Any]:
    return {"step_configs__run_fp_config": {"template_config": {"image": "i"}, **parts}}


REUSE = {
    "training_reuse_iter": 1,
    "training_reuse_old_ratio": 0.9,
    "training_reuse_numb_steps": 400000,
    "training_reuse_start_lr": 1e-4,
    "training_reuse_start_pref_e": 0.1,
    "training_reuse_start_pref_f": 100.0,
}
ARGO = {"dflow_config": {"host": "https://argo.example.org:2746", "namespace": "md", "k8s_api_server": "x"},
        "dflow_s3_config": {"endpoint": "s3.example.org:9000", "bucket_name": "campaign", "secure": True}}  # fmt: skip
GROUP = "explore/stages/0/0"
MAPPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "levels of virials": (
        {"explore__convergence__level_v_lo": 0.1, "explore__convergence__level_v_hi": 0.2},
        {"select/v_trust_lo": 0.1, "select/v_trust_hi": 0.2},
    ),
    "accuracy by its default": ({"explore__convergence__conv_accuracy": None}, {"convergence/accuracy": 0.9}),
    "candidates with the largest deviations": (
        {"explore__convergence__type": "fixed-levels-max-select"}, {"select/f_trust_lo": 0.05}
    ),
    "adaptive levels": (
        adaptive(rate_candi_f=0.1),
        {"select/adaptive": {"numb_candi_f": 200, "rate_candi_f": 0.1, "numb_candi_v": 0, "rate_candi_v": 0.0},
         "select/f_trust_hi": 0.4, "convergence/level_drift": pytest.approx(0.05),
         "convergence/clean_iterations": 7, "convergence/accuracy": 0.01},
    ),
    "adaptive levels of virials": (
        adaptive(level_v_hi=0.3, numb_candi_v=5), {"select/v_trust_hi": 0.3, "select/adaptive/numb_candi_v": 5}
    ),
    "filters": (
        {"explore__filters": [{"type": "box_skewness"}, {"type": "box_length", "length_ratio": 4}]},
        {"select/max_tilt_angle": 60.0, "select/max_length_ratio": 4.0},
    ),
    "distances of all elements": (
        {"explore__filters": [
            {"type": "distance", "custom_safe_dist": {"Al": 2.0, "Mg": 1.2}, "safe_dist_ratio": 0.5}]},
        {"select/min_distance": {"Al-Al": 0.8817, "Al-Mg": 0.7053, "Mg-Mg": 0.529}},
    ),
    "task_max by its default": ({"fp__task_max": None}, {"select/fp_task_max": 10}),
    "a group's own values": (
        group(dt=0.002, tau_t=0.1, tau_p=1, relative_f_epsilon=1, relative_v_epsilon=2, t_freq=3, ensemble="nvt"),
        {f"{GROUP}/dt": 0.002, f"{GROUP}/tau_t": 0.1, f"{GROUP}/tau_p": 1.0, f"{GROUP}/epsilon": 1.0,
         f"{GROUP}/epsilon_v": 2.0, f"{GROUP}/trj_freq": 3, f"{GROUP}/ensemble": "nvt"},
    ),
    "files of a template": (
        {"explore__stages": [
            [{"type": "lmp-template", "lmp_template": "t", "conf_idx": [1], "input_extra_files": ["z"]}]]},
        {f"{GROUP}/files": ["../z"], f"{GROUP}/trj_freq": 10},
    ),
    "a perturbed alloy of equal parts": (
        {"explore__configurations": [{"type": "alloy", "lattice": ["bcc", 3], "replicate": 2, "numb_confs": 5,
                                      "cell_pert_frac": 0.03, "atom_pert_dist": 0.1}] * 2},
        {"structures/conf000": {"files": ["conf000.bcc.poscar"], "format": "vasp", "super_cell": [2, 2, 2],
                                "pert_box": 0.03, "pert_atom": 0.1, "pert_numb": 5,
                                "substitute": {"Al": {"Al": 0.5, "Mg": 0.5}}}},
    ),
    "structures that cannot be shared evenly": (
        {"explore__configurations": [{"type": "alloy", "lattice": ["bcc", 3], "numb_confs": 5,
                                      "concentration": [[1, 1], [1, 3]]}] * 2},
        {"structures/conf000.0/pert_numb": 3, "structures/conf000.1/pert_numb": 3},
    ),
    "an alloy on a lattice of the user": (
        {"explore__configurations": [{"type": "alloy", "lattice": ["p", "vasp/poscar"], "concentration": [1, 3]}] * 2},
        {"structures/conf000": {"files": ["../p"], "format": "vasp", "pert_numb": 1, "substitute": {
            element: {"Al": 0.25, "Mg": 0.75} for element in ("Al", "Mg")}}},
    ),
    "one system, no list": ({"inputs__init_data_sys": "a"}, {"init/data/init000/path": "../init/a"}),
    "validation data": (
        {"inputs__valid_data_sys": ["v"], "inputs__valid_data_prefix": "more"},
        {"init/test": {"test000": {"path": "../more/v", "format": "deepmd/npy"}}},
    ),
    "a committee of inputs": (
        {"train__template_script": ["a.json", "b.json"], "train__numb_models": 2},
        {"train/committee": [{"input": "../a.json"}, {"input": "../b.json"}]},
    ),
    "init_model_policy": (
        {"train__config__init_model_policy": "yes"}, {f"train/{key}": value for key, value in REUSE.items()}
    ),
    "a policy by the amount of data": (
        {"train__config": {"init_model_policy": "old_data_larger_than:100", "init_model_stop_batch": 7,
                           "init_model_old_ratio": 0.5, "init_model_start_lr": 1e-3, "init_model_start_pref_e": 1,
                           "init_model_start_pref_f": 2}},
        {"train/training_reuse_iter": 1, "train/training_reuse_numb_steps": 7, "train/training_reuse_old_ratio": 0.5,
         "train/training_reuse_start_lr": 1e-3, "train/training_reuse_start_pref_e": 1.0,
         "train/training_reuse_start_pref_f": 2.0},
    ),
    "fine-tuning": (
        {"inputs__do_finetune": True, "train__init_models_paths": ["m.pt"],
         "train__config__finetune_args": "--model-branch Alloy --use-pretrain-script"},
        {"train/training_finetune_model": ["../m.pt"], "train/model_branch": "Alloy",
         "train/use_pretrain_script": True, "train/training_reuse_iter": 1},
    ),
    "models to begin with": (
        {"train__training_iter0_model_path": ["m.pb"]}, {"train/training_init_frozen_model": ["../m.pb"]}
    ),
    "arguments of dp train": (
        {"train__config__train_args": "--skip-neighbor-stat", "train__config__command": "dp"},
        {"train/skip_neighbor_stat": True, "train/command": "dp"},
    ),
    "gaussian": (
        {"fp": {"type": "gaussian", "inputs_config": {"keywords": "b3lyp/6-31g", "nproc": 4, "multiplicity": "auto"},
                "run_config": {"command": "ulimit -s unlimited && g16 < input > output"}}},
        {"label/app": "gaussian", "label/keywords": "b3lyp/6-31g", "label/nproc": 4, "label/command": "g16",
         "label/setup": ["ulimit -s unlimited"]},
    ),
    "a teacher": (
        {"fp": {"type": "deepmd", "inputs_config": {}, "run_config": {"teacher_model_path": "t.pb"}}},
        {"label/app": "deepmd", "label/teacher_model_path": "../t.pb"},
    ),
    "abacus": (
        {"fp": {"type": "fpop_abacus", "run_config": {"command": "abacus"}, "inputs_config": {
            "input_file": "INPUT", "pp_files": {"Al": "a", "Mg": "m"}, "orb_files": {"Al": "o", "Mg": "p"},
            "kpt_file": "KPT", "element_mass": {"Al": 27}}}},
        {"label/app": "abacus", "label/input": "../INPUT", "label/pseudo": {"Al": "../a", "Mg": "../m"},
         "label/orbital": {"Al": "../o", "Mg": "../p"}, "label/kpt": "../KPT"},
    ),
    "cp2k": (
        {"fp": {"type": "fpop_cp2k", "run_config": {"command": "cp2k.psmp -i input.inp"},
                "inputs_config": {"inp_file": "c.inp"}}},
        {"label/app": "cp2k", "label/input": "../c.inp", "label/command": "cp2k.psmp"},
    ),
    "attempts and the environment": (
        step(template_config={"image": "i", "retry_on_transient_error": 5, "envs": {"A": "b c"}}),
        {"label/retries": 5, "label/setup": ["export A='b c'", "source /opt/setvars.sh", "export OMP_NUM_THREADS=1"]},
    ),
    "whatever fails": (step(continue_on_failed=True), {"label/ratio_failed": 1.0}),
    "the default of the steps": (
        {"step_configs": {}, "default_step_config": {**STEP, "continue_on_success_ratio": 1}},
        {"label/image": "registry.example.org/all:1", "train/image": "registry.example.org/all:1",
         "explore/ratio_failed": 0, "explore/hpc/machine/remote_root": "/scratch/jdoe"},
    ),
    "the image of select": (
        {"step_configs__select_confs_config": {"template_config": {"image": "s"}}}, {"select/image": "s"}
    ),
    "a queue beside the resources": (
        step(executor={**SLURM, "resources_dict": {"group_size": 3}, "queue_name": "q"}),
        {"label/hpc/resources/queue_name": "q", "label/group_size": 3},
    ),
    "an Argo server": (
        {**ARGO, "parallelism": 9, **step(template_config={"timeout": 7200, "envs": {"A": "b"}}, parallelism=20)},
        {"engine": {"type": "argo", "server": "https://argo.example.org:2746", "namespace": "md", "parallelism": 20,
                    "image": "registry.example.org/python:1"},
         "prefix": "s3://campaign/alloys?endpoint=https://s3.example.org:9000",
         "label/pod": {"hours": 2.0, "env": {"A": "b"}}},
    ),
    "a server that is only debugged": ({"dflow_config": {"host": "x", "mode": "debug"}}, {"prefix": "out"}),
}  # fmt: skip


@pytest.mark.parametrize("case", MAPPED)
def test_where_a_key_goes(tmp_path: Path, case: str) -> None:
    changes, expected = MAPPED[case]
    config, report = imported(tmp_path, changed(**changes))
    assert {place: at(config, place) for place in expected} == expected
    assert report.losses == []
    if "engine" not in config:  # that would need credentials of a store
        read_config(tmp_path / "dpgen2-sm/run.yaml")


TRAINING = {
    "model": {"descriptor": {"type": "se_a", "sel": [16, 4]}, "fitting_net": {"neuron": [8]}, "type_map": ["Al", "Mg"]},
    "training": {"numb_steps": 100, "training_data": {"systems": [], "batch_size": "auto"}},
}


def test_an_input_that_can_be_used_is_used(tmp_path: Path) -> None:
    (tmp_path / "dp.json").write_text(json.dumps(TRAINING))
    config, _ = imported(tmp_path, INPUT)
    assert config["train"]["input"] == "../dp.json" and not (tmp_path / "dpgen2-sm/input.json").exists()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "type_map", ["Mg", "Al"]),
        ("model", "_comment", "x"),
        ("training", "set_prefix", "set"),
        ("training", "training_data", {"batch_size": [1, 2], "sys_probs": [0.5, 0.5]}),
    ],
)
def test_what_the_run_would_refuse_is_taken_out_of_a_copy(tmp_path: Path, section: str, key: str, value: Any) -> None:
    from operators.train.dp_input import read_input

    (tmp_path / "dp.json").write_text(json.dumps({**TRAINING, section: {**TRAINING[section], key: value}}))
    config, report = imported(tmp_path, INPUT)
    assert config["train"]["input"] == "input.json"
    found = read_input(tmp_path / "dpgen2-sm/input.json", ["Al", "Mg"])
    assert found[section].get(key) != value
    assert any(row.source == "input.json: train.template_script" and row.note for row in report)


def test_several_heads(tmp_path: Path) -> None:
    from operators.train.dp_input import read_input

    template = {
        "model": {"shared_dict": {}, "model_dict": {name: {"type_map": ["Al", "Mg"]} for name in ("one", "two")}},
        "training": {"model_prob": {"one": 1, "two": 1}, "data_dict": {"one": {"training_data": {}}}},
    }
    (tmp_path / "dp.json").write_text(json.dumps(template))
    data = {"one": {"prefix": "d", "sys": ["a"]}, "two": {"prefix": None, "sys": "b"}}
    inputs = {"inputs__multitask": True, "inputs__head": "one", "inputs__multi_init_data": data}
    config, report = imported(tmp_path, changed(**inputs, train__config__init_model_policy="yes"))
    assert config["train"]["head"] == "one" and "training_reuse_iter" not in config["train"]
    assert config["init"]["data"] == {"init000": {"path": "../d/a", "format": "deepmd/npy"}}
    found = read_input(tmp_path / "dpgen2-sm/input.json", ["Al", "Mg"], "one")
    assert found["training"]["data_dict"]["two"]["training_data"]["systems"] == [str(tmp_path / "b")]
    assert "input.json: train.config.init_model_policy" in [row.source for row in report.losses]
    read_config(tmp_path / "dpgen2-sm/run.yaml")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ENCUT = 500\n", "ENCUT = 500\nKSPACING = 0.32\nKGAMMA = F\n"),
        ("kspacing=1 # coarse\nENCUT = 500 ; KGAMMA = .TRUE.\n# KSPACING = 3\n",
         "# coarse\nENCUT = 500\n# KSPACING = 3\nKSPACING = 0.32\nKGAMMA = F\n"),
    ],
)  # fmt: skip
def test_kspacing_goes_into_a_copy_of_the_incar(tmp_path: Path, given: str, expected: str) -> None:
    (tmp_path / "INCAR").write_text(given)
    config, _ = imported(tmp_path, changed(fp__inputs_config__kgamma=False))
    assert config["label"]["incar"] == "INCAR"
    made = (tmp_path / "dpgen2-sm/INCAR").read_text()
    assert [line.strip() for line in made.splitlines()] == expected.splitlines()
    assert (tmp_path / "INCAR").read_text() == given


def test_tags_are_replaced_whatever_their_case() -> None:
    assert with_tags("  kSpacing= 2\nKSPACING2 = 1\n", {"KSPACING": "1"}) == "KSPACING2 = 1\nKSPACING = 1\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("lmp", ([], "lmp")),
        ("lmp -var restart 0", ([], "lmp")),
        ("lmp -v restart 0 -k on", ([], "lmp -k on")),
        ("dp --pt", ([], "dp --pt")),
        ("a && b; mpirun vasp_std > log", (["a", "b"], "mpirun vasp_std")),
        ("A='x y' B=2 prog", (["export A='x y'", "export B=2"], "prog")),
    ],
)
def test_what_is_before_the_program_is_setup(given: str, expected: tuple[list[str], str]) -> None:
    assert split(given) == expected


def executor(**more: Any) -> dict[str, Any]:
    return step(executor={**SLURM, **more})


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "Bohrium": ({"bohrium_config": {"username": "u", "project_id": 1}}, "bohrium_config"),
    "a batch system of Bohrium": (
        executor(machine_dict={"batch_type": "Bohrium", "context_type": "Bohrium"}),
        "step_configs.run_fp_config.executor.machine_dict.batch_type",
    ),
    "another executor": (step(executor={"type": "lebesgue_v2"}), "step_configs.run_fp_config.executor"),
    "several tasks at once": (
        step(template_slice_config={"pool_size": 4}), "step_configs.run_fp_config.template_slice_config.pool_size"
    ),
    "a number that may succeed": (
        step(continue_on_num_success=4), "step_configs.run_fp_config.continue_on_num_success"
    ),
    "a model that may fail": (
        {"step_configs__run_train_config__continue_on_success_ratio": 0.5},
        "step_configs.run_train_config.continue_on_success_ratio",
    ),
    "data of dflow": ({"inputs__init_data_uri": "dflow://x"}, "inputs.init_data_uri"),
    "models of dflow": ({"train__init_models_uri": "dflow://x"}, "train.init_models_uri"),
    "distillation": ({"train__type": "dp-dist"}, "train.type"),
    "another backend": ({"train__config__impl": "jax"}, "train.config.impl"),
    "fine-tuning again": ({"train__config__init_model_with_finetune": True}, "train.config.init_model_with_finetune"),
    "an unknown argument": ({"train__config__finetune_args": "--x"}, "train.config.finetune_args"),
    "arguments of training": ({"train__config__train_args": "-o out.json"}, "train.config.train_args"),
    "calypso": ({"explore__type": "calypso"}, "explore.type"),
    "stages of diffcsp": ({"explore__type": "diffcsp"}, "explore.stages"),
    "the next stage whatever comes": ({"explore__fatal_at_max": False}, "explore.fatal_at_max"),
    "frames without a cell": ({"explore__output_nopbc": True}, "explore.output_nopbc"),
    "models in turn": ({"explore__config__shuffle_models": True}, "explore.config.shuffle_models"),
    "electron temperature": ({"inputs__use_ele_temp": 1}, "inputs.use_ele_temp"),
    "path integrals": (group(pimd_bead="4"), "explore.stages[][].pimd_bead"),
    "a knock-on atom": (group(pka_e=100), "explore.stages[][].pka_e"),
    "files of a grid": (group(input_extra_files=["x"]), "explore.stages[][].input_extra_files"),
    "arguments of pair_style": (
        {"explore__stages": [[{"type": "lmp-template", "lmp": "t", "conf_idx": [1], "extra_pair_style_args": "x"}]]},
        "explore.stages[][].extra_pair_style_args",
    ),
    "commands that prepare": (
        {"explore__stages": [[{"type": "customized-lmp-template", "conf_idx": [1], "custom_shell_commands": ["x"]}]]},
        "explore.stages[][].custom_shell_commands",
    ),
    "candidates by histogram": (adaptive(candi_sel_prob="inv_pop_f:10"), "explore.convergence.candi_sel_prob"),
    "an unknown filter": ({"explore__filters": [{"type": "wrap"}]}, "explore.filters[].type"),
    "another code": ({"fp__type": "siesta"}, "fp.type"),
    "a command afterwards": ({"fp__run_config__post_command": "x"}, "fp.run_config.post_command"),
    "a misspelt key": ({"explore__max_num_iter": 3}, "explore.max_num_iter"),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_what_is_lost_is_told(tmp_path: Path, cli: Cli, case: str) -> None:
    changes, key = LOST[case]
    _, report = imported(tmp_path, changed(**changes))
    lost = [row for row in report.losses if row.source == f"input.json: {key}"]
    assert len(lost) == 1 and lost[0].note
    code, _, errors = cli("import", tmp_path / "input.json", "-o", tmp_path / "strict", "--strict")
    assert code == 2 and f"input.json: {key}: " in errors and not (tmp_path / "strict").exists()


# Where a section with each table can stand.
PLACES: list[tuple[Table, str]] = [
    (keys.TOP, ""),
    (keys.INPUTS, "inputs"),
    (keys.TRAIN, "train"),
    (keys.TRAIN_CONFIG, "train.config"),
    (keys.SELECT, "explore.convergence"),
    (keys.FP, "fp"),
    (keys.VASP, "fp.inputs_config"),
    (keys.RUN_CONFIG, "fp.run_config"),
    (explore_keys.EXPLORE, "explore"),
    (explore_keys.CONFIG, "explore.config"),
    (step_keys.STEPS, "step_configs"),
    (step_keys.STEP, "step_configs.run_fp_config"),
    (step_keys.TEMPLATE_CONFIG, "step_configs.run_fp_config.template_config"),
    (step_keys.SLICES, "step_configs.run_fp_config.template_slice_config"),
    (step_keys.EXECUTOR, "step_configs.run_fp_config.executor"),
    (step_keys.DFLOW, "dflow_config"),
    (step_keys.S3, "dflow_s3_config"),
    (step_keys.BOHRIUM, "bohrium_config"),
]


@pytest.mark.parametrize(("table", "place"), PLACES, ids=[place or "top" for _, place in PLACES])
def test_every_key_of_the_tables_is_reported(tmp_path: Path, table: Table, place: str) -> None:
    """Also where it is null: no key of DPGEN2 is without a row, and none that is mapped is forgotten."""
    for key in table:
        for name in (key.name, *key.aliases):
            document = copy.deepcopy(INPUT)
            here = document
            for part in place.split(".") if place else []:
                here = here.setdefault(part, {})
            if any(other in here for other in (key.name, *key.aliases)):
                continue
            here[name] = None
            source = tmp_path / "input.json"
            source.write_text(json.dumps(document))
            where = f"input.json: {f'{place}.' if place else ''}{name}"
            assert [row for row in make([source]).report if row.source == where], where


def test_keys_of_other_explorations_are_reported(tmp_path: Path) -> None:
    group = {key.name: 1 for key in explore_keys.OTHER_GROUP}
    config = {key.name: 1 for key in explore_keys.CALYPSO_CONFIG}
    document = changed(explore__type="calypso:merge", explore__stages=[[group]], explore__config=config)
    made, report = imported(tmp_path, document)
    lost = {row.source for row in report.losses}
    assert {f"input.json: explore.stages[][].{name}" for name in group} <= lost
    assert {f"input.json: explore.config.{name}" for name in config if name != "use_hdf5"} <= lost
    assert made["explore"]["app"] == "calypso:merge"
    with pytest.raises(ConfigError, match=r"explore\.app: there is no 'calypso:merge'"):
        read_config(tmp_path / "dpgen2-sm/run.yaml")


def test_secrets_are_not_copied(tmp_path: Path, cli: Cli) -> None:
    word = "pass" + "word-1"
    document = changed(
        bohrium_config={"username": "u", "password": word, "ticket": word, "project_id": 1},
        dflow_config={"token": word, "s3_secret_key": word},
        dflow_s3_config={"access_key": word, "secret_key": word},
        step_configs__run_fp_config={
            "template_config": {"envs": {"API_KEY": word, "PLAIN": "x"}},
            "executor": {**SLURM, "password": word, "machine_dict": {
                "batch_type": "Slurm", "context_type": "SSHContext", "remote_profile": {"password": word}},
                "resources_dict": {"envs": {"MY_TOKEN": word, "PLAIN_TOO": "y"}}},
        },
    )  # fmt: skip
    (tmp_path / "input.json").write_text(json.dumps(document))
    code, output, errors = cli("import", tmp_path / "input.json")
    written = "".join(path.read_text() for path in (tmp_path / "dpgen2-sm").iterdir())
    assert code == 0 and word not in written + output + errors and "PLAIN=x" in written and "PLAIN_TOO: y" in written
    for text in (
        "label: password was not copied: use an SSH agent",
        "label: MY_TOKEN: a secret is not copied",
        "label: API_KEY was not copied: name a Kubernetes Secret in pod.secrets",
        "dflow_config.token was not copied: set ARGO_TOKEN",
        "dflow_s3_config.secret_key was not copied: set AWS_SECRET_ACCESS_KEY",
        "bohrium_config: there is no Bohrium",
    ):
        assert text in errors


def test_a_server_of_bohrium_is_not_asked(tmp_path: Path) -> None:
    config, _ = imported(tmp_path, changed(**ARGO, bohrium_config={"username": "u", "project_id": 1}))
    assert "engine" not in config and config["prefix"] == "out"


OLDER: dict[str, Any] = {
    "train_style": "dp",
    "explore_style": "lmp",
    "fp_style": "vasp",
    "default_config": {"template_config": {"image": "python:1"}},
    "run_train_config": {"template_config": {"image": "dp:1"}},
    "run_fp_config": {"executor": {"type": "lebesgue_v2", "extra": {}}},
    "lmp_config": {"command": "lmp -var restart 0"},
    "fp_config": {"command": "vasp_std"},
    "dflow_config": {"host": "http://127.0.0.1:2746", "s3_endpoint": "127.0.0.1:9000"},
    "lebesgue_context_config": {"executor": "lebesgue_v2"},
    "max_numb_iter": 3,
    "conv_accuracy": 0.9,
    "type_map": ["Al", "Mg"],
    "mass_map": [27, 24],
    "init_data_sys": ["a"],
    "sys_configs": [{"lattice": ["fcc", 4.57], "numb_confs": 2, "concentration": [0.5, 0.5]}, ["p/POSCAR"]],
    "numb_models": 2,
    "default_training_param": TRAINING,
    "model_devi_f_trust_lo": 0.05,
    "model_devi_f_trust_hi": 0.5,
    "model_devi_jobs": [{"ensemble": "nvt", "nsteps": 20, "sys_idx": [0, 1], "temps": [50], "trj_freq": 10}],
    "fp_task_max": 2,
    "fp_pp_files": {"Al": "pp/Al", "Mg": "pp/Mg"},
    "fp_incar": "INCAR",
}


def test_the_older_form(tmp_path: Path) -> None:
    config, report = imported(tmp_path, OLDER)
    assert config["train"]["input"] == "input.json" and config["train"]["numb_models"] == 2
    assert config["explore"]["stages"][0][0]["structures"] == ["conf000", "conf001"]
    assert config["structures"]["conf001"] == {"files": ["../p/POSCAR"]}
    assert config["select"]["f_trust_hi"] == 0.5 and config["max_iterations"] == 3
    assert config["label"]["incar"] == "../INCAR" and config["train"]["image"] == "dp:1"
    assert config["engine"] == {"type": "argo", "server": "http://127.0.0.1:2746", "image": "python:1"}
    assert config["prefix"].endswith("?endpoint=http://127.0.0.1:9000")
    assert [row.source for row in report.losses] == [
        "input.json: lebesgue_context_config", "input.json: step_configs.run_fp_config.executor"
    ]  # fmt: skip
    assert {row.source for row in report} >= {f"input.json: {key}" for key in OLDER}


# --- bad sources ----------------------------------------------------------------------------------------------------


def bad(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: changed(**changes)


BAD: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no inputs": (bad(inputs=None), "input.json: inputs: this key is required"),
    "no training": (bad(train=None), "input.json: train: this key is required"),
    "no type_map": (bad(inputs__type_map=None), "inputs.type_map: this key is required"),
    "no template": (bad(train__template_script=None), "train.template_script: this key is required"),
    "inputs for other models": (bad(train__template_script=["a", "b"]), "2 inputs for numb_models 4"),
    "a template that is a number": (bad(train__template_script=7), "template_script: the path of an input.json"),
    "an unknown policy": (bad(train__config__init_model_policy="maybe"), "init_model_policy: 'maybe'"),
    "heads without one": (bad(inputs__multitask=True), "inputs.head: this key is required with multitask"),
    "a head without data": (
        bad(inputs__multitask=True, inputs__head="a", inputs__multi_init_data={"a": {}}),
        r"multi_init_data\.a: a mapping",
    ),
    "a path that is a number": (bad(inputs__init_data_sys=[1]), "init_data_sys: a path is expected, not 1"),
    "no convergence": (bad(explore__convergence=None), "explore.convergence: this key is required"),
    "an unknown convergence": (bad(explore__convergence={"type": "x"}), "convergence.type: 'x'"),
    "no levels": (bad(explore__convergence__level_f_lo=None), "level_f_lo: this key is required"),
    "a level in words": (bad(explore__convergence__level_f_lo="low"), "level_f_lo: a number is expected"),
    "stages that are groups": (bad(explore__stages=[{}]), "stages: a list of lists"),
    "an unknown group": (bad(explore__stages=[[{"type": "md"}]]), r"stages\[0\]\[0\].type: 'md'"),
    "a group that is a number": (bad(explore__stages=[[3]]), r"stages\[0\]\[0\].type: None"),
    "an unknown configuration": (bad(**group(conf_idx=[7])), r"conf_idx: there is no configurations\[7\]"),
    "no temperatures": (bad(**group(temps=None)), "temps: this key is required"),
    "an unknown ensemble": (bad(**group(ens="nph")), r"stages\[0\]\[0\].ens: 'nph'"),
    "no pressure": (bad(**group(ens="npt")), "press: this key is required"),
    "half a step": (bad(**group(nsteps=1.5)), r"stages\[0\]\[0\].nsteps: a whole number is expected"),
    "an unknown kind of structures": (bad(explore__configurations=[{"type": "x"}]), r"configurations\[0\].type: 'x'"),
    "no files": (bad(explore__configurations=[{"type": "file"}]), r"configurations\[\].files: paths are expected"),
    "an unknown lattice": (
        bad(explore__configurations=[{"type": "alloy", "lattice": ["cubic", 3]}]), "lattice: 'cubic' is not known"
    ),
    "a lattice of no size": (
        bad(explore__configurations=[{"type": "alloy", "lattice": ["fcc", 0]}]), "a lattice constant above 0"
    ),
    "shares of other elements": (
        bad(explore__configurations=[{"type": "alloy", "lattice": ["fcc", 4], "concentration": [1]}]),
        "concentration: .1.: a number for each of 2 elements",
    ),
    "no kind of label": (bad(fp__type=None), "fp.type: this key is required"),
    "no INCAR": (bad(fp__inputs_config__incar=None), "inputs_config.incar: this key is required"),
    "potentials in a list": (bad(fp__inputs_config__pp_files=["a"]), "pp_files: a path for each element"),
    "no teacher": (bad(fp={"type": "deepmd", "run_config": {}}), "teacher_model_path: this key is required"),
    "a step that is a number": (bad(step_configs__run_fp_config=3), "run_fp_config: a mapping of keys is expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_are_refused_and_nothing_is_written(tmp_path: Path, cli: Cli, case: str) -> None:
    document, expected = BAD[case]
    path = tmp_path / "input.json"
    path.write_text(json.dumps(document()))
    code, output, errors = cli("import", path)
    assert code == 2 and output == "" and "input.json" in errors and re.search(expected, errors), errors
    assert sorted(tmp_path.iterdir()) == [path]


def test_an_input_stands_alone(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(INPUT))
    with pytest.raises(ConfigError, match=r"give one input\.json of DPGEN2 alone"):
        make([tmp_path / "a.json", tmp_path / "b.json"])


def test_only_a_campaign_is_adopted(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "input.json").write_text(json.dumps(INPUT))
    code, _, errors = cli("import", tmp_path / "input.json", "--adopt", tmp_path)
    assert code == 2 and "give the folder in which DP-GEN ran, or that `dpgen2 download` has filled" in errors
    assert not (tmp_path / "dpgen2-sm").exists()


def test_for_scripts(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "input.json").write_text(json.dumps(INPUT))
    code, output, _ = cli("import", tmp_path / "input.json", "--json")
    found = json.loads(output)
    assert code == 0 and found["dialect"] == "DPGEN2"
    assert {row["outcome"] for row in found["keys"]} <= {outcome.value for outcome in Outcome}
