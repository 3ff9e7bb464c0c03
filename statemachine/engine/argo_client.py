"""HTTP with an Argo server: TLS verified, time-outs, retries with jitter, a token that is read for each request.

The server's API: https://argo-workflows.readthedocs.io/en/latest/swagger/
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from conventions.cluster import ArgoConfig
from conventions.endpoint import check_endpoint
from conventions.errors import ConfigError, EngineAway, EngineError, NotFound
from statemachine.logs import known

_sharing = threading.Lock()
PAUSE = 0.25  # seconds between two tries, at least
_TRIES = 4
_AGAIN = frozenset((429, 500, 502, 503, 504))
_ADVICE = {
    401: "the token is missing, wrong or expired: set engine.token_file, or ARGO_TOKEN "
    "(where ARGO_SERVER is set, that goes to no other server)",
    403: "the token has no permission for this: deploy/base/rbac.yaml has the rights that it needs",
    404: "this 404 does not come from an Argo server: is engine.server right?",
}
_NOT_FOUND = 5  # gRPC's code
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"


class AlreadyExists(EngineError):
    """A workflow of that name exists."""


class ArgoClient:
    """Requests to one Argo server, for one namespace.

    Parameters
    ----------
    settings
        `engine:` of a run's configuration; ARGO_SERVER, ARGO_NAMESPACE and ARGO_TOKEN fill in what it leaves out.
    """

    def __init__(self, settings: ArgoConfig) -> None:
        self.url = _server(settings)
        self.namespace = settings.namespace or os.environ.get("ARGO_NAMESPACE") or "argo"
        if not re.fullmatch("[a-z0-9.-]+", self.namespace):
            raise ConfigError(f"ARGO_NAMESPACE: {self.namespace!r} is not the name of a namespace")
        self._token_file = _home(settings.token_file)
        ca_file = _home(settings.ca_file) or os.environ.get("SSL_CERT_FILE")
        if ca_file and not Path(ca_file).is_file():
            raise ConfigError(f"engine.ca_file: there is no file {ca_file}")
        trusted = (ca_file, Path(ca_file).stat().st_mtime_ns) if ca_file else (None, 0)
        with _sharing:
            self._http = _connections(os.getpid(), self.url, settings.timeout, *trusted)

    def token(self) -> str:
        """The bearer token as it is now; files are replaced when a token is renewed.

        That of the environment is for the server there: no other one gets it.
        """
        ours = not os.environ.get("ARGO_SERVER") or self.url == _of_environment()
        token = os.environ.get("ARGO_TOKEN", "") if ours else ""
        token_file = self._token_file or (os.environ.get("ARGO_TOKEN_FILE") if ours else None)
        if token_file is not None:
            try:
                token = Path(token_file).read_text("utf-8")
            except (OSError, ValueError):  # no such file, no name of a file, no text
                if self._token_file or not token:
                    raise ConfigError(f"engine.token_file: {token_file} cannot be read") from None
        token = token.strip().removeprefix("Bearer ").strip()
        if not token.isascii() or not token.isprintable():  # httpx would refuse it too, and show it
            raise ConfigError("the token for the Argo server (engine.token_file, ARGO_TOKEN) is not one line of ASCII")
        known.hide([token])  # also a renewed one
        return token

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """One request, retried while the server is busy or unreachable. Every request here may be repeated safely.

        Raises
        ------
        NotFound, AlreadyExists, EngineError
        """
        for last in (*(False,) * (_TRIES - 1), True):
            try:
                response = self._http.request(method, path, json=body, params=query, headers=self._headers())
            except httpx.RequestError as error:
                if last:
                    raise self._away(error) from None
            else:
                if last or response.status_code not in _AGAIN:
                    return self._answer(response)
            time.sleep(random.uniform(PAUSE, 4 * PAUSE))
        raise AssertionError("unreachable")

    def lines(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """The objects of a streamed response, one per line, until it ends."""
        try:
            with self._http.stream("GET", path, params=query, headers=self._headers()) as response:
                if response.status_code != 200:
                    response.read()
                    self._answer(response)
                for line in response.iter_lines():
                    if line.strip():
                        found = _parse(line.encode(), self.url)
                        if "error" in found:  # it comes after an answer 200
                            raise self._refusal(response.status_code, found)
                        yield found
        except httpx.RequestError as error:
            raise self._away(error) from None

    def _away(self, error: httpx.RequestError) -> EngineError:
        """It does not answer. Where its certificate is not trusted, asking again would not help."""
        said = _plain(error)
        kind = EngineError if _UNTRUSTED in said else EngineAway
        return kind(f"the Argo server {self.url} does not answer: {said}")

    def _headers(self) -> dict[str, str]:
        token = self.token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _answer(self, response: httpx.Response) -> Any:
        code = response.status_code
        if code == 200:
            return _parse(response.content, self.url)
        try:
            found = response.json()
        except (ValueError, RecursionError):
            found = None
        raise self._refusal(code, found if isinstance(found, dict) else {}, response.reason_phrase)

    def _refusal(self, code: int, found: dict[str, Any], reason: str = "") -> Exception:
        """What an answer says, as an exception. That of a stream has its parts below `error`."""
        inner = found.get("error")
        streamed = inner if isinstance(inner, dict) else {}
        message = str(found.get("message") or streamed.get("message") or reason or inner)
        http_code = streamed.get("http_code")
        code = http_code if isinstance(http_code, int) else code
        # Only Argo knows what does not exist: a proxy that has no such path answers 404 as well.
        if code == 404 and _NOT_FOUND in (found.get("code"), streamed.get("grpc_code")):
            return NotFound(message)
        if code == 409:
            return AlreadyExists(message)
        advice = _ADVICE.get(code, "")
        kind = EngineAway if code in _AGAIN else EngineError
        return kind(
            f"the Argo server {self.url} answered {code}: {known.redact(message[:500])}{'; ' if advice else ''}{advice}"
        )


@functools.lru_cache(maxsize=32)
def _connections(pid: int, url: str, timeout: float, ca_file: str | None, changed: int) -> httpx.Client:
    """One client for all runs of a server; a forked process and a renewed `ca_file` get another."""
    verify = _trust(ca_file) if url.startswith("https") else True
    return httpx.Client(base_url=f"{url}/api/v1", verify=verify, timeout=timeout, follow_redirects=False)


def _server(settings: ArgoConfig) -> str:
    """The server's URL; the argo command's ARGO_SERVER is `host:port`."""
    if settings.server:
        return settings.server
    if not os.environ.get("ARGO_SERVER"):
        raise ConfigError("engine.server: this key is required (https://host:port), or set ARGO_SERVER")
    return _of_environment()


def _of_environment() -> str:
    """The URL of the server that ARGO_SERVER names."""
    named = os.environ.get("ARGO_SERVER", "")
    scheme = "http" if os.environ.get("ARGO_SECURE", "").lower() == "false" else "https"
    try:
        return check_endpoint(named if "://" in named else f"{scheme}://{named}")
    except ValueError as error:
        raise ConfigError(f"ARGO_SERVER: {error}") from None


def _home(path: str | None) -> str | None:
    return os.path.expanduser(path) if path else None  # noqa: PTH111


def _trust(ca_file: str | None) -> Any:
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"engine.ca_file: {ca_file} holds no certificate") from None


def _parse(data: bytes, server: str) -> Any:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # a web page; nested too deeply
        found = None
    if not isinstance(found, dict):
        raise EngineError(f"{server} did not answer like an Argo server: is engine.server right?")
    return found


def _plain(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if _UNTRUSTED in text:
        return f"{text}; engine.ca_file names the certificates to trust"
    return text
