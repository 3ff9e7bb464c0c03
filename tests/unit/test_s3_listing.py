"""Listings of S3 as stores write them, and as they should not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.parsers import ResponseParserError

from conventions.errors import StoreError
from statemachine.store.listing import _parse, list_entries

AWS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def parse(body: str, status: int = 200) -> dict[str, Any]:
    found: dict[str, Any] = {}
    _parse({"status_code": status, "body": body.encode()}, found)
    return found


def page(*items: str, space: str = AWS, more: str = "") -> str:
    contents = "".join(f"<Contents>{item}</Contents>" for item in items)
    return f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult {space}>{more}{contents}</ListBucketResult>'


@pytest.mark.parametrize("space", [AWS, ""])
def test_a_page_is_read(space: str) -> None:
    body = page(
        "<Key>p/a</Key><Size>3</Size><ETag>&quot;ab&quot;</ETag><Owner><ID>x</ID></Owner>",
        "<Size>4</Size><ETag>ab-2</ETag><Key>p/b&amp;c</Key>",
        space=space,
        more="<IsTruncated>true</IsTruncated><NextContinuationToken>t/=</NextContinuationToken>",
    )
    assert parse(body) == {"Page": {"objects": [("p/a", 3, "ab"), ("p/b&c", 4, "ab-2")], "folders": [], "next": "t/="}}


@pytest.mark.parametrize(
    ("encoded", "more", "key"),
    [
        ("a+b%2Bc%25%0A%2Fd%252F", "<EncodingType>url</EncodingType>", "a b+c%\n/d%2F"),
        ("a+b%2Bc", "", "a+b%2Bc"),
    ],
)
def test_names_are_decoded_where_the_store_says_so(encoded: str, more: str, key: str) -> None:
    body = page(f"<Key>{encoded}</Key><Size>0</Size><ETag>t</ETag>", more=more)
    assert parse(body)["Page"]["objects"] == [(key, 0, "t")]


def test_an_empty_page_is_the_last() -> None:
    assert parse(page(more="<IsTruncated>false</IsTruncated>")) == {
        "Page": {"objects": [], "folders": [], "next": None}
    }


@pytest.mark.parametrize(
    "body",
    [
        "", "{}", "<html><body>proxy</html>", "<html/>", page("<Key>a</Key>")[:-20],
        page("<Key>a</Key><Size>x</Size><ETag>t</ETag>"),
        page("<Key>a</Key><ETag>t</ETag>"), page("<Key/><Size>1</Size><ETag>t</ETag>"),
        '<!DOCTYPE a [<!ENTITY b "c">]>' + page("<Key>&b;</Key>"), page(more="<IsTruncated>true</IsTruncated>"),
        page("<Size>3</Size>"),
    ],
)  # fmt: skip
def test_what_is_no_listing_is_an_error(body: str) -> None:
    """Never an empty one: nothing listed would mean nothing done."""
    with pytest.raises(ResponseParserError):
        parse(body)


def test_errors_are_left_to_botocore() -> None:
    assert parse("<Error/>", status=403) == parse("<Error><Code>InternalError</Code></Error>") == {}


def test_a_store_that_repeats_a_page_does_not_hold_us() -> None:
    same = {"Page": {"objects": [("p/a", 1, "")], "next": "t"}}
    client = SimpleNamespace(list_objects_v2=lambda **_: same)
    with pytest.raises(StoreError, match="repeats"):
        list(list_entries(client, "bucket", "p/", ""))
