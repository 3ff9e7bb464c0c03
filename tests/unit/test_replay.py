"""dpgen2-sm replay: a run's candidates chosen again by other rules. Nothing of the run is changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from conventions.errors import ConfigError, DataError, NotTrusted
from conventions.names import canonical_json, sha256
from conventions.state import IterationSummary, Policy
from statemachine.cli.replay import table
from statemachine.replay.labels import Label, labels_of
from statemachine.replay.plot import draw
from statemachine.replay.replay import Outcome, as_json, replay
from statemachine.replay.rules import AS_IT_WAS, Rule, read_rule
from statemachine.run.record import Record
from statemachine.store import Store, open_store
from tests.doubles import first_state
from tests.select_run import SelectRun, deviations, dump

STEPS = range(0, 100, 10)
LEVELS = {"f_trust_lo": 0.1, "f_trust_hi": 0.5}


def explored(root: Path, iteration: int = 0, **select: Any) -> SelectRun:
    """An iteration whose select stage is done: two trajectories of ten frames, with deviations of 0.04 to 0.4."""
    run = SelectRun(root, iteration, **{**LEVELS, "fp_task_max": 4, **select})
    for seed in (1, 2):
        rows = [(step, 0.04 * (number + 1)) for number, step in enumerate(STEPS)]
        run.add(deviations(rows), dump(STEPS, seed=seed + 10 * iteration))
    report = run.stage()
    assert report.complete, report.messages
    return run


@pytest.fixture
def run(tmp_path: Path) -> SelectRun:
    return explored(tmp_path / "run")


def recorded(run: SelectRun, *rows: IterationSummary) -> Store:
    """The run's folder as a store whose state has these iterations."""
    store = open_store(f"file://{run.root}")
    apps = dict(run.place.space.apps)
    policy = Policy(apps=apps, max_iterations=5, explore_stages=1, retries=dict.fromkeys(apps, 0))  # type: ignore[arg-type]
    trail = list(rows) or [IterationSummary(iteration=0, stages=["label", "train", "explore", "select"])]
    state = first_state(policy=policy, trail=trail, iteration=trail[-1].iteration + 1)
    store.put(state.place.space.state, state.seal())
    return store


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_the_runs_own_rule_chooses_what_it_chose(run: SelectRun) -> None:
    store = recorded(run)
    before = digest(run.root)
    (outcome,) = replay(store, [])
    assert outcome.rule == AS_IT_WAS and outcome.selected == 4
    (selected,) = outcome.selections
    assert [(one.job_id, one.step) for one in selected.frames] == [(one["job_id"], one["step"]) for one in run.manifest]
    assert selected.classes == json.loads((run.root / run.place.report).read_text())["classes"]
    assert digest(run.root) == before


def test_another_rule(run: SelectRun) -> None:
    outcomes = replay(recorded(run), [Rule("few", {"fp_task_max": 2}), Rule("low", {"f_trust_hi": 0.25})])
    ours, few, low = (outcome.selections[0] for outcome in outcomes)
    assert few.frames == ours.frames[:2]  # of the same order at random
    assert (ours.classes["candidate"], low.classes["candidate"]) == (16, 8)
    assert all(one.max_devi_f < 0.25 for one in low.frames) and len(low.frames) == 4


def test_null_takes_a_key_out(tmp_path: Path) -> None:
    run = explored(tmp_path / "run", fp_task_max_per_system=1)
    (ours, free) = replay(recorded(run), [Rule("free", {"fp_task_max_per_system": None})])
    assert (ours.selected, free.selected) == (1, 4)


def test_commands_that_a_prefix_says_are_not_run(tmp_path: Path) -> None:
    root, mark = tmp_path / "run", tmp_path / "mark"
    run = explored(root)
    frozen = root / run.place.space.config(0)
    document = json.loads(frozen.read_text())
    document["select"] |= {"command": f"touch {mark}; python3", "setup": [f"touch {mark}"], "retries": 7}
    frozen.write_text(json.dumps(document))
    (outcome,) = replay(recorded(run), [])
    assert outcome.selected == 4 and not mark.exists()


def test_training_takes_commands_of_the_run_which_must_be_trusted(
    run: SelectRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    store = recorded(run)
    frozen = (run.root / run.place.space.config(0)).read_bytes()
    state = Record(store).load().state.model_copy(update={"config_sha256": sha256(frozen)})
    store.put(state.place.space.configuration(sha256(frozen)), frozen)
    store.put(state.place.space.state, state.seal())
    with pytest.raises(NotTrusted, match="its commands are not run here"):
        replay(store, [], retrain=True)


def test_only_iterations_that_count_and_explored(tmp_path: Path) -> None:
    root = tmp_path / "run"
    explored(root)
    run = explored(root, 1)
    rows = [
        IterationSummary(iteration=0, stages=["label", "train", "explore", "select"], left=True),
        IterationSummary(iteration=1, stages=["label", "train", "explore", "select"]),
        IterationSummary(iteration=2, stages=["label", "train"]),
    ]
    (outcome,) = replay(recorded(run, *rows), [])
    assert [one.iteration for one in outcome.selections] == [1]


def test_nothing_was_selected_yet(run: SelectRun) -> None:
    with pytest.raises(DataError, match="no iteration has selected frames yet"):
        replay(recorded(run, IterationSummary(iteration=0, stages=["label"])), [])


def test_what_was_explored_is_gone(run: SelectRun) -> None:
    store = recorded(run)
    (run.root / run.explore.product / "trajectories.json").unlink()
    with pytest.raises(DataError, match=r"trajectories\.json"):
        replay(store, [])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"f_trust_low": 1}, "f_trust_low"),
        ({"f_trust_hi": "much"}, r"select\.f_trust_hi"),
        ({"f_trust_lo": 0.9}, "f_trust_lo"),
    ],
)
def test_a_rule_that_is_no_configuration(run: SelectRun, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replay(recorded(run), [Rule("bad", keys)])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "- 1\n", "a mapping of keys is expected"),
        ("a.yaml", "", "the file is empty"),
        ("a.yaml", "select: 3\n", "give keys of `select`"),
        ("a.yaml", "app: other\n", "a rule gives it other keys"),
        ("a.yaml", "command: touch x\n", "command: the run's app chooses"),
        ("as-it-was.yaml", "fp_task_max: 3\n", "the name of a rule"),
        ("a b.yaml", "fp_task_max: 3\n", "the name of a rule"),
    ],
)
def test_a_file_that_is_no_rule(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_rule(tmp_path / name)


def test_a_rule_may_be_a_whole_section(tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("select:\n  fp_task_max: 9\n")
    assert read_rule(tmp_path / "wide.yaml") == Rule("wide", {"fp_task_max": 9})
    with pytest.raises(ConfigError, match="there is no such file"):
        read_rule(tmp_path / "none.yaml")


def test_labels_are_those_of_the_frames_that_the_run_chose(run: SelectRun) -> None:
    """Of four frames one has no label; the labels of iteration 0 were not selected."""
    space = run.place.space
    rows = [
        IterationSummary(iteration=0, stages=["label", "train", "explore", "select"]),
        IterationSummary(iteration=1, stages=["label"]),
    ]
    store = recorded(run, *rows)
    frames = [
        {
            "structure": "bulk", "class": "ok" if number else "scf", "message": "", "job_id": f"{number:06d}",
            "task_id": "task.000000", "system": "Cu4" if number else None, "index": number - 1 if number else None,
            "max_error_f": 0.5,
        }
        for number in range(4)
    ]  # fmt: skip
    for iteration, found in ((0, frames[:1]), (1, frames)):
        product = space.stage("label", iteration).product
        store.put(f"{product}/labels.json", canonical_json({"schema_version": 1, "frames": found}))
    known = labels_of(store, Record(store).load().state)
    chosen = run.manifest
    assert known == {
        (0, one["job_id"], one["task_id"], one["step"]): Label(1, "Cu4", number, 0.5)
        for number, one in enumerate(chosen[1:])
    }
    outcomes = replay(store, [Rule("few", {"fp_task_max": 2})])
    assert [outcome.labels for outcome in outcomes] == [3, 1]


def outcomes() -> list[Outcome]:
    from statemachine.replay.selection import Selected
    from statemachine.report.chosen import Chosen

    frames = [Chosen("bulk", "000000", "task.000000", step, 0.2) for step in range(3)]
    classes = {"accurate": 4, "candidate": 16, "failed": 0, "selected": 3}
    selections = [Selected(number, classes, frames, []) for number in range(2)]
    return [
        Outcome(AS_IT_WAS, selections, 6, {"rmse_f": 0.1, "rmse_e": 0.01}, {"rmse_f": 0.11, "rmse_e": 0.01}),
        Outcome("wide", selections, 2, {"rmse_f": 0.2}, {"rmse_f": 0.25}),
        Outcome("all labels", [], 6, {"rmse_f": 0.1}),
    ]


def test_the_table() -> None:
    assert table(outcomes()).splitlines() == [
        "iter  rule         accurate  candidate     failed   selected",
        *(
            f"   {number}  {rule:10s}          4         16          0          3"
            for number in (0, 1)
            for rule in (AS_IT_WAS, "wide")
        ),
        "",
        "rule         selected   labelled     rmse_f  by chance",
        "as-it-was           6          6     0.1000     0.1100",
        "wide                6          2     0.2000     0.2500",
        "all labels                     6     0.1000           ",
        "rmse_f in eV/Angstrom on init.test; by chance: of as many labels drawn at random",
    ]


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_the_plot_is_the_same_each_time(tmp_path: Path, name: str) -> None:
    found = []
    for _ in range(2):
        draw(outcomes(), tmp_path / name)
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1] and len(found[0]) > 5000


def test_plain_data_for_scripts() -> None:
    found = as_json(outcomes())
    assert json.loads(json.dumps(found))[0]["selected"] == 6
    assert found[0]["selections"][0]["frames"][0]["max_devi_f"] == 0.2
