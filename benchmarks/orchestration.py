"""What orchestration costs: one iteration of instant stub jobs on the local engine.

4 train + 1,000 explore + 500 label jobs, against `xargs -P` running the very same job scripts (the wrapper and the
job's run.sh, with the same environment) on a copy of the very same inputs. Also: the poller's peak memory, the cost
of a job from 100 to 2,000 jobs, and the store requests of an idle step. Ratios of one run; run it on an idle machine.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

STUBS = Path(__file__).parent.parent / "tests" / "stubapps"
CONFIG = """\
run: bench
prefix: out
engine: {{type: local, slots: 2}}
type_map: [Cu]
structures: {{start: {{files: cu.xyz}}}}
init: {{label: [start]}}
label: {{app: stub, tasks: {label}}}
train: {{app: stub, tasks: {train}}}
explore: {{app: stub, tasks: {explore}}}
select: {{app: stub, tasks: 1, accurate_after: 0}}
"""
STRUCTURE = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\nCu 0 0 0\n'
DPGEN2 = [sys.executable, "-c", "from statemachine.cli import main; main()"]


def campaign(folder: Path, **jobs: int) -> tuple[float, float, float]:
    """Wall time, CPU time and the poller's peak memory (MB) of one iteration."""
    folder.mkdir(parents=True)
    (folder / "cu.xyz").write_text(STRUCTURE)
    (folder / "run.yaml").write_text(CONFIG.format(**jobs))
    env = {**os.environ, "PYTHONPATH": str(STUBS)}
    subprocess.run([*DPGEN2, "init", "run.yaml"], cwd=folder, env=env, check=True, capture_output=True)
    started, cpu = time.perf_counter(), machine_cpu()
    poller = subprocess.Popen([*DPGEN2, "run", "out"], cwd=folder, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(poller.pid, 0)
    if status:
        raise SystemExit(f"the benchmark's run ended with status {status}")
    return time.perf_counter() - started, machine_cpu() - cpu, usage.ru_maxrss / 1024


def machine_cpu() -> float:
    """CPU seconds that this machine has spent so far, all processes together."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    busy = sum(int(value) for index, value in enumerate(fields[:8]) if index not in (3, 4))
    return busy / os.sysconf("SC_CLK_TCK")


def xargs(prefix: Path, work: Path) -> tuple[float, float]:
    """Wall and CPU time of the same job scripts under `xargs -P 2`, on the inputs that the campaign left."""
    script = files("operators.pod").joinpath("job.sh")
    jobs = sorted(prefix.glob("*/stub/iter/000000/job/*/in"))
    line = (
        f'd={work}/$(echo "$1" | tr / _); mkdir -p "$d"; JOB_ID=000000 JOB_JOB="$1" JOB_PREVIOUS=/nonexistent '
        f'JOB_OUT="$d/out/out" JOB_LOG="$d/out/log" JOB_DONE="$d/out/done" sh {script}'
    )
    listing = "\n".join(str(job) for job in jobs)
    started, cpu = time.perf_counter(), machine_cpu()
    subprocess.run(["xargs", "-P", "2", "-I{}", "sh", "-c", line, "sh", "{}"], input=listing, text=True, check=True)
    return time.perf_counter() - started, machine_cpu() - cpu


def idle_requests(folder: Path) -> int:
    """Store requests of a step while a workflow runs."""
    from statemachine.engine import Phase, Status
    from statemachine.run.poller import Poller
    from statemachine.run.record import Record
    from statemachine.run.submission import Submission
    from statemachine.store import open_store

    store = open_store(f"file://{folder}")
    count = 0

    class Counting:
        url = store.url

        def __getattr__(self, name: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                return getattr(store, name)(*args, **kwargs)

            return call

    class Busy:
        def status(self, name: str) -> Status:
            return Status(Phase.running)

    counting: Any = Counting()
    record = Record(counting)
    loaded = record.load()
    record.commit(loaded, loaded.state.model_copy(update={"at": "select.running", "stage": "select"}))
    count = 0
    Poller(record, Busy(), Submission(counting)).step()  # type: ignore[arg-type]
    return count


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="dpgen2-sm-bench-"))
    try:
        wall, cpu, memory = campaign(root / "main", label=500, train=4, explore=1000)
        base_wall, base_cpu = xargs(root / "main" / "out", root / "xargs")
        print(f"1,505 jobs      wall {wall:6.1f} s   CPU {cpu:6.1f} s   poller's peak memory {memory:.0f} MB")
        print(f"xargs -P 2      wall {base_wall:6.1f} s   CPU {base_cpu:6.1f} s")
        print(f"ratio           wall {wall / base_wall:6.2f}     CPU {cpu / base_cpu:6.2f}")
        small, *_ = campaign(root / "none", label=1, train=1, explore=1)
        for jobs in (100, 500, 1000, 2000):
            wall, *_ = campaign(root / str(jobs), label=1, train=1, explore=jobs)
            print(f"{jobs:5d} jobs      {1000 * (wall - small) / jobs:6.1f} ms a job")
        print(f"idle step       {idle_requests(root / 'main' / 'out')} store requests")
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        env = {**os.environ, "PYTHONPATH": str(STUBS)}
        subprocess.run([*DPGEN2, "status", str(root / "main" / "out")], env=env, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        print(f"status          {spent:.2f} s of CPU from a cold start")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
