"""What a cluster costs the poller: requests of an idle tick and of a stage, and the time to build a manifest.

Requests are counted on the wire, to a real S3 server and to the double of the Argo server. Counts don't depend on
how busy the machine is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "stubapps")]
MARKERS = 2100
BUILD = """\
import json, time
from conventions.cluster import ArgoConfig
from conventions.config import StageConfig
from conventions.space import DataSpace
from operators.registry import app
from operators.s3 import Place
from statemachine.submission import argo_workflow

place = DataSpace({"label": "cp2k", "train": "deepmd", "explore": "lammps", "select": "model_devi"}).stage(
    "explore", 1, {"train": 1}
)
facts = {"iteration": 1, "attempt": 0, "has_models": True, "has_selected": True, "explore_stage": 0, "systems": []}
what = ("cu-00000000-000001-explore-a0", app("explore", "lammps"), place, facts)
engine, stage = ArgoConfig(type="argo"), StageConfig(app="lammps")
workflow = argo_workflow(what, engine, stage, Place.parse("s3://bucket/runs/cu"))
items = json.dumps([f"{job:06d}" for job in range(2000)])
print(len(json.dumps(workflow.manifest)) + len(items), time.process_time())
"""


def build() -> tuple[float, int]:
    """CPU seconds of a fresh process that imports dflow and builds a manifest; bytes of it with 2,000 job ids."""
    best = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", BUILD], cwd=ROOT, check=True, capture_output=True, text=True)
        size, seconds = done.stdout.split()
        best.append(float(seconds))
    return min(best), int(size)


def main() -> None:
    import botocore.httpsession

    from statemachine.run.begin import begin
    from statemachine.run.config_file import read_config
    from statemachine.run.opening import open_poller
    from tests import servers
    from tests.argo_double.server import ArgoDouble
    from tests.conftest import CONFIG, STRUCTURE

    sent: Counter[str] = Counter()
    send = botocore.httpsession.URLLib3Session.send

    def counted(self: Any, request: Any) -> Any:
        sent[f"S3 {request.method}"] += 1
        return send(self, request)

    botocore.httpsession.URLLib3Session.send = counted
    folder = Path(tempfile.mkdtemp(prefix="dpgen2-sm-bench-"))
    os.environ.update(servers.environment())
    keys = {"store": {"id": servers.ACCESS, "secret": servers.SECRET}}
    with servers.ministack(folder / "s3") as s3:
        prefix = s3.prefix("bench")
        with ArgoDouble(folder / "argo", prefix, secrets=keys) as double:
            (folder / "cu.xyz").write_text(STRUCTURE)
            engine = {
                "type": "argo",
                "server": double.url,
                "repository": {
                    "endpoint": s3.endpoint,
                    "credentials": {
                        "access_key": {"name": "store", "key": "id"},
                        "secret_key": {"name": "store", "key": "secret"},
                    },
                },
            }
            text = CONFIG.replace("prefix: out", f"prefix: {prefix}")
            text = text.replace("engine: {type: local, slots: 2}", f"engine: {json.dumps(engine)}")
            (folder / "run.yaml").write_text(text)
            begin(read_config(folder / "run.yaml"), folder)

            def step(poller: Any, what: str) -> Any:
                sent.clear()
                double.requests.clear()
                state = poller.step()
                sent.update(f"Argo {method}" for method, _, _ in double.requests)
                print(f"{what:44s} {sum(sent.values()):3d}   {', '.join(f'{k} {n}' for k, n in sorted(sent.items()))}")
                return state

            poller = open_poller(prefix)
            state = step(poller, "first step, ships code and claims nothing")
            step(poller, "idle tick of a daemon")
            sent.clear()
            double.requests.clear()
            open_poller(prefix).step()
            print(f"{'idle tick of cron':44s} {sum(sent.values()) + len(double.requests):3d}")
            double.pods.wait(state.workflow, 60)
            state = step(poller, "a stage ends, the next is submitted")
            double.pods.wait(state.workflow, 60)
            for job in range(2, MARKERS):
                poller.store.put(f"{state.place.done}/{job:06d}.json", b"{}")
            step(poller, f"the same with {MARKERS} markers (3 lists)")
            double.pods.terminate(poller.record.load().state.workflow)
    seconds, size = build()
    print(f"manifest of 2,000 jobs: {seconds:.2f} s of CPU with import dflow (best of 5), {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
