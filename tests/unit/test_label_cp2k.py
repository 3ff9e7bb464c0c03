"""label/cp2k with a stand-in for CP2K that answers with real outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ase import Atoms

from conventions.config import UserFile
from conventions.errors import ConfigError
from conventions.space import DataSpace
from operators.core import artifacts
from operators.label.cp2k import APP, PROGRAM, Cp2kConfig
from operators.registry import load_config
from tests.label_run import LabelRun, add_file
from tests.stage_harness import record, run_job

GOLDEN = Path(__file__).parent / "golden" / "label"
TEMPLATE = "&FORCE_EVAL\n  &PRINT\n    &FORCES ON\n    &END\n  &END\n&END\n"
# Appends to its output as CP2K does. The x of the first atom says which answer to give.
FAKE = """\
[ "$1 $2 $3 $4" = "-i input.inp -o output.log" ] || exit 64
echo "$OMP_STACKSIZE" >stacksize
ls >>listing
case $(awk '/&COORD/ { getline; print int($2) }' input.inp) in
0) name=gfn1 ;;
1) name=not-converged ;;
2) name=aborted code=1 ;;
3) name=bad-keyword code=1 ;;
4) name=stars ;;
5) exit 137 ;;
6) head -n 20 "$GOLDEN/cp2k-2023.1-gfn1.log" >>output.log; exit 137 ;;
7) exit 0 ;;
8) name=no-forces ;;
esac
cat "$GOLDEN/cp2k-2023.1-$name.log" >>output.log
exit ${code:-0}
"""


def waters(mark: int, order: str = "OHHOHH") -> Atoms:
    positions = np.arange(18.0).reshape(6, 3)
    positions[0, 0] = mark
    return Atoms(order, positions, cell=[[8, 0, 0], [1, 8, 0], [0, 0, 9]], pbc=True)


def make(root: Path, frames: list[Atoms], template: str = TEMPLATE, **label: Any) -> LabelRun:
    (root / "fake.sh").write_text(FAKE)
    (root / "water.inp").write_text(template)
    setup = [f"export GOLDEN='{GOLDEN}' OMP_STACKSIZE=64M"]
    settings = {"input": add_file(root, root / "water.inp"), "command": f"sh '{root}/fake.sh'", "setup": setup}
    return LabelRun(root, {"app": "cp2k", **settings, **label}, frames, ["H", "C", "O"], iteration=1)


def test_frames_become_a_dataset_sorted_by_type(tmp_path: Path) -> None:
    frames = [waters(0), waters(0), waters(0)]
    frames[1].positions += 0.25
    run = make(tmp_path, frames, group_size=2)
    report = run.stage()
    assert (report.complete, report.next, report.classes) == (True, True, {"ok": 3})
    assert report.jobs.planned == 2
    assert sorted(path.name for path in run.labels.iterdir()) == ["H4O2", "SHA256SUMS"]
    data = dpdata.LabeledSystem(str(run.labels / "H4O2"), fmt="deepmd/npy").data
    order = [1, 2, 4, 5, 0, 3]
    assert list(data["atom_names"]) == ["H", "C", "O"]
    assert data["atom_types"].tolist() == [0, 0, 0, 0, 2, 2]
    for number, frame in enumerate(frames):
        assert np.array_equal(data["coords"][number], frame.positions[order])
        assert np.array_equal(data["cells"][number], frame.cell.array)
    hartree, bohr = 27.211386245988, 0.529177210903
    assert data["energies"] == pytest.approx(-11.516905494316202 * hartree, abs=1e-9)
    assert data["forces"][0, 4] == pytest.approx(np.array([-0.00760539, 0.0715289, -0.04536927]) * hartree / bohr)
    assert data["virials"][0, 0, 1] == pytest.approx(-1.01893492392 / 160.2176634 * 576.0)


def test_every_way_to_fail_has_its_class(tmp_path: Path) -> None:
    run = make(tmp_path, [waters(mark) for mark in (0, 1, 2, 3, 4, 5, 6, 7, 8, 0)], ratio_failed=0.9)
    report = run.stage()
    assert report.complete
    assert [each["class"] for each in run.index] == [
        "ok",
        "scf_not_converged",
        "aborted",  # CP2K gave up on the frame: a result
        "lost",  # an input that it cannot read: to be repeated, as whatever ends without CP2K saying why
        "unreadable",
        "lost",
        "lost",
        "lost",
        "no_forces",
        "ok",
    ]
    assert [each["index"] for each in run.index if each["class"] == "ok"] == [0, 1]
    assert report.jobs.failed == 4
    assert report.summary == {"labelled": 2.0, "discarded": 8.0}
    messages = {each["job_id"]: each["message"] for each in run.index}
    assert messages["000003"].startswith("found an unknown keyword MAX_SCFF in section SCF")
    assert messages["000007"] == "job wrapper: the command ended well but left no output.log"
    assert len(report.messages) == 5 and report.messages[0].startswith("job 000001 task.000000: scf_not_converged: ")


def test_a_repeated_task_starts_clean(tmp_path: Path) -> None:
    """Neither an old output nor an old wave function survives; the user's files come again."""
    (tmp_path / "BASIS").write_text("mine")
    run = make(tmp_path, [waters(0)], files=[add_file(tmp_path, tmp_path / "BASIS")])
    run.plan()
    job = tmp_path / run.place.jobs / "000000"
    work = job / "work" / "task.000000"
    work.mkdir(parents=True)
    (work / "output.log").write_text("half an output")
    (work / "w-RESTART.wfn").write_text("old")
    (work / "BASIS").write_text("half a copy")
    assert run_job(run.app, run.place, tmp_path, "000000") == 0
    assert (work / "listing").read_text().split() == ["BASIS", "frames.json", "input.inp", "listing", "stacksize"]
    assert (work / "BASIS").read_text() == "mine"
    assert (work / "stacksize").read_text() == "64M\n"
    assert (job / "out/task.000000/output.log").read_text() == (GOLDEN / "cp2k-2023.1-gfn1.log").read_text()
    assert run.reduce(1).classes == {"ok": 1}


def test_jobs_are_given_the_files_that_they_read_and_no_others(tmp_path: Path) -> None:
    """In a cluster each file costs each job two requests, and structures may be thousands."""
    (tmp_path / "BASIS").write_text("mine")
    run = make(tmp_path, [waters(0)], files=[add_file(tmp_path, tmp_path / "BASIS")])
    run.plan()
    assert names(tmp_path / DataSpace.files) == {"BASIS", "water.inp", "source.extxyz"}
    assert names(tmp_path / (artifacts(run.app.job)["files"].at(run.place) or "")) == {"BASIS"}
    (tmp_path / "without").mkdir()
    without = make(tmp_path / "without", [waters(0)])
    without.plan()
    assert not (tmp_path / "without" / without.place.files).exists()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_another_order_of_atoms_in_the_output_is_refused(tmp_path: Path) -> None:
    report = make(tmp_path, [waters(0, "OOHHHH")]).stage()
    assert (report.complete, report.classes) == (False, {"wrong_atoms": 1})


def test_frames_with_and_without_virial_are_apart(tmp_path: Path) -> None:
    run = make(tmp_path, [waters(0), waters(0)])
    run.stage()
    output = tmp_path / run.place.jobs / "000001/out/task.000000/output.log"
    output.write_text(output.read_text().replace("stress tensor [", "stress tensor ("))
    record(run.place, tmp_path, "000001")
    run.reduce(2)
    assert [each["system"] for each in run.index] == ["H4O2", "H4O2.novirial"]
    assert (run.labels / "H4O2/set.000/virial.npy").is_file()
    assert not (run.labels / "H4O2.novirial/set.000/virial.npy").exists()


def test_a_template_that_gives_no_labels_stops_the_plan(tmp_path: Path) -> None:
    run = make(tmp_path, [waters(0)], TEMPLATE.replace("FORCES ON", "FORCES OFF"))
    with pytest.raises(ConfigError, match=r"label\.input \(water\.inp\): &FORCES OFF prints nothing"):
        run.plan()
    assert not (tmp_path / run.place.jobs).exists()


def test_an_included_file_is_found_and_its_content_is_part_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "print.inc").write_text("&PRINT\n&FORCES\n&END\n&END\n")
    template = "&FORCE_EVAL\n@INCLUDE 'print.inc'\n&END\n"
    run = make(tmp_path, [waters(0)], template, files=[add_file(tmp_path, tmp_path / "print.inc")])
    assert run.stage().classes == {"ok": 1}
    assert "&FORCES\n" in (tmp_path / run.place.jobs / "000000/in/task.000000/input.inp").read_text()


def test_files_that_would_collide_are_found_without_reading_them(tmp_path: Path) -> None:
    run = make(tmp_path, [])
    config = load_config((tmp_path / run.place.config).read_bytes())
    files = [UserFile(name) for name in ("a/BASIS", "b/BASIS", "c/output.log")]
    assert APP.check(config) == []
    assert APP.check(config.model_copy(update={"label": Cp2kConfig(input=UserFile("x.inp"), files=files)})) == [
        "label.files: BASIS is given 2 times",
        "label.files: output.log is a name that the run itself uses; rename the file",
    ]


def test_the_program_that_doctor_looks_for() -> None:
    label = Cp2kConfig(input=UserFile("x.inp"))
    assert APP.executables(label) == ["cp2k.psmp"]
    assert APP.executables(label.model_copy(update={"command": "mpirun -np 4 cp2k.popt"})) == ["mpirun"]


def test_only_the_default_command_is_told_that_it_is_alone(tmp_path: Path) -> None:
    """Under mpirun, or with a command of the user's, Open MPI is left as it is."""
    variable = "export OMPI_MCA_ess_singleton_isolated="
    for command, told in ((None, True), ("mpirun -np 4 cp2k.psmp", False)):
        label = Cp2kConfig(input=UserFile("x.inp"), command=command, setup=["module load cp2k"])
        script = PROGRAM.run_script(label)
        assert (variable in script) is told
        assert f"{command or 'cp2k.psmp'} -i input.inp -o output.log\n" in script


def test_what_an_earlier_attempt_left_does_not_hide_a_setup_line_that_fails(tmp_path: Path) -> None:
    run = make(tmp_path, [waters(3)])
    assert "setup" not in run.stage().messages[1]
    later = run.copy(tmp_path / "later", setup=["module load cp2k"], shell="bash")
    assert (later.root / later.place.jobs / "000000/out/task.000000/output.log").exists()
    assert "the setup line 'module load cp2k' ended with exit code 127: module: " in later.stage().messages[1]
