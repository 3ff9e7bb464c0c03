"""The policy file of a daemon: which prefixes it works for, and how it reaches Argo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conventions.cluster import ArgoConfig, LocalConfig
from conventions.errors import ConfigError, NotTrusted
from statemachine.run.trust import reached
from tests.conftest import Cli
from tests.unit.test_trust import EVIL, UID, URL, command, forge

RULES = """\
runs:
  - prefix: s3://bucket/runs
    engine: {type: argo, server: "https://argo.svc:2746", namespace: dpgen2}
  - prefix: s3://bucket/team?region=eu
    engine: {type: argo}
  - prefix: data
    engine: {type: local}
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(RULES)
    monkeypatch.setenv("DPGEN2_POLICY", str(path))
    return path


def test_the_first_entry_that_covers_decides(rules: Path) -> None:
    run = ArgoConfig(type="argo", server=EVIL, token_file="/etc/passwd", hours=3)
    found = reached(URL, run, UID)
    assert found == ArgoConfig(type="argo", server="https://argo.svc:2746", namespace="dpgen2", hours=3)
    assert reached("s3://bucket/team/cu?region=eu", run, UID) == ArgoConfig(type="argo", hours=3)
    for other in ("s3://bucket/team/cu", "s3://bucket/runsx/cu", "s3://elsewhere/runs/cu"):
        with pytest.raises(NotTrusted, match="no entry of"):
            reached(other, run, UID)
    with pytest.raises(NotTrusted, match="its engine is local; DPGEN2_POLICY allows argo there"):
        reached(URL, LocalConfig(), UID)
    local = (rules.parent / "data/cu").as_uri()
    assert reached(local, LocalConfig(slots=2), UID) == LocalConfig(slots=2)


def test_a_changed_policy_file_is_read_anew(rules: Path) -> None:
    rules.write_text("runs: []\n")
    os.utime(rules, ns=(1, 1))
    with pytest.raises(NotTrusted):
        reached(URL, ArgoConfig(type="argo"), UID)
    rules.write_text(RULES)
    assert reached(URL, ArgoConfig(type="argo"), UID)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: [{prefix: a, engin: {type: local}}]", "did you mean 'engine'?"),
        ("runs: [{prefix: a, engine: {type: slurm}}]", "'local' or 'argo'"),
        ("runs: {}", "a list is expected"),
        ("[]", "a mapping of keys is expected"),
        ("runs: [{prefix: 'ftp://a', engine: {type: local}}]", "use file:///absolute/path"),
    ],
)
def test_a_policy_file_with_mistakes_is_refused(rules: Path, text: str, said: str) -> None:
    rules.write_text(text)
    with pytest.raises(ConfigError) as caught:
        reached(URL, LocalConfig(), UID)
    assert said in str(caught.value)
    rules.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        reached(URL, LocalConfig(), UID)


def test_a_policy_file_lets_commands_be_run_and_trust_decides_nothing(stub_run: Path, cli: Cli, rules: Path) -> None:
    rules.write_text("runs: [{prefix: out, engine: {type: local}}]\n")
    rules.replace(stub_run.parent / "policy.yaml")
    cli("init", stub_run)
    out = stub_run.parent / "out"
    forge(out, command("true"))
    assert cli("step", out)[0] == 0
    code, _, errors = cli("trust", out, "--yes")
    assert code == 2 and "DPGEN2_POLICY decides" in errors
    assert cli("cancel", out)[0] == 0
