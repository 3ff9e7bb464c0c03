"""How long after a workflow's end the next stage is submitted when a hint tells of it.

A daemon that polls every 60 s follows a run of instant stub jobs on the local engine. When a workflow has ended a
signed hint that names it is sent; the clock stops when the next workflow has been submitted and the state says so
(the time of its file under event/). Without hints the mean would be half the interval.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from campaigns import CONFIG, DPGEN2, STRUCTURE, STUBS

KEY = "0123456789abcdef" * 2
INTERVAL = 60
STAGES = 8


def begin(folder: Path) -> None:
    (folder / "cu.xyz").write_text(STRUCTURE)
    text = CONFIG.format(label=2, train=2, explore=2).replace("accurate_after: 0", "accurate_after: 99")
    (folder / "run.yaml").write_text(text)
    subprocess.run([*DPGEN2, "init", "run.yaml"], cwd=folder, env=environment(), check=True, capture_output=True)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(STUBS), "DPGEN2_HOOK_KEY": KEY}


def submitted(prefix: Path, after: int) -> tuple[int, float]:
    """Version and time of the next state that has a running workflow."""
    version = after
    while True:
        path = prefix / "event" / f"{version + 1:08d}.json"
        if not path.exists():
            time.sleep(0.005)
            continue
        version += 1
        if json.loads(path.read_bytes())["at"].endswith(".running"):
            return version, path.stat().st_mtime


def main() -> None:
    from operators.pod.hint import send
    from statemachine.run.opening import open_poller

    sys.path.insert(0, str(STUBS))
    with tempfile.TemporaryDirectory(prefix="dpgen2-sm-hook-") as name:
        folder, prefix = Path(name), Path(name) / "out"
        begin(folder)
        command = [*DPGEN2, "daemon", "out", "--interval", str(INTERVAL), "--listen", "0", "--log-format", "json"]
        daemon = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
        assert daemon.stderr
        said = json.loads(daemon.stderr.readline())["message"]
        url = said.split(";")[0].removeprefix("listening on ") + "/hook"
        poller = open_poller(f"file://{prefix}")
        version, _ = submitted(prefix, 1)
        times = []
        try:
            for _ in range(STAGES):
                workflow = poller.record.load().state.workflow
                poller.engine.wait(workflow, 300)
                hinted = time.time()
                if trouble := send(url, KEY, workflow):
                    raise SystemExit(trouble)
                version, when = submitted(prefix, version)
                times.append(when - hinted)
            poller.engine.wait(poller.record.load().state.workflow, 300)
        finally:
            daemon.terminate()
            daemon.wait()
    print(f"hint to submission   median {statistics.median(times):.2f} s   longest {max(times):.2f} s   of {STAGES}")
    print(f"without hints        up to {INTERVAL} s, at this interval")


if __name__ == "__main__":
    main()
