"""deploy/monitoring: the dashboard and the alerts ask for what the daemon serves, in the form that is wanted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from statemachine.daemon.hints import Keys
from statemachine.daemon.web import Server
from tests.unit.test_deploy import DEPLOY, ROOT, call, documents, tool
from tests.unit.test_web import FakeDaemon, ask

MONITORING = DEPLOY / "monitoring"
SCHEMA = ROOT / "tests/deploy/dashboard.schema.json"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
(ALERTS,) = documents((MONITORING / "alerts.yaml").read_text("utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """The labels of every metric that a daemon with all figures serves."""
    server = Server(("127.0.0.1", 0), FakeDaemon(), Keys())  # type: ignore[arg-type]
    text = ask(server, "GET", "/metrics").text  # type: ignore[attr-defined]
    server.stop()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        found |= {family.name: set()} if not family.samples else {}
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> dict[str, str]:
    found = {rule["alert"]: str(rule["expr"]) for rule in RULES}
    for panel in DASHBOARD["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    for variable in DASHBOARD["templating"]["list"]:
        found[f"${variable['name']}"] = variable.get("definition", "")
    return found


@pytest.mark.parametrize("where", expressions())
def test_every_metric_and_label_is_served(served: dict[str, set[str]], where: str) -> None:
    text = expressions()[where]
    names = re.findall(r"\bdpgen2_\w+", text)
    assert names or where in ("Dpgen2DaemonDown", "$datasource")
    assert set(names) <= set(served)
    for name, matchers in re.findall(r"\b(dpgen2_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)[=!]~?=?\"", matchers)) <= served[name], where
    grouped = {label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", text) for label in group.split(",")}
    assert grouped <= {label for name in names for label in served[name]}


def test_a_metric_that_is_not_served_would_be_seen(served: dict[str, set[str]]) -> None:
    assert "dpgen2_iteration" in served and "dpgen2_iterations" not in served
    assert served["dpgen2_notifications_total"] == {"result"} and served["dpgen2_rmse_f"] == {"run"}


def test_all_that_is_served_of_runs_is_shown(served: dict[str, set[str]]) -> None:
    asked = set(re.findall(r"\bdpgen2_\w+", " ".join(expressions().values())))
    assert set(served) - asked == {"dpgen2_attempt"}


def test_legends_and_texts_name_labels_that_are_there(served: dict[str, set[str]]) -> None:
    labels = {label for found in served.values() for label in found} | {"job"}
    texts = [target["legendFormat"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    texts += [text for rule in RULES for text in rule["annotations"].values()]
    named = re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", " ".join(texts))
    assert named and set(named) <= labels


def test_the_dashboard_is_of_its_schema(tmp_path: Path) -> None:
    checker = tool("check-jsonschema")
    call(checker, "--schemafile", SCHEMA, MONITORING / "dashboard.json")
    spoilt = {**DASHBOARD, "panels": [{**DASHBOARD["panels"][0], "datasource": {"type": "prometheus", "uid": "mine"}}]}
    (tmp_path / "spoilt.json").write_text(json.dumps(spoilt))
    with pytest.raises(AssertionError, match="was expected"):
        call(checker, "--schemafile", SCHEMA, tmp_path / "spoilt.json")


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_every_alert_says_what_it_is_and_is_tried() -> None:
    (tried,) = documents((MONITORING / "alerts_test.yaml").read_text("utf-8"))
    names = {rule["alert"] for rule in RULES}
    fired = {one["alertname"] for one in tried["tests"][0]["alert_rule_test"] if one["exp_alerts"]}
    assert len(names) == len(RULES) and fired == names
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "description"} and set(rule["labels"]) == {"severity"}


def test_promtool_has_nothing_to_complain_about(tmp_path: Path) -> None:
    promtool = tool("promtool")
    assert f"SUCCESS: {len(RULES)} rules found" in call(promtool, "check", "rules", MONITORING / "alerts.yaml")
    assert "SUCCESS" in call(promtool, "test", "rules", MONITORING / "alerts_test.yaml")
    for title, text in expressions().items():
        if not title.startswith("$"):
            text = text.replace("$__rate_interval", "5m").replace("$run", ".*")
            (tmp_path / "panel.yaml").write_text(
                json.dumps({"groups": [{"name": "panel", "rules": [{"record": "panel", "expr": text}]}]})
            )
            call(promtool, "check", "rules", tmp_path / "panel.yaml")
