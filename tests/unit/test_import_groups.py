"""`dpgen2-sm import`: what inputs of groups have, and examples have not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from conventions.errors import ConfigError
from statemachine.importer.make import Imported, make
from statemachine.importer.report import Outcome
from tests.unit.test_import_dpgen import MACHINE, PARAM, TRAINING
from tests.unit.test_import_strange import places, put

# machine.json before 0.10: names of its own, options of Slurm without their word, empty texts of a template.
FLAT: dict[str, Any] = {
    "train": [
        {
            "command": "OMP_NUM_THREADS=8 dp",
            "machine": {"batch": "slurm", "hostname": "h", "port": 22, "username": "me", "work_path": "/w"},
            "resources": {
                "numb_node": 1, "numb_gpu": 1, "task_per_node": 1, "cpus_per_task": 32, "custom_flags": ["--exclusive"],
                "account": "a", "partition": "p", "exclude_list": [], "source_list": [""], "module_list": [],
                "time_limit": "24:00:00", "cuda_multi_tasks": False, "mem_limit": -1, "qos": "",
            },
        }
    ],
}  # fmt: skip


def imported(root: Path, param: dict[str, Any], machine: dict[str, Any]) -> tuple[dict[str, Any], Imported]:
    """run.yaml as it is read again, and what was made."""
    (root / "param.json").write_text(json.dumps(param))
    (root / "machine.json").write_text(json.dumps(machine))
    made = make([root / "param.json", root / "machine.json"])
    return YAML(typ="safe").load(made.files["run.yaml"]), made


def notes(made: Imported, key: str) -> list[tuple[Outcome, str]]:
    return [(row.outcome, row.note) for row in made.report if row.source.endswith(key)]


def test_texts_keep_their_spaces_however_long_they_are(tmp_path: Path) -> None:
    path = f"{'long/' * 25}with  two    spaces/POSCAR"
    config, _ = imported(tmp_path, {**PARAM, "sys_configs": [[path], ["y"], ["z"]]}, MACHINE)
    assert config["structures"]["sys000"]["files"] == [f"../systems/{path}"]


def test_a_machine_of_before(tmp_path: Path) -> None:
    config, made = imported(tmp_path, PARAM, FLAT)
    train = config["train"]
    assert train["command"] == "env OMP_NUM_THREADS=8 dp", "a shell would not see the variable in $DP_COMMAND"
    assert train["hpc"]["resources"] == {
        "number_node": 1, "cpu_per_node": 1, "gpu_per_node": 1, "queue_name": "p",
        "custom_flags": [
            "#SBATCH --exclusive", "#SBATCH --time=24:00:00", "#SBATCH --account=a", "#SBATCH --cpus-per-task=32",
        ],
    }  # fmt: skip
    assert made.report.losses == []


def test_an_option_without_its_word_is_no_line_of_a_script(tmp_path: Path) -> None:
    machine = copy.deepcopy(MACHINE)
    machine["train"]["resources"] |= {"custom_flags": ["-A mine", "", "#SBATCH -t 1", "ulimit -s unlimited"]}
    config, made = imported(tmp_path, PARAM, machine)
    flags = config["train"]["hpc"]["resources"]["custom_flags"]
    assert flags == ["#SBATCH -A mine", "#SBATCH -t 1", "ulimit -s unlimited"]
    ((outcome, note),) = notes(made, "train.resources.custom_flags")
    assert (outcome, note) == (
        Outcome.CHANGED, "options alone are no lines of a script: #SBATCH is written before each"
    )  # fmt: skip


@pytest.mark.parametrize(("given", "outcome"), [(1, Outcome.UNNEEDED), (4, Outcome.LOST)])
def test_tasks_side_by_side(tmp_path: Path, given: int, outcome: Outcome) -> None:
    machine = copy.deepcopy(MACHINE)
    machine["train"]["resources"]["para_deg"] = given
    assert notes(imported(tmp_path, PARAM, machine)[1], "para_deg")[0][0] is outcome


def test_levels_of_the_energy_never_counted(tmp_path: Path) -> None:
    _, made = imported(tmp_path, {**PARAM, "model_devi_e_trust_lo": 0.05, "model_devi_e_trust_hi": 1e10}, MACHINE)
    assert [outcome for outcome, _ in notes(made, "e_trust_lo")] == [Outcome.UNNEEDED]
    assert made.report.losses == []


@pytest.mark.parametrize("systems", [["held-out/"], "held-out/"])
def test_validation_data_are_tested_on(tmp_path: Path, systems: Any) -> None:
    training = {**TRAINING["training"], "validation_data": {"systems": systems, "batch_size": 32}}
    (tmp_path / "held-out").mkdir()
    (tmp_path / "held-out/type.raw").write_text("0\n")
    config, made = imported(tmp_path, {**PARAM, "default_training_param": {**TRAINING, "training": training}}, MACHINE)
    assert config["init"]["test"] == {"validation000": {"path": "../held-out", "format": "deepmd/raw"}}
    assert "validation_data" not in json.loads(made.files["input.json"])["training"]
    ((outcome, note),) = notes(made, "validation_data")
    assert outcome is Outcome.CHANGED and note.startswith("`dpgen2-sm test` tells the errors on it")


@pytest.mark.parametrize("given", ["x", {"systems": 3}, {"systems": [3]}])
def test_validation_data_that_are_none(tmp_path: Path, given: Any) -> None:
    training = {**TRAINING["training"], "validation_data": given}
    with pytest.raises(ConfigError, match=r"param.json: default_training_param.training.validation_data: a mapping"):
        imported(tmp_path, {**PARAM, "default_training_param": {**TRAINING, "training": training}}, MACHINE)


STYLES: dict[str, dict[str, Any]] = {
    "vasp": {"fp_style": "vasp", "fp_incar": None, "fp_params": {
        "ecut": 600, "ediff": 1e-5, "kspacing": 0.2, "smearing": "mp:2", "sigma": 0.1,
        "user_vasp_params": {"lwave": False},
    }},
    "pwscf": {"fp_style": "pwscf", "user_fp_params": {
        "control": {"tprnfor": True}, "system": {"ecutwfc": 60}, "electrons": {"conv_thr": 1e-8}, "kspacing": 0.5,
    }},
    "pwscf, older": {"fp_style": "pwscf", "fp_params": {
        "ecut": 60, "ediff": 1e-8, "kspacing": 0.5, "smearing": "gauss", "sigma": 0.1,
    }},
    "cp2k": {"fp_style": "cp2k", "user_fp_params": {"FORCE_EVAL": {"DFT": {"MGRID": {"CUTOFF": 400}}}}},
    "gaussian": {"fp_style": "gaussian", "fp_params": {"keywords": ["b3lyp/6-31g"], "nproc": 4, "charge": 1}},
    "abacus": {"fp_style": "abacus", "user_fp_params": {"ecutwfc": 80}, "k_points": [1, 1, 1, 0, 0, 0]},
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", [None, True, -1, "x", "", [], {"a": 1}, [None]], ids=repr)
def test_no_value_of_a_style_makes_an_import_fall_over(tmp_path: Path, style: str, value: Any) -> None:
    param = {**PARAM, **STYLES[style]}
    for place in places(STYLES[style]):
        try:
            imported(tmp_path, put(param, place, value), MACHINE)
        except ConfigError as error:
            assert "param.json: " in str(error), (place, str(error))


@pytest.mark.parametrize("value", [None, True, -1, "x", "", [], {"a": 1}, [None]], ids=repr)
def test_no_value_of_a_machine_of_before_makes_an_import_fall_over(tmp_path: Path, value: Any) -> None:
    for place in places(FLAT):
        try:
            imported(tmp_path, PARAM, put(FLAT, place, value))
        except ConfigError as error:
            assert ".json" in str(error), (place, str(error))
