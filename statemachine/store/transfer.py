"""Files to and from S3: streamed, in parallel, checked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from botocore.exceptions import HTTPClientError, IncompleteReadError

from conventions.errors import StoreError
from operators.pod.s3 import THREADS, md5

T = TypeVar("T")
R = TypeVar("R")

WHOLE = 64 << 20  # larger files are uploaded in parts
PART = 16 << 20
SMALL = 1 << 20
_CHUNK = 1 << 20
_TRIES = 4


def parallel(work: Callable[[T], R], items: Iterable[T], threads: int = THREADS) -> list[R]:
    """Results of `work` in order; the first error cancels what has not begun."""
    items = list(items)
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read(client: Any, name: dict[str, str]) -> tuple[bytes, str]:
    """An object's bytes and its tag. A truncated response is requested again."""
    for left in reversed(range(_TRIES)):
        answer = client.get_object(**name)
        try:
            return answer["Body"].read(), answer["ETag"]
        except (HTTPClientError, IncompleteReadError):
            if not left:
                raise
    raise AssertionError


def download(client: Any, name: dict[str, str], target: Path, part: Path) -> None:
    """Stream an object to `part`, check it, and rename it to `target`. Continues after a truncated response."""
    digest = hashlib.md5(usedforsecurity=False)
    more: dict[str, str] = {}
    with open(part, "wb") as stream:
        for left in reversed(range(_TRIES)):
            answer = client.get_object(**name, **more)
            try:
                for chunk in answer["Body"].iter_chunks(_CHUNK):
                    stream.write(chunk)
                    digest.update(chunk)
                break
            except (HTTPClientError, IncompleteReadError):
                if not left:
                    raise
                # Only the rest, and only of this very object.
                more = {"Range": f"bytes={stream.tell()}-", "IfMatch": answer["ETag"]}
        size = stream.tell()
    expected = int(answer.get("ContentRange", "").rpartition("/")[2] or answer["ContentLength"])
    plain = answer.get("ServerSideEncryption", "AES256") == "AES256" and is_md5(answer["ETag"])
    if size != expected or (plain and digest.hexdigest() != answer["ETag"].strip('"')):
        raise StoreError(f"s3://{name['Bucket']}/{name['Key']} was not downloaded completely; try again")
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)


def is_there(path: Path, size: int, etag: str) -> bool:
    """Is this file identical to the object already?"""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
            return False
        with open(path, "rb") as stream:
            return (_digest(stream).hex() if is_md5(etag) else _tag_of_parts(stream, size)) == etag.strip('"')
    except OSError:  # it cannot be read
        return False


def is_md5(etag: str) -> bool:
    """ETags of multipart uploads are not MD5 sums; they have a dash."""
    return len(etag.strip('"')) == 32 and "-" not in etag


def upload(client: Any, name: dict[str, str], path: Path) -> None:
    """Upload a file in one request. The store checks its MD5."""
    with open(path, "rb") as stream:
        if path.stat().st_size <= _CHUNK:
            data = stream.read()
            client.put_object(**name, Body=data, ContentMD5=md5(data))
        else:
            check = base64.b64encode(_digest(stream)).decode()
            client.put_object(**name, Body=stream, ContentMD5=check)


def upload_parts(client: Any, name: dict[str, str], path: Path) -> None:
    """Upload a large file in parts, some in parallel; the upload is aborted when it fails."""
    size = path.stat().st_size
    step = _step(size)
    upload_id = client.create_multipart_upload(**name)["UploadId"]

    def put_part(number: int) -> dict[str, Any]:
        with open(path, "rb") as stream:
            stream.seek((number - 1) * step)
            data = stream.read(step)
        answer = client.upload_part(**name, UploadId=upload_id, PartNumber=number, Body=data, ContentMD5=md5(data))
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        parts = parallel(put_part, range(1, -(-size // step) + 1), threads=8)
        client.complete_multipart_upload(**name, UploadId=upload_id, MultipartUpload={"Parts": parts})
    except BaseException:
        with contextlib.suppress(Exception):
            client.abort_multipart_upload(**name, UploadId=upload_id)
        raise


def _step(size: int) -> int:
    """Bytes of a part of a large file: the store takes up to 10,000 parts."""
    return max(PART, -(-size // 10_000))


def _tag_of_parts(stream: BinaryIO, size: int) -> str:
    """The tag that the store has given the file, if it was uploaded by `upload_parts`."""
    parts = [hashlib.md5(data, usedforsecurity=False).digest() for data in iter(lambda: stream.read(_step(size)), b"")]
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _digest(stream: BinaryIO) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    stream.seek(0)
    return digest.digest()
