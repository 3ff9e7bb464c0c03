"""What the pods of an iteration ask of the store, artifact by artifact.

Argo's executor moves the artifacts; a script of ours speaks to the store in the guard only. The iteration is one of the
real apps with instant programs in a folder; its files are counted, and each artifact of the manifests is what Argo's S3
driver makes of it (workflow/artifacts/s3/s3.go of Argo 3.6.10, argoproj/pkg's s3.go, minio-go 7.0.89):

- a file is asked about and fetched: HEAD, GET;
- of a folder the driver first asks for a file of that name (HEAD), then whether it is a folder (LIST), then what is in
  it (LIST, one for 1,000 objects), and then HEAD and GET for each file;
- what is optional and not there: HEAD, LIST;
- an output is a PUT for each file (above 16 MiB: 2, and one for each 16 MiB);
- each artifact has a client of its own, which asks for the bucket's region first unless the manifest names it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from campaigns import Size, run_real
from stub_programs import StubPrograms

from conventions.cluster import ArgoConfig
from conventions.config import StageConfig
from conventions.names import STAGES
from conventions.space import DataSpace
from operators.pod.s3 import Place
from operators.registry import app
from statemachine.run.submission import argo_workflow

APPS = {"label": "cp2k", "train": "deepmd", "explore": "lammps", "select": "model_devi"}
PAGE = 1000
GUARD = 2  # its script: the claim is created (PUT), and what is there then is read (GET)
# What is not there yet when the first attempt of a stage begins.
LATER = {("plan", "done"), ("job", "previous")}


class Moved(NamedTuple):
    """An artifact of a pod: how many files it has (None: there is nothing), and what it costs."""

    stage: str
    pod: str
    name: str
    files: int | None
    requests: int


def loading(path: Path) -> tuple[int | None, int]:
    """Files and requests of an input."""
    if path.is_file():
        return 1, 2
    files = sum(each.is_file() for each in path.rglob("*"))
    if not files:
        return None, 2
    return files, 2 + -(-files // PAGE) + 2 * files


def saving(path: Path) -> tuple[int | None, int]:
    """Files and requests of an output."""
    files = 1 if path.is_file() else sum(each.is_file() for each in path.rglob("*"))
    return files or None, files


def artifacts_of(root: Path, stage: str) -> Iterator[Moved]:
    """What the pods of a stage move, of its jobs the first, when the run is in that folder."""
    before = dict.fromkeys(STAGES[: STAGES.index(stage)], 0)
    place = DataSpace(APPS).stage(stage, 0, before)
    facts = {
        "iteration": 0, "attempt": 0, "last": False, "finished": 0, "has_models": "train" in before,
        "has_selected": False, "explore_stage": 0, "systems": [], "calibration": {},
    }  # fmt: skip
    what = (f"cu-00000000-000000-{stage}-a0", app(stage, APPS[stage]), place, facts)
    engine, config = ArgoConfig(type="argo"), StageConfig(app=APPS[stage])
    spec = argo_workflow(what, engine, config, Place.parse("s3://bucket/run")).manifest["spec"]
    templates = {template["name"]: template for template in spec["templates"]}
    for (step,) in templates[spec["entrypoint"]]["steps"]:
        pod = step["template"]
        for artifact in step["arguments"].get("artifacts", []):
            name = str(artifact["name"])
            there: tuple[int | None, int] = (1, 2) if name.startswith("list-") else (None, 2)
            if (pod, name) not in LATER and not name.startswith("list-"):
                there = loading(root / key_of(artifact))
            yield Moved(stage, pod, name, *there)
        for artifact in templates[pod]["outputs"].get("artifacts", []):
            yield Moved(stage, pod, artifact["name"], *saving(root / key_of(artifact)))


def key_of(artifact: dict[str, Any]) -> str:
    key = str(artifact["s3"]["key"]).removeprefix("run/")
    return key.replace("{{item}}", "000000").replace("{{inputs.parameters.job_id}}", "000000")


def iteration(folder: Path) -> list[Moved]:
    """All that the pods of an iteration move: 2 trainings, 10 trajectories, 2 labels, one a job."""
    programs = StubPrograms(folder / "programs")
    (folder / "run").mkdir()
    run_real(folder / "run", programs, Size(train=2, explore=10, label=2), 1, 1)
    return [moved for stage in STAGES for moved in artifacts_of(folder / "run" / "out", stage)]


def of_a_pod(found: list[Moved], stage: str, pod: str, region: bool = True) -> int:
    """Requests of a pod; without a region in the prefix one more for each artifact that is there or looked for."""
    mine = [each for each in found if (each.stage, each.pod) == (stage, pod)]
    asked = 0 if region else sum(each.requests > 0 for each in mine)
    return sum(each.requests for each in mine) + asked + GUARD * (pod == "guard")


def table(found: list[Moved]) -> str:
    lines = [f"{'stage':8} {'pod':7} {'artifact':18} {'files':>5} {'requests':>8}"]
    for each in found:
        lines.append(f"{each.stage:8} {each.pod:7} {each.name:18} {each.files or '-':>5} {each.requests:>8}")
    lines += ["", f"{'stage':8} {'pod':7} {'requests':>8}   without a region in the prefix"]
    for stage, pod in dict.fromkeys((each.stage, each.pod) for each in found):
        with_it, without = of_a_pod(found, stage, pod), of_a_pod(found, stage, pod, region=False)
        lines.append(f"{stage:8} {pod:7} {with_it:>8}   {without}")
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dpgen2-sm-pods-") as name:
        print(table(iteration(Path(name))))


if __name__ == "__main__":
    main()
