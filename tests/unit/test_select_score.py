"""The score job: reading model_devi.out and classifying its rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from operators.select import score
from operators.select.score import ACCURATE, CANDIDATE, FAILED, INVALID, SKIPPED, classify, read_deviations
from tests.select_run import HEADER, deviations, dump

LEVELS = [0.1, 0.3, None, None]
LOST_ATOMS = f"{20:12d}" + (f"{0:19.6e}{1.797693e308:19.6e}{0:19.6e}") * 2 + "\n"


def classes(path: Path, text: str, levels: list[float | None] = LEVELS, **more: object) -> list[int]:
    path = path / "model_devi.out"
    path.write_text(text)
    return classify(read_deviations(path, virial=True), levels, **more)[2].tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0999999, ACCURATE),
        (0.1, CANDIDATE),
        (0.2999999, CANDIDATE),
        (0.3, FAILED),
        (float("nan"), FAILED),
        (float("inf"), FAILED),
        (float("-inf"), FAILED),
        (-0.05, FAILED),
    ],
)
def test_levels_belong_to_the_class_above(tmp_path: Path, value: float, expected: int) -> None:
    # f / 10 is the row's minimum, above the maximum where the value is negative
    assert classes(tmp_path, deviations([(0, 0.05), (10, value)])) == [ACCURATE, expected]


@pytest.mark.parametrize(
    ("f", "v", "expected"),
    [
        (0.05, 0.01, ACCURATE),
        (0.05, 0.02, CANDIDATE),
        (0.2, 0.01, CANDIDATE),
        (0.2, 0.05, FAILED),  # a candidate in DP-GEN, failed in DPGEN2
        (0.3, 0.03, FAILED),
        (0.05, float("nan"), FAILED),
    ],
)
def test_virial_levels(tmp_path: Path, f: float, v: float, expected: int) -> None:
    text = f"{HEADER}\n0 {v} 0 0 {f} 0 0\n"
    assert classes(tmp_path, text, [0.1, 0.3, 0.02, 0.05]) == [expected]


def test_without_virial_levels_the_virial_does_not_matter(tmp_path: Path) -> None:
    assert classes(tmp_path, f"{HEADER}\n0 nan nan nan 0.2 0 0.1\n") == [CANDIDATE]


def test_the_false_zero_after_lost_atoms_is_failed(tmp_path: Path) -> None:
    path = tmp_path / "model_devi.out"
    path.write_text(deviations([(0, 0.05), (10, 0.2)]) + LOST_ATOMS)
    step, devi_f, found = classify(read_deviations(path), LEVELS)
    assert found.tolist() == [ACCURATE, CANDIDATE, FAILED]
    assert step.tolist() == [0, 10, 20]
    assert np.isnan(devi_f[2])  # the zero must not lower the level


def test_a_cut_off_last_line_is_invalid_even_where_it_looks_whole(tmp_path: Path) -> None:
    whole = deviations([(0, 0.05), (10, 0.2), (20, 0.2)])
    for cut in range(1, 60):
        assert classes(tmp_path, whole[:-cut])[:2] == [ACCURATE, CANDIDATE]
        assert classes(tmp_path, whole[:-cut])[2] == INVALID


def test_damaged_lines_are_invalid_and_the_others_count(tmp_path: Path) -> None:
    lines = deviations([(0, 0.05), (10, 0.2), (20, 0.4)]).splitlines(keepends=True)
    text = lines[0] + "*" * 40 + "\n" + lines[1] + "".join(lines[2:3]).rstrip() + lines[3] + "1 2 3\n" + lines[2]
    assert classes(tmp_path, text) == [INVALID, ACCURATE, INVALID, INVALID, CANDIDATE]


def test_a_row_of_stars_of_the_same_width(tmp_path: Path) -> None:
    lines = deviations([(0, 0.05), (10, 0.2)]).splitlines(keepends=True)
    assert classes(tmp_path, lines[0] + lines[1] + "*" * (len(lines[1]) - 1) + "\n" + lines[2]) == [
        ACCURATE,
        INVALID,
        CANDIDATE,
    ]


def test_repeated_steps(tmp_path: Path) -> None:
    same = deviations([(0, 0.05), (10, 0.2), (10, 0.2), (20, 0.2)])
    assert classes(tmp_path, same) == [ACCURATE, CANDIDATE, INVALID, CANDIDATE]
    other = deviations([(0, 0.05), (10, 0.2), (20, 0.2), (10, 0.15), (30, 0.2)])
    assert classes(tmp_path, other) == [ACCURATE, INVALID, CANDIDATE, INVALID, CANDIDATE]


def test_steps_that_are_no_steps(tmp_path: Path) -> None:
    text = f"{HEADER}\n0.5 0 0 0 0.2 0 0\n-10 0 0 0 0.2 0 0\n1e300 0 0 0 0.2 0 0\nnan 0 0 0 0.2 0 0\n7 0 0 0 0.2 0 0\n"
    assert classes(tmp_path, text) == [INVALID, INVALID, INVALID, INVALID, CANDIDATE]


def test_rows_without_a_frame_are_failed_in_a_broken_trajectory_only(tmp_path: Path) -> None:
    text = deviations([(0, 0.05), (10, 0.2), (20, 0.2)])
    assert classes(tmp_path, text, dumped=np.array([0, 10])) == [ACCURATE, CANDIDATE, FAILED]
    assert classes(tmp_path, text) == [ACCURATE, CANDIDATE, CANDIDATE]


def test_skipped_rows(tmp_path: Path) -> None:
    text = deviations([(0, 0.5), (10, 0.2), (20, 0.2)])
    assert classes(tmp_path, text, skip=2) == [SKIPPED, SKIPPED, CANDIDATE]
    assert classes(tmp_path, text, skip=9) == [SKIPPED] * 3


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        "",
        # dp model-devi writes the name of the system first, and a column more
        "# data/system.000\n# step      max_devi_v         min_devi_v         avg_devi_v         "
        "max_devi_f         min_devi_f         avg_devi_f         devi_e",
        # `atomic` adds a column for each atom
        HEADER + "      atm_devi_f(N)",
        "#step max_devi_e min_devi_e avg_devi_e max_devi_f min_devi_f avg_devi_f",
    ],
)
def test_columns_are_found_by_name(tmp_path: Path, header: str) -> None:
    rows = "".join(f"{step} 0.01 0 0 {f} 0.001 0.05 0.02 0.03\n" for step, f in ((0, 0.05), (10, 0.2)))
    assert classes(tmp_path, f"{header}\n{rows}" if header else rows) == [ACCURATE, CANDIDATE]


def test_columns_in_another_order(tmp_path: Path) -> None:
    assert classes(tmp_path, "# max_devi_f step\n0.2 10\n0.05 20\n0.4 30\n") == [CANDIDATE, ACCURATE, FAILED]


def test_a_header_in_the_middle_after_a_restart(tmp_path: Path) -> None:
    text = deviations([(0, 0.05), (10, 0.2)]) + deviations([(10, 0.2), (20, 0.4)])
    assert classes(tmp_path, text) == [ACCURATE, CANDIDATE, INVALID, FAILED]


@pytest.mark.parametrize("text", ["", f"{HEADER}\n", f"{HEADER}\n\n\n", "# a b c\n1 2 3\n", "1 2 3\n", "\0" * 100])
def test_files_without_rows_or_columns_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"model_devi\.out"):
        classes(tmp_path, text)


def test_both_ways_of_reading_agree(tmp_path: Path) -> None:
    rows = [(10 * i, f) for i, f in enumerate(np.random.default_rng(0).random(500))]
    path = tmp_path / "model_devi.out"
    path.write_text(deviations(rows))
    fast = read_deviations(path, virial=True)
    path.write_text(deviations(rows) + "\n")  # a line of another length: read line by line
    assert np.array_equal(fast, read_deviations(path, virial=True))
    assert fast.shape == (4, 500)


def test_aligned_columns_have_the_bits_that_loadtxt_reads() -> None:
    random = np.random.default_rng(1)
    columns = random.integers(0, 10**12, 3000), 10.0 ** random.uniform(-15, 5, 3000), random.random(3000)
    text = "".join(f"{step:12d}{a:19.6e}{b:21.11e}\n" for step, a, b in zip(*columns, strict=True))
    found = score._read_aligned(text.encode(), 53, [0, 2, 1])
    assert found is not None and np.array_equal(found, np.loadtxt(text.splitlines(), usecols=(0, 2, 1)).T)


@pytest.mark.parametrize(
    "line",
    [
        "7        1.234567e-01",  # not flush right
        "    7 00 1.234567e-01",  # a column more
        "7   7    1.234567e-01",
        "         1.234567e-01",
        "    7x   1.234567e-01",
        "    7\t   1.234567e-01",
        "    7    1x234567e-01",
        "    7    1.234567x-01",
        "    7    1.234567e-0:",
        "    7    1.234567e 01",
        "    7    1.2345x7e-01",
        "    7    1.234567e*01",
        "    7    1.234567e-xx",
        "    7    1.234567e+07",  # a product, not a quotient
        "    7    1.234567e-17",  # beyond the exact powers of ten
        "    7   -1.234567e-01",
        "    7   #1.234567e-01",
        "    7             nan",
        "    7    1.2 4567e-01",
        "123456789012345678   ",
        "                     ",
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_lines_that_look_different_are_left_to_loadtxt(line: str, at: int) -> None:
    lines = ["    5    1.234567e-01", "   10    1.234567e-01"]
    assert score._read_aligned("".join(f"{one}\n" for one in lines).encode(), 22, [0, 1]) is not None
    lines.insert(at, line)
    assert score._read_aligned("".join(f"{one}\n" for one in lines).encode(), 22, [0, 1]) is None


@pytest.mark.parametrize("middle", [b"0.5", b"0\t5", b"0#5", b"0\xa05"])
def test_what_parts_or_ends_a_line_for_loadtxt_in_a_column_that_is_not_read(middle: bytes) -> None:
    body = b"  5 0.5 1.2e+00\n" + b"  6 " + middle + b" 1.2e+00\n"
    assert (score._read_aligned(body, 16, [0, 2]) is None) is (middle != b"0.5")


def test_all_digits_of_a_number_must_be_exact() -> None:
    for digits, right in ((14, True), (15, False)):
        text = f"{1 / 3:.{digits}e} {2 / 3:.{digits}e}\n".encode()
        assert (score._read_aligned(text, len(text), [0, 1]) is not None) is right


def test_blocks_of_rows_are_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model_devi.out"
    path.write_text(deviations([(10**i, 0.01 * i) for i in range(9)]))
    whole = read_deviations(path, virial=True)
    assert np.array_equal(whole[:2], np.loadtxt(path, usecols=(0, 4)).T)
    monkeypatch.setattr(np, "loadtxt", None)  # much slower
    for size in (1, 200, 300):
        monkeypatch.setattr(score, "_CHUNK", size)
        assert np.array_equal(read_deviations(path, virial=True), whole)


def test_the_script_runs_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "explored/000000/out/task.000000"
    folder.mkdir(parents=True)
    (folder / "model_devi.out").write_text(deviations([(0, 0.05), (10, 0.2), (20, 0.2)]))
    (folder / "traj.lammpstrj").write_text(dump([0, 10]))
    one = {"folder": "000000/out/task.000000", "structure": "bulk", "broken": True}
    task = {
        "skip": 0,
        "levels": {"bulk": LEVELS},
        "trajectories": [one, {**one, "folder": "000009/out/task.000000"}, {**one, "broken": False}],
    }
    (tmp_path / "task.json").write_text(json.dumps(task))
    outputs = []
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-I", score.__file__, "task.json", "scores.npz"],
            cwd=tmp_path,
            env={"JOB_EXPLORED": str(tmp_path / "explored")},
            check=True,
        )
        outputs.append((tmp_path / "scores.npz").read_bytes())
    assert outputs[0] == outputs[1]
    with np.load(tmp_path / "scores.npz", allow_pickle=False) as found:
        assert found["rows"].tolist() == [3, 0, 3]
        assert found["step"].tolist() == [0, 10, 20] * 2
        assert found["cls"].tolist() == [ACCURATE, CANDIDATE, FAILED, ACCURATE, CANDIDATE, CANDIDATE]
        assert found["problem"].tolist() == ["", "model_devi.out: No such file or directory", ""]
