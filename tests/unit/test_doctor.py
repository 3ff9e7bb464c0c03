"""`doctor RUN`: each thing that is wrong is found before it is paid for, and what was not tried is said."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.io import write

from conventions.errors import StoreError
from conventions.hpc import Hpc
from conventions.names import sha256
from operators.registry import app, config_model
from operators.train.neighbours import short_sel
from statemachine.cli.show import print_checks
from statemachine.engine.batch_check import check_batch
from statemachine.run import stage_checks
from statemachine.run.checks import Check
from statemachine.run.stage_checks import check_stages
from tests.conftest import CONFIG, Cli
from tests.servers import Server

NOT_TRIED = "`doctor --try` runs one tiny job there"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a program on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(stage_checks, "_path", lambda: f"{folder}:/usr/bin:/bin")

    def make(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
        (folder / name).chmod(0o755)

    return make


def config(tmp_path: Path, **changes: dict[str, Any]) -> Any:
    """A configuration as the store keeps it, with its files in the folder."""
    write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    document = yaml.safe_load(CONFIG)
    document["structures"]["start"]["files"] = ["cu.extxyz"]
    for key, change in changes.items():
        document[key] = {**(document[key] if change.get("app") in (None, "stub") else {}), **change}
    return config_model(document).from_json(document, "test")


def stored(folder: Path, name: str, data: bytes) -> str:
    """A user's file as the store holds it."""
    key = f"{sha256(data)}/{name}"
    (folder / key).parent.mkdir()
    (folder / key).write_bytes(data)
    return key


def with_structure(folder: Path, atoms: Atoms, type_map: list[str]) -> Any:
    """A configuration with one structure, which is in the folder."""
    write(folder / "atoms.extxyz", atoms)
    document = yaml.safe_load(CONFIG) | {"type_map": type_map}
    document["structures"]["start"]["files"] = [stored(folder, "a.extxyz", (folder / "atoms.extxyz").read_bytes())]
    return config_model(document).from_json(document, "test")


def found(checks: Iterable[Check], what: str) -> list[tuple[bool | None, str]]:
    return [(check.good, check.detail) for check in checks if check.what == what]


# The programs of each stage -----------------------------------------------------------------------------------------

LAMMPS = {"explore": {"app": "lammps", "stages": [[{"structures": ["start"], "ensemble": "nvt", "temps": [300],
                                                    "nsteps": 10, "trj_freq": 5}]]}}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "good", "words"),
    [
        ("LAMMPS (22 Jul 2025)\nERROR: Illegal pair_style command (pair_deepmd.cpp:651)", True, "LAMMPS (22 Jul 2025)"),
        (
            "LAMMPS (22 Jul 2025)\nERROR: Unrecognized pair style 'deepmd' (force.cpp:275)",
            False,
            "no pair_style deepmd",
        ),
        ("lmp: error while loading shared libraries: libdeepmd.so", False, "shared libraries: libdeepmd.so"),
        ("LAMMPS (1 Jan 2020)\nERROR: Unknown command: region\nLast command: region", False, "Unknown command: region"),
    ],
)
def test_a_lammps_with_and_without_the_plugin(
    tmp_path: Path, program: Callable[..., None], said: str, good: bool, words: str
) -> None:
    program("lmp", f"grep -q '^pair_style deepmd$' probe.in && cat <<'END'\n{said}\nEND\nexit 1")
    ((seen, detail),) = found(check_stages(config(tmp_path, **LAMMPS), tmp_path), "explore/lammps")
    assert seen is good and words in detail


def test_a_plugin_that_the_users_template_loads(tmp_path: Path) -> None:
    template = stored(tmp_path, "in.lammps", b"# mine\nplugin load /opt/libdeepmd_lmp.so\nunits metal\n")
    group = {"structures": ["start"], "template": template, "trj_freq": 5}
    settings = config(tmp_path, explore={"app": "lammps", "stages": [[group]]})
    probe = app("explore", "lammps").probe(settings, tmp_path)
    assert str(probe["probe.in"]).startswith("plugin load /opt/libdeepmd_lmp.so\nunits metal\n")


TRAIN = {"train": {"app": "deepmd", "input": "x"}}


@pytest.mark.parametrize(
    ("dp", "python", "good", "words"),
    [
        ("echo warning; echo DeePMD-kit v3.2.0", "echo 2.21.0", True, "DeePMD-kit v3.2.0, TensorFlow 2.21.0"),
        ("echo DeePMD-kit v3.2.0", "echo 'ModuleNotFoundError: x' >&2; exit 1", False, "imported: ModuleNotFoundError"),
        ("echo 'ImportError: libtorch.so' >&2; exit 1", "echo 2.21.0", False, "ImportError: libtorch.so"),
    ],
)
def test_dp_and_its_backend(
    tmp_path: Path, program: Callable[..., None], dp: str, python: str, good: bool, words: str
) -> None:
    program("dp", dp)
    program("python3", python)
    seen, detail = found(check_stages(config(tmp_path, **TRAIN), tmp_path), "train/deepmd")[0]
    assert seen is good and words in detail


def test_dp_and_pytorch(tmp_path: Path, program: Callable[..., None]) -> None:
    program("dp", "echo DeePMD-kit v3.2.0")
    program("python3", 'echo "$2" | grep -q "import torch;" && echo 2.11.0')
    settings = config(tmp_path, train={**TRAIN["train"], "backend": "pytorch"})
    detail = found(check_stages(settings, tmp_path), "train/deepmd")[0]
    assert detail == (True, "DeePMD-kit v3.2.0, PyTorch 2.11.0")


def test_mace_and_its_pytorch(tmp_path: Path, program: Callable[..., None]) -> None:
    settings = config(tmp_path, train={"app": "mace", "input": "x"})
    program("mace_run_train", "echo usage")
    program("python3", 'echo "$2" | grep -q "^import mace" && echo MACE 0.3.16 torch 2.15.0')
    assert found(check_stages(settings, tmp_path), "train/mace")[0] == (True, "MACE 0.3.16 torch 2.15.0")
    program("python3", "echo 'ModuleNotFoundError: mace' >&2; exit 1")
    assert found(check_stages(settings, tmp_path), "train/mace")[0] == (False, "ModuleNotFoundError: mace")
    somewhere = config(tmp_path, train={"app": "mace", "input": "x", "command": "env mace_run_train"})
    assert found(check_stages(somewhere, tmp_path), "train/mace")[0] == (True, "env mace_run_train")


VERSION = """\
 CP2K version 2023.1
   -D __COMPILE_ARCH="Linux" -D __DA
   TA_DIR="{folder}" -D __SHORT_FILE__="start/cp2k.F"
"""


def test_cp2k_and_its_data_files(tmp_path: Path, program: Callable[..., None]) -> None:
    data = tmp_path / "cp2k data"
    data.mkdir()
    program("cp2k.psmp", f"[ \"$1\" = --version ] && cat <<'END'\n{VERSION.format(folder=data)}END\n")
    text = (
        "&FORCE_EVAL\n METHOD QS\n &DFT\n BASIS_SET_FILE_NAME BASIS_MOLOPT\n POTENTIAL_FILE_NAME  mine\n &END\n"
        "&PRINT\n&FORCES ON\n&END\n&END\n&END\n"
    )
    names = [stored(tmp_path, "cp2k.inp", text.encode()), stored(tmp_path, "mine", b"potentials")]
    settings = config(tmp_path, label={"app": "cp2k", "input": names[0], "files": [names[1]]})
    ((good, detail),) = found(check_stages(settings, tmp_path), "label/cp2k")
    assert good is False
    assert (
        detail == f"BASIS_MOLOPT, which label.input names, is not in CP2K's data folder {data}: give it in label.files"
    )
    (data / "BASIS_MOLOPT").touch()
    assert found(check_stages(settings, tmp_path), "label/cp2k") == [(True, "CP2K version 2023.1")]


def test_a_calculator_that_cannot_be_made(tmp_path: Path) -> None:
    def check(**label: Any) -> tuple[bool | None, str]:
        settings = config(tmp_path, label={"app": "ase", "calculator": "ase.calculators.emt:EMT", **label})
        return found(check_stages(settings, tmp_path), "label/ase")[0]

    assert check()[0] is True and check()[1].startswith("ASE ")
    assert check(calculator="tblyte.ase:TBLite") == (False, "ModuleNotFoundError: No module named 'tblyte'")
    assert check(calculator="ase.calculators.emt:EMTT")[1].startswith("AttributeError: ")
    assert check(setup=["module load ase"], shell="bash") == (
        False, "error: the setup line 'module load ase' ended with exit code 127",
    )  # fmt: skip


def test_a_probe_gets_no_secret_of_the_poller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGO_TOKEN", "hunter2/hunter2")
    settings = config(tmp_path, label={"app": "ase", "calculator": "a:B", "command": 'echo "got $ARGO_TOKEN" #'})
    settings = settings.model_copy(update={"label": settings.label.model_copy(update={"setup": ["set +u"]})})
    assert found(check_stages(settings, tmp_path), "label/ase") == [(True, "got")]


# sel ----------------------------------------------------------------------------------------------------------------


def test_sel_is_counted_in_the_structures(tmp_path: Path) -> None:
    """Copper: 12 nearest neighbours at 2.55 Angstrom, 6 more at 3.61, 24 at 4.42."""
    settings = with_structure(tmp_path, bulk("Cu", cubic=True), ["Cu"])

    def short(**descriptor: Any) -> list[str]:
        return short_sel({"model": {"descriptor": descriptor}}, settings, tmp_path)

    assert short(type="se_e2_a", rcut=4.0, sel=[18]) == []
    (problem,) = short(type="se_e2_a", rcut=4.0, sel=[17])
    assert problem == (
        "train.input: descriptor.sel has 17 places, but an atom of structures.start has 18 neighbours (Cu) within "
        'rcut 4.0: give it at least 22, or "auto"'
    )
    assert short(type="se_atten", rcut=4.0, sel=17) and not short(type="se_atten", rcut=4.0, sel=18)
    assert not short(type="se_e2_a", rcut=4.0, sel="auto") and not short(type="dpa2", repinit={"nsel": 4})
    member = {"type": "se_e2_a", "rcut": 2.6, "sel": [12]}
    assert len(short(type="hybrid", list=[member, {**member, "rcut": 4.5}])) == 1


def test_sel_of_each_element(tmp_path: Path) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    settings = with_structure(tmp_path, atoms, ["Cl", "Na"])
    distances = np.sort(atoms.repeat(3).get_distances(0, range(1, 8 * 27), mic=True))
    assert (distances < 4.1).sum() == 18  # 6 of the other element, 12 of the same
    descriptor = {"type": "se_e2_a", "rcut": 4.1, "sel": [12, 11]}
    (problem,) = short_sel({"model": {"descriptor": descriptor}}, settings, tmp_path)
    assert "12 neighbours (Na)" in problem
    assert (
        "18 neighbours (Cl, Na)"
        in short_sel({"model": {"descriptor": {"rcut": 4.1, "sel": 17}}}, settings, tmp_path)[0]
    )


# Batch systems ------------------------------------------------------------------------------------------------------


def batch(machine: dict[str, Any], **more: Any) -> dict[str, tuple[bool | None, str]]:
    settings = Hpc.model_validate_json(json.dumps({"machine": {"batch_type": "Shell", **machine}, **more}))
    return {each.what: (each.good, each.detail) for each in check_batch(settings)}


def test_a_batch_system_of_this_machine(tmp_path: Path) -> None:
    here = {"context_type": "LocalContext", "remote_root": f"{tmp_path}/a folder"}
    seen = batch(here)
    assert seen["Shell"][0] is seen["remote_root"][0] is True and "GiB free" in seen["remote_root"][1]
    assert seen["queue"] == (None, "no queue_name is given: the batch system chooses one")
    assert list((tmp_path / "a folder").iterdir()) == []
    assert batch({**here, "remote_root": "/proc/none"})["remote_root"][0] is False


def test_a_queue_that_does_not_exist(
    tmp_path: Path, program: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("sbatch", "")
    program("sinfo", "[ \"$*\" != '--noheader --format=%R --partition=cpu' ] || echo cpu")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    slurm = {"batch_type": "Slurm", "context_type": "LocalContext", "remote_root": str(tmp_path / "root")}
    assert batch(slurm, resources={"queue_name": "cpu"})["queue"] == (True, "cpu")
    assert batch(slurm, resources={"queue_name": "gpu"})["queue"] == (False, "there is no gpu")


def test_dpdispatcher_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor RUN` was green, and the first job failed."""
    (tmp_path / "dpdispatcher.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    here = {"context_type": "LocalContext", "remote_root": str(tmp_path / "root")}
    assert batch(here) == {
        "batch system": (
            False, "dpdispatcher is missing where jobs are handed over: pip install 'dpgen2-sm[hpc]'",
        )
    }  # fmt: skip


def test_a_host_that_is_not_known_or_does_not_exist(tmp_path: Path) -> None:
    profile = {"hostname": "login.invalid", "username": "jdoe"}
    ssh = {"context_type": "SSHContext", "remote_root": "/scratch", "remote_profile": profile}
    good, detail = batch(ssh)["batch system"]
    assert good is False and "the host login.invalid is not known: compare `ssh-keyscan" in detail
    profile["host_key"] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmcS3Vbiv0tbFzXxNPwuWQ9v1mQ6q5tq0yBz1oR3k9o"
    good, detail = batch(ssh)["batch system"]
    assert good is False and detail.strip()


def test_a_stage_on_a_batch_system_is_not_tried_here_and_each_system_is_asked_once(tmp_path: Path) -> None:
    hpc = {"machine": {"batch_type": "Shell", "context_type": "LocalContext", "remote_root": str(tmp_path / "root")}}
    checks = list(check_stages(config(tmp_path, label={"hpc": hpc}, train={"hpc": hpc}), tmp_path))
    for what in ("label/stub", "train/stub"):
        assert found(checks, what) == [
            (None, f"not tried: it runs on Shell of this machine's batch system; {NOT_TRIED}")
        ]
    assert [check.what for check in checks if check.what.endswith("remote_root")] == ["label/stub: remote_root"]


# --try --------------------------------------------------------------------------------------------------------------


def test_one_tiny_job_of_each_stage_and_nothing_is_left(stub_run: Path, cli: Cli) -> None:
    code, output, errors = cli("doctor", "--try", stub_run)
    assert code == 0, output + errors
    lines = [line for line in output.splitlines() if " try " in line]
    assert [line.split()[:3] for line in lines] == [
        ["ok", "try", stage] for stage in ("label", "train", "explore", "select")
    ]
    assert [path.name for path in stub_run.parent.iterdir() if "trial" in path.name] == []


def test_it_works_for_a_run_that_has_begun_and_touches_nothing_of_it(stub_run: Path, cli: Cli) -> None:
    cli("init", stub_run)
    run = stub_run.parent / "out"

    def contents() -> dict[Path, bytes]:
        files = [path for path in run.rglob("*") if path.is_file() and ".lock" not in str(path)]
        return {path: path.read_bytes() for path in files}

    before = contents()
    code, output, _ = cli("doctor", "--try", "--json", stub_run)
    assert code == 0 and {"what": "try select", "good": True} in [
        {key: check[key] for key in ("what", "good")} for check in json.loads(output)
    ]
    assert contents() == before


def test_on_s3(stub_run: Path, cli: Cli, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from statemachine.store import open_store

    monkeypatch.setenv("HOME", str(tmp_path))
    stub_run.write_text(stub_run.read_text().replace("prefix: out", f"prefix: {s3.prefix('doctor/cu')}"))
    code, output, errors = cli("doctor", "--try", stub_run)
    assert code == 0 and output.count("ok  try") == 4, output + errors
    assert [entry.key for entry in open_store(s3.prefix("doctor")).list("") if "trial" in entry.key] == []
    assert list((tmp_path / ".cache/dpgen2-sm").glob("*")) == []


def test_a_stage_that_fails_is_told_with_its_reason(stub_run: Path, cli: Cli) -> None:
    text = stub_run.read_text().replace("train: {app: stub}", "train: {app: stub, setup: [no-such-program]}")
    stub_run.write_text(text)
    code, output, _ = cli("doctor", "--try", stub_run)
    assert code == 1
    assert "ok  try label" in output and "NO  try train  train of iteration 0 failed" in output
    assert "--  try explore  not tried: train failed" in output and "--  try select" in output
    assert [path.name for path in stub_run.parent.iterdir() if "trial" in path.name] == []


def test_ctrl_c_leaves_nothing(stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from statemachine.run import trial

    def interrupt(poller: Any, said: Any) -> Any:
        poller.step()
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(trial, "_stages", interrupt)
    assert cli("doctor", "--try", stub_run)[0] == 130
    assert [path.name for path in stub_run.parent.iterdir() if "trial" in path.name] == []


def test_a_trial_has_the_files_that_the_configuration_names(stub_run: Path, cli: Cli, tmp_path: Path) -> None:
    """The stub apps name none: an input of CP2K would be looked for in the trial's own folder."""
    from statemachine.run.opening import open_poller
    from statemachine.run.trial import shrink

    assert cli("init", stub_run)[0] == 0
    poller = open_poller(f"file://{tmp_path}/out")
    config, files, base = (
        poller.submission.config(poller.record.load().state),
        tmp_path / "out/config/file",
        tmp_path / "b",
    )
    base.mkdir()
    assert shrink(config, "file:///trial", files, base).prefix == "file:///trial"
    (kept,) = files.glob("*/cu.xyz")
    assert (base / kept.relative_to(files)).read_bytes() == kept.read_bytes()


def test_a_trial_that_cannot_be_begun_leaves_nothing(stub_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from statemachine.run import trial

    def away(prefix: str) -> None:
        assert list(stub_run.parent.glob("out-trial-*"))
        raise StoreError("away")

    monkeypatch.setattr(trial, "open_poller", away)
    code, output, _ = cli("doctor", "--try", stub_run)
    assert code == 1 and "NO  try  it could not be begun at file://" in output and "away" in output
    assert not list(stub_run.parent.glob("out-trial-*"))


def test_what_was_not_tried_fails_nothing_and_is_null_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [Check("a", True, "x"), Check("b", None, "not tried: y")]
    assert print_checks(checks, as_json=False)
    assert capsys.readouterr().out == "ok  a  x\n--  b  not tried: y\n"
    assert print_checks(checks, as_json=True)
    assert [check["good"] for check in json.loads(capsys.readouterr().out)] == [True, None]
    assert not print_checks([*checks, Check("c", False, "z")], as_json=False)


def test_try_needs_a_run(cli: Cli) -> None:
    assert cli("doctor", "--try")[0] == 2
