"""explore/ase with a committee of pair potentials: configurations, what a job gets, and whole stages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.build import bulk
from pydantic import ValidationError

from conventions.errors import ConfigError
from conventions.state import Convergence
from operators import registry
from operators.committee import check_drives
from operators.explore.ase import AseConfig, programs, run_script
from operators.explore.ase_group import AseGroup
from operators.sums import write_sums
from tests import pair_models
from tests.explore_run import ExploreRun
from tests.stage_harness import run_job

GOLDEN = Path(__file__).parent / "golden" / "explore_ase"
CU = bulk("Cu", "fcc", a=3.6, cubic=True)
CU.rattle(0.05, seed=1)
NVT: dict[str, Any] = {"structures": ["cu"], "ensemble": "nvt", "temps": [300.0], "nsteps": 10, "trj_freq": 5}
RELAX: dict[str, Any] = {"structures": ["cu"], "ensemble": "relax", "nsteps": 50}
MODELS = [{"epsilon": 0.4, "sigma": 2.3}, {"epsilon": 0.42, "sigma": 2.3}]


@pytest.fixture(autouse=True)
def pairs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """train/pairs, as a third party would install it."""
    monkeypatch.setenv(registry.THIRD_PARTY, json.dumps({"train.pairs": "tests.pair_trainer:APP"}))
    caches = (registry.known, registry.app, registry._model)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def explore(
    root: Path, groups: list[dict[str, Any]], sets: dict[str, list[Atoms]] | None = None, **more: Any
) -> ExploreRun:
    """A run with its committee in the product of train."""
    settings = {"app": "ase", "command": sys.executable, **more}
    found = ExploreRun(root, sets or {"cu": [CU]}, [groups], ["Al", "Cu"], explore=settings, train={"app": "pairs"})
    found.config["mass_map"] = [27.0, 63.5]
    product = found.place.newest_product("train")
    assert product is not None
    for number, model in enumerate(MODELS):
        path = root / product / f"graph.{number:03d}.pb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(model))
    write_sums(root / product)
    return found


# --- what a job gets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("nvt", NVT),
        ("npt-a", {**NVT, "ensemble": "npt-a", "press": [100.0]}),
        ("relax_cell", {**RELAX, "relax_cell": True, "press": [1.0]}),
    ],
)
def test_input_of_a_task(tmp_path: Path, name: str, group: dict[str, Any]) -> None:
    run = explore(tmp_path, [group], {"cu": [bulk("Cu", "fcc", a=3.6)]})
    assert run.plan().n_jobs == 1
    assert json.loads((run.task(0) / "md.json").read_bytes()) == json.loads((GOLDEN / f"{name}.json").read_bytes())


def test_script_of_a_task() -> None:
    made = run_script(AseConfig.model_construct(setup=["module load ase"], shell="sh", command="python3 -u"))
    assert made == (GOLDEN / "run.sh").read_text()


def test_a_job_has_the_trainers_own_module(tmp_path: Path) -> None:
    run = explore(tmp_path, [NVT])
    run.plan()
    job = run.task(0).parent
    assert (job / "models.py").read_text("utf-8") == Path(pair_models.__file__).read_text("utf-8")
    run.config["train"] = {"app": "deepmd", "input": "input.json"}
    shipped = programs(run.freeze())["models.py"]
    assert shipped == (Path(registry.__file__).parent / "train" / "dp_infer.py").read_text("utf-8")


def test_grid_and_seeds(tmp_path: Path) -> None:
    group = {**NVT, "ensemble": "npt", "temps": [300.0, 600.0], "press": [1.0, 1e4]}
    run = explore(tmp_path, [group, RELAX, {**NVT, "thermostat": "langevin"}], {"cu": [CU, CU.repeat((2, 1, 1))]})
    assert run.plan().n_jobs == 2 * (4 + 1 + 1)
    tasks = [json.loads((run.task(job) / "md.json").read_bytes()) for job in range(12)]
    assert [(one["method"], one["temp"], one["press"], len(one["symbols"])) for one in tasks[:5]] == [
        ("iso", 300.0, 1.0, 4),
        ("iso", 300.0, 1e4, 4),
        ("iso", 600.0, 1.0, 4),
        ("iso", 600.0, 1e4, 4),
        ("iso", 300.0, 1.0, 8),
    ]
    assert [one["method"] for one in tasks[8:]] == ["relax"] * 2 + ["langevin"] * 2
    assert len({one["seed"] for one in tasks}) == 12
    assert json.loads((run.task(8) / "task.json").read_bytes()) == {
        "group": 1,
        "index": 0,
        "press": None,
        "structure": "cu",
        "temp": None,
    }


# --- stages ---------------------------------------------------------------------------------------------------------


def test_stage_with_good_and_bad_endings(tmp_path: Path) -> None:
    groups = [NVT, {**NVT, "temps": [1e9]}, {**RELAX, "nsteps": 300}]
    run = explore(tmp_path, groups, group_size=2)
    report = run.run()
    assert (report.complete, report.next, report.app) == (True, True, "ase")
    assert report.classes == {"ok": 2, "lost_atoms": 1}
    assert report.summary == {"trajectories": 3, "broken": 1}
    found = run.trajectories()
    assert [(one["class"], one["rows"], one["last_step"]) for one in found[:2]] == [
        ("ok", 3, 10),
        ("lost_atoms", 0, -1),
    ]
    assert {name for one in found for name in one["files"]} == {"model_devi.out", "traj.lammpstrj"}


def test_models_that_cannot_be_loaded_are_to_be_repeated(tmp_path: Path) -> None:
    run = explore(tmp_path, [NVT])
    run.plan()
    product = run.place.newest_product("train")
    (tmp_path / str(product) / "graph.001.pb").write_text('{"error": "the models need NoSuchPackage"}')
    write_sums(tmp_path / str(product))
    assert run_job(run.app, run.place, run.root, "000000") == 1
    report = run.reduce(1)
    assert (report.complete, report.classes) == (False, {"lost": 1})
    assert report.messages == ["job 000000 task.000000: error: the models need NoSuchPackage"]


def test_what_an_earlier_attempt_left_goes(tmp_path: Path) -> None:
    run = explore(tmp_path, [NVT], setup=["echo there: *; echo 'raise SystemExit(3)' >fails.py"])
    run.plan()
    for name in ("model_devi.out", "traj.lammpstrj", "end.json"):
        (run.task(0) / name).write_text("from an earlier attempt")
    run.config["explore"]["command"] = f"{sys.executable} fails.py"
    (run.task(0).parent / "run.sh").write_text(run_script(run.freeze().explore))
    assert run_job(run.app, run.place, run.root, "000000") == 1
    assert run.reduce(1).classes == {"lost": 1}
    assert not (run.out(0) / "end.json").exists()


# --- configurations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temps": None}, "temps must be given"),
        ({"nsteps": None}, "nsteps must be given"),
        ({"ensemble": "npt"}, "press must be given for npt"),
        ({"ensemble": "nvt-x"}, "'relax'"),
        ({"trj_freq": 11}, "trj_freq 11 is more than nsteps 10"),
        ({"relax_cell": True}, "remove relax_cell: only relax uses it"),
        ({"fmax": 0.1}, "remove fmax: only relax uses it"),
        ({"ensemble": "npt", "press": [1.0], "thermostat": "langevin"}, "thermostat langevin goes with ensemble nvt"),
        ({"ensemble": "relax"}, "remove temps: relax does not use it"),
        ({"ensemble": "relax", "temps": None, "nsteps": None}, "the most steps of a relaxation"),
        ({"ensemble": "relax", "temps": None, "press": [1.0]}, "press goes with relax_cell: true"),
        ({"template": "in.lammps"}, "Extra inputs"),
    ],
)
def test_bad_group(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AseGroup.model_validate({**NVT, **change})
    assert words in str(caught.value)


def test_check(tmp_path: Path) -> None:
    run = explore(tmp_path, [NVT])
    assert run.app.check(run.freeze()) == []
    assert check_drives(run.freeze()) == []
    run.config["train"]["numb_models"] = 1
    run.config["explore"]["stages"] = [[{**NVT, "structures": ["cuu"]}]]
    wrong, one = run.app.check(run.freeze())
    assert wrong.endswith("there is no structure set 'cuu' in structures; did you mean 'cu'?")
    assert one.startswith("train.numb_models: 1; explore/ase needs a committee of at least 2 models")


def test_lammps_cannot_drive_what_ase_can(tmp_path: Path) -> None:
    run = explore(tmp_path, [NVT])
    run.config["explore"] = {"app": "lammps", "stages": [[NVT]]}
    (problem,) = check_drives(run.freeze())
    assert problem.endswith("cannot drive the models of train.app pairs (mace); ase can")


def test_trainer_that_offers_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from operators.explore import ase

    silent = replace(registry.app("train", "pairs"), models=None)
    monkeypatch.setattr(ase, "app", lambda stage, name: silent)
    config = explore(tmp_path, [NVT]).freeze()
    words = "train.app pairs: explore/ase cannot load its models"
    assert [problem[: len(words)] for problem in ase.check(config)] == [words]
    with pytest.raises(ConfigError, match=words):
        programs(config)


def test_press_that_nothing_uses_is_told(tmp_path: Path) -> None:
    groups = [{**NVT, "press": [1.0]}, {**RELAX, "relax_cell": True, "press": [1.0]}]
    (note,) = explore(tmp_path, groups).app.notes(explore(tmp_path, groups).freeze())
    assert note.startswith("explore.stages.0.0: press is not used with ensemble nvt")


def test_stages_that_are_not_reached_are_told(tmp_path: Path) -> None:
    run = explore(tmp_path, [NVT])
    config = run.freeze().model_copy(update={"convergence": Convergence(repeat="once"), "max_iterations": 1})
    assert run.app.notes(config) == []
    more = config.explore.model_copy(update={"stages": config.explore.stages * 2})
    (note,) = run.app.notes(config.model_copy(update={"explore": more}))
    assert note.startswith("max_iterations: 1, but 2 exploration stages")


# --- doctor ---------------------------------------------------------------------------------------------------------


def probed(run: ExploreRun, folder: Path) -> tuple[int, str]:
    folder.mkdir()
    for name, content in run.app.probe(run.freeze(), run.root).items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    done = subprocess.run(["sh", "run.sh"], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()[-1]


def test_probe(tmp_path: Path) -> None:
    run = explore(tmp_path, [NVT, {**NVT, "ensemble": "npt", "press": [1.0]}, RELAX])
    code, said = probed(run, tmp_path / "good")
    assert code == 0 and said.startswith("ASE 3.")
    broken = run.app.probe(run.freeze(), run.root)["models.py"]
    assert isinstance(broken, str)
    run.config["explore"]["command"] = f"{sys.executable} -c 'import no_such_package' "
    code, said = probed(run, tmp_path / "bad")
    assert code == 1 and said == "ModuleNotFoundError: No module named 'no_such_package'"


def test_tiny_and_executables(tmp_path: Path) -> None:
    run = explore(tmp_path, [RELAX])
    stage = run.freeze().explore
    assert run.app.executables(stage) == [sys.executable]
    AseConfig.model_validate({"app": "ase", **run.app.tiny(stage)})
