"""How a process may reach the engine of a run: what the environment and the policy file of a daemon say.

DPGEN2_POLICY names that file:

    runs:
      - prefix: s3://campaign/runs
        engine: {type: argo, server: "https://argo.example.org:2746", namespace: dpgen2, token_file: /run/token}
      - prefix: /data/runs
        engine: {type: local}  # the commands of all runs below it are run on this machine

The first entry that covers a prefix decides; a run that none covers is refused.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from conventions.cluster import ArgoConfig, EngineConfig, LocalConfig
from conventions.documents import Strict
from conventions.errors import ConfigError, NotTrusted
from statemachine.store import prefix_url

from .config_file import read_mapping, validated

POLICY = "DPGEN2_POLICY"
OF_ARGO = ("server", "namespace", "ca_file", "token_file")


class Access(Strict):
    """These keys of `engine:` are a person's word, not the prefix's."""

    type: Literal["local", "argo"]
    server: str | None = None
    namespace: str | None = None
    ca_file: str | None = None
    token_file: str | None = None

    @classmethod
    def of(cls, engine: EngineConfig) -> Access:
        named = {name: getattr(engine, name) for name in OF_ARGO} if isinstance(engine, ArgoConfig) else {}
        return cls(type=engine.type, **named)

    def applied(self, engine: EngineConfig) -> LocalConfig | ArgoConfig:
        """The settings of a run, reached in this way."""
        ours = {name: getattr(self, name) for name in OF_ARGO}
        return engine.model_copy(update=ours) if isinstance(engine, ArgoConfig) else engine


class Covered(Strict):
    """All runs at and below a prefix."""

    prefix: str = Field(description="A folder or a URL.")
    engine: Access

    def covers(self, url: str) -> bool:
        """Does a run lie at or below this prefix? Settings after `?` count where this one has some."""
        here, _, settings = self.prefix.partition("?")
        path, _, others = url.partition("?")
        return f"{path.rstrip('/')}/".startswith(f"{here.rstrip('/')}/") and settings in ("", others)


class Policy(Strict):
    """What a policy file says."""

    runs: list[Covered]

    def access(self, url: str, named: Access) -> Access:
        """How this process works for a run that names `named` as its engine."""
        for entry in self.runs:
            if entry.covers(url):
                if entry.engine.type != named.type:
                    raise NotTrusted(f"{url}: its engine is {named.type}; {POLICY} allows {entry.engine.type} there")
                return entry.engine
        raise NotTrusted(f"{url}: no entry of {os.environ[POLICY]} ({POLICY}) covers this prefix")


def policy() -> Policy | None:
    """What decides for this process; None where there is no policy file."""
    if not (named := os.environ.get(POLICY)):
        return None
    path = Path(named)
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"{POLICY}: {path} cannot be read: {error.strerror}") from None


@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> Policy:
    found, problems = validated(Policy, read_mapping(path))
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    runs = [entry.model_copy(update={"prefix": prefix_url(entry.prefix, path.parent)}) for entry in found.runs]
    return Policy(runs=runs)


def by_environment(url: str, named: Access) -> Access:
    """Where ARGO_SERVER and ARGO_NAMESPACE say how this process reaches Argo, a run need not be known.

    Raises
    ------
    NotTrusted
        Where they do not: a token goes to no server that only a prefix names.
    """
    if not os.environ.get("ARGO_SERVER"):
        raise NotTrusted(
            f"{url}: you have not begun this run; it names the Argo server {named.server}, to which nothing was sent: "
            f"set ARGO_SERVER (and ARGO_TOKEN), or `dpgen2-sm trust {url}`"
        )
    namespace = os.environ.get("ARGO_NAMESPACE")
    if not namespace and named.namespace not in (None, "argo"):
        raise NotTrusted(
            f"{url}: you have not begun this run; it names the namespace {named.namespace}: set ARGO_NAMESPACE, or "
            f"`dpgen2-sm trust {url}`"
        )
    return Access(type="argo", namespace=namespace)
