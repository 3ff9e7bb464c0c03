"""Check frames, as the report and `explain` show them: apart from the candidates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from statemachine.report.explain import explain
from statemachine.report.figures import Reader, as_json
from statemachine.report.page import render
from statemachine.report.plots import plots, svg
from tests.doubles import MemoryStore
from tests.report_run import LABELS, SPACE, campaign


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """The last two good labels of iteration 1 are check frames: 0.05 and 0.08 eV/Angstrom, wrong by 0.05 and 0.2."""
    store = MemoryStore()
    campaign(store, 2, tmp_path)
    places = {"labels": SPACE.stage("label", 1).product, "manifest": SPACE.stage("select", 0).product}
    for name, place in places.items():
        found = json.loads(store.get(f"{place}/{name}.json").data)
        for number, deviation, error in ((3, 0.05, 0.05), (4, 0.08, 0.2)):
            found["frames"][number] |= {"check": True, "max_devi_f": deviation}
            if name == "labels":
                found["frames"][number]["max_error_f"] = error
        store.put(f"{place}/{name}.json", json.dumps(found).encode())
    report = json.loads(store.get(SPACE.stage("select", 0).report).data)
    report["classes"] |= {"accurate": 16000, "selected": 4, "check": 2}
    store.put(SPACE.stage("select", 0).report, json.dumps(report).encode())
    return store


def test_they_are_calibrated_apart(store: MemoryStore) -> None:
    figures = Reader(store).read()
    found = {(structure, one.check): one for _, structure, one in figures.calibrations()}
    assert {key: one.labels for key, one in found.items()} == {
        ("bulk", False): 2,
        ("bulk", True): 1,
        ("surface", False): 1,
        ("surface", True): 1,
    }
    assert found["bulk", False].ratio == pytest.approx((3, 3, 3))
    assert found["bulk", True].ratio == pytest.approx((2.5, 2.5, 2.5))
    assert (found["bulk", True].below, found["surface", True].below) == (0.0, 1.0)  # f_trust_lo is 0.1
    assert [one["check"] for one in as_json(figures)["calibration"]] == [False, True, False, True]


def test_the_page_and_the_plot_show_them(store: MemoryStore) -> None:
    figures = Reader(store).read()
    page = render(figures, store)
    assert page.count("<td>accurate<td>1") == 2 and page.count("<td>candidates<td>") == 2
    title, draw = plots(figures)["calibration"]
    assert "check frames" in svg(draw, title)
    assert "2 check" not in page, "drawing them is no trouble"


def test_explain_tells_how_one_was_chosen(store: MemoryStore) -> None:
    found = dict(explain(store, Reader(store).read(), "0/3"))
    assert found["accurate"].startswith("max_devi_f 0.05: below the lower trust levels")
    assert found["chosen"].startswith(f"number 4 of {LABELS}, drawn at random from 16000 accurate frames")
    assert "wrong by up to 0.05" in found["error then"] and "candidate" not in found
    candidate = dict(explain(store, Reader(store).read(), "0/0"))
    assert candidate["chosen"].startswith(f"number 1 of {LABELS - 2} that were drawn at random from 3800 candidates")
    assert "check" not in candidate["filters"]
    manifest = SPACE.stage("select", 0).product + "/manifest.json"
    found = json.loads(store.get(manifest).data)
    found["frames"][3]["max_devi_f"] = 0.06  # its place in labels.json has another frame
    store.put(manifest, json.dumps(found).encode())
    assert "alone are no reason for new labels" in dict(explain(store, Reader(store).read(), "0/3"))["label"]
    told = [text for name, text in explain(store, Reader(store).read(), "1") if name == "check"]
    assert told[0].startswith("bulk: the errors of 1 accurate frames were 2.5 times") and "100.0% of them" in told[0]
