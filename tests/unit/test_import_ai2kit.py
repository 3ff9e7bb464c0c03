"""`dpgen2-sm import` of ai2-kit's files: each key goes where the tables say, and nothing is lost in silence."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ruamel.yaml import YAML

from conventions.errors import ConfigError
from statemachine.importer.ai2kit import keys
from statemachine.importer.make import make
from statemachine.importer.report import Outcome
from statemachine.importer.source import Table
from statemachine.run.config_file import read_config
from tests.conftest import Cli
from tests.unit.test_import_dpgen import PARAM

SCRIPT = {"header": "#SBATCH -N 1\nulimit -s unlimited\n", "setup": "module load x\n", "teardown": "echo done"}
INPUT: dict[str, Any] = {
    ".base": "/data",
    "artifacts": {
        "init": {"url": "data/init"},
        "test": {"url": "data/test", "attrs": {"deepmd": {"validation_data": True}}},
        "start": {"url": "structures", "includes": "*.vasp"},
    },
    "executors": {
        "here": {
            "ssh": {"host": "jdoe@login.example.org:2222"},
            "queue_system": {"slurm": {"polling_interval": 5}},
            "work_dir": "/scratch/jdoe",
            "python_cmd": "python3",
            "context": {
                "train": {"deepmd": {"script_template": SCRIPT, "dp_cmd": "dp", "concurrency": 4}},
                "explore": {"lammps": {"script_template": SCRIPT, "lammps_cmd": "lmp"}},
                "label": {"cp2k": {"script_template": SCRIPT, "cp2k_cmd": "cp2k.psmp"}},
            },
        }
    },
    "workflow": {
        "general": {"type_map": ["H", "O"], "mass_map": [1, 16], "max_iters": 5, "update_explore_systems": False},
        "train": {
            "deepmd": {
                "model_num": 3,
                "init_dataset": ["init"],
                "input_template": PARAM["default_training_param"],
                "dp_train_opts": "--skip-neighbor-stat",
                "init_from_previous": True,
            }
        },
        "explore": {
            "lammps": {
                "system_files": ["start"],
                "explore_vars": {"TEMP": [300, 600], "PRES": 1},
                "ensemble": "npt",
                "nsteps": 1000,
                "timestep": 0.0002,
                "sample_freq": 20,
            }
        },
        "select": {"model_devi": {"f_trust_lo": 0.1, "f_trust_hi": 0.4, "workers": 2}},
        "label": {
            "cp2k": {
                "limit": 30,
                "limit_method": "random",
                "ignore_error": True,
                "init_system_files": ["start"],
                "template_vars": {"CUT": 400},
                "input_template": "&FORCE_EVAL\n &PRINT\n  &FORCES ON\n  &END\n &END\n"
                " &DFT\n  &MGRID\n   CUTOFF $$CUT\n  &END\n &END\n"
                " &SUBSYS\n  @include coord_n_cell.inc\n &END\n&END\n",
            }
        },
        "update": {
            "walkthrough": {
                "passing_rate_threshold": 0.8,
                "table": [{"explore": {"lammps": {"nsteps": 5000}}}, {"train": {"deepmd": {"model_num": 9}}}],
            }
        },
    },
}


def changed(place: str, value: Any, document: dict[str, Any] = INPUT) -> dict[str, Any]:
    """A copy with another value at a place; None takes the key away."""
    made = copy.deepcopy(document)
    *parts, last = place.split("/")
    here = made
    for part in parts:
        here = here.setdefault(part, {})
    if value is None:
        here.pop(last, None)
    else:
        here[last] = value
    return made


def imported(tmp_path: Path, document: dict[str, Any]) -> tuple[Any, Any]:
    """The configuration that an import makes, and its report."""
    source = tmp_path / "cll.yml"
    source.write_text(json.dumps(document))  # JSON is YAML, too
    made = make([source])
    shutil.rmtree(made.folder, ignore_errors=True)
    made.write()
    return YAML(typ="safe").load((made.folder / "run.yaml").read_text()), made.report


def test_a_whole_campaign(tmp_path: Path) -> None:
    config, report = imported(tmp_path, INPUT)
    assert (config["type_map"], config["mass_map"], config["max_iterations"]) == (["H", "O"], [1, 16], 5)
    assert config["init"] == {
        "data": {"init": {"path": "../data/init", "format": "deepmd/npy"}},
        "test": {"test": {"path": "../data/test", "format": "deepmd/npy"}},
        "label": ["start"],
    }
    assert config["structures"] == {"start": {"files": ["../structures/*.vasp"]}}
    train = config["train"]
    assert (train["numb_models"], train["skip_neighbor_stat"], train["training_reuse_iter"]) == (3, True, 1)
    first, second, third = (stage[0] for stage in config["explore"]["stages"])
    assert first == {
        "structures": ["start"], "ensemble": "npt", "temps": [300, 600], "press": [1], "tau_t": 0.1, "tau_p": 0.5,
        "nsteps": 1000, "dt": 0.0002, "trj_freq": 20,
    }  # fmt: skip
    assert (second, third) == ({**first, "nsteps": 5000}, first), "a row changes the first settings, not those before"
    assert config["convergence"] == {"accuracy": 0.8}
    assert (config["select"]["fp_task_max"], config["label"]["ratio_failed"]) == (30, 1.0)
    hpc = config["label"]["hpc"]
    assert hpc["machine"]["remote_profile"] == {"hostname": "login.example.org", "username": "jdoe", "port": 2222}
    assert (hpc["machine"]["batch_type"], hpc["machine"]["remote_root"]) == ("Slurm", "/scratch/jdoe")
    assert hpc["resources"] == {
        "number_node": 1, "custom_flags": ["#SBATCH -N 1"], "append_script": ["echo done"],
        "prepend_script": ["ulimit -s unlimited", "module load x"],
    }  # fmt: skip
    text = (tmp_path / "dpgen2-sm/cp2k.inp").read_text()
    assert "CUTOFF 400" in text and "coord_n_cell" not in text
    assert [row.source for row in report.losses] == ["cll.yml: workflow.update.walkthrough.table[].train.deepmd"]


def test_it_is_valid_once_all_files_are_there(tmp_path: Path, cli: Cli) -> None:
    random = np.random.default_rng(1)
    data = {
        "atom_names": ["H", "O"], "atom_numbs": [2, 1], "atom_types": np.array([0, 0, 1]), "orig": np.zeros(3),
        "cells": np.array([np.eye(3) * 9] * 3), "coords": random.normal(size=(3, 3, 3)) + 4,
        "energies": random.normal(size=3), "forces": random.normal(size=(3, 3, 3)),
    }  # fmt: skip
    for name in ("init", "test"):
        dpdata.LabeledSystem(data=data).to("deepmd/npy", str(tmp_path / "data" / name))
    (tmp_path / "structures").mkdir()
    dpdata.System(data=data).to("vasp/poscar", str(tmp_path / "structures/a.vasp"))
    imported(tmp_path, INPUT)
    read_config(tmp_path / "dpgen2-sm/run.yaml")
    code, _, errors = cli("validate", tmp_path / "dpgen2-sm/run.yaml")
    assert code == 0, errors


def test_without_a_threshold_each_row_is_one_iteration(tmp_path: Path) -> None:
    config, _ = imported(tmp_path, changed("workflow/update/walkthrough/passing_rate_threshold", None))
    steps = [stage[0]["nsteps"] for stage in config["explore"]["stages"]]
    assert (steps, config["convergence"]) == ([1000, 5000, 1000, 1000, 1000], {"repeat": "once"})


def test_without_a_table_the_run_ends_when_nothing_is_left_to_label(tmp_path: Path) -> None:
    config, report = imported(tmp_path, changed("workflow/update", None))
    assert (len(config["explore"]["stages"]), config["convergence"]) == (1, {"accuracy": 1.0})
    assert not report.losses


def test_jobs_on_this_machine_have_a_setup(tmp_path: Path) -> None:
    document = changed("executors/here/ssh", None, changed("executors/here/queue_system", {}))
    config, report = imported(tmp_path, document)
    assert config["train"]["setup"] == ["ulimit -s unlimited", "module load x"]
    assert "hpc" not in config["train"]
    assert {row.source.rpartition(".")[2] for row in report.losses} == {"deepmd", "teardown"}


def test_vasp(tmp_path: Path) -> None:
    vasp = {
        "input_template": {"ENCUT": 400, "LREAL": False, "MAGMOM": [1, 2]}, "kpoints_template": "k\n0\nGamma\n1 1 1\n",
        "potcar_source": {"H": "pp/H", "O": "/pp/O"},
    }  # fmt: skip
    config, _ = imported(tmp_path, changed("workflow/label", {"vasp": vasp}))
    label = config["label"]
    assert (label["app"], label["potcar"]) == ("vasp", {"H": "../pp/H", "O": "/pp/O"})
    assert (tmp_path / "dpgen2-sm/INCAR").read_text() == "ENCUT = 400\nLREAL = F\nMAGMOM = 1 2\n"
    assert (tmp_path / "dpgen2-sm" / label["kpoints"]).read_text().startswith("k\n0")
    assert (label["ratio_failed"], config["select"]["fp_task_max"]) == (0.0, 50)
    vasp |= {"input_template": "vasp/INCAR", "kpoints_template": None}
    config, _ = imported(tmp_path, changed("workflow/label", {"vasp": vasp}))
    assert config["label"]["incar"] == "../vasp/INCAR" and "kpoints" not in config["label"]


def test_an_input_of_free_energy_perturbation_is_told_as_lost(tmp_path: Path) -> None:
    """Its frames have inputs of their own, in the artifacts."""
    document = changed("workflow/general/mode", "fep-pka", changed("workflow/label/cp2k/input_template", None))
    attributes = {"fep-ini": {"cp2k": {"input_template": "x"}}}
    config, report = imported(tmp_path, changed("artifacts/start/attrs", attributes, document))
    assert "input" not in config["label"]
    assert {"cll.yml: workflow.general.mode", "cll.yml: artifacts.start.attrs"} <= {row.source for row in report.losses}
    assert any("label.input" in text for text in report.warnings)


def test_other_explorations_are_told_as_lost(tmp_path: Path) -> None:
    lasp = {"input_template": {"SSW.SSWsteps": 50}, "system_files": ["start"], "potential": {"lammps": {}}}
    config, report = imported(tmp_path, changed("workflow/explore", {"lasp": lasp}))
    assert (config["explore"]["app"], config["explore"]["stages"]) == ("lasp", [])
    assert {row.source.rpartition(".")[2] for row in report.losses} >= {"lasp", "input_template", "potential"}
    assert any("write this stage by hand" in text for text in report.warnings)


def test_several_files_are_one_input(tmp_path: Path) -> None:
    """What is given later counts, also inside of a mapping; messages name the file."""
    (tmp_path / "a.yml").write_text(json.dumps({key: INPUT[key] for key in ("artifacts", "executors", "workflow")}))
    (tmp_path / "b.yaml").write_text(
        "workflow:\n  explore:\n    lammps:\n      nsteps: 77\n      custom_ff: !load_text ff.txt\n"
        "  label: {cp2k: {input_template: !join [a, b, c]}}\n"
        "  train: {deepmd: {input_template: !load_yaml [sub, input.json]}}\n"
    )
    (tmp_path / "ff.txt").write_text("pair_style zero")
    (tmp_path / "sub").mkdir()
    template = {**PARAM["default_training_param"], "training": {"numb_steps": 123}}
    (tmp_path / "sub/input.json").write_text(json.dumps(template))
    made = make([tmp_path / "a.yml", tmp_path / "b.yaml"])
    config = YAML(typ="safe").load(made.files["run.yaml"])
    assert config["explore"]["stages"][0][0]["nsteps"] == 77
    assert made.files["cp2k.inp"] == "abc\n"
    assert json.loads(made.files["input.json"])["training"]["numb_steps"] == 123
    assert "b.yaml: workflow.explore.lammps.custom_ff" in {row.source for row in made.report.losses}
    assert "a.yml: workflow.general.type_map" in {row.source for row in made.report}


PLACES = [
    ("", keys.TOP), ("workflow", keys.WORKFLOW), ("workflow/general", keys.GENERAL), ("artifacts/init", keys.ARTIFACT),
    ("workflow/train", keys.TRAIN), ("workflow/train/deepmd", keys.DEEPMD), ("workflow/explore", keys.EXPLORE),
    ("workflow/explore/lammps", keys.LAMMPS), ("workflow/explore/lasp", keys.LASP),
    ("workflow/explore/anyware", keys.ANYWARE), ("workflow/select", keys.SELECT),
    ("workflow/select/model_devi", keys.MODEL_DEVI), ("workflow/label", keys.LABEL),
    ("workflow/label/cp2k", keys.CP2K), ("workflow/label/vasp", keys.VASP), ("workflow/update", keys.UPDATE),
    ("workflow/update/walkthrough", keys.WALKTHROUGH), ("executors/here", keys.EXECUTOR),
    ("executors/here/ssh", keys.SSH), ("executors/here/queue_system", keys.QUEUES),
    ("executors/here/queue_system/slurm", keys.QUEUE), ("executors/here/context", keys.CONTEXT),
    ("executors/here/context/train", keys.PROGRAMS), ("executors/here/context/train/deepmd", keys.PROGRAM),
    ("executors/here/context/train/deepmd/script_template", keys.SCRIPT),
]  # fmt: skip
VALUES = [{}, [], "x", 1, True, ["start"], {"x": 1}]


def test_every_table_has_a_place_here() -> None:
    assert {id(table) for _, table in PLACES} == {id(table) for table in keys.TABLES.values()}


@pytest.mark.parametrize(("place", "table"), PLACES)
def test_every_key_of_the_tables_is_reported(tmp_path: Path, place: str, table: Table) -> None:
    """Each is given with a value that the import takes; its row is there, and is what the table says or a reason."""
    base = INPUT
    if place.startswith("workflow/label/vasp"):
        base = changed("workflow/label", {"vasp": {"input_template": "ENCUT = 1"}})
    for key in table:
        where = f"{place}/{key.name}".lstrip("/")
        given: Any = base
        for part in where.split("/"):
            given = given.get(part) if isinstance(given, dict) else None
        rows = []
        for value in [given] if given is not None else VALUES:
            try:
                _, report = imported(tmp_path, changed(where, value, base))
            except ConfigError:
                continue
            wanted = where.replace("/", ".")
            rows = [row for row in report if row.source == f"cll.yml: {wanted}"]
            break
        assert len(rows) == 1, where
        if key.outcome is Outcome.LOST:
            assert rows[0].outcome in (Outcome.LOST, Outcome.UNNEEDED) and rows[0].note


def test_every_key_that_is_given_has_a_row(tmp_path: Path) -> None:
    document = changed("workflow/explore/lammps/nstep", 3, changed("workflow/selekt", {}))
    document = changed("executors/here/context/label/cp2k/cmd", "x", document)
    _, report = imported(tmp_path, document)
    notes = {row.source: row.note for row in report.losses}
    assert "did you mean 'nsteps'" in notes["cll.yml: workflow.explore.lammps.nstep"]
    assert "unknown key" in notes["cll.yml: workflow.selekt"]
    assert "unknown key" in notes["cll.yml: executors.here.context.label.cp2k.cmd"]


def test_secrets_are_not_copied(tmp_path: Path) -> None:
    ssh = {"host": "login", "password": "hunter2", "gateway": {"host": "jump", "password": "hunter3"}}
    _, report = imported(tmp_path, changed("executors/here/ssh", ssh))
    written = "".join(path.read_text() for path in (tmp_path / "dpgen2-sm").iterdir())
    assert "hunter" not in written
    assert any("password was not copied" in text for text in report.warnings)
    assert {"cll.yml: executors.here.ssh.password", "cll.yml: executors.here.ssh.gateway"} <= {
        row.source for row in report.losses
    }


BAD: dict[str, tuple[Any, str]] = {
    "no workflow": ({"artifacts": {}}, "cll.yml: workflow: this key is required"),
    "no type_map": (changed("workflow/general/type_map", None), "workflow.general.type_map: this key is required"),
    "no label": (changed("workflow/label", None), "label.cp2k or label.vasp is required"),
    "an unknown artifact": (
        changed("workflow/explore/lammps/system_files", ["strat"]), "system_files: there is no artifact 'strat'"
    ),
    "no temperatures": (
        changed("workflow/explore/lammps/explore_vars", {"PRES": 1}), "explore_vars.TEMP: numbers are expected"
    ),
    "a template without a model": (changed("workflow/train/deepmd/input_template", {}), "it has no model or no"),
    "no host": (changed("executors/here/ssh", {"host": "a@b@c"}), "user@host or user@host:port is expected"),
    "a list of artifacts": (changed("artifacts", [1]), "artifacts: a mapping of keys is expected"),
    "a table of numbers": (changed("workflow/update/walkthrough/table", [1]), "table[0]: a mapping of keys is"),
    "a tag without a file": ("workflow: {general: !load_yaml nothing.yml}", "line 1: !load_yaml: there is no file"),
    "a file that loads itself": ("workflow: {general: !load_yaml cll.yml}", "cll.yml would load itself"),
    "an unknown tag": ("workflow: {general: !python x}", "not YAML: could not determine a constructor"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_are_refused_and_nothing_is_written(tmp_path: Path, cli: Cli, case: str) -> None:
    document, expected = BAD[case]
    (tmp_path / "cll.yml").write_text(document if isinstance(document, str) else json.dumps(document))
    code, _, errors = cli("import", tmp_path / "cll.yml")
    assert code == 2 and expected in errors and "cll.yml" in errors, errors
    assert not (tmp_path / "dpgen2-sm").exists()


def test_a_file_of_another_program_beside_it_is_refused(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "cll.yml").write_text(json.dumps(INPUT))
    (tmp_path / "param.json").write_text(json.dumps(PARAM))
    code, _, errors = cli("import", tmp_path / "cll.yml", tmp_path / "param.json")
    assert code == 2 and "param.json: no file of ai2-kit" in errors


def test_a_campaign_is_not_adopted(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "cll.yml").write_text(json.dumps(INPUT))
    code, _, errors = cli("import", tmp_path / "cll.yml", "--adopt", tmp_path)
    assert code == 2 and "is of ai2-kit; of DP-GEN and DPGEN2 it can be done" in errors
    assert not (tmp_path / "dpgen2-sm").exists()
