"""The gate: which forms of a secret it finds, and that an ordinary configuration passes it."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from conventions.errors import EngineError
from conventions.secrets import looks_like_key
from operators.pod import batch_waiter
from operators.pod.s3 import credentials
from statemachine.engine.secret_scan import refuse_secrets

from .test_pods import dressed

SECRET = "hunter2/räucher=0"


@pytest.mark.parametrize("secret", ["hunter2-", "hunter2-h", "hunter2-hu", SECRET])
@pytest.mark.parametrize("around", [("", ""), ("u:", "\n"), ("us:", "x"), ("user:", "xy")])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_a_text_around_it_is_found(secret: str, around: tuple[str, str], encode: object) -> None:
    text = encode(f"{around[0]}{secret}{around[1]}".encode()).decode()  # type: ignore[operator]
    with pytest.raises(EngineError, match=r"holds a secret in spec\.0\.x \(a credential in use\)"):
        refuse_secrets({"spec": [{"x": f"Basic {text}"}]}, [secret])


@pytest.mark.parametrize(
    "text", [quote(SECRET, safe=""), json.dumps(SECRET)[1:-1], SECRET.encode().hex(), f"a{SECRET}b"]
)
def test_other_forms_are_found_also_in_keys(text: str) -> None:
    with pytest.raises(EngineError, match="holds a secret in spec"):
        refuse_secrets({"spec": {text: 1}}, [SECRET])


def test_the_variable_is_named_and_its_value_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICENCE_PASSWORD", "correct-horse")
    with pytest.raises(EngineError, match=r"in a\.0 \(the value of LICENCE_PASSWORD\)") as caught:
        refuse_secrets({"a": ["correct-horse"]}, [])
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize("name", ["minio", "minioadmin", "dpgen2-sm", "dpgen2-sm-of-the-alloys-group"])
def test_an_access_key_that_a_person_chose_may_be_a_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("S3_SECRET_NAME", "dpgen2-s3")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "dpgen2-s3")
    keys = {kind: {"name": "dpgen2-s3", "key": name} for kind in ("access_key", "secret_key")}
    manifest = dressed(engine={"type": "argo", "image": f"{name}/dpgen2-sm:0.1", "repository": {"credentials": keys}})
    refuse_secrets(manifest.manifest, credentials())
    with pytest.raises(EngineError, match="holds a secret"):
        refuse_secrets({"a": SECRET}, credentials())


@pytest.mark.parametrize("name", ["AKIAIOSFODNN7EXAMPLE", "0123456789abcdef0123456789abcdef"])
def test_an_access_key_that_was_generated_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(EngineError, match="a credential in use"):
        refuse_secrets({"a": name}, credentials())


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "PGPASSWORD", "SOME_KEY", "AWS_SECRET_ACCESS_KEY", "TOKENIZERS_PARALLELISM"]
)
def test_the_batch_script_knows_the_same_secrets(name: str) -> None:
    assert bool(batch_waiter.SECRET.search(name)) is looks_like_key(name) is (name != "TOKENIZERS_PARALLELISM")
