"""Pages of an S3 listing, parsed ten times faster than botocore does: fan-in lists 100,000 markers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from botocore.parsers import ResponseParserError

from conventions.errors import StoreError

from .base import Entry

_PAGE = "Page"


def list_entries(client: Any, bucket: str, prefix: str) -> Iterator[Entry]:
    """Objects whose whole key begins with `prefix`. Folder placeholders (`done/`) are left out."""
    following: dict[str, str] = {}
    while True:
        page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **following)[_PAGE]
        yield from page["entries"]
        if page["next"] is None:
            return
        if page["next"] == following.get("ContinuationToken"):
            raise StoreError(f"the store repeats a page in its listing of s3://{bucket}/{prefix}")
        following = {"ContinuationToken": page["next"]}


def parse_quickly(client: Any) -> None:
    """Let a client parse its listings by `_parse`. Signing, retries, proxies and errors stay botocore's."""
    client.meta.events.register("before-parse.s3.ListObjectsV2", _parse)


def _parse(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    if response_dict["status_code"] != 200:
        return
    body = response_dict["body"]
    if b"<!DOCTYPE" in body:
        raise ResponseParserError("a listing with a document type is not parsed")
    try:
        root = ElementTree.fromstring(body)
        space = root.tag.rpartition("}")[0]
        contents, key, size, etag = (f"{space}}}{n}" if space else n for n in ("Contents", "Key", "Size", "ETag"))
        decode = unquote_plus if (root.findtext(f"{key[:-3]}EncodingType") == "url") else str
        entries = []
        for item in root.iter(contents):
            name = item.findtext(key) or ""
            if "%" in name or "+" in name:
                name = decode(name)
            if not name.endswith("/"):
                entries.append(Entry(name, int(item.findtext(size) or 0), (item.findtext(etag) or "").strip('"')))
        more = root.findtext(f"{key[:-3]}IsTruncated") == "true"
        token = root.findtext(f"{key[:-3]}NextContinuationToken") if more else None
    except (ElementTree.ParseError, ValueError) as error:
        raise ResponseParserError(f"this is no listing: {error}") from None
    customized_response_dict[_PAGE] = {"entries": entries, "next": token}
    response_dict["body"] = b"<ListBucketResult/>"
