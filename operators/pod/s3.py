"""An s3:// prefix and the clients that talk to it. Used by the store, and by the guard in pods."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import random
import re
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from conventions.endpoint import check_endpoint
from conventions.errors import ConfigError, StoreError, did_you_mean

THREADS = 32  # requests at once where many objects are moved
_ATTEMPTS = 5
_BUCKET = re.compile(r"(?!.*(\.\.|\.-|-\.)|[0-9.]*$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# AWS_ENDPOINT_URL may hold a password, and botocore shows the address.
_USERINFO = re.compile(r"(?<=://)[^/\s]*@|[^/\s:@\"'`]+:[^/\s@\"'`]+@")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_connecting = threading.Lock()  # boto3's sessions are not made for several threads


@dataclass(frozen=True)
class Place:
    """The prefix of a run in a bucket.

    Examples
    --------
    >>> Place.parse("s3://bucket/runs/cu/?endpoint=https://minio:9000").url
    's3://bucket/runs/cu?endpoint=https://minio:9000'
    """

    bucket: str
    path: str
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def parse(cls, url: str) -> Place:
        """Read `s3://bucket/path`, with `?endpoint=https://host:port&region=name` where boto3 is to be told.

        Raises
        ------
        ConfigError
            For anything else; the message never shows what could be a credential.
        """
        scheme, _, rest = url.partition("://")
        whole, _, query = rest.partition("?")
        bucket, _, path = whole.partition("/")
        if scheme != "s3":
            raise ConfigError("prefix: use s3://bucket/path")
        if "@" in bucket or "@" in query:
            raise ConfigError("prefix: credentials do not belong into a prefix; they come from the environment (AWS_*)")
        shown = f"prefix {f's3://{whole}'!r}"
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(
                f"{shown}: {bucket!r} is not a bucket's name (3-63 lower-case letters, digits, '-' and '.'); "
                "use s3://bucket/path"
            )
        path = path.removesuffix("/")
        if not path:
            raise ConfigError(f"{shown}: name a folder for the run: s3://{bucket}/path")
        if len(path.encode("utf-8", "replace")) > 900:
            raise ConfigError(f"prefix s3://{bucket}/...: its path is longer than 900 bytes")
        for part in path.split("/"):
            if part in ("", ".", "..") or part != part.strip() or not part.isprintable() or set(part) & set("%#\\"):
                raise ConfigError(
                    f"{shown}: {part!r} cannot be a part of a path (nor can '..', spaces at an end, '%', '#', '\\')"
                )
        try:
            options = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise ConfigError(f"{shown}: after '?' comes endpoint=https://host:port or region=name") from None
        named = dict(options)
        for key in named:
            if key not in ("endpoint", "region"):
                raise ConfigError(f"{shown}: {key!r} is not an option; {did_you_mean(key, ['endpoint', 'region'])}")
        if len(named) != len(options):
            raise ConfigError(f"{shown}: an option is given twice")
        if "{{" in path:
            raise ConfigError(f"{shown}: Argo would expand '{{{{': leave it out")
        endpoint = named.get("endpoint")
        try:
            endpoint = None if endpoint is None else check_endpoint(endpoint)
        except ValueError:  # its text is not shown: it could hold a key
            raise ConfigError(f"{shown}: endpoint must be the address of a store: https://host[:port]") from None
        region = named.get("region")
        if region is not None and not _REGION.fullmatch(region):
            raise ConfigError(f"{shown}: region {region!r} is not a region's name")
        return cls(bucket, path, endpoint, region)

    @property
    def url(self) -> str:
        """The canonical form, which `parse` reads back."""
        options = {"endpoint": self.endpoint, "region": self.region}
        query = urlencode({key: value for key, value in options.items() if value}, safe=":/[]")
        return f"s3://{self.bucket}/{self.path}" + (f"?{query}" if query else "")

    def at(self, key: str) -> str:
        """The full name of an object, for people."""
        return f"s3://{self.bucket}/{self.path}/{key}"

    def name(self, key: str) -> dict[str, str]:
        """Bucket and Key of an object, as boto3 calls them."""
        return {"Bucket": self.bucket, "Key": f"{self.path}/{key}"}

    def connect(self, attempts: int = _ATTEMPTS) -> Any:
        """A boto3 client. Credentials come from the AWS chain only.

        Parameters
        ----------
        attempts
            1 for conditional writes: a write that is repeated after a lost answer meets itself, and is refused.
        """
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=THREADS,
            # Content-MD5, which we send, is understood everywhere; the newer checksums are not.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            with _connecting:
                return _session().client("s3", endpoint_url=self.endpoint, region_name=self.region, config=config)
        except (BotoCoreError, ValueError) as error:  # no such profile, an endpoint in the environment that is no URL
            raise ConfigError(f"cannot talk to s3://{self.bucket}: {explain(error)}") from None


def _session() -> Any:
    return _session_of(frozenset((key, value) for key, value in os.environ.items() if key.startswith("AWS_")))


@functools.cache
def _session_of(environment: frozenset[tuple[str, str]]) -> Any:
    """One for all clients: it reads the service's description, and looks for credentials, once."""
    import boto3

    return boto3.session.Session()


def credentials() -> list[str]:
    """The values that must never be written anywhere.

    An access key is a name. One that a person chose, such as `minio`, is in innocent places too.
    """
    with _connecting:
        found = _session().get_credentials()
    if found is None:
        return []
    frozen = found.get_frozen_credentials()
    chosen = not re.fullmatch("[A-Z0-9]{16,}|[0-9a-f]{32}", frozen.access_key or "")
    return [value for value in (None if chosen else frozen.access_key, frozen.secret_key, frozen.token) if value]


def md5(data: bytes) -> str:
    """Content-MD5: the store refuses what was damaged on the way."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def status_of(error: Any) -> int:
    """HTTP status of a ClientError."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def put_if(client: Any, **request: Any) -> Any:
    """A conditional PUT. Answer 409 decides nothing (another write was under way): it is sent again."""
    from botocore.exceptions import ClientError

    for pause in (0.05, 0.1, 0.2, 0.4):
        try:
            return client.put_object(**request)
        except ClientError as error:
            if status_of(error) != 409:
                raise
        time.sleep(pause * (1 + random.random()))
    return client.put_object(**request)


def create_object(url: str, key: str, data: bytes) -> bytes:
    """Create an object once; return the content that is there then.

    What is read back decides, not the answer: it may be lost after the write was applied.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    place = Place.parse(url)
    refusal: Exception | None = None
    try:
        put_if(place.connect(1), **place.name(key), Body=data, ContentMD5=md5(data), IfNoneMatch="*")
    except (ClientError, BotoCoreError) as error:
        refusal = error
    try:
        return bytes(place.connect().get_object(**place.name(key))["Body"].read())
    except (ClientError, BotoCoreError) as error:
        raise StoreError(f"cannot create {place.at(key)}: {explain(refusal or error)}") from None


_HINTS = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the prefix",
    "AccessDenied": "access denied; the credentials need GetObject, PutObject and ListBucket for this prefix",
    "403": "access denied; the credentials need GetObject, PutObject and ListBucket for this prefix",
    "InvalidAccessKeyId": "the store does not know this access key; see AWS_ACCESS_KEY_ID and AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key or the region is wrong; see AWS_SECRET_ACCESS_KEY and ?region=",
    "PermanentRedirect": "the bucket is in another region; add ?region= to the prefix",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "NoCredentialsError": "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "SSLError": "its TLS certificate is not trusted; for a private authority set AWS_CA_BUNDLE to its file",
}


def explain(error: Exception) -> str:
    """What went wrong in a request, and what to do about it."""
    answer = (getattr(error, "response", None) or {}).get("Error", {})
    code = str(answer.get("Code", type(error).__name__))
    text = f"{code}: {answer['Message']}" if answer.get("Message") else str(error) or code
    return _HINTS.get(code) or _USERINFO.sub("", text)
