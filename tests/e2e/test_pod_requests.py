"""What pods ask of the store: our scripts' requests, counted on the wire, and those of Argo's executor, reckoned."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from conventions.space import DataSpace
from statemachine.engine import Phase
from tests.argo_double.server import ArgoDouble
from tests.conftest import CONFIG, STRUCTURE
from tests.servers import ACCESS, SECRET, Server
from tests.servers.proxy import proxy

from .test_cluster import TOKEN, Cluster

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from pods import GUARD, iteration, of_a_pod

ROOT = Path(__file__).parents[2]
KEYS = {"store": {"id": ACCESS, "secret": SECRET}}


@pytest.mark.servers
def test_of_our_scripts_only_the_guard_asks_the_store_and_twice(tmp_path: Path, s3: Server) -> None:
    """Pods know the store by the address of a proxy; the double moves their artifacts past it."""
    prefix = s3.prefix(f"runs/{tmp_path.name}")
    with proxy(s3) as line, ArgoDouble(tmp_path / "argo", s3.prefix("runs"), token=TOKEN, secrets=KEYS) as double:
        cluster = Cluster(tmp_path, s3, double, prefix)
        (tmp_path / "cu.xyz").write_text(STRUCTURE)
        cluster.configure(CONFIG)
        config = yaml.safe_load((tmp_path / "run.yaml").read_text())
        config["engine"]["repository"]["endpoint"] = line.endpoint
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        for arguments in (("init", "run.yaml"), ("step", prefix)):
            assert cluster.finish(cluster.start(*arguments)) == 0, cluster.printed[-1]
        (manifest,) = double.manifests()
        double.pods.wait(name := manifest["metadata"]["name"], 60)
        assert double.pods.status(name).phase is Phase.succeeded
        claim = DataSpace({"label": "stub"}).stage("label", 0).claim(0)
        assert [seen.partition(" ")[0] for seen in line.seen] == ["PUT", "GET"], line.seen
        assert len(line.seen) == GUARD
        assert all(seen.partition("?")[0].endswith(claim) for seen in line.seen)


def rows(heading: str) -> dict[str, list[str]]:
    """A table of docs/cluster.md: the further cells of each row by its first."""
    lines = (ROOT / "docs" / "cluster.md").read_text().splitlines()
    table = lines[lines.index(heading) + 2 :]
    table = table[: next(number for number, line in enumerate(table) if not line.startswith("|"))]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {first: others for first, *others in cells}


@pytest.mark.slow
def test_the_requests_of_pods_are_those_of_the_page(tmp_path: Path) -> None:
    found = iteration(tmp_path)
    pods = {
        f"{stage}, {pod}": [str(of_a_pod(found, stage, pod)), str(of_a_pod(found, stage, pod, region=False))]
        for stage, pod in dict.fromkeys((each.stage, each.pod) for each in found)
    }
    assert rows("| pod | requests | without a region |") == pods
    job = {
        f"`{each.name}`": [str(each.files or "-"), str(each.requests)]
        for each in found
        if (each.stage, each.pod) == ("label", "job")
    }
    shown = rows("| artifact | files | requests | what |")
    assert {name: cells[:2] for name, cells in shown.items() if name.startswith("`")} == job
    assert shown["in all"][1] == pods["label, job"][0] and shown["without a region"][1] == pods["label, job"][1]
