"""`dpgen2-sm import` of DP-GEN's files: each key goes where the table says, and nothing is lost in silence."""

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
from statemachine.importer.dispatcher import command_of
from statemachine.importer.dpgen import keys as dpgen_keys
from statemachine.importer.make import make
from statemachine.importer.report import Outcome
from tests.conftest import Cli

TRAINING = {
    "model": {"descriptor": {"type": "se_a", "sel": [16, 4], "_note": "x"}, "fitting_net": {"neuron": [8]}},
    "learning_rate": {"start_lr": 0.001},
    "loss": {},
    "training": {"numb_steps": 100},
}
PARAM: dict[str, Any] = {
    "type_map": ["H", "C"],
    "mass_map": [1, 12],
    "init_data_prefix": "data",
    "init_data_sys": ["a", "b"],
    "sys_configs_prefix": "systems",
    "sys_configs": [["x/*/POSCAR"], ["y/POSCAR", "z/POSCAR"], ["w/POSCAR"]],
    "numb_models": 4,
    "default_training_param": TRAINING,
    "model_devi_dt": 0.002,
    "model_devi_skip": 3,
    "model_devi_f_trust_lo": 0.05,
    "model_devi_f_trust_hi": 0.15,
    "model_devi_jobs": [
        {"sys_idx": [0], "temps": [100], "press": [1.0], "trj_freq": 10, "nsteps": 300, "ensemble": "npt", "_idx": 0},
        {"sys_idx": [0, 1], "temps": [50, 80], "trj_freq": 5, "nsteps": 3000, "ensemble": "nvt", "_idx": 1},
    ],
    "fp_style": "vasp",
    "shuffle_poscar": False,
    "fp_task_max": 20,
    "fp_task_min": 5,
    "fp_pp_path": "pp",
    "fp_pp_files": ["POTCAR_H", "POTCAR_C"],
    "fp_incar": "INCAR",
}
STAGE: dict[str, Any] = {
    "command": "prog",
    "machine": {
        "batch_type": "Slurm",
        "context_type": "SSHContext",
        "local_root": "./",
        "remote_root": "/scratch/jdoe",
        "remote_profile": {"hostname": "login.example.org", "username": "jdoe", "port": 22},
    },
    "resources": {"number_node": 1, "cpu_per_node": 4, "gpu_per_node": 1, "queue_name": "gpu", "group_size": 5},
}
MACHINE: dict[str, Any] = {
    "api_version": "1.0",
    "deepmd_version": "2.2",
    "train": {**STAGE, "command": "dp"},
    "model_devi": {**STAGE, "command": "lmp -i input.lammps -v restart 0"},
    "fp": {**STAGE, "command": "mpirun -n 16 vasp_std"},
}


def imported(tmp_path: Path, changes: Any = (), machine: Any = None, drop: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """The configuration that an import makes, and its report."""
    param = {**copy.deepcopy(PARAM), **dict(changes)}
    for key in drop:
        del param[key]
    sources = [tmp_path / "param.json"]
    sources[0].write_text(json.dumps(param))
    if machine is not None:
        sources.append(tmp_path / "machine.json")
        sources[1].write_text(json.dumps(machine))
    made = make(sources)
    made.write()
    return YAML(typ="safe").load((made.folder / "run.yaml").read_text()), made.report


def at(config: Any, place: str) -> Any:
    for part in place.split("."):
        config = config[int(part)] if part.isdecimal() and isinstance(config, list) else config[part]
    return config


def test_a_whole_campaign(tmp_path: Path) -> None:
    config, report = imported(tmp_path, machine=MACHINE)
    assert config["type_map"] == ["H", "C"] and config["mass_map"] == [1, 12]
    assert config["init"]["data"] == {
        name: {"path": f"../data/{folder}", "format": "deepmd/npy"}
        for name, folder in (("init000", "a"), ("init001", "b"))
    }
    assert config["structures"] == {
        "sys000": {"files": ["../systems/x/*/POSCAR"], "format": "vasp"},
        "sys001": {"files": ["../systems/y/POSCAR", "../systems/z/POSCAR"], "format": "vasp"},
    }
    common = {"dt": 0.002, "tau_t": 0.1, "tau_p": 0.5}
    first = {"structures": ["sys000"], "ensemble": "npt", "temps": [100.0], "press": [1.0], "nsteps": 300}
    second = {"structures": ["sys000", "sys001"], "ensemble": "nvt", "temps": [50.0, 80.0], "nsteps": 3000}
    assert config["explore"]["stages"] == [[{**first, **common, "trj_freq": 10}], [{**second, **common, "trj_freq": 5}]]
    assert config["convergence"] == {"repeat": "once"} and config["max_iterations"] == 2
    select = config["select"]
    assert (select["f_trust_lo"], select["f_trust_hi"], select["model_devi_skip"]) == (0.05, 0.15, 1)
    assert (select["fp_task_max_per_system"], select["fp_task_max"]) == (20, 40), "20 for each system, two in one job"
    assert select["fp_task_min_per_system"] == 5 and "fp_task_min" not in select
    label = config["label"]
    assert label["potcar"] == {"H": "../pp/POTCAR_H", "C": "../pp/POTCAR_C"} and label["incar"] == "../INCAR"
    assert (label["command"], label["ratio_failed"], label["group_size"]) == ("mpirun -n 16 vasp_std", 0.05, 5)
    assert config["explore"]["command"] == "lmp"
    assert config["train"]["hpc"]["machine"] == {
        "batch_type": "Slurm", "context_type": "SSHContext", "remote_root": "/scratch/jdoe",
        "remote_profile": {"hostname": "login.example.org", "username": "jdoe", "port": 22},
    }  # fmt: skip
    assert config["train"]["hpc"]["resources"] == {
        "number_node": 1, "cpu_per_node": 4, "gpu_per_node": 1, "queue_name": "gpu"
    }  # fmt: skip
    assert report.losses == []


@pytest.mark.parametrize(("steps", "frames", "told"), [(0, 0, False), (1, 1, False), (11, 3, True), (20, 4, True)])
def test_steps_that_are_skipped_become_frames(tmp_path: Path, steps: int, frames: int, told: bool) -> None:
    """DP-GEN skips rows before that step, of which the jobs write every 10th and every 5th."""
    config, report = imported(tmp_path, {"model_devi_skip": steps})
    assert config["select"]["model_devi_skip"] == frames
    assert any(row.source.endswith("model_devi_skip") and "frames" in row.note for row in report) is told, list(report)


def test_the_run_says_where_each_value_is_from(tmp_path: Path) -> None:
    imported(tmp_path, machine=MACHINE)
    text = (tmp_path / "dpgen2-sm/run.yaml").read_text()
    for line in (
        "# Made by `dpgen2-sm import` of param.json and machine.json",
        "model_devi_skip: 1 # model_devi_skip, from steps to frames",
        "dt: 0.002  # model_devi_dt",
        "tau_t: 0.1 # DP-GEN's default of model_devi_taut",
        "ratio_failed: 0.05 # DP-GEN's default",
        "# sys_configs[1]\n",
        "# model_devi_jobs[1]\n",
        "command: lmp # machine.json: model_devi.command",
    ):
        assert line in text


def test_the_input_of_the_training(tmp_path: Path) -> None:
    imported(tmp_path)
    found = json.loads((tmp_path / "dpgen2-sm/input.json").read_text())
    assert found["model"]["type_map"] == ["H", "C"] and "_note" not in found["model"]["descriptor"]
    assert found["training"] == {"numb_steps": 100, "training_data": {"batch_size": "auto"}}


def job(**changes: Any) -> dict[str, Any]:
    return {"model_devi_jobs": [{**PARAM["model_devi_jobs"][1], **changes}]}


def template(**changes: Any) -> dict[str, Any]:
    given = {"sys_idx": [0, 2], "trj_freq": 10, "template": {"lmp": "in.lmp", "plm": "in.plm"}, **changes}
    return {"model_devi_jobs": [given], "model_devi_plumed": True}


def training(**changes: Any) -> dict[str, Any]:
    return {"default_training_param": {**TRAINING, "training": {"numb_steps": 100, **changes}}}


GROUP = "explore.stages.0.0"
MAPPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a virial's levels": (
        {"model_devi_v_trust_lo": 0.1, "model_devi_v_trust_hi": 0.3},
        {"select.v_trust_lo": 0.1, "select.v_trust_hi": 0.3}
    ),
    "one level of virials": (
        {"model_devi_v_trust_lo": 0.1}, {"select.v_trust_lo": 0.1, "select.v_trust_hi": 1e10}
    ),
    "levels in a list": (
        {"model_devi_f_trust_lo": [0.1, 0.2, 0.3]}, {"select.f_trust_lo": {"sys000": 0.1, "sys001": 0.2}}
    ),
    "levels in a mapping": (
        {"model_devi_f_trust_hi": {"0": 0.4, "1": 0.5}}, {"select.f_trust_hi": {"sys000": 0.4, "sys001": 0.5}}
    ),
    "equal levels in a list": ({"model_devi_f_trust_lo": [0.1, 0.1, 0.3]}, {"select.f_trust_lo": 0.1}),
    "levels of a job": (
        job(model_devi_f_trust_lo=0.2, sys_idx=[1]),
        {f"{GROUP}.structures": ["sys001.job000"], "select.f_trust_lo": 0.2, "select.f_trust_hi": 0.15},
    ),
    "levels that follow the models": (
        {"model_devi_adapt_trust_lo": True, "model_devi_numb_candi_f": 20, "model_devi_perc_candi_f": 2.5},
        {
            "select.adaptive": {"numb_candi_f": 20, "numb_candi_v": 0, "rate_candi_f": 0.025, "rate_candi_v": 0.0},
            "select.f_trust_hi": {"sys000": 0.15, "sys001": 0.15},
        },
    ),
    "old names of a job": (
        {"model_devi_jobs": [{"sys_idx": [0], "Ts": [5], "Ps": [2], "t_freq": 2, "nsteps": 8, "ens": "npt-tri"}]},
        {f"{GROUP}.temps": [5.0], f"{GROUP}.press": [2.0], f"{GROUP}.trj_freq": 2, f"{GROUP}.ensemble": "npt-tri"},
    ),
    "a range of systems": (job(sys_idx=["0-3:2"]), {f"{GROUP}.structures": ["sys000", "sys002"]}),
    "dt of a job": (job(dt=0.0005), {f"{GROUP}.dt": 0.0005}),
    "model_devi_taut": (
        {"model_devi_taut": 0.2, "model_devi_taup": 0.7}, {f"{GROUP}.tau_t": 0.2, f"{GROUP}.tau_p": 0.7}
    ),
    "relative deviations": (
        {"use_relative": True, "epsilon": 1, "use_relative_v": True, "epsilon_v": 2},
        {f"{GROUP}.epsilon": 1.0, f"{GROUP}.epsilon_v": 2.0},
    ),
    "a template": (
        template(rev_mat={"lmp": {"V_T": [1, 2]}, "plm": {"V_S": [3]}}),
        {
            f"{GROUP}.template": "../in.lmp", f"{GROUP}.plumed": "../in.plm",
            f"{GROUP}.revisions": {"V_S": [3], "V_T": [1, 2]}, f"{GROUP}.structures": ["sys000", "sys002"],
        },
    ),
    "values of each system": (
        template(rev_mat={"lmp": {"V_T": [1]}}, sys_rev_mat={"2": {"lmp": {"V_P": [7]}}}),
        {
            f"{GROUP}.structures": ["sys000"], f"{GROUP}.revisions": {"V_T": [1]},
            "explore.stages.0.1.structures": ["sys002"], "explore.stages.0.1.revisions": {"V_T": [1], "V_P": [7]},
        },
    ),
    "sys_format": ({"sys_format": "lammps/lmp"}, {"structures.sys000.format": "lammps/lmp"}),
    "max_iter": ({"model_devi_max_iter": 7}, {"max_iterations": 7}),
    "the threshold": (
        {"fp_accurate_threshold": 0.98},
        {"select.fp_accurate_threshold": 0.98, "convergence.accuracy": 0.98},
    ),
    "a soft threshold": (
        {"fp_accurate_threshold": 0.999, "fp_accurate_soft_threshold": 0.99},
        {"select.fp_accurate_threshold": 0.999, "select.fp_accurate_soft_threshold": 0.99},
    ),
    "a soft threshold below 1": (
        {"fp_accurate_soft_threshold": 0.9},
        {"select.fp_accurate_threshold": 1.0, "select.fp_accurate_soft_threshold": 0.9},
    ),
    "a soft threshold above the other": (
        {"fp_accurate_threshold": 0.8, "fp_accurate_soft_threshold": 0.9},
        {"select.fp_accurate_threshold": 0.9, "convergence.accuracy": 0.9},
    ),
    "bad boxes": (
        {"fp_skip_bad_box": "length_ratio:5;tilt_ratio:1"},
        {"select.max_length_ratio": 5.0, "select.max_tilt_angle": pytest.approx(45.0)},
    ),
    "ratio_failed": ({"ratio_failed": 0.3}, {"label.ratio_failed": 0.3}),
    "pytorch": (
        {"train_backend": "pytorch", "dp_compress": True},
        {"train.backend": "pytorch", "train.dp_compress": True},
    ),
    "reuse": (
        {"training_reuse_iter": 2, "training_reuse_old_ratio": 0.9, "training_reuse_stop_batch": 50,
         "training_reuse_start_lr": 1e-4, "training_reuse_start_pref_e": 1, "training_reuse_start_pref_f": 2},
        {"train.training_reuse_iter": 2, "train.training_reuse_old_ratio": 0.9, "train.training_reuse_numb_steps": 50,
         "train.training_reuse_start_lr": 1e-4, "train.training_reuse_start_pref_e": 1.0,
         "train.training_reuse_start_pref_f": 2.0},
    ),
    "reuse by its default": ({"training_reuse_iter": 2}, {"train.training_reuse_old_ratio": "auto"}),
    "training_init_model": ({"training_init_model": True}, {"train.training_reuse_iter": 1}),
    "fine-tuning": ({"training_finetune_model": ["m.pt"]}, {"train.training_finetune_model": ["../m.pt"]}),
    "frozen models": ({"training_init_frozen_model": ["m.pb"]}, {"train.training_init_frozen_model": ["../m.pb"]}),
    "skipped statistics": ({"dp_train_skip_neighbor_stat": True}, {"train.skip_neighbor_stat": True}),
    "activation functions": (
        {"model_devi_activation_func": [["tanh", "tanh"], ["gelu", "tanh"], ["tanh", "gelu"], ["relu", "relu"]]},
        {"train.committee": [{"input": f"input.{number:03d}.json"} for number in range(4)]},
    ),
    "cp2k": (
        {"fp_style": "cp2k", "external_input_path": "t.inp"},
        {"label.app": "cp2k", "label.input": "../t.inp", "label.ratio_failed": 0.1},
    ),
    "gaussian": (
        {"fp_style": "gaussian", "fp_params": {"keywords": "b3lyp/6-31g", "nproc": 4, "charge": 1}},
        {"label.app": "gaussian", "label.keywords": "b3lyp/6-31g", "label.nproc": 4, "label.charge": 1},
    ),
    "abacus": (
        {"fp_style": "abacus", "user_fp_params": {"ecutwfc": 80}, "fp_orb_files": ["h.orb", "c.orb"],
         "k_points": [2, 2, 2, 0, 0, 0]},
        {"label.input": "INPUT", "label.pseudo": {"H": "../pp/POTCAR_H", "C": "../pp/POTCAR_C"},
         "label.orbital": {"H": "../pp/h.orb", "C": "../pp/c.orb"}, "label.kpt": "KPT"},
    ),
    "pwscf": (
        {"fp_style": "pwscf", "user_fp_params": {"control": {}, "system": {"ecutwfc": 60, "nat": 5}, "kspacing": 0.5}},
        {"label.app": "qe", "label.input": "pw.in", "label.kspacing": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MAPPED)
def test_where_a_key_goes(tmp_path: Path, case: str) -> None:
    changes, expected = MAPPED[case]
    config, report = imported(tmp_path, changes)
    assert {place: at(config, place) for place in expected} == expected
    assert report.losses == []


MADE: dict[str, tuple[dict[str, Any], str, str]] = {
    "INCAR of user_fp_params": (
        {"user_fp_params": {"encut": 500, "LWAVE": False}}, "INCAR", "ENCUT = 500\nLWAVE = F\n"
    ),
    "INCAR of fp_params": (
        {"fp_params": {"ecut": 600, "ediff": 1e-6, "npar": 4, "kpar": 1, "kspacing": 0.1, "smearing": "mp:2",
                       "sigma": 0.2, "metagga": "SCAN", "user_vasp_params": {"nelm": 99}}},
        "INCAR",
        "PREC = A\nENCUT = 600\nISYM = 0\nALGO = Fast\nEDIFF = 1e-06\nLREAL = A\nNPAR = 4\nKPAR = 1\nNELMIN = 4\n"
        "ISIF = 2\nISMEAR = 2\nSIGMA = 0.2\nIBRION = -1\nNSW = 0\nLWAVE = F\nLCHARG = F\nPSTRESS = 0\nKSPACING = 0.1\n"
        "KGAMMA = F\nLASPH = T\nMETAGGA = SCAN\nNELM = 99\n",
    ),
    "pw.in of user_fp_params": (
        {"fp_style": "pwscf", "user_fp_params": {"control": {"tprnfor": True, "pseudo_dir": "./"},
         "system": {"ecutwfc": 60, "nat": 5, "vdw_corr": "dft-d3"}, "electrons": {"mixing_beta": 0.5}, "kspacing": 1}},
        "pw.in",
        "&control\n  tprnfor = .true.\n/\n&system\n  ecutwfc = 60\n  vdw_corr = 'dft-d3'\n/\n&electrons\n"
        "  mixing_beta = 0.5\n/\n",
    ),
    "INPUT of user_fp_params": (
        {"fp_style": "abacus", "user_fp_params": {"ecutwfc": 80, "ntype": 2, "kspacing": [0.1, 0.1, 0.2], "_c": 1}},
        "INPUT",
        "INPUT_PARAMETERS\necutwfc 80\nkspacing 0.1 0.1 0.2\n",
    ),
    "KPT by default": (
        {"fp_style": "abacus", "user_fp_params": {"ecutwfc": 80}}, "KPT", "K_POINTS\n0\nGamma\n1 1 1 0 0 0\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE)
def test_files_that_dpgen_would_make(tmp_path: Path, case: str) -> None:
    changes, name, text = MADE[case]
    imported(tmp_path, changes, drop=("fp_incar",))
    assert (tmp_path / "dpgen2-sm" / name).read_text() == text


def test_an_input_of_cp2k_is_what_label_reads(tmp_path: Path) -> None:
    from operators.label.cp2k_input import read_template

    kinds = {"_": ["C", "H"], "POTENTIAL": ["GTH-PBE-q4", "GTH-PBE-q1"], "BASIS_SET": ["DZVP", "SZV"]}
    given = {"force_eval": {"DFT": {"SCF": {"MAX_SCF": 7}}, "SUBSYS": {"KIND": kinds}}}
    imported(tmp_path, {"fp_style": "cp2k", "user_fp_params": given})
    text = (tmp_path / "dpgen2-sm/cp2k.inp").read_text()
    assert "      &XC_FUNCTIONAL PBE\n" in text and "MAX_SCF 7" in text and "MAX_SCF 50" not in text
    assert "    &KIND C\n      POTENTIAL GTH-PBE-q4\n      BASIS_SET DZVP\n    &END KIND\n    &KIND H" in text
    assert read_template(text, {}, "label.input").section("FORCE_EVAL", "DFT", "SCF") is not None


def test_a_potcar_of_several_elements_is_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "pp").mkdir()
    parts = [f" PAW {one}\n   VRHFIN ={one}: \n end\nEnd of Dataset\n" for one in ("H", "C")]
    (tmp_path / "pp/POTCAR").write_text("".join(parts))
    config, _ = imported(tmp_path, {"fp_pp_files": ["POTCAR"]})
    assert config["label"]["potcar"] == {"H": "POTCAR.H", "C": "POTCAR.C"}
    assert (tmp_path / "dpgen2-sm/POTCAR.C").read_text().strip() == parts[1].strip()


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "clusters": ({"use_clusters": True}, "use_clusters"),
    "electron temperature": ({"use_ele_temp": 1}, "use_ele_temp"),
    "shuffled atoms": ({"shuffle_poscar": True}, "shuffle_poscar"),
    "path integrals": (job(nbeads=4), "model_devi_jobs[].nbeads"),
    "D3": ({"lmp_d3": {"enable": True}}, "lmp_d3"),
    "another code": ({"fp_style": "siesta"}, "fp_style"),
    "another engine": ({"model_devi_engine": "gromacs"}, "model_devi_engine"),
    "a misspelt key": ({"fp_task_mx": 3}, "fp_task_mx"),
    "a filter of boxes": ({"fp_skip_bad_box": "wrap_ratio:1"}, "fp_skip_bad_box"),
    "a threshold of nothing": ({"fp_accurate_threshold": 0.0}, "fp_accurate_threshold"),
    "an old checkpoint": ({"training_iter0_model_path": ["a"]}, "training_iter0_model_path"),
    "JAX": ({"train_backend": "jax"}, "train_backend"),
}


@pytest.mark.parametrize("case", LOST)
def test_what_is_lost_is_told(tmp_path: Path, cli: Cli, case: str) -> None:
    changes, key = LOST[case]
    _, report = imported(tmp_path, changes)
    lost = [row for row in report.losses if row.source == f"param.json: {key}"]
    assert len(lost) == 1 and lost[0].note
    code, _, errors = cli("import", tmp_path / "param.json", "-o", tmp_path / "strict", "--strict")
    assert code == 2 and f"param.json: {key}: " in errors and not (tmp_path / "strict").exists()


def test_every_key_of_the_tables_is_reported(tmp_path: Path) -> None:
    """Whatever its value: no key of DP-GEN is without a row."""
    for tables in (dpgen_keys.PARAM, dpgen_keys.TRAIN, dpgen_keys.EXPLORE, dpgen_keys.SELECT, dpgen_keys.LABEL):
        for key in tables:
            if key.outcome in (Outcome.UNNEEDED, Outcome.LOST):
                _, report = imported(tmp_path, {key.name: PARAM.get(key.name, 0)})
                (row,) = [row for row in report if row.source == f"param.json: {key.name}"]
                assert row.outcome in (Outcome.UNNEEDED, Outcome.LOST) and row.note
                (tmp_path / "dpgen2-sm/import.md").unlink()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("lmp", "lmp"),
        ("lmp -i input.lammps -v restart 0", "lmp"),
        ("mpirun -n 16 pw.x < input", "mpirun -n 16 pw.x"),
        ("g16 < input > output ||:", "g16"),
        ("cp2k.popt -i input.inp > output", "cp2k.popt"),
        ("mpirun -n 16 vasp_std || :", "mpirun -n 16 vasp_std"),
        ("mpirun -np 2 -input-ok lmp -in input.lammps", "mpirun -np 2 -input-ok lmp"),
    ],
)
def test_a_command_without_what_the_run_gives_it(given: str, expected: str) -> None:
    assert command_of(given) == expected


def stage(**parts: Any) -> dict[str, Any]:
    """machine.json whose label stage is changed."""
    changed = {
        key: {**STAGE.get(key, {}), **value} if isinstance(value, dict) else value for key, value in parts.items()
    }
    return {**MACHINE, "fp": {**MACHINE["fp"], **changed}}


def test_a_shell_on_this_machine_needs_no_batch_system(tmp_path: Path) -> None:
    here = {"batch_type": "shell", "context_type": "local", "remote_root": "/tmp/work"}
    resources = {
        "module_list": ["vasp"],
        "source_list": ["/opt/env.sh"],
        "envs": {"A": "1:$A"},
        "prepend_script": "echo",
    }
    config, report = imported(tmp_path, machine=stage(machine=here, resources=resources))
    assert "hpc" not in config["label"] and config["label"]["shell"] == "bash"
    assert config["label"]["setup"] == ["module load vasp", "source /opt/env.sh", 'export A="1:$A"', "echo"]
    assert report.losses == []


def test_secrets_are_not_copied(tmp_path: Path, cli: Cli) -> None:
    profile = {**STAGE["machine"]["remote_profile"], "password": "pass" + "word-1", "key_filename": "~/.ssh/id"}
    imported(tmp_path, machine=stage(machine={**STAGE["machine"], "remote_profile": profile}))
    written = "".join(path.read_text() for path in (tmp_path / "dpgen2-sm").iterdir())
    assert "password-1" not in written and "key_filename: ~/.ssh/id" in written
    code, output, errors = cli("import", tmp_path / "param.json", tmp_path / "machine.json")
    assert code == 0 and "label: password was not copied" in errors
    assert "password-1" not in output + errors


@pytest.mark.parametrize("here", [{}, {"batch_type": "shell", "context_type": "local"}])
def test_secrets_of_an_environment_are_not_copied(tmp_path: Path, here: dict[str, Any]) -> None:
    _, report = imported(tmp_path, machine=stage(machine=here, resources={"envs": {"API_KEY": "word-2", "A": "kept"}}))
    written = "".join(path.read_text() for path in (tmp_path / "dpgen2-sm").iterdir())
    assert "word-2" not in written and "kept" in written
    assert [row.source for row in report.losses] == ["machine.json: fp.resources.envs"]


@pytest.mark.parametrize(
    ("machine", "key"),
    [
        ({"batch_type": "Bohrium", "context_type": "Bohrium"}, "fp.machine.batch_type"),
        ({"context_type": "HDFSContext"}, "fp.machine.context_type"),
    ],
)
def test_a_machine_that_is_not_there(tmp_path: Path, machine: dict[str, Any], key: str) -> None:
    config, report = imported(tmp_path, machine=stage(machine=machine))
    assert "hpc" not in config["label"]
    assert f"machine.json: {key}" in [row.source for row in report.losses]
    assert any("label: " in text and "has no counterpart" in text for text in report.warnings)


def test_of_several_machines_the_first_counts(tmp_path: Path) -> None:
    several = {**MACHINE, "fp": [MACHINE["fp"], {**MACHINE["fp"], "command": "other"}]}
    config, report = imported(tmp_path, machine=several)
    assert config["label"]["command"] == "mpirun -n 16 vasp_std"
    assert any(row.source == "machine.json: fp" and "first of the list" in row.note for row in report)


def test_machines_of_earlier_versions(tmp_path: Path) -> None:
    old = {
        "deepmd_path": "/opt/deepmd",
        "train_machine": {"machine_type": "slurm", "hostname": "login", "port": 22, "username": "jdoe",
                          "work_path": "/w"},
        "train_resources": {"numb_node": 1, "numb_gpu": 1, "task_per_node": 8, "partition": "GPU", "mem_limit": 32,
                            "time_limit": "23:0:0", "exclude_list": ["n1", "n2"], "source_list": ["/opt/activate"]},
        "lmp_command": "/opt/lmp",
        "model_devi_group_size": 3,
        "model_devi_machine": {"machine_type": "local", "work_path": "/w"},
        "model_devi_resources": {"module_list": ["mpi"]},
        "fp_command": "vasp_std",
        "fp_machine": {"machine_type": "pbs", "hostname": "login", "username": "jdoe", "work_path": "/w",
                       "password": "x"},
        "fp_resources": {"numb_node": 2, "task_per_node": 4, "with_mpi": True, "time_limit": "1:0:0"},
    }  # fmt: skip
    config, report = imported(tmp_path, machine=old)
    train, explore, label = config["train"], config["explore"], config["label"]
    assert train["hpc"]["machine"]["remote_profile"] == {"hostname": "login", "port": 22, "username": "jdoe"}
    assert train["hpc"]["resources"] == {
        "number_node": 1, "cpu_per_node": 8, "gpu_per_node": 1, "queue_name": "GPU", "source_list": ["/opt/activate"],
        "custom_flags": ["#SBATCH --time=23:0:0", "#SBATCH --exclude=n1,n2", "#SBATCH --mem=32G"],
    }  # fmt: skip
    assert (explore["command"], explore["group_size"], explore["setup"]) == ("/opt/lmp", 3, ["module load mpi"])
    assert label["command"] == "mpirun -n 8 vasp_std" and label["hpc"]["machine"]["batch_type"] == "PBS"
    assert [row.source for row in report.losses] == [
        "machine.json: fp_machine.password", "machine.json: fp_resources.time_limit"
    ]  # fmt: skip


# --- sources as people write them -----------------------------------------------------------------------------------


def test_comments_and_trailing_commas(tmp_path: Path) -> None:
    text = json.dumps(PARAM, indent=1).replace('"fp_style"', '// how "labels" are made\n "fp_style"')
    text = text.replace('"mass_map"', '/* "type_map": [],\n */ "mass_map"').rstrip("}\n") + ', "_x": "a // b", # end\n}'
    path = tmp_path / "param.json"
    path.write_text("\ufeff" + text, "utf-8")
    assert make([path]).report.losses == []


def test_a_source_in_yaml(tmp_path: Path) -> None:
    with open(tmp_path / "param.yaml", "w") as stream:
        YAML().dump(PARAM, stream)
    assert make([tmp_path / "param.yaml"]).report.losses == []


def test_a_key_that_is_given_twice_is_told(tmp_path: Path) -> None:
    text = json.dumps(PARAM).replace('"fp_task_max": 20', '"fp_task_max": 9, "fp_task_max": 20')
    (tmp_path / "param.json").write_text(text)
    assert any(
        row.source == "param.json: fp_task_max" and "twice" in row.note
        for row in make([tmp_path / "param.json"]).report
    )


def without(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda param: json.dumps({name: value for name, value in param.items() if name != key})


def changed(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda param: json.dumps({**param, **changes})


BAD: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "empty": (lambda _: "", "param.json: line 1: not JSON"),
    "not JSON": (lambda _: '{"type_map": [}', "param.json: line 1: not JSON"),
    "a list": (lambda _: "[]", "a mapping of keys is expected"),
    "a link as text": (lambda _: "../shared/param.json\n", "a symbolic link that was stored as text"),
    "not a number": (lambda p: json.dumps(p).replace("0.05", "NaN", 1), "NaN is no number of JSON"),
    "infinity": (lambda p: json.dumps(p).replace("0.05", "1e999", 1), "model_devi_f_trust_lo: inf is not a finite"),
    "something else": (lambda _: '{"a": 1}', "neither a param.json nor a machine.json"),
    "no type_map": (without("type_map"), "param.json: type_map: this key is required"),
    "no levels": (without("model_devi_f_trust_lo"), "model_devi_f_trust_lo: this key is required"),
    "no training": (without("default_training_param"), "default_training_param: this key is required"),
    "half a training": (changed(default_training_param={"model": {}}), "no model or no training section"),
    "an unknown system": (changed(**job(sys_idx=[7])), r"sys_idx: there is no sys_configs\[7\]"),
    "a system twice": (changed(**job(sys_idx=[0, 0])), "a system is named twice"),
    "no ensemble": (changed(**job(ensemble=None)), r"model_devi_jobs\[\].ensemble: this key is required"),
    "words for temperatures": (changed(**job(temps=["hot"])), "temps: numbers are expected"),
    "half a step": (changed(**job(nsteps=10.5)), "nsteps: a whole number is expected"),
    "a job that is a number": (changed(model_devi_jobs=[3]), "a mapping of keys is expected, not 3"),
    "a list too short": (changed(model_devi_f_trust_lo=[0.1]), "no level for system 1, which is explored"),
    "a level in words": (changed(model_devi_f_trust_lo="low"), "a number is expected"),
    "functions for two models": (changed(model_devi_activation_func=[["a", "b"]]), "1 entries for 4 models"),
    "models in words": (changed(numb_models="four"), "numb_models: a number is expected, not 'four'"),
    "masses in a mapping": (changed(mass_map={}), "mass_map: a list or a text is expected"),
    "a box without a number": (changed(fp_skip_bad_box="length_ratio"), "is not a name and a number"),
    "a path that is a number": (changed(init_data_sys=[1]), r"init_data_sys\[0\]: a path is expected"),
    "two values of one name": (
        changed(**template(rev_mat={"lmp": {"V": [1]}, "plm": {"V": [2]}})), "V has other values in lmp than in plm"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_are_refused_and_nothing_is_written(tmp_path: Path, cli: Cli, case: str) -> None:
    text, expected = BAD[case]
    path = tmp_path / "param.json"
    path.write_text(text(copy.deepcopy(PARAM)))
    code, output, errors = cli("import", path)
    assert code == 2 and output == "" and re.search(expected, errors), errors
    assert sorted(tmp_path.iterdir()) == [path]


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(PARAM))
    with pytest.raises(ConfigError, match=r"give one param\.json"):
        make([tmp_path / "a.json", tmp_path / "b.json"])
    (tmp_path / "c.json").write_text(json.dumps(MACHINE))
    with pytest.raises(ConfigError, match=r"give one param\.json"):
        make([tmp_path / "c.json"])
    with pytest.raises(ConfigError, match="there is no such file"):
        make([tmp_path / "d.json"])


def test_a_second_import_is_the_same_or_refused(tmp_path: Path, cli: Cli) -> None:
    imported(tmp_path)
    assert cli("import", tmp_path / "param.json")[0] == 0
    with open(tmp_path / "dpgen2-sm/run.yaml", "a") as stream:
        stream.write("seed: 2\n")
    before = (tmp_path / "dpgen2-sm/run.yaml").read_bytes()
    code, _, errors = cli("import", tmp_path / "param.json")
    assert code == 2 and "it is there already" in errors
    assert (tmp_path / "dpgen2-sm/run.yaml").read_bytes() == before


def test_for_scripts(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "param.json").write_text(json.dumps(PARAM))
    code, output, _ = cli("import", tmp_path / "param.json", "--json")
    found = json.loads(output)
    assert code == 0 and found["dialect"] == "DP-GEN" and found["files"] == ["import.md", "input.json", "run.yaml"]
    assert {"key": "param.json: type_map", "outcome": "mapped", "to": "type_map", "note": "", "count": 1} in found[
        "keys"
    ]
