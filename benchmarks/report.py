"""What `report` costs: a page of 4 and of 200 iterations with 60 labels each; and a refresh, as of a page that stays.

    python benchmarks/report.py

CPU seconds of the whole process for the page; of this process, the best of three, for the refresh.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from statemachine.report.figures import Reader
from statemachine.store import open_store
from tests import report_run

report_run.LABELS = 60
COMMAND = "from statemachine.cli import main; main()"


def page(folder: Path) -> tuple[float, int]:
    """CPU seconds and bytes of a page."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["report", f"file://{folder}/run", "-o", str(folder / "report.html")]
    subprocess.run([sys.executable, "-c", COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, (folder / "report.html").stat().st_size


def refresh(folder: Path) -> float:
    reader = Reader(open_store(f"file://{folder}/run"))
    reader.read()
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        reader.read()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs")
    for iterations in (4, 200):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            report_run.campaign(open_store(f"file://{folder}/run"), iterations, folder)
            cpu, size = page(folder)
            print(
                f"{iterations:4d} iterations: {cpu:.2f} s of CPU, {size / 1e6:.2f} MB, refresh {refresh(folder):.3f} s"
            )


if __name__ == "__main__":
    main()
