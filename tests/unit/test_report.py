"""The report: figures out of the store, the page, the plots."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from conventions.names import STAGES
from operators.structures import read_file
from statemachine.cli.show import iteration_rows, iteration_table
from statemachine.machine.outlook import needed
from statemachine.report import figures as figures_module
from statemachine.report.calibration import calibrate, rank_correlation
from statemachine.report.curves import Curve, parse_curve, parse_mace, read_curves
from statemachine.report.figures import Figures, Reader, as_json
from statemachine.report.iteration import Scored
from statemachine.report.page import configuration_text, render
from statemachine.report.pictures import draw
from statemachine.report.plots import plots, write_png
from statemachine.report.timeline import spans
from statemachine.store import open_store
from tests import servers
from tests.conftest import Cli
from tests.doubles import MemoryStore, first_state
from tests.report_run import LABELS, SPACE, campaign, deviation, moved

HOSTILE = "<script>alert(1)</script>{{7*7}}${x}&amp;'\"\x1b[31m"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def page_of(store: Any) -> tuple[str, Figures]:
    figures = Reader(store).read()
    return render(figures, store, configuration_text(store, figures.state)), figures


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


# Figures ------------------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_stages(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 3, tmp_path)
    found = as_json(Reader(store).read())
    assert json.loads(json.dumps(found))["run"] == "cu"
    assert [row["iteration"] for row in found["iterations"]] == [0, 1, 2]
    assert (found["labels"], found["damage"]) == (3 * (LABELS - 1), [])
    second = found["iterations"][1]
    assert second["figures"]["blind_rmse_f"] == 0.3
    assert second["stages"]["label"]["classes"] == {"ok": LABELS - 1, "unconverged": 1}
    first = second["labels"][0]
    assert (first["max_devi_f"], first["max_error_f"], first["new_error_f"]) == (0.11, 0.33, 0.05)
    assert second["labels"][-1]["kind"] == "unconverged"
    assert [one["structure"] for one in second["explored"]["groups"]] == ["bulk", "surface"]


def test_deviations_are_compared_with_errors_by_structure_set(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 2, tmp_path)
    (bulk, surface) = Reader(store).read().calibrations()
    assert (bulk[:2], surface[:2]) == ((1, "bulk"), (1, "surface"))
    assert (bulk[2].labels, surface[2].labels) == (3, 2)
    assert bulk[2].ratio == pytest.approx((3, 3, 3))
    # Errors of bulk: 0.33, 0.51, 0.69; the levels are those of the iteration before: 0.1 and 0.4.
    assert (bulk[2].below, bulk[2].between, bulk[2].above) == pytest.approx((0, 1 / 3, 2 / 3))


def label_of(deviation: float | None, error: float | None) -> Scored:
    return Scored("bulk", "ok", "", "000000", "task.000000", "Cu4", 0, None, deviation, error)


def test_calibration() -> None:
    assert calibrate([]) is None
    assert calibrate([label_of(None, 1.0), label_of(0.0, 1.0), label_of(0.1, None)]) is None
    found = calibrate([label_of(0.1, 0.1), label_of(0.2, 0.4), label_of(0.4, 1.2)], 0.2, 0.4)
    assert found is not None
    assert (found.labels, found.rank_correlation) == (3, 1.0)
    assert found.ratio == pytest.approx((1.1, 2.0, 2.9))
    assert (found.below, found.between, found.above) == pytest.approx((1 / 3, 0, 2 / 3))  # 0.4 itself has failed


def test_a_level_is_suggested_from_enough_labels(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign(store, 2, tmp_path)
    assert Reader(store).read().suggestions() == []  # three labels of a set are too few
    monkeypatch.setattr("tests.report_run.LABELS", 24)
    store = MemoryStore()
    campaign(store, 2, tmp_path)
    page, figures = page_of(store)
    told = figures.suggestions()
    assert told[0] == (
        "bulk: for errors below 0.1 eV/A, f_trust_lo would be 0.033 (12 labels of iteration 1, 95 % of them)"
    )
    assert told[0] in page and len(told) == 2
    alike = [label_of(0.1, 0.0)] * 20
    found = calibrate(alike)
    assert found is not None and found.level_for(0.1) is None


def test_each_models_errors(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 2, tmp_path)
    page, figures = page_of(store)
    assert as_json(figures)["iterations"][1]["models"][1] == {"rmse_e": 0.03, "rmse_f": 0.3}
    assert "Models of iteration 1" in page and "On the test set." in page


def test_the_ratio_stands_behind_its_row(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 2, tmp_path)
    rows = iteration_rows(Reader(store).read().state.trail)
    assert [line.endswith("errors 3.0 x deviation") for line in iteration_table(rows).splitlines()] == [
        False,
        False,
        True,
    ]


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2, 3, 4], [9, 7, 5, 3]) == -1
    # Two equal values share their mean rank: 1.5, 1.5, 3 against 1, 2, 3.
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.8660254)


def test_the_timeline_has_each_attempt() -> None:
    def version(
        at: str, minute: int, attempt: int = 0, iteration: int = 0, reason: str = "submitted"
    ) -> dict[str, Any]:
        stage = at.partition(".")[0] if "." in at else "train"
        when = f"2026-01-01T00:{minute:02d}:00+00:00"
        return {
            "at": at,
            "stage": stage,
            "attempt": attempt,
            "iteration": iteration,
            "updated_at": when,
            "reason": reason,
        }

    history = [
        version("label.submitting", 0),
        version("label.running", 1),
        {"damaged": True},
        version("train.submitting", 4),
        version("train.submitting", 6, attempt=1, reason="model 1 diverged"),
        version("failed", 9, attempt=1, reason="train failed"),
    ]
    found = list(spans(history))
    assert [(one.stage, one.attempt, one.end - one.begin, one.why) for one in found] == [
        ("label", 0, 240.0, ""),
        ("train", 0, 120.0, "model 1 diverged"),
        ("train", 1, 180.0, "train failed"),
    ]
    going = list(spans(history[:2]))
    assert [(one.stage, one.end - one.begin) for one in going] == [("label", 60.0)]
    assert list(spans([])) == []


def test_the_campaigns_timeline(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 2, tmp_path)
    found = Reader(store).read().spans
    assert [one.stage for one in found] == ["label", "train", "explore", "select", "label", "train", "train", "explore",
                                            "select", "label"]  # fmt: skip
    assert [one.why for one in found if one.why] == ["attempt 0 did not complete the stage: model 1 diverged"]


def test_a_run_in_a_bucket_is_read_alike(s3: servers.Server, tmp_path: Path) -> None:
    found = []
    for url in (s3.prefix("report"), f"file://{tmp_path}/report"):
        store = open_store(url)
        campaign(store, 3, tmp_path)
        found.append(as_json(Reader(store).read()) | {"prefix": ""})
    assert found[0] == found[1]


def test_settled_iterations_are_read_once(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(store: Any, space: Any, row: Any) -> Any:
        read.append(row.iteration)
        return before(store, space, row)

    before = figures_module.read_iteration
    monkeypatch.setattr(figures_module, "read_iteration", counted)
    campaign(store, 4, tmp_path)
    reader = Reader(store)
    first, second = reader.read(), reader.read()
    assert read == [0, 1, 2, 3, 3]  # the last one may still change
    assert as_json(first) == as_json(second)


def test_what_is_damaged_is_told_and_what_is_missing_left_out(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 3, tmp_path)
    place = {stage: SPACE.stage(stage, 1) for stage in STAGES}
    store.objects[place["label"].report] = b"{"
    store.objects[f"{place['label'].product}/labels.json"] = b'{"frames": [{"structure": 1}]}'
    store.objects[f"{place['select'].product}/figures.json"] = b'{"schema_version": 1, "edges": "x"}'
    del store.objects[f"{place['train'].product}/figures.json"]
    page, figures = page_of(store)
    assert [text.partition(":")[2].strip()[:40] for text in figures.damage]
    assert [
        name for name in ("report.json", "labels.json", "figures.json") if any(name in t for t in figures.damage)
    ] == [
        "report.json",
        "labels.json",
        "figures.json",
    ]
    assert "What could not be read" in page


@pytest.mark.parametrize("missing", ["frames.extxyz", "manifest.json", "SHA256SUMS"])
def test_a_page_without_pictures(store: MemoryStore, tmp_path: Path, missing: str) -> None:
    campaign(store, 2, tmp_path)
    assert "Frames chosen in iteration 1" in page_of(store)[0]
    del store.objects[f"{SPACE.stage('select', 1).product}/{missing}"]
    assert "Frames chosen" not in page_of(store)[0]


def test_what_the_rule_still_needs() -> None:
    state = first_state(iteration=1)
    assert needed(state) == []
    rows = [{"iteration": 0, "figures": {"accurate": 80.0, "candidate": 20.0, "level": 0.2}}]
    state = type(state).model_validate({**state.model_dump(), "trail": rows})
    assert needed(state) == ["accurate frames: 80.0% of 95.0% (iteration 0)"]
    strict = state.policy.convergence.model_copy(update={"clean_iterations": 2, "level_drift": 0.1})
    policy = state.policy.model_copy(update={"convergence": strict, "explore_stages": 3})
    more = [
        *state.trail,
        state.trail[0].model_copy(update={"iteration": 1, "figures": {"accurate": 1.0, "level": 0.25}}),
    ]
    assert needed(state.model_copy(update={"policy": policy, "trail": more, "clean": 1})) == [
        "accurate frames: 100.0% of 95.0% (iteration 1)",
        "accurate iterations in a row: 1 of 2",
        "change of the level: 25.0%, at most 10.0%",
        "exploration stage 1 of 3",
    ]
    assert needed(state.model_copy(update={"at": "converged"})) == []


# The page -----------------------------------------------------------------------------------------------------------


def test_the_page_stands_alone(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 4, tmp_path)
    page, _ = page_of(store)
    tags = Tags(page)
    assert tags.tags.count("figure") == 9 + LABELS  # plots and pictures
    assert not set(tags.tags) & {"script", "link", "img", "image", "iframe", "object", "embed", "base", "form"}
    outside = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href", "action") and value]
    assert [value for value in outside if not value.startswith("#")] == []
    assert not re.search(r"url\((?!#)|@import", page)


def test_equal_runs_have_equal_pages(tmp_path: Path) -> None:
    pages = []
    for _ in range(2):
        store = MemoryStore()
        campaign(store, 3, tmp_path)
        pages.append(page_of(store)[0])
    assert pages[0] == pages[1]
    assert "currentColor" in pages[0] and "#010203" not in pages[0]


@pytest.mark.parametrize("name", [HOSTILE, "x" * 10_000, "$\\frac{", "]]>", "a\nb\0c", "\u202eevil"])
def test_hostile_names(store: MemoryStore, tmp_path: Path, name: str) -> None:
    campaign(store, 3, tmp_path, sets=(name, "bulk"), reason=name, at="failed")
    page, figures = page_of(store)
    tags = Tags(page)
    assert "script" not in tags.tags
    assert len(page) < 600_000
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", page)
    assert "49" not in tags.text.partition("Deviation and true error")[2].partition("Explored in")[0]
    plots(figures)


def test_a_run_that_has_just_begun(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 0, tmp_path)
    page, figures = page_of(store)
    assert list(plots(figures)) == ["timeline"]
    assert "label" in Tags(page).text


def test_a_rewound_iteration_is_marked(store: MemoryStore, tmp_path: Path) -> None:
    state = campaign(store, 3, tmp_path)
    rows = [row.model_copy(update={"left": row.iteration == 2}) for row in state.trail]
    store.put(SPACE.state, moved(store, state, trail=rows, reason="rewind to label of iteration 2").seal())
    page, figures = page_of(store)
    assert page.count('<tr class="left">') == 1
    assert figures.labelled == 2 * (LABELS - 1)


def test_pictures_show_the_largest_deviations_first(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 1, tmp_path)
    page, _ = page_of(store)
    order = re.findall(r"<figcaption>0/(\d+) ", page)
    assert order == sorted(map(str, range(LABELS)), key=lambda n: -deviation(0, int(n)))


def test_an_atom_is_a_disc(tmp_path: Path) -> None:
    path = tmp_path / "one.xyz"
    path.write_text("2\n\nO 0 0 0\nH 0 0 0.96\n")
    (atoms,) = read_file(path, "xyz")
    discs, height = draw(atoms)
    assert len(discs) == 2 and height > 0
    assert {disc.colour for disc in discs} == {"#ff0d0d", "#ffffff"}
    assert all(0 <= disc.x <= 100 and 0 <= disc.y <= height for disc in discs)


def test_a_curve_is_thinned_and_mended() -> None:
    rows = "".join(f"{step} 1 0.5 0.25 1e-3\n" for step in range(10_000))
    curve = parse_curve(f"#  step  rmse_trn  rmse_e_trn  rmse_f_trn  lr\n{rows}broken row\n")
    assert 250 < len(curve.steps) < 350
    assert set(curve.rmse_e) == {0.5}
    for text in ("", "no header\n1 2 3\n", "# step lr\n1 2\n"):
        assert parse_curve(text).steps == []
    assert parse_curve("# step rmse_e_trn_h rmse_f_trn_h\n1 2 3\n").rmse_f == [3.0]  # of several heads


def evaluation(epoch: int | None, error: Any, head: str = "Default") -> str:
    return json.dumps({"mode": "eval", "epoch": epoch, "rmse_e_per_atom": 0.5, "rmse_f": error, "head": head})


def test_a_curve_of_mace() -> None:
    opt = '{"loss": 2.1, "time": 0.7, "mode": "opt", "epoch": 0}'
    bad = ['{"mode": "eval"', '{"mode": "eval"}', "[" * 100_000 + '"eval"', '["eval"]', evaluation(7, float("nan"))]
    bad += [
        evaluation(7, "x"),
        evaluation(7, None),
        '{"mode": "eval", "epoch": "x", "rmse_e_per_atom": 1, "rmse_f": 1}',
    ]
    lines = [evaluation(None, 0.4), opt, *bad, evaluation(0, 0.2), opt, evaluation(1, 0.1)]
    assert parse_mace("\n".join(lines)) == Curve([0, 1, 2], [0.5] * 3, [0.4, 0.2, 0.1], "epoch", "validation data")
    again = [*lines, evaluation(None, 0.2), evaluation(0, 0.3), evaluation(1, 0.25)]
    assert parse_mace("\n".join(again)).rmse_f == [0.4, 0.3, 0.25]
    heads = [evaluation(None, 9, "pt_head"), evaluation(None, 0.4, "mine"), evaluation(0, 8, "pt_head")]
    assert parse_mace("\n".join(heads)).rmse_f == [0.4]
    assert 250 < len(parse_mace("\n".join(evaluation(n, 0.1) for n in range(10_000))).steps) < 350
    assert parse_mace("").steps == []


def test_the_curves_of_mace_are_drawn(store: MemoryStore, tmp_path: Path) -> None:
    state = campaign(store, 1, tmp_path)
    product = SPACE.stage("train", 0).product
    for key in [key for key in store.objects if key.startswith(f"{product}/lcurve.")]:
        del store.objects[key]
    for number in range(2):
        text = "\n".join([evaluation(None, 0.4), evaluation(0, 0.2)])
        store.objects[f"{product}/lcurve.{number:03d}.jsonl"] = text.encode()
    assert [curve.unit for curve in read_curves(store, state)] == ["epoch", "epoch"]
    page, _ = page_of(store)
    assert 'id="curves"' in page and "RMSE on validation data" in page and ">epoch<" in page


@pytest.mark.slow
def test_png(store: MemoryStore, tmp_path: Path) -> None:
    campaign(store, 3, tmp_path)
    found = plots(Reader(store).read())
    first = {path.name: path.read_bytes() for path in write_png(tmp_path / "a", found)}
    second = {path.name: path.read_bytes() for path in write_png(tmp_path / "b", found)}
    assert first == second
    assert all(data.startswith(b"\x89PNG") for data in first.values())


# The commands -------------------------------------------------------------------------------------------------------


def test_the_commands(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(f"file://{tmp_path}/run")
    campaign(store, 3, tmp_path)
    code, out, _ = cli("report", "run")
    assert (code, out) == (0, "report.html\n")
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".report")) == []
    code, out, _ = cli("report", "run", "--json")
    assert (code, json.loads(out)["labels"]) == (0, 3 * (LABELS - 1))
    code, out, _ = cli("report", "run", "--png", "plots")
    assert (code, "plots/calibration.png" in out.split()) == (0, True)


def test_a_run_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    code, _, error = cli("report", tmp_path / "nothing")
    assert code == 2 and "there is no run" in error
