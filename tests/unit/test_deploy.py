"""deploy/: what can be checked of it without a cluster, an AWS account or a container engine."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from conventions.cluster import ArgoConfig
from conventions.secrets import looks_like_key
from statemachine.cli.app import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())
SHELL = [
    DEPLOY / "overlays/quickstart/secrets.sh",
    ROOT / ".ci/run",
    *(ROOT / "operators").rglob("*.sh"),
    *(ROOT / "tests").rglob("*.sh"),
]
# Names that are not read by this project's code but by boto3, Python and the manifests themselves.
FOREIGN = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "HOME",
    "RUN",
    "RUNS",
    "LISTEN",
}

Json = dict[str, Any]


def tool(name: str) -> str:
    """A checker's path, beside this Python first. CI must have them all."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert found is not None, f"{name} is not installed"
    return found


def call(*command: str | Path, text: str | None = None) -> str:
    """Standard output of a checker that must have nothing to complain about."""
    done = subprocess.run([*map(str, command)], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def documents(text: str) -> list[Json]:
    return [document for document in YAML(typ="safe", pure=True).load_all(text) if document is not None]


@functools.lru_cache
def rendered(folder: Path) -> list[Json]:
    return documents(call(tool("kubectl"), "kustomize", folder))


def overlay(name: str) -> list[Json]:
    return rendered(DEPLOY / "overlays" / name)


def templates(objects: list[Json]) -> Iterator[tuple[str, Json]]:
    """The pod specs among objects, by the name of what makes the pods."""
    for each in objects:
        spec = each["spec"]["jobTemplate"]["spec"] if each["kind"] == "CronJob" else each.get("spec", {})
        if "template" in spec:
            yield each["metadata"]["name"], spec["template"]["spec"]


def named(objects: list[Json], kind: str, name: str) -> Json:
    (found,) = [
        each
        for each in objects
        if each["kind"] == kind and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", each["metadata"]["name"])
    ]
    return found


@pytest.mark.parametrize("version", ["1.29.0", "1.37.0"])
def test_every_object_is_of_its_kubernetes_schema(version: str) -> None:
    tool("kubernetes-validate")
    import kubernetes_validate

    objects = {repr(each): each for name in OVERLAYS for each in overlay(name)}
    secrets = documents((DEPLOY / "secrets.template.yaml").read_text("utf-8"))
    for each in (*objects.values(), *secrets):
        kubernetes_validate.validate(each, version, strict=True)
        assert each["metadata"].get("namespace", "dpgen2") == "dpgen2"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**secrets[0], "stringDate": {}}, version, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_rights_are_as_documented(name: str) -> None:
    objects = overlay(name)
    assert not [each for each in objects if each["kind"].startswith("Cluster")]
    rights = {
        (each["metadata"]["name"], group, resource): set(rule["verbs"])
        for each in objects
        if each["kind"] == "Role"
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rights == {
        ("dpgen2-sm", "argoproj.io", "workflows"): {"create", "get", "list", "patch", "delete"},
        ("dpgen2-sm", "", "pods"): {"list", "watch"},
        ("dpgen2-sm", "", "pods/log"): {"get"},
        ("dpgen2-jobs", "argoproj.io", "workflowtaskresults"): {"create", "patch"},
    }
    for each in objects:
        if each["kind"] == "RoleBinding":
            account = each["metadata"]["name"]
            assert each["roleRef"]["name"] == account
            assert [(s["kind"], s["name"]) for s in each["subjects"]] == [("ServiceAccount", account)]


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_are_restricted_and_pinned(name: str) -> None:
    """What Kubernetes' pod security standard `restricted` asks for, and more."""
    found = dict(templates(overlay(name)))
    assert "dpgen2-sm" in found
    for pod in found.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all({"emptyDir", "projected", "configMap", "persistentVolumeClaim"} & set(v) for v in pod["volumes"])
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert re.fullmatch(r"[a-z0-9./-]+:(?!latest)[A-Za-z0-9._-]+", container["image"]), container["image"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_manifest_holds_a_secret(name: str) -> None:
    objects = overlay(name)
    assert not [each for each in objects if each["kind"] == "Secret"]
    settings = named(objects, "ConfigMap", "dpgen2-sm")["data"]
    plain = [entry for _, pod in templates(objects) for c in pod["containers"] for entry in c.get("env", [])]
    values = {**settings, **{entry["name"]: entry["value"] for entry in plain if "value" in entry}}
    assert [key for key in values if looks_like_key(key) or key.endswith("_KEY")] == ["ARGO_TOKEN_FILE"]
    template = documents((DEPLOY / "secrets.template.yaml").read_text("utf-8"))
    assert all(value.startswith("<") for secret in template for value in secret["stringData"].values())


def variables() -> Iterator[tuple[str, str]]:
    for name in OVERLAYS:
        objects = overlay(name)
        for key in named(objects, "ConfigMap", "dpgen2-sm")["data"]:
            yield name, key
        (container,) = dict(templates(objects))["dpgen2-sm"]["containers"]
        for entry in container["env"]:
            yield name, entry["name"]
    for key in re.findall(r"^#?([A-Z0-9_]+)=", (DEPLOY / "systemd/example.env").read_text("utf-8"), re.MULTILINE):
        yield "systemd", key
    for key in documents((DEPLOY / "compose.yaml").read_text("utf-8"))[0]["services"]["daemon"]["environment"]:
        yield "compose", key


def test_variables_are_those_that_the_code_reads() -> None:
    code = "".join(
        path.read_text("utf-8")
        for floor in ("conventions", "operators", "statemachine")
        for path in (ROOT / floor).rglob("*.py")
    )
    unknown = {(where, key) for where, key in variables() if key not in FOREIGN and f'"{key}"' not in code}
    assert unknown == set()
    web = (ROOT / "statemachine/daemon/web.py").read_text("utf-8")
    (container,) = dict(templates(overlay("daemon")))["dpgen2-sm"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f'"{container[probe]["httpGet"]["path"]}"' in web


def commands() -> Iterator[list[str]]:
    """Every command line of dpgen2-sm in deploy/."""
    for name in OVERLAYS:
        yield dict(templates(overlay(name)))["dpgen2-sm"]["containers"][0]["args"]
    yield documents((DEPLOY / "compose.yaml").read_text("utf-8"))[0]["services"]["daemon"]["command"]
    for path in [*(DEPLOY / "systemd").iterdir(), DEPLOY / "cron/dpgen2-sm"]:
        for line in re.findall(r"/bin/dpgen2-sm (.*?)(?: >>.*)?$", path.read_text("utf-8"), re.MULTILINE):
            yield line.split()


def test_command_lines_are_those_of_the_program() -> None:
    known: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = list(commands())
    assert {line[0] for line in lines} == {"daemon", "step"}
    for line in lines:
        options = {option for parameter in known[line[0]].params for option in parameter.opts}
        assert {word for word in line if word.startswith("--")} <= options, line


def test_ports_match() -> None:
    objects = overlay("daemon")
    (container,) = dict(templates(objects))["dpgen2-sm"]["containers"]
    (port,) = container["ports"]
    service = named(objects, "Service", "dpgen2-sm")
    (offered,) = service["spec"]["ports"]
    assert container["args"][container["args"].index("--listen") + 1] == f"0.0.0.0:{port['containerPort']}"
    assert offered["targetPort"] == port["name"] and offered["port"] == port["containerPort"]
    assert service["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert {container[p]["httpGet"]["port"] for p in ("livenessProbe", "readinessProbe")} == {port["name"]}
    selector = service["spec"]["selector"]
    labels = named(objects, "Deployment", "dpgen2-sm")["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()


def test_daemon_and_cron_run_the_same_pod() -> None:
    """What the two overlays say twice is the same."""
    daemon, cron = ({**dict(templates(overlay(name)))["dpgen2-sm"]} for name in ("daemon", "cron"))
    for pod in (daemon, cron):
        (container,) = pod.pop("containers")
        own = ("name", "args", "ports", "startupProbe", "livenessProbe", "readinessProbe")
        pod["container"] = {key: value for key, value in container.items() if key not in own}
        pod["container"]["env"] = [entry for entry in container["env"] if entry["name"] != "DPGEN2_HOOK_KEY"]
        for key in ("restartPolicy", "terminationGracePeriodSeconds"):
            pod.pop(key, None)
    assert daemon == cron


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DEPLOY / "README.md").read_text("utf-8"), re.M | re.S)


def test_the_readmes_own_overlay_builds(tmp_path: Path) -> None:
    text = next(block for block in blocks("yaml") if "kustomize.config.k8s.io" in block)
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/kustomization.yaml").write_text(text)
    objects = rendered(tmp_path / "cluster")
    (container,) = dict(templates(objects))["dpgen2-sm"]["containers"]
    assert container["image"].startswith("registry.example.org/dpgen2-sm:")
    assert {"name": "SSL_CERT_FILE", "value": "/etc/argo-ca/ca.crt"} in container["env"]
    assert named(objects, "ConfigMap", "dpgen2-sm")["data"]["RUN"] == "s3://my-bucket/runs/silicon?region=eu-central-1"


def test_two_daemons_in_a_namespace_do_not_overlap(tmp_path: Path) -> None:
    """A pod that two disruption budgets select cannot be evicted: a node would never be drained."""
    (text,) = re.findall(r"^  ```yaml\n(.*?)^  ```$", (DEPLOY / "README.md").read_text("utf-8"), re.M | re.S)
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/kustomization.yaml").write_text(textwrap.dedent(text))
    first, second = overlay("daemon"), rendered(tmp_path / "cluster")
    names = [{(each["kind"], each["metadata"]["name"]) for each in objects} for objects in (first, second)]
    assert not names[0] & names[1] and len(names[1]) == 4
    (pods,) = [each["spec"]["template"]["metadata"]["labels"] for each in second if each["kind"] == "Deployment"]
    (settings,) = [each["metadata"]["name"] for each in second if each["kind"] == "ConfigMap"]
    (pod,) = dict(templates(second)).values()
    assert {"configMapRef": {"name": settings}} in pod["containers"][0]["envFrom"]
    assert pod["serviceAccountName"] == "dpgen2-sm", "the first one's"
    for objects, number in ((first, 0), (second, 1)):
        for kind in ("Service", "PodDisruptionBudget", "Deployment"):
            selectors = [each["spec"]["selector"] for each in objects if each["kind"] == kind]
            found = [each.get("matchLabels", each) for each in selectors if "matchExpressions" not in each]
            assert [selector.items() <= pods.items() for selector in found] == [bool(number)], kind


def test_the_prometheus_operator_finds_every_daemon(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "cluster").mkdir()
    text = "resources: [../deploy/overlays/daemon]\ncomponents: [../deploy/components/servicemonitor]\n"
    (tmp_path / "cluster/kustomization.yaml").write_text(text)
    objects = rendered(tmp_path / "cluster")
    monitor = named(objects, "ServiceMonitor", "dpgen2-sm")["spec"]
    service = named(objects, "Service", "dpgen2-sm")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [each["port"] for each in monitor["endpoints"]] == [each["name"] for each in service["spec"]["ports"]]


def test_the_readmes_engine_fits_the_manifests() -> None:
    (text,) = [block for block in blocks("yaml") if "type: argo" in block]
    engine = TypeAdapter(ArgoConfig).validate_python(documents(text)[0]["engine"])
    objects = overlay("quickstart")
    assert named(objects, "ServiceAccount", str(engine.service_account))
    assert engine.image == dict(templates(objects))["dpgen2-sm"]["containers"][0]["image"]
    secrets = {
        secret["metadata"]["name"]: set(secret["stringData"])
        for secret in documents(call("sh", DEPLOY / "overlays/quickstart/secrets.sh"))
    }
    asked = [engine.repository.credentials.access_key, engine.repository.credentials.secret_key, engine.hook.key]  # type: ignore[union-attr]
    assert all(each.key in secrets[each.name] for each in asked)
    for _, pod in templates(objects):
        for container in pod["containers"]:
            for entry in container.get("env", []):
                wanted = entry.get("valueFrom", {}).get("secretKeyRef")
                assert wanted is None or wanted["key"] in secrets[wanted["name"]]
    data = named(objects, "ConfigMap", "dpgen2-sm")["data"]
    assert engine.repository.endpoint == data["AWS_ENDPOINT_URL_S3"]
    service = named(objects, "Service", "dpgen2-sm")
    assert engine.hook and engine.hook.url == f"http://dpgen2-sm:{service['spec']['ports'][0]['port']}/hook"


def test_throw_away_secrets_differ_each_time() -> None:
    once, again = (documents(call("sh", DEPLOY / "overlays/quickstart/secrets.sh")) for _ in range(2))
    values = [value for secret in (*once, *again) for value in secret["stringData"].values()]
    assert len(values) == len(set(values)) and all(re.fullmatch("[0-9a-f]{32}", value) for value in values)


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_scripts_are_clean(path: Path) -> None:
    text = path.read_text("utf-8")
    dialect = "bash" if "bash" in text.partition("\n")[0] else "sh"
    call(tool("shellcheck"), "--shell", dialect, "-", text=text)


def test_shell_inside_of_other_files_is_clean() -> None:
    (container,) = dict(templates(overlay("quickstart")))["bucket"]["containers"]
    call(tool("shellcheck"), "--shell", "bash", "-", text="set -eu\n" + container["args"][0])
    *_, line = (DEPLOY / "cron/dpgen2-sm").read_text("utf-8").splitlines()
    *when, user, command = line.split(maxsplit=6)
    assert len(when) == 5 and user == "dpgen2"
    call(tool("shellcheck"), "--shell", "sh", "--exclude", "SC1091,SC2154", "-", text=command)


def test_systemd_units_are_clean(tmp_path: Path) -> None:
    """`verify` wants programs that exist; it says what it does not know on stderr only."""
    for path in (DEPLOY / "systemd").iterdir():
        (tmp_path / path.name).write_text(
            path.read_text("utf-8").replace("/opt/dpgen2-sm/bin/dpgen2-sm", sys.executable)
        )
    units = [path.with_name(path.name.replace("@", "@copper")) for path in tmp_path.iterdir() if "@" in path.name]
    assert len(units) == 3
    call(tool("systemd-analyze"), "verify", "--man=no", *units)
    for service in tmp_path.glob("*.service"):
        call(tool("systemd-analyze"), "security", "--no-pager", "--offline=true", "--threshold=20", service)


def test_the_compose_file_is_of_its_schema() -> None:
    call(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_dockerfile_is_clean() -> None:
    call(tool("hadolint"), DEPLOY / "Dockerfile")
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    assert stages[-1] == ("bare", "runtime") and stages[0] == ("${BASE}", "base")
    assert re.search(r"^ARG BASE=docker\.io/library/python:3\.13\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    assert 'ENTRYPOINT ["dpgen2-sm"]' in text
    assert importlib.metadata.version("dpgen2-sm") in text
    for stage in text.split("\nFROM ")[-2:]:
        assert "RUN" not in stage, "the last stages copy only: no build tools"
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())


def test_the_readmes_image_with_an_app_fits_the_dockerfile() -> None:
    """tests/deploy/test_image.py builds it."""
    (text,) = blocks("dockerfile")
    call(tool("hadolint"), "-", text=text)
    whole = (DEPLOY / "Dockerfile").read_text("utf-8")
    build, target = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert f"ARG BASE={build}\n" in whole
    assert f"-t {target} ." in (DEPLOY / "README.md").read_text("utf-8")
    copied = re.findall(r"^COPY --from=build /apps (\S+)$", text, re.MULTILINE)
    minor = build.partition(":")[2].rpartition(".")[0]
    assert copied == [f"/opt/venv/lib/python{minor}/site-packages"] and "venv --without-pip /opt/venv" in whole
    assert "USER" not in text, "it stays what it was"


@pytest.mark.parametrize(("name", "extra"), [("constraints", ""), ("constraints-engines", "local")])
def test_pinned_versions_satisfy_the_project(name: str, extra: str) -> None:
    text = (DEPLOY / f"{name}.txt").read_text("utf-8")
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))
    assert len(pinned) == text.count("==") and text.count("--hash=sha256:") >= len(pinned)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    lists = [
        re.search(rf"^{key} = (\[.*?\])$", project, re.M | re.S) for key in ("dependencies", *filter(None, [extra]))
    ]
    wanted = [Requirement(line) for found in lists if found for line in ast.literal_eval(found[1])]
    assert len(wanted) > 10 and len(lists) == 1 + bool(extra)
    for need in wanted:
        assert Version(pinned[canonicalize_name(need.name)]) in need.specifier, need
