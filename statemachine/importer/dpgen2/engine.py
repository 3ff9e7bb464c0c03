"""DPGEN2's dflow: the Argo server, and the store; and Bohrium, which has no counterpart."""

from __future__ import annotations

from typing import Any

from ..draft import Draft
from ..source import Section
from .step_keys import BOHRIUM, DFLOW, S3

_SECRETS = ("token", "s3_access_key", "s3_secret_key", "access_key", "secret_key")


def engine(top: Section, draft: Draft) -> bool:
    """The engine and the prefix; whether jobs run in pods of Argo."""
    bohrium = top.take("bohrium_config") is not None
    if bohrium:
        source = top.part("bohrium_config", BOHRIUM)
        source.finish()
        draft.report.warn(
            "bohrium_config: there is no Bohrium; the jobs run on this machine until you give each stage `hpc`, or "
            "`engine: {type: argo}` with a server of your own"
        )
    elif "bohrium_config" in top:
        top.drop("bohrium_config", "not given")
    dflow, s3 = top.part("dflow_config", DFLOW), top.part("dflow_s3_config", S3)
    host, debug = dflow.text("host"), dflow.text("mode") == "debug"
    argo = bool(host) and not debug and not bohrium
    if argo:
        draft.put("engine.type", "argo", "dflow_config")
        draft.put("engine.server", str(host), dflow.at("host"))
        if namespace := dflow.text("namespace"):
            draft.put("engine.namespace", namespace, dflow.at("namespace"))
        most = top.of("parallelism", int)
        if most:
            draft.put("engine.parallelism", most, top.at("parallelism"))
    _prefix(dflow, s3, draft, argo)
    for source in (dflow, s3):
        for key in _SECRETS:
            if key in source and not source.take(key):
                source.drop(key, "not given")
            elif key in source:
                draft.report.warn(f"{source.at(key)} was not copied: {_INSTEAD[key.removeprefix('s3_')]}")
        for key in ("host", "namespace") if source is dflow else ():
            if key in source and not argo:
                source.take(key)
                source.drop(key, "jobs run on this machine or on a batch system")
        source.finish()
    if "parallelism" in top and not (argo and top.take("parallelism")):
        top.take("parallelism")
        top.drop("parallelism", "`engine.slots` says how many jobs run at once on this machine")
    return argo


_INSTEAD = {
    "token": "set ARGO_TOKEN, or engine.token_file",
    "access_key": "set AWS_ACCESS_KEY_ID here, and name a Secret in engine.repository",
    "secret_key": "set AWS_SECRET_ACCESS_KEY here, and name a Secret in engine.repository",
}


def _prefix(dflow: Section, s3: Section, draft: Draft, argo: bool) -> None:
    """Where the run is kept: with Argo in the bucket that dflow used."""
    found: dict[str, Any] = {}
    for key in ("endpoint", "bucket_name", "prefix", "secure"):
        sources = [(source, name) for source, name in ((s3, key), (dflow, f"s3_{key}")) if name in source]
        for source, name in sources:
            value = source.take(name)
            if value is not None:
                found.setdefault(key, value)
            if not argo or value is None:
                source.drop(name, "not given" if argo else "the run is kept in a folder of this machine")
    if not argo:
        return
    bucket, endpoint = found.get("bucket_name"), found.get("endpoint")
    place = "/".join(str(part).strip("/") for part in (bucket or "my-bucket", found.get("prefix"), draft.config["run"])
                     if part)  # fmt: skip
    url = f"s3://{place}"
    if endpoint:
        scheme = "" if "://" in str(endpoint) else "https://" if found.get("secure") else "http://"
        url += f"?endpoint={scheme}{endpoint}"
    draft.put("prefix", url, "dflow_s3_config")
    if not bucket or not endpoint:
        draft.report.warn(f"prefix: {url}: with Argo it is s3://BUCKET/PATH?endpoint=URL; write what is missing")
