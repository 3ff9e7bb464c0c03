"""The two pages about clusters and the manifests say the same names: namespaces, accounts, Secrets and their keys."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import TypeAdapter

from conventions.cluster import ArgoConfig, SecretKey
from operators.pod.s3 import Place

from .test_deploy import DEPLOY, ROOT, call, documents, named, overlay

PAGES = {path.name: path.read_text("utf-8") for path in (DEPLOY / "README.md", ROOT / "docs" / "cluster.md")}
OURS, ARGOS = "dpgen2", "argo"
# Secrets that no manifest of ours mounts: a CA of the store, which Argo's executor is told of.
THEIRS = {"store-ca": {"ca.crt"}}
# What needs no namespace: it makes one, or its files name theirs.
ANYWHERE = re.compile(r"kubectl (create namespace|apply -k|apply -f deploy/overlays/quickstart/|kustomize)")
FROM_SECRETS = "sh deploy/overlays/quickstart/secrets.sh | kubectl apply -f -"


def engines() -> list[Any]:
    """Each `engine` of type argo that a page shows, and its prefix."""
    found = []
    for name, text in PAGES.items():
        for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S):
            if "type: argo" in block:
                document = documents(block)[0]
                engine = TypeAdapter(ArgoConfig).validate_python(document["engine"])
                found.append(pytest.param(engine, document["prefix"], id=name))
    return found


def secrets() -> dict[str, set[str]]:
    """The keys of each Secret of the template."""
    template = documents((DEPLOY / "secrets.template.yaml").read_text("utf-8"))
    assert {each["metadata"]["namespace"] for each in template} == {OURS}
    return {each["metadata"]["name"]: set(each["stringData"]) for each in template} | THEIRS


def shell() -> list[tuple[str, str]]:
    """Every call of kubectl on a page, with the line that it is in."""
    found = []
    for name, text in PAGES.items():
        commands = re.findall(r"`(kubectl [^`]+)`", text) + re.findall(r"\((kubectl [^)\n]+)\)", text)
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S):
            commands += [line for line in block.splitlines() if "kubectl " in line]
        found += [(name, command) for command in commands]
    return found


def test_each_page_shows_an_engine_and_commands() -> None:
    assert {each.id for each in engines()} == set(PAGES)
    assert len([command for _, command in shell()]) > 15


@pytest.mark.parametrize(("engine", "prefix"), engines())
def test_a_runs_engine_has_the_names_of_the_manifests(engine: ArgoConfig, prefix: str) -> None:
    objects = overlay("daemon")
    assert (
        engine.namespace
        == OURS
        == named(objects, "ServiceAccount", str(engine.service_account))["metadata"]["namespace"]
    )
    repository = engine.repository
    assert repository.credentials
    asked: list[SecretKey] = [repository.credentials.access_key, repository.credentials.secret_key]
    asked += [each for each in (repository.ca, engine.hook and engine.hook.key) if each]
    assert {(each.name, each.key) for each in asked if each.key not in secrets().get(each.name, ())} == set()
    assert Place.parse(prefix).region, "without it each artifact costs a request more"


@pytest.mark.parametrize("name", PAGES)
def test_the_hook_is_the_daemons_service_and_its_key_the_daemons(name: str) -> None:
    (text,) = re.findall(r'hook: (\{url: "[^"]+", key: \{[^}]+\}\})', PAGES[name])
    hook = documents(text)[0]
    service = named(overlay("daemon"), "Service", "dpgen2-sm")
    (port,) = service["spec"]["ports"]
    assert urlsplit(hook["url"]).netloc == f"{service['metadata']['name']}:{port['port']}"
    (container,) = named(overlay("daemon"), "Deployment", "dpgen2-sm")["spec"]["template"]["spec"]["containers"]
    (reference,) = [
        entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if entry["name"] == "DPGEN2_HOOK_KEY"
    ]
    assert hook["key"] == {"name": reference["name"], "key": reference["key"]}


@pytest.mark.parametrize(("name", "command"), shell())
def test_every_command_names_its_namespace(name: str, command: str) -> None:
    at = re.findall(r" -n (\S+)", command)
    if ANYWHERE.search(command) or command.startswith(FROM_SECRETS):
        assert not at
        return
    about_argo = "argo-workflows/releases" in command or "argo-server" in command
    assert at == [ARGOS if about_argo else OURS], command


def test_secrets_that_a_page_creates_are_those_that_are_used() -> None:
    made = [
        (found[1], found[2])
        for _, command in shell()
        if (found := re.search(r"create secret generic (\S+) --from-(?:literal|file)=([A-Za-z0-9._-]+)", command))
    ]
    assert {name for name, _ in made} == {"dpgen2-hook", "store-ca"}
    assert all(key in secrets()[name] for name, key in made)


def test_the_manifests_use_the_secrets_of_the_template_in_one_namespace() -> None:
    for each in ("daemon", "cron", "quickstart"):
        objects = overlay(each)
        assert {o["metadata"].get("namespace", OURS) for o in objects} == {OURS}
        text = repr(objects)
        mounted = set(re.findall(r"'secretRef': \{'name': '([^']+)'", text))
        mounted |= set(re.findall(r"'secretKeyRef': \{[^}]*'name': '([^']+)'", text))
        assert mounted - {"minio"} <= set(secrets()), each
    shown = documents(call("sh", DEPLOY / "overlays/quickstart/secrets.sh"))
    assert {each["metadata"]["namespace"] for each in shown} == {OURS}


def test_argos_server_is_called_by_one_name_and_its_certificate_explained() -> None:
    settings = (DEPLOY / "base/settings.env").read_text("utf-8")
    (address,) = re.findall(r"^ARGO_SERVER=(\S+)$", settings, re.M)
    host = urlsplit(address).hostname
    assert host == f"argo-server.{ARGOS}.svc"
    for name, text in PAGES.items():
        named_hosts = set(re.findall(r"argo-server\.[a-z0-9-]+\.svc[a-z.]*", text))
        assert named_hosts == {host}, name
        assert re.findall(r"--tls-certificate-secret-name (\S+?)`", text) == ["argo-server-tls"], name
        assert "people outside\n" in text or "people outside set" in text, name
        assert "SSL_CERT_FILE" in text, name
