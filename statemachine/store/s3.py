"""The store for clusters: a prefix in an S3 bucket, through boto3."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, SSLError
from botocore.handlers import add_expect_header

from conventions.errors import Conflict, NotFound, StoreAway, StoreError
from operators.pod.s3 import Place, credentials, explain, md5, put_if, status_of
from statemachine.logs import known

from . import transfer
from .base import Arrived, Blob, Entry, check_key, files_below
from .listing import at_or_below, list_entries, list_folders, parse_quickly
from .mirror import Mirror

_PART = ".part-"
_AT_ONCE = 1000  # objects that one request deletes, at most
_sharing = threading.Lock()


class S3Store:
    """Objects below a prefix of a bucket.

    A conditional write is sent once: repeated after a lost response, it would conflict with itself. So `Conflict`
    means that the store refused it; after any other `StoreError` the outcome is unknown: read again.
    """

    def __init__(self, url: str, mirror: Mirror | None = None) -> None:
        self.place = Place.parse(url)
        self.mirror = mirror
        self.url = self.place.url
        self._tag = '"{}"'

    @functools.cached_property
    def _client(self) -> Any:
        client = _shared(self.place, None)
        known.hide(credentials())
        return client

    @functools.cached_property
    def _once(self) -> Any:
        return _shared(self.place, 1)

    def at(self, key: str) -> str:
        return self.place.at(key)

    def secrets(self) -> list[str]:
        return credentials()

    def get(self, key: str) -> Blob:
        name = self._name(key)
        with self._errors("read", key):
            data, etag = transfer.read(self._client, name)
        return Blob(data, etag.strip('"'))

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        request = {**self._name(key), "Body": data, "ContentMD5": md5(data)}
        try:
            with self._errors("write", key):
                if if_absent:
                    answer = put_if(self._once, **request, IfNoneMatch="*")
                elif if_match is not None:
                    answer = self._swap(request, key, if_match)
                else:
                    answer = self._client.put_object(**request)
        except NotFound:  # the response to a swap of a missing object
            raise Conflict(f"{self.at(key)}: it is gone") from None
        return str(answer["ETag"]).strip('"')

    def _swap(self, request: dict[str, Any], key: str, tag: str) -> Any:
        """Replace the object that has `tag`. Some stores (Ceph) want it without quotes: found out at the first swap."""
        try:
            return put_if(self._once, **request, IfMatch=self._tag.format(tag))
        except ClientError as error:
            present = self._client.head_object(**self._name(key)) if status_of(error) == 412 else {"ETag": ""}
            if self._tag == "{}" or present["ETag"].strip('"') != tag:
                raise
        answer = put_if(self._once, **request, IfMatch=tag)
        self._tag = "{}"
        return answer

    def list(self, prefix: str) -> Iterator[Entry]:
        if prefix and not prefix.endswith("/"):
            check_key(prefix)
        with self._errors("list", prefix):
            yield from list_entries(self._client, self.place.bucket, f"{self.place.path}/", prefix)

    def folders(self, prefix: str) -> Sequence[str]:
        with self._errors("list", prefix):
            return list_folders(self._client, self.place.bucket, f"{self.place.path}/{prefix}")

    def head(self, key: str) -> Entry | None:
        try:
            with self._errors("look at", key):
                found = self._client.head_object(**self._name(key))
        except NotFound:
            return None
        return Entry(key, found["ContentLength"], found["ETag"].strip('"'), found["LastModified"].timestamp())

    def copy(self, source: str, target: str) -> None:
        with self._errors("copy", source):
            # In the store; in parts where it is too large for one request.
            self._client.copy(self._name(source), self.place.bucket, self._name(target)["Key"])

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._client.delete_object(**self._name(key))

    def delete_all(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), _AT_ONCE):
            part = keys[first : first + _AT_ONCE]
            named = [{"Key": self._name(key)["Key"]} for key in part]
            with self._errors("delete", part[0]):
                answer = self._client.delete_objects(Bucket=self.place.bucket, Delete={"Objects": named, "Quiet": True})
            for error in answer.get("Errors", []):
                raise StoreError(f"cannot delete {error.get('Key')}: {error.get('Code')}: {error.get('Message')}")

    def fetch(self, key: str, scratch: Path) -> Path | None:
        check_key(key)
        root = self.mirror.root if self.mirror else scratch
        with self.mirror.alone(key) if self.mirror else nullcontext():
            found = at_or_below(self.list(key), key)
            if not found:
                return None
            if self.mirror:
                self.mirror.prune(key, {entry.key for entry in found})
            root.mkdir(parents=True, exist_ok=True)
            self._download(found, root)
        return root / key

    def _download(self, found: Sequence[Entry], root: Path) -> None:
        """Objects into the folder `root`, as far as they are not there already."""
        client = self._client

        def is_there(entry: Entry) -> bool:
            return transfer.is_there(root / check_key(entry.key), entry.size, entry.etag)

        def download(entry: Entry) -> None:
            if is_there(entry):
                return
            part = root / f"{_PART}{os.getpid()}-{hashlib.sha256(entry.key.encode()).hexdigest()[:16]}"
            with self._errors("fetch", entry.key):
                transfer.download(client, self._name(entry.key), root / entry.key, part)

        # A small file is read in less time than a thread takes to begin.
        transfer.parallel(download, [entry for entry in found if entry.size > transfer.SMALL or not is_there(entry)])

    def publish(self, path: Path, key: str, arrived: Arrived = lambda size: None) -> None:
        check_key(key)
        client = self._client
        files = files_below(path, key)
        single = files == [path]

        def upload(file: Path, put: Any = transfer.upload) -> None:
            at = key if single else f"{key}/{file.relative_to(path).as_posix()}"
            with self._errors("write", at):
                put(client, self._name(at), file)
            arrived(file.stat().st_size)

        large = [file for file in files if file.stat().st_size > transfer.WHOLE]
        transfer.parallel(upload, (file for file in files if file not in large))
        for file in large:
            upload(file, transfer.upload_parts)
        if self.mirror:
            self.mirror.take(path, key, files)
        if single:
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)

    def _name(self, key: str) -> dict[str, str]:
        return self.place.name(check_key(key))

    @contextmanager
    def _errors(self, doing: str, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code, status = error.response.get("Error", {}).get("Code"), status_of(error)
            if status == 404 and code != "NoSuchBucket":
                raise NotFound(f"{self.at(key)}: there is no such object") from None
            if status in (409, 412):
                raise Conflict(f"{self.at(key)}: exists already, or has changed") from None
            kind = StoreAway if status >= 500 or status == 429 else StoreError
            raise kind(f"cannot {doing} {self.at(key)}: {explain(error)}") from None
        except BotoCoreError as error:
            silent = isinstance(error, ConnectionError | HTTPClientError) and not isinstance(error, SSLError)
            kind = StoreAway if silent else StoreError
            raise kind(f"cannot {doing} {self.at(key)}: {explain(error)}") from None
        except OSError as error:
            raise StoreError(f"cannot {doing} {self.at(key)}: {error.strerror}: {error.filename}") from None


def _shared(place: Place, attempts: int | None) -> Any:
    """One client for all runs in a bucket: each takes a megabyte. A forked process makes its own connections."""
    environment = frozenset((key, value) for key, value in os.environ.items() if key.startswith("AWS_"))
    with _sharing:
        return _client_of(os.getpid(), environment, replace(place, path=""), attempts)


@functools.lru_cache(maxsize=32)
def _client_of(pid: int, environment: frozenset[tuple[str, str]], bucket: Place, attempts: int | None) -> Any:
    return new_client(bucket, attempts)


def new_client(bucket: Place, attempts: int | None = None) -> Any:
    """A client of boto3 as a store uses it; with `attempts` one for conditional writes."""
    client = bucket.connect() if attempts is None else bucket.connect(attempts)
    parse_quickly(client)
    if attempts is None:
        # Botocore lets an upload wait for "100 Continue": a round trip for each file. The client of conditional writes
        # does wait, since of those that are refused it must see the answer.
        client.meta.events.unregister("before-call.s3", add_expect_header)
    return client
