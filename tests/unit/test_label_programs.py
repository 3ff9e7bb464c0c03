"""What every program that labels must do: its outputs read, guarded, and replayed through the whole stage.

The outputs are of real programs, cut to the lines that matter; `golden/label/SOURCES.md` says where each is from.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import dpdata
import numpy as np
import pytest
from ase import Atoms

from conventions.config import UserFile
from operators.label.frames import Label, judge
from operators.registry import load_config
from statemachine.run.doctor import DEFAULT_PROGRAMS
from tests.label_run import LabelRun
from tests.label_samples import GOLDEN, SAMPLES, Sample, text_of

BAD = [(app, name) for app, sample in SAMPLES.items() for name in sample.bad]
GOOD = [(app, name) for app, sample in SAMPLES.items() for name in sample.good]


def judged(sample: Sample, text: str, atoms: Atoms | None = None) -> Label:
    atoms = atoms or sample.frame
    return judge(sample.program.label(text, atoms), len(atoms))


@pytest.mark.parametrize(("app", "name"), GOOD)
def test_real_outputs_that_are_good(app: str, name: str) -> None:
    label = judged(SAMPLES[app], text_of(name), SAMPLES[app].good[name])
    assert (label.kind, label.message) == ("ok", "")
    assert label.forces is not None and np.abs(label.forces).max() > 0


@pytest.mark.parametrize(("app", "name"), BAD)
def test_real_outputs_that_are_bad(app: str, name: str) -> None:
    label = judged(SAMPLES[app], text_of(name))
    assert label.kind == SAMPLES[app].bad[name][1] and label.message
    assert label.forces is None


@pytest.mark.parametrize(("app", "name"), GOOD)
def test_an_output_cut_off_anywhere_is_never_good(app: str, name: str) -> None:
    sample, text = SAMPLES[app], text_of(name)
    atoms, whole = sample.good[name], text.rindex(sample.end)
    for part in range(20):
        for length in (len(text) * part // 20, whole * part // 20):
            assert judged(sample, text[: min(length, whole)], atoms).kind == "truncated", (part, length)
    assert judged(sample, text[:whole], atoms).kind == "truncated"


@pytest.mark.parametrize(("app", "name"), GOOD)
def test_lost_lines_are_never_good(app: str, name: str) -> None:
    """Any one line lost: another class, except for lines that are not read."""
    sample, lines = SAMPLES[app], text_of(name).splitlines()
    atoms = sample.good[name]
    whole = judged(sample, "\n".join(lines), atoms)
    assert whole.forces is not None
    changed = 0
    for number, line in enumerate(lines):
        label = judged(sample, "\n".join(lines[:number] + lines[number + 1 :]), atoms)
        if label.kind == "ok":
            assert label.energy == whole.energy and np.array_equal(label.forces, whole.forces), line
            assert label.virial is None or np.array_equal(label.virial, whole.virial), line
        changed += label.kind != "ok"
    assert changed > len(atoms) + 1


@pytest.mark.parametrize(("app", "name"), GOOD)
def test_other_atoms_are_refused(app: str, name: str) -> None:
    sample, text, frame = SAMPLES[app], text_of(name), SAMPLES[app].good[name]
    other = frame.copy()
    other.symbols[0] = "U"
    others = [frame[:-1], frame + frame[-1:], other]
    if len(set(frame.symbols)) > 1:
        others.append(frame[::-1])
    for atoms in others:
        assert judged(sample, text, atoms).kind == "wrong_atoms"


# A program that answers as the x of the frame's first atom says.
FAKE = """\
mkdir OUT.ABACUS
mark=$(awk -F'"positions":\\\\[\\\\[' '{ print int($2) }' frames.json)
case $mark in
CASES
esac
"""


def stage(root: Path, app: str, answers: list[tuple[str, int]], **more: Any) -> LabelRun:
    """A run whose frames are answered so, in this order."""
    sample = SAMPLES[app]
    lines = []
    frames = []
    for at, (name, code) in enumerate(answers):
        frame = sample.frame.copy()
        frame.positions += at * frame.cell.array[0]  # the same structure
        frames.append(frame)
        lines.append(f"{int(frame.positions[0, 0])}) cat '{GOLDEN / name}' >{answer(sample)}; exit {code} ;;")
    (root / "fake.sh").write_text(FAKE.replace("CASES", "\n".join(lines)))
    settings = {"command": f"sh {shlex.quote(str(root / 'fake.sh'))}", **sample.settings(root), **more}
    return LabelRun(root, {"app": app, **settings}, frames, sample.type_map, iteration=1)


def answer(sample: Sample) -> str:
    """Where the program writes its output: the stdout that run.sh keeps, or the file of that name."""
    if "OUT.ABACUS" in sample.program.call:
        return f"OUT.ABACUS/{sample.program.output}"
    return "/dev/stdout" if f">{sample.program.output}" in sample.program.call else sample.program.output


@pytest.mark.parametrize("app", SAMPLES)
def test_every_answer_has_its_class(tmp_path: Path, app: str) -> None:
    sample = SAMPLES[app]
    good = next(iter(sample.good))
    answers = [(good, 0), *((name, code) for name, (code, _) in sample.bad.items())]
    answers += [*((name, 1) for name in sample.lost), (good, 137), (good, 0)]
    run = stage(tmp_path, app, answers, ratio_failed=0.9)
    report = run.stage()
    assert report.complete
    classes = ["ok", *(kind for _, kind in sample.bad.values()), *("lost" for _ in sample.lost), "lost", "ok"]
    assert [each["class"] for each in run.index] == classes
    assert report.jobs.failed == len(sample.lost) + 1
    said = [each["message"] for each in run.index if each["class"] == "lost"]
    for message, part in zip(said, sample.lost.values(), strict=False):
        assert part in message
    (system,) = [path for path in run.labels.iterdir() if path.is_dir()]
    data = dpdata.LabeledSystem(str(system), fmt="deepmd/npy").data
    label = judged(sample, text_of(good))
    order = np.argsort([sample.type_map.index(symbol) for symbol in sample.frame.symbols], kind="stable")
    assert data["energies"] == pytest.approx([label.energy] * 2, abs=1e-9)
    assert label.forces is not None and np.array_equal(data["forces"][0], label.forces[order])


@pytest.mark.parametrize("app", SAMPLES)
def test_files_that_would_collide_and_elements_without_one(tmp_path: Path, app: str) -> None:
    sample = SAMPLES[app]
    run = LabelRun(tmp_path, {"app": app, **sample.settings(tmp_path)}, [], sample.type_map)
    config = load_config((tmp_path / run.place.config).read_bytes())
    assert run.app.check(config) == []
    files = [UserFile(f"{'0' * 64}/{name}") for name in ("x", "x", sample.program.output)]
    label = config.label.model_copy(update={"files": files})
    assert run.app.check(config.model_copy(update={"label": label})) == [
        "label.files: x is given 2 times",
        f"label.files: {sample.program.output} is a name that the run itself uses; rename the file",
    ]
    for key in [key for key in sample.program.element_files or {} if getattr(config.label, key)]:
        some = dict(list(getattr(config.label, key).items())[:1])
        label = config.label.model_copy(update={key: some})
        (problem,) = run.app.check(config.model_copy(update={"label": label}))
        assert problem == f"label.{key}: it has no file for {sample.type_map[1]} of type_map; add one"


def test_parts_of_a_script_may_hold_the_words_for_the_others() -> None:
    program = replace(SAMPLES["nwchem"].program, gave_up="/SEE DETAILS|UNKNOWN COMMAND|CALL/ { exit 0 }")
    script = program.run_script(program.config.model_construct(command=None, setup=[], shell="sh"))
    assert "awk '/SEE DETAILS|UNKNOWN COMMAND|CALL/ { exit 0 }' label.out" in script


@pytest.mark.parametrize("name", ["my basis.txt", "a/b,c.inp", ".nwchemrc", "h\u00e9"])
def test_names_that_a_store_does_not_keep_are_refused(tmp_path: Path, name: str) -> None:
    run = LabelRun(tmp_path, {"app": "nwchem", **SAMPLES["nwchem"].settings(tmp_path)}, [], ["O", "H"])
    config = load_config((tmp_path / run.place.config).read_bytes())
    label = config.label.model_copy(update={"files": [UserFile(name), UserFile("basis*.txt")]})
    (problem,) = run.app.check(config.model_copy(update={"label": label}))
    assert problem.startswith(f"label.files: {name}: use letters, digits")


def test_the_documents_and_doctor_know_each_code() -> None:
    text = (Path(__file__).parents[2] / "docs/labels.md").read_text("utf-8")
    for app, sample in SAMPLES.items():
        assert f"\n## {app}\n" in text and f"\n| `{app}` | " in text
        assert DEFAULT_PROGRAMS[sample.program.command] == f"label/{app}"
