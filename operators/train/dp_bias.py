"""Shifts the energies of one model of a committee to the run's data: `dp change-bias`, `freeze` and `test`.

Runs inside a job, in the task's folder, with the Python beside `dp`; `dp_model.py` lies beside it. `job.json` says what
to do; the environment says how to call dp (DP_COMMAND) and where the data are (JOB_DATA).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

START, SHIFTED, GRAPH = "start.pt", "shifted.pt", "graph.pth"


def main() -> None:
    from dp_model import BACKENDS, NEW, called_dp, check_once, measure  # type: ignore[import-not-found]

    job = json.loads(Path("job.json").read_text())
    data = Path("data")
    data.unlink(missing_ok=True)
    data.symlink_to(os.environ["JOB_DATA"])
    for path in (Path(SHIFTED), Path(GRAPH), Path("test.json"), NEW):
        path.unlink(missing_ok=True)  # of an earlier attempt
    check_once(sorted({Path(system).parent / "SHA256SUMS" for system in job["systems"]}))
    tests = sorted(str(path.parent) for name in job["tests"] for path in Path(name).rglob("type.raw"))
    if job["tests"] and not tests:
        raise SystemExit(f"there are no test systems in {', '.join(job['tests'])}")
    Path("systems.txt").write_text("".join(f"{system}\n" for system in job["systems"]))

    dp = called_dp(os.environ["DP_COMMAND"], *BACKENDS["pytorch"].options)
    branch = job["branch"]
    dp("change-bias", START, "-f", "systems.txt", "-o", SHIFTED, *(["--model-branch", branch] if branch else []))
    dp("freeze", "-c", SHIFTED, "-o", GRAPH, *(["--head", branch] if branch else []))
    if not Path(GRAPH).exists():
        raise SystemExit(f"error: dp ended well but left no {GRAPH}")
    measure(dp, GRAPH, tests or job["systems"], job["new"])
    Path(SHIFTED).unlink()


if __name__ == "__main__":
    main()
