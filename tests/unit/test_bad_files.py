"""Files that a configuration names, as a person may write them wrongly: told before anything is paid for.

Each case changes one file of a whole run with the real apps, and must be refused with place, reason and advice.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli

CONFIG = """\
run: copper
prefix: out
engine: {type: local}
type_map: [Cu]
structures:
  start: {files: cu.extxyz, pert_numb: 2}
init: {label: [start]}
label: {app: cp2k, input: cp2k.inp}
train: {app: deepmd, input: input.json}
explore:
  app: lammps
  stages:
    - - {structures: [start], ensemble: nvt, temps: [300], nsteps: 100}
    - - {structures: [start], template: in.lammps, plumed: plumed.dat, revisions: {V_TEMP: [300, 600]}}
select: {app: model_devi, f_trust_lo: 0.1, f_trust_hi: 0.4, fp_task_max: 4}
"""
TORCH = "input: input.json, backend: pytorch"
CP2K = """\
&FORCE_EVAL
  METHOD QS
  &SUBSYS
    &CELL
      PERIODIC XYZ
    &END CELL
  &END SUBSYS
  &PRINT
    &FORCES ON
    &END FORCES
  &END PRINT
&END FORCE_EVAL
"""
TRAIN = {
    "model": {"descriptor": {"type": "se_e2_a", "sel": [60], "rcut": 5.0, "rcut_smth": 0.5}, "fitting_net": {}},
    "learning_rate": {"type": "exp", "start_lr": 0.001, "stop_lr": 1e-8},
    "loss": {"type": "ener"},
    "training": {"training_data": {"batch_size": 1}, "numb_steps": 800},
}
LAMMPS = """\
units metal
read_data conf.lmp
pair_style deepmd graph.pb
pair_coeff * *
dump dpgen_dump all custom 10 x id type x y z
fix dpgen_plm all plumed
fix 1 all nvt temp V_TEMP V_TEMP 0.1
run 100
"""
PLUMED = """\
d: DISTANCE ATOMS=1,2
METAD ...
  ARG=d # a comment ...
... METAD
"""


@pytest.fixture(scope="module", autouse=True)
def _arguments_once() -> Iterator[None]:
    """DeePMD-kit makes its list of arguments anew for each check, which takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        with contextlib.suppress(ImportError):
            from deepmd.utils import argcheck

            patch.setattr(argcheck, "gen_args", functools.cache(argcheck.gen_args))
        yield


def structure(cell: str = "4 0 0 0 4 0 0 0 4", *positions: str) -> str:
    rows = "".join(f"Cu {position}\n" for position in positions)
    return f'{len(positions)}\nLattice="{cell}" Properties=species:S:1:pos:R:3\n{rows}'


FILES = {
    "run.yaml": CONFIG,
    "cp2k.inp": CP2K,
    "input.json": json.dumps(TRAIN, indent=1),
    "in.lammps": LAMMPS,
    "plumed.dat": PLUMED,
    "cu.extxyz": structure("4 0 0 0 4 0 0 0 4", "0 0 0", "2 2 2"),
}


def put(file: str, old: str, new: str) -> dict[str, str]:
    assert FILES[file].count(old) == 1, old
    return {file: FILES[file].replace(old, new)}


def train(change: Callable[[Any], Any]) -> dict[str, str]:
    document = json.loads(FILES["input.json"])
    change(document)
    return {"input.json": json.dumps(document)}


def atoms(cell: str, *positions: str) -> dict[str, str]:
    return {"cu.extxyz": structure(cell, *positions)}


FORCES = "    &FORCES ON\n    &END FORCES\n"
OFF = r"label\.input \(cp2k\.inp\): &FORCES OFF prints nothing .*put &PRINT"
GONE = r"label\.input \(cp2k\.inp\): it does not print FORCES"
INPUT = r"train\.input \(input\.json\): "
FRAME = r"structures\.start: cu\.extxyz: "
# Name of the case: the files that are different, and what the error must say.
BAD: dict[str, tuple[dict[str, str | bytes], str]] = {
    # DeePMD-kit's input
    "empty": ({"input.json": ""}, f"{INPUT}not valid JSON: it is empty"),
    "no section": ({"input.json": "{}"}, f"{INPUT}it has no 'model' section"),
    "comment before": ({"input.json": f"// mine\n{FILES['input.json']}"}, f"{INPUT}.*line 1: JSON has no comments"),
    "comment between": (
        put("input.json", '"learning_rate"', '# x\n"learning_rate"'),
        "JSON has no comments; remove them",
    ),
    "comment behind": (put("input.json", '"loss": {', '"loss": { /* x */'), "JSON has no comments; remove them"),
    "not a number": (put("input.json", "5.0", "NaN"), f"{INPUT}NaN is not a JSON number"),
    "other elements": (
        train(lambda it: it["model"].update(type_map=["Al"])),
        f"{INPUT}model.type_map is .*make them equal",
    ),
    "no steps": (
        train(lambda it: it["training"].update(numb_steps=0)),
        f"{INPUT}training.numb_steps is 0, .*at least 1",
    ),
    "steps below 0": (
        train(lambda it: it["training"].update(numb_steps=-5)),
        "training.numb_steps is -5, .*at least 1",
    ),
    "rows never": (train(lambda it: it["training"].update(disp_freq=0)), "training.disp_freq is 0, .*at least 1"),
    "steps not given": (
        train(lambda it: it["training"].pop("numb_steps")),
        "train.numb_steps: neither .* says how many",
    ),
    "no model to begin with": (
        {**put("run.yaml", "input: input.json", "input: input.json, training_init_frozen_model: [a.pb]"), "a.pb": ""},
        r"train\.training_init_frozen_model: a\.pb is not a frozen model; give what dp freeze wrote",
    ),
    "frozen model of another backend": (
        {
            **put(
                "run.yaml",
                "input: input.json",
                "input: input.json, backend: pytorch, training_init_frozen_model: [a.pb]",
            ),
            "a.pb": "\nx",
        },
        r"train\.training_init_frozen_model: a\.pb is not a frozen model; give what dp freeze wrote",
    ),
    "checkpoint to fine-tune": (
        {
            **put("run.yaml", "input: input.json", f"{TORCH}, training_finetune_model: [a.pth]"),
            "a.pth": "x",
        },
        r"train\.training_finetune_model: a\.pth is not a checkpoint of PyTorch; give a \.pt",
    ),
    "head of a model that has one": (
        put("run.yaml", "input: input.json", "input: input.json, backend: pytorch, head: a"),
        r"train\.head: train\.input \(input\.json\) has no model\.model_dict",
    ),
    "MACE's seed": (
        {**put("run.yaml", "{app: deepmd, input: input.json}", "{app: mace, input: m.yaml}"), "m.yaml": "seed: 3\n"},
        r"explore\.app: lammps cannot drive the models of train\.app mace",
    ),
    # CP2K's input
    "section open": (put("cp2k.inp", "    &END CELL\n", ""), r"cp2k\.inp\): line 6: '&END SUBSYS', but &CELL is open"),
    "end too many": ({"cp2k.inp": CP2K + "&END\n"}, r"cp2k\.inp\): line 13: '&END', but no section is open"),
    "@SET": ({"cp2k.inp": "@SET MINE OFF\n" + CP2K.replace(" ON", " ${MINE}")}, OFF),
    "@SET without braces": ({"cp2k.inp": "@SET MINE OFF\n" + CP2K.replace(" ON", " $MINE")}, OFF),
    "default": (put("cp2k.inp", " ON", " ${MINE-OFF}"), OFF),
    "variable of nothing": (
        put("cp2k.inp", " ON", " ${MINE}"),
        r"\$\{MINE\}: this variable has no value; write '@SET MINE",
    ),
    "@IF 0": (put("cp2k.inp", FORCES, f"@IF 0\n{FORCES}@ENDIF\n"), GONE),
    "@IF unequal": (put("cp2k.inp", FORCES, f"@if ( a == b )\n{FORCES}@endif\n"), GONE),
    "@IF equal": (put("cp2k.inp", FORCES, f"@IF ( a /= a )\n{FORCES}@ENDIF\n"), GONE),
    "@IF of a variable": (put("cp2k.inp", FORCES, f"@SET A 0\n@IF ${{A}}\n{FORCES}@ENDIF\n"), GONE),
    "@IF open": (put("cp2k.inp", FORCES, f"{FORCES}@IF 0\n"), r"@IF 0: no @ENDIF ends it; add one"),
    "@IF around the cell": (
        {"cp2k.inp": CP2K.replace("    &CELL", "@IF 0\n    &CELL").replace("&END CELL", "&END CELL\n@ENDIF")},
        "@IF switches &CELL off, which the run fills in; take it out",
    ),
    "continued line": (put("cp2k.inp", "&FORCES ON", "&FORCES \\ ! more\n  OFF"), OFF),
    "Latin-1": ({"cp2k.inp": CP2K.encode() + b"! \xfc\n"}, "cannot be read as text: .*save it as UTF-8"),
    "included": (
        put("cp2k.inp", "  METHOD QS", "  @INCLUDE 'qs.inc'"),
        r"'qs\.inc': .*not among label\.files; add it there",
    ),
    "@IF around an end": (
        put("cp2k.inp", "    &END CELL\n", "@IF 0\n    &END CELL\n@ENDIF\n"),
        r"label\.input \(cp2k\.inp\), after @SET and @IF: line [0-9]+: '&END SUBSYS', but &CELL is open",
    ),
    # LAMMPS and PLUMED
    "empty template": ({"in.lammps": ""}, r"explore\.stages\.1\.0\.revisions: V_TEMP is not in the template"),
    "units": (
        put("in.lammps", "metal", "real"),
        r"explore\.stages\.1\.0\.template: units real: it must be units metal",
    ),
    "no run": (put("in.lammps", "run 100", "# run 100"), r"template: it has no line 'run \.\.\.': .*; add one"),
    "name without values": (
        put("in.lammps", "run 100", "run V_STEPS"),
        "template: V_STEPS has no values; add it to revisions",
    ),
    "binary": ({"in.lammps": b"\x00\xff\xfe"}, r"explore\.stages\.1\.0: in\.lammps is not UTF-8 text"),
    "no action": (
        {"plumed.dat": "# nothing\n"},
        r"explore\.stages\.1\.0\.plumed: it has no action of PLUMED; write one",
    ),
    "action open": (
        put("plumed.dat", "... METAD\n", ""),
        r"plumed: METAD \.\.\.: no line '\.\.\.' ends this action; add",
    ),
    "no plumed in the template": (
        put("in.lammps", "fix dpgen_plm all plumed\n", ""),
        "no line 'fix dpgen_plm ...'; add one",
    ),
    # structures
    "no structure": (
        {"cu.cif": "data_x\n", **put("run.yaml", "cu.extxyz", "cu.cif")},
        r"start: cu\.cif: it holds no structure",
    ),
    "no atom": (atoms("4 0 0 0 4 0 0 0 4"), f"{FRAME}a structure without atoms"),
    "coplanar": (atoms("4 0 0 0 4 0 4 4 0", "0 0 0"), f"{FRAME}its cell is 0 Angstrom wide .*that span a volume"),
    "on one line": (atoms("4 0 0 8 0 0 -4 0 0", "0 0 0"), f"{FRAME}its cell is nan Angstrom wide"),
    "flat": (atoms("4 0 0 0 4 0 4 4 1e-12", "0 0 0"), f"{FRAME}its cell is 1e-12 Angstrom wide"),
    "tiny": (atoms("1e-4 0 0 0 1e-4 0 0 0 1e-4", "0 0 0"), f"{FRAME}its cell is 0.0001 Angstrom wide"),
    "endless": (atoms("1e200 0 0 0 1e200 0 0 0 1e200", "0 0 0"), f"{FRAME}its cell is nan Angstrom wide"),
    "scaled to nothing": (
        put("run.yaml", "pert_numb: 2", "scale: [1.0, 1.0e-9]"),
        "its cell, with scale 1e-09, is 4e-09",
    ),
    "one place": (atoms("4 0 0 0 4 0 0 0 4", "1 0 0", "1 0 0"), f"{FRAME}two of its atoms are 0.000 Angstrom apart"),
    "one place, next cell": (
        atoms("4 0 0 0 4 0 0 0 4", "0 0 0", "4 0 0"),
        "are 0.000 Angstrom apart; 0.4 is the least",
    ),
    "in a later frame": (
        {"cu.extxyz": FILES["cu.extxyz"] + structure("4 0 0 0 4 0 0 0 4", "0 0 0", "0 0 0.3")},
        f"{FRAME}frame 1: two of its atoms are 0.300 Angstrom apart",
    ),
    "a million atoms": (
        put("run.yaml", "pert_numb: 2", "super_cell: [100, 100, 50]"),
        r"structures\.start: 1,000,000 atoms in one structure, with super_cell, .*at most 100,000 .*lower these",
    ),
    "a file of a million atoms": (
        {"cu.extxyz": "1000000\nPbc\n" + 10**6 * "\n"},
        r"cu\.extxyz: 1,000,000 atoms in one structure; at most 100,000 can be used",
    ),
    "a million copies": (
        put("run.yaml", "pert_numb: 2", f"pert_numb: 100000, scale: [{', '.join(['1.0'] * 10)}]"),
        "1,000,000 structures, .*at most 100,000",
    ),
    "many copies of many atoms": (
        put("run.yaml", "pert_numb: 2", "pert_numb: 100000, super_cell: [10, 10, 10]"),
        "200,000,000 atoms in all, .*at most 10,000,000",
    ),
    "far displaced": (
        put("run.yaml", "pert_numb: 2", "pert_atom: 1.0e+30"),
        r"structures\.start\.pert_atom: .*less than 10",
    ),
    "steps for ever": (put("run.yaml", "nsteps: 100", f"nsteps: 1{20 * '0'}"), r"stages\.0\.0\.nsteps: .*1000000000"),
}


def write(folder: Path, changed: dict[str, Any]) -> Path:
    for name, content in {**FILES, **changed}.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "run.yaml"


@pytest.mark.parametrize("case", BAD)
def test_refused(cli: Cli, tmp_path: Path, case: str) -> None:
    refused(cli, tmp_path, case, "validate")


@pytest.mark.parametrize("case", ["comment before", "@IF 0", "no run", "one place", "a million atoms"])
@pytest.mark.parametrize("command", ["init", "plan", "run"])
def test_nothing_begins_with_it(cli: Cli, tmp_path: Path, case: str, command: str) -> None:
    refused(cli, tmp_path, case, command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["comment before", "@IF 0", "no run", "one place"])
def test_no_run_is_patched_with_it(cli: Cli, tmp_path: Path, case: str) -> None:
    assert cli("init", write(tmp_path, {}))[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    refused(cli, tmp_path, case, "patch")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def refused(cli: Cli, folder: Path, case: str, command: str) -> None:
    changed, expected = BAD[case]
    code, output, errors = cli(command, write(folder, changed))
    lines = [line for line in errors.splitlines() if line != "reading structures and data"]
    assert (code, output, len(lines)) == (2, "", 1), errors
    assert lines[0].startswith("error: ") and re.search(expected, lines[0]), errors


def test_what_is_wrong_in_several_stages_is_told_at_once(cli: Cli, tmp_path: Path) -> None:
    changed = {file: content for case in ("empty", "@IF 0", "no run") for file, content in BAD[case][0].items()}
    errors = cli("validate", write(tmp_path, changed))[2].splitlines()
    assert [line.split()[1] for line in errors] == ["label.input", "train.input", "explore.stages.1.0.template:"]


GOOD: dict[str, dict[str, str]] = {
    "as it is": {},
    "@IF 1": put("cp2k.inp", FORCES, f"@IF 1\n{FORCES}@ENDIF\n"),
    "@IF of two": put(
        "cp2k.inp", FORCES, f"@SET A 1\n@IF (${{A}} == 2)\n&FORCES OFF\n&END\n@ENDIF\n@IF $A\n{FORCES}@ENDIF\n"
    ),
    "variable in a comment": put("cp2k.inp", "METHOD QS", "METHOD QS ! not ${MINE}"),
    "on by a variable": {"cp2k.inp": "@SET MINE ON\n" + CP2K.replace(" ON", " ${MINE}")},
    "continued": put("cp2k.inp", "&FORCES ON", "&FORCES \\\n  ON"),
    "keys of DeePMD-kit 1": train(
        lambda it: it["training"].update(it["training"].pop("training_data"), set_prefix="set")
    ),
    "left-handed cell": atoms("0 4 0 4 0 0 0 0 4", "0 0 0"),
    "a hundred thousand copies": put("run.yaml", "pert_numb: 2", "pert_numb: 100000"),
    "run in a loop": put("in.lammps", "run 100", 'if "1 > 0" then "run 100"'),
}


@pytest.mark.parametrize("case", GOOD)
def test_not_a_mistake(cli: Cli, tmp_path: Path, case: str) -> None:
    code, output, errors = cli("validate", write(tmp_path, GOOD[case]))
    assert (code, errors) == (0, "") and "valid; the run's prefix is" in output


class TestWhatDeepmdKitItselfRefuses:
    """Where it is installed, and is what trains."""

    TYPO = train(lambda it: it["model"]["descriptor"].update(rcut_smt=it["model"]["descriptor"].pop("rcut_smth")))

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            (TYPO, "undefined key `rcut_smt` .*Did you mean: rcut_smth"),
            (train(lambda it: it["model"].pop("fitting_net")), "key `fitting_net` is required"),
            (
                train(lambda it: (it.pop("learning_rate"), it["training"].pop("training_data"))),
                "it has no 'learning_rate'",
            ),
            (train(lambda it: it["model"]["descriptor"].update(rcut="5")), "key `rcut` gets wrong value type"),
        ],
    )
    def test_refused(self, cli: Cli, tmp_path: Path, changed: dict[str, str], expected: str) -> None:
        pytest.importorskip("deepmd.utils.argcheck")
        code, _, errors = cli("validate", write(tmp_path, changed))
        assert code == 2 and re.fullmatch(f"error: {INPUT}dp train would refuse it: .*{expected}.*\n", errors), errors

    @pytest.mark.parametrize("how", ["command: my-dp", "setup: [. deepmd.sh]"])
    def test_another_one_may_know_more(self, cli: Cli, tmp_path: Path, how: str) -> None:
        elsewhere = put("run.yaml", "input: input.json", f"input: input.json, {how}")
        assert cli("validate", write(tmp_path, {**self.TYPO, **elsewhere}))[0] == 0

    def test_no_framework_is_imported_for_it(self) -> None:
        pytest.importorskip("deepmd.utils.argcheck")
        code = (
            "import sys, deepmd.utils.argcheck, deepmd.utils.compat; print({'tensorflow', 'torch'} & set(sys.modules))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout == "set()\n"
