"""Documents that a report reads, damaged in the ways that files are: it shows what it can, or says what is wrong."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from conventions.errors import Dpgen2Error
from statemachine.report.explain import explain
from statemachine.report.figures import Reader, as_json
from statemachine.report.page import render
from tests.doubles import MemoryStore
from tests.mutations import QUICK, examples, mutated, mutated_json
from tests.report_run import SPACE, campaign

DOCUMENTS = {
    "labels": f"{SPACE.stage('label', 1).product}/labels.json",
    "trained": f"{SPACE.stage('train', 1).product}/figures.json",
    "explored": f"{SPACE.stage('select', 1).product}/figures.json",
    "report": SPACE.stage("select", 1).report,
    "manifest": f"{SPACE.stage('select', 1).product}/manifest.json",
    "trajectories": f"{SPACE.stage('explore', 1).product}/trajectories.json",
    "event": SPACE.event(7),
}
TEXTS = {
    "curve": f"{SPACE.stage('train', 1).product}/lcurve.000.out",
    "frames": f"{SPACE.stage('select', 1).product}/frames.extxyz",
}
STORE = MemoryStore()


@pytest.fixture(scope="module", autouse=True)
def _campaign(tmp_path_factory: pytest.TempPathFactory) -> None:
    campaign(STORE, 2, tmp_path_factory.mktemp("campaign"))


def read(key: str, data: bytes, drawn: bool) -> None:
    store = MemoryStore()
    store.objects = {**STORE.objects, key: data}
    figures = Reader(store).read()
    json.dumps(as_json(figures), allow_nan=False)
    for what in ("0", "1", "1/2", "0/3", "label/1/2", "select/1/0"):
        with contextlib.suppress(Dpgen2Error):
            list(explain(store, figures, what))
    if drawn:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that no axis can show
            render(figures, store)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_odd_documents(name: str) -> None:
    key = DOCUMENTS[name]
    sample = json.loads(STORE.objects[key])

    @examples(5 * QUICK)
    @given(mutated_json([sample]))
    def check(data: bytes) -> None:
        read(key, data, drawn=False)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DOCUMENTS, *TEXTS])
def test_many_more_on_a_page(name: str) -> None:
    key = (DOCUMENTS | TEXTS)[name]
    sample = STORE.objects[key]

    @examples(2 * QUICK)
    @given(mutated_json([json.loads(sample)]) if name in DOCUMENTS else mutated([sample]))
    def check(data: bytes) -> None:
        read(key, data, drawn=True)

    check()


HISTOGRAM: list[Any] = [[], [1], [0] * 1000]


@pytest.mark.parametrize("histogram", HISTOGRAM, ids=len)
def test_a_histogram_that_does_not_fit_its_edges(histogram: list[int]) -> None:
    document = copy.deepcopy(json.loads(STORE.objects[DOCUMENTS["explored"]]))
    document["groups"][0]["histogram"] = histogram
    read(DOCUMENTS["explored"], json.dumps(document).encode(), drawn=True)


def test_edges_that_do_not_rise(tmp_path: Path) -> None:
    document = copy.deepcopy(json.loads(STORE.objects[DOCUMENTS["explored"]]))
    document["edges"][3] = document["edges"][9]
    read(DOCUMENTS["explored"], json.dumps(document).encode(), drawn=True)
