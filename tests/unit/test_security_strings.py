"""What people write is data: Argo expands nothing in it, and no shell runs it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk

from conventions.errors import ConfigError, DataError, Dpgen2Error
from conventions.names import STAGES
from conventions.space import DataSpace
from operators.pod.s3 import Place
from operators.registry import app, load_config
from operators.workflow.builder import build
from statemachine.run.submission import argo_workflow
from statemachine.store.file import FileStore
from tests.conftest import CONFIG, STUBS
from tests.explore_run import ExploreRun
from tests.figures import Figures
from tests.label_run import LabelRun, add_file
from tests.label_samples import SAMPLES, given
from tests.stage_harness import newest

from .test_pods import ENGINE, POD

TEMPLATES = "{{workflow.uid}}{{=asInt('1')}}"
SHELL = '$(touch "$CANARY");`touch "$CANARY"`;touch "$CANARY" #\'" -x * ~ & | > \\'

HPC = {
    "machine": {
        "batch_type": "Slurm", "context_type": "SSHContext", "remote_root": "/scratch/x",
        "remote_profile": {"hostname": "hpc.example.org", "username": "me", "host_key": "ssh-ed25519 AAAA",
                           "key_filename": "~/k"},
    },
    "resources": {
        "queue_name": "gpu", "custom_flags": ["#SBATCH --mem=1G"], "module_list": ["cp2k/2024"],
        "source_list": ["/opt/env.sh"],
        "module_unload_list": ["x"], "envs": {"A": "b", "C": ["d"]}, "prepend_script": ["ulimit -s"],
        "append_script": ["true"],
        "kwargs": {"custom_gpu_line": "#SBATCH --gres=gpu:1"},
    },
    "ssh_key": {"name": "ssh", "key": "id"},
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "run": "cu", "prefix": "s3://bucket/runs/cu?endpoint=https://s3.example.org&region=eu-west-1", "engine": ENGINE,
    "type_map": ["Cu"], "structures": {"start": {"files": ["cu.xyz"], "format": "extxyz"}},
    "init": {
        "label": ["start"], "data": {"old": {"path": "data", "format": "deepmd/npy"}},
        "test": {"hot": {"path": "test"}},
    },
    "label": {"app": "cp2k", "input": "cp2k.inp", "files": ["BASIS"], "image": "cp2k:1", "command": "cp2k",
              "setup": ["true"],
              "pod": {**POD, "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes",
                                        "effect": "NoSchedule"}]}},
    "train": {"app": "deepmd", "input": "input.json", "hpc": HPC},
    "explore": {
        "app": "lammps", "pod": POD,
        "stages": [[{"structures": ["start"], "template": "in.lammps", "plumed": "plumed.dat",
                     "revisions": {"V_T": [1, "x"]}}]],
    },
    "select": {"app": "model_devi", "f_trust_lo": {"start": 0.1}, "f_trust_hi": 0.3, "fp_task_max": 9},
}  # fmt: skip
ASE = {"app": "ase", "calculator": "ase.calculators.emt:EMT", "kwargs": {"a": ["b"], "c": {"d": "e"}}}


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every text of a document, keys too (marked by a trailing None)."""
    if isinstance(value, str):
        yield where
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else []):
        if isinstance(key, str) and where:
            yield (*where, key, None)
        yield from places(item, (*where, key))


def spoiled(document: dict[str, Any], where: tuple[Any, ...], text: str) -> dict[str, Any]:
    """A copy with `text` put behind what is at a place."""
    made = copy.deepcopy(document)
    *path, last = where if where[-1] is not None else where[:-1]
    inner = made
    for key in path:
        inner = inner[key]
    if where[-1] is None:
        inner[last + text] = inner.pop(last)
    else:
        inner[last] += text
    return made


def manifests(config: Any, stages: Sequence[str] = STAGES) -> str:
    """Workflows of a configuration, as they are sent."""
    place = DataSpace(config.apps)
    facts = {
        "iteration": 1, "attempt": 0, "last": False, "finished": 0,
        "has_models": True, "has_selected": True, "explore_stage": 0,
        "systems": ["init/a/Cu1"], "calibration": {},
    }  # fmt: skip
    found = []
    for stage in stages:
        settings = config.stages[stage]
        what = (
            f"{config.run}-00000000-000001-{stage}-a0",
            app(stage, settings.app),
            place.stage(stage, 1, newest(stage, 1)),
            facts,
        )
        found.append(argo_workflow(what, config.engine, settings, Place.parse(config.prefix)).manifest)
    return json.dumps(found)


def whole(document: dict[str, Any]) -> Any:
    return load_config(json.dumps(document).encode())


def sent(document: dict[str, Any], where: tuple[Any, ...], plain: dict[str, str]) -> bool:
    """Does a text at this place reach a manifest, or change one?"""
    try:
        config = whole(spoiled(document, where, TEMPLATES))
        stage = where[0] if where[0] in STAGES else "explore"
        return manifests(config, [stage]) != plain[stage]
    except Dpgen2Error:
        return False


def test_templates_in_any_text_are_refused_or_never_sent(figure: Figures) -> None:
    documents = [(DOCUMENT, where) for where in places(DOCUMENT)]
    other = {**DOCUMENT, "label": ASE}
    documents += [(other, where) for where in places(other) if where[0] == "label"]
    assert len(documents) > 130
    plain = {stage: manifests(whole(DOCUMENT), [stage]) for stage in STAGES}
    ase = {**plain, "label": manifests(whole(other), ["label"])}
    known = {id(DOCUMENT): plain, id(other): ase}
    assert [where for document, where in documents if sent(document, where, known[id(document)])] == []
    figure("security: texts of a configuration tried as templates", len(documents))


def test_the_search_for_templates_sees_them() -> None:
    """An environment variable of a pod is one that does reach the manifest."""
    plain = {"explore": manifests(whole(DOCUMENT), ["explore"])}
    changed = spoiled(DOCUMENT, ("explore", "pod", "env", "OMP_NUM_THREADS"), "0")
    assert manifests(whole(changed), ["explore"]) != plain["explore"]


def test_names_in_the_store_are_not_expanded() -> None:
    """The systems of the dataset are found by listing, and travel as a file; what a parameter holds is refused."""
    facts = {"iteration": 1, "has_models": True, "systems": ["init/a/{{workflow.uid}}"], "attempt": 0}
    facts |= {"last": False, "finished": 0}
    apps = {"label": "cp2k", "train": "deepmd", "explore": "lammps", "select": "model_devi"}
    what = ("w", app("train", "deepmd"), DataSpace(apps).stage("train", 1, newest("train", 1)), facts)
    manifest = build(*what, prefix="file:///x", image="i").manifest
    assert "init/a" not in json.dumps(manifest)
    with pytest.raises(DataError, match="Argo would expand"):
        build(*what, prefix="file:///{{workflow.uid}}", image="i")


@pytest.mark.parametrize(
    "text",
    ["https://h/{{x}}", "https://h/$(KEY)", "https://h/`x`", "https://$HOST/", "https://h/\n", "https://h/'", 'https://h/"'],
)  # fmt: skip
def test_odd_addresses_are_refused(text: str) -> None:
    for change in ({"hook": {**ENGINE["hook"], "url": text}}, {"server": text}, {"repository": {"endpoint": text}}):
        with pytest.raises(DataError):
            load_config(json.dumps({**DOCUMENT, "engine": {**ENGINE, **change}}).encode())
    with pytest.raises(ConfigError):
        Place.parse(f"s3://bucket/run?endpoint={text}")


def scripts(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("run.sh"))}


def spoilt(folder: Path, app: str, text: str) -> dict[str, Any]:
    """What a user may write for a program, with that text in it."""
    line = f"{text}\n".replace('"', "")
    return {
        "qe": {"input": given(folder, "x", f"! {line}&system\necutwfc=1, title='{line.strip()}'\n/\nK_POINTS gamma\n")},
        "vasp": {"incar": given(folder, "x", f"SYSTEM = {line}KSPACING = 1\n")},
        "abacus": {"input": given(folder, "x", f"# {line}INPUT_PARAMETERS\nkspacing 1\nnote {line}")},
        "gaussian": {"keywords": f"hf/3-21g {text}", "basis_set": text},
        "nwchem": {"input": given(folder, "x", f"title x{line}task dft\n")},
    }[app]


def test_no_text_of_others_comes_into_a_script(tmp_path: Path) -> None:
    """run.sh of each real app is the same whatever is in the names, files, options and frames."""
    found: list[list[dict[str, bytes]]] = []
    for number, text in enumerate(["x", SHELL]):
        root = tmp_path / str(number)
        for name in ("ase", "cp2k", "explore"):
            (root / name).mkdir(parents=True)
        atoms = bulk("Cu", cubic=True)
        atoms.info["comment"] = text
        label = LabelRun(root / "ase", {**ASE, "kwargs": {"a": text, text: [text]}}, [atoms], ["Cu"])
        assert label.plan().job_ids == ["000000"]
        template = f"&FORCE_EVAL\n&PRINT\n&FORCES ON\n&END\n&END\n! {text}\n&END\n"
        (root / "x.inp").write_text(template)
        stored = add_file(root / "cp2k", root / "x.inp")
        cp2k = LabelRun(root / "cp2k", {"app": "cp2k", "input": stored}, [atoms], ["Cu"])
        assert cp2k.plan().job_ids == ["000000"]
        labelled = []
        for name, sample in SAMPLES.items():
            folder = root / name
            folder.mkdir()
            settings = {**sample.settings(folder), **spoilt(folder, name, text)}
            run = LabelRun(folder, {"app": name, **settings}, [sample.frame], sample.type_map)
            assert run.plan().job_ids == ["000000"]
            labelled.append(scripts(folder))
        lines = f"# {text}\n"
        lines += "units metal\natom_style atomic\npair_style deepmd\npair_coeff * *\n"
        lines += "read_data conf.lmp\ndump dpgen_dump\nrun V_N\n"
        group = {"structures": ["s"], "template": "@in.lammps", "revisions": {"V_N": [10]}}
        explore = ExploreRun(root / "explore", {"s": [atoms]}, [[group]], ["Cu"], texts={"in.lammps": lines})
        assert explore.plan().job_ids == ["000000"]
        found.append([*labelled, *(scripts(root / name) for name in ("ase", "cp2k", "explore"))])
    assert found[0] == found[1] and all(found[0])


@pytest.mark.slow
def test_odd_folders_and_reasons_are_data(tmp_path: Path) -> None:
    """A whole campaign in a folder with an unpleasant name; nothing in it is run."""
    root = tmp_path / "a b {{workflow.uid}} $(touch canary); `touch canary`; 'touch canary' & \"x\" * -rf"
    (root / "tmp").mkdir(parents=True)
    (root / "cu.xyz").write_text(
        '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 x="$(touch canary)"\nCu 0 0 0\n'
    )
    config = CONFIG.replace("accurate_after: 1", "accurate_after: 0")
    (root / "-run $(touch canary).yaml").write_text(config)
    env = {**os.environ, "PYTHONPATH": f"{STUBS}", "TMPDIR": str(root / "tmp"), "CANARY": str(tmp_path / "canary")}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", "from statemachine.cli import main; main()", *arguments]
        return subprocess.run(line, cwd=root, env=env, text=True, capture_output=True)

    name = "./-run $(touch canary).yaml"
    assert command("init", name).returncode == 0
    assert command("pause", name, "--reason", SHELL + "\n{{workflow.uid}}").returncode == 0
    assert command("resume", name).returncode == 0
    assert "converged" in command("status", name).stdout
    assert list(tmp_path.rglob("canary")) == []
    assert FileStore.of(root / "out").get("state.json")


def test_the_wrapper_takes_names_as_they_are(tmp_path: Path) -> None:
    """job.sh in a folder with an unpleasant name, with outputs of unpleasant names."""
    root = tmp_path / "a b $(touch canary) `touch canary`;'\"*"
    task = root / "in/task.000000"
    task.mkdir(parents=True)
    outputs = ["-x", "a b", "$(touch canary)", "`touch canary`;", "*", "'\""]
    (root / "in/run.sh").write_text('while read -r need name; do : >"./$name"; done <"$JOB_JOB/outputs"\n')
    (root / "in/outputs").write_text("".join(f"need {name}\n" for name in outputs))
    (root / "in/digest").write_text("0" * 64 + "\n")
    spots = {"JOB": "in", "PREVIOUS": "none", "OUT": "place/out", "LOG": "place/log", "DONE": "place/done"}
    env = {f"JOB_{name}": str(root / spot) for name, spot in spots.items()}
    done = subprocess.run(
        ["sh", str(files("operators.pod") / "job.sh")], cwd=root, env={**os.environ, **env, "JOB_ID": "000000"}
    )
    assert list(tmp_path.rglob("canary")) == []
    assert sorted(path.name for path in (root / "place/out/task.000000").iterdir()) == sorted(outputs)
    assert done.returncode == 0
