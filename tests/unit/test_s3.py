"""Prefixes of S3: what is taken, what is refused, and that no message shows a credential."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from conventions.errors import ConfigError, StoreError
from operators.pod.s3 import Place
from statemachine.store import open_store
from statemachine.store.opening import prefix_url


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("s3://bucket/run", "s3://bucket/run"),
        ("s3://my.bucket-1/a/b c/ü+&=@:'()/", "s3://my.bucket-1/a/b c/ü+&=@:'()"),
        ("s3://bucket/run?endpoint=https://host:9000/", "s3://bucket/run?endpoint=https://host:9000"),
        ("s3://bucket/run?region=eu-1&endpoint=http%3A%2F%2F[::1]:9", "s3://bucket/run?endpoint=http://[::1]:9&region=eu-1"),
        ("s3://bucket/run?", "s3://bucket/run"),
        ("s3://bucket/" + "x" * 900, "s3://bucket/" + "x" * 900),
    ],
)  # fmt: skip
def test_a_prefix_has_one_form_which_reopens_it(url: str, canonical: str) -> None:
    store = open_store(url)
    assert store.url == canonical
    assert open_store(store.url).url == canonical
    assert store.at("a/b") == canonical.partition("?")[0] + "/a/b"


@pytest.mark.parametrize(
    "url",
    [
        "s3://", "s3:///path", "s3://bucket", "s3://bucket/", "s3://bu/path", "s3://Bucket/path", "s3://a_b/path",
        "s3://-ab/path", "s3://ab-/path", "s3://a..b/path", "s3://a.-b/path", "s3://192.168.0.1/path",
        f"s3://{'a' * 64}/path",
        "s3://bucket:9000/path", "s3://bücket/path", "s3://bucket//path", "s3://bucket/a//b", "s3://bucket/a/../b",
        "s3://bucket/./a", "s3://bucket/a ", "s3://bucket/a /b", "s3://bucket/ a", "s3://bucket/a%20b", "s3://bucket/a#b",
        "s3://bucket/a\nb", "s3://bucket/a\0b", "s3://bucket/a\tb", "s3://bucket/a\\b", "s3://bucket/{{a}}",
        "s3://bucket/a\ud800", "s3://bucket/" + "x" * 901, "s3://bucket/a?endpoint", "s3://bucket/a?endpoint=",
        "s3://bucket/a?endpoint=host:9000", "s3://bucket/a?endpoint=file:///etc", "s3://bucket/a?endpoint=http://169.254.169.254",
        "s3://bucket/a?endpoint=http://h:0", "s3://bucket/a?endpoint=http://h:99999", "s3://bucket/a?region=a b",
        "s3://bucket/a?region=", "s3://bucket/a?region=x&region=x", "s3://bucket/a?endpont=https://h", "s3://bucket/a?a=1?b=2",
        "S3://bucket/path", "s3:/bucket/path",
    ],
)  # fmt: skip
def test_odd_prefixes_are_refused_in_a_line(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAHIDDEN:hidden@bucket/path",
        "s3://bucket/path?endpoint=https://me:hidden@host",
        "s3://bucket/path?endpoint=ftp://me:hidden@host",
        "s3://bucket/path?secret_key=hidden",
        "s3://bucket/path?endpoint=https://host?key=hidden",
    ],
)
def test_a_refusal_shows_no_credential(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url)
    assert "hidden" not in str(caught.value).lower()


@pytest.mark.parametrize("address", ["http://me:hidden@127.0.0.1:1", "http://me:hidden@127.0.0.1:1:x", "me:hidden@h"])
def test_a_password_in_the_environments_address_is_not_shown(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr(Place.connect, "__defaults__", (1,))
    with pytest.raises((ConfigError, StoreError)) as caught:
        open_store("s3://bucket/path").get("state.json")
    assert "hidden" not in str(caught.value)


def test_a_typing_error_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"'endpont' is not an option; did you mean 'endpoint'\?"):
        Place.parse("s3://bucket/path?endpont=https://host")


def test_naming_a_prefix_pays_for_no_client() -> None:
    """Also `validate` and tab completion name it."""
    code = (
        "import sys; from pathlib import Path; from statemachine.store import prefix_url; "
        "prefix_url('s3://bucket/run', Path()); print('boto3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    with pytest.raises(ConfigError):
        prefix_url("s3://B/run", None)  # type: ignore[arg-type]


def test_stores_of_one_bucket_share_their_connections(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client takes a megabyte, and a daemon has a thousand stores. Other credentials are another's."""

    def client(prefix: str) -> Any:
        store: Any = open_store(prefix)
        return store._client

    first = client("s3://bucket/one?endpoint=http://127.0.0.1:9")
    assert client("s3://bucket/two?endpoint=http://127.0.0.1:9") is first
    assert client("s3://bucket/one?endpoint=http://127.0.0.1:10") is not first
    store: Any = open_store("s3://bucket/one?endpoint=http://127.0.0.1:9")
    assert store._once is not first and store._once.meta.config.retries["total_max_attempts"] == 1
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert client("s3://bucket/one?endpoint=http://127.0.0.1:9") is not first


def test_a_forked_process_makes_its_own_connections(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = open_store("s3://bucket/one?endpoint=http://127.0.0.1:9")
    client = store._client
    monkeypatch.setattr(os, "getpid", lambda: 1)
    other: Any = open_store("s3://bucket/one?endpoint=http://127.0.0.1:9")
    assert other._client is not client
