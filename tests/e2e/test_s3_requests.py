"""What the local engine asks of S3, counted on the wire: requests cost money, and time on every store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.servers import Server
from tests.servers.proxy import proxy

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from campaigns import Size
from stub_programs import StubPrograms
from wire import per_job, run_on_s3, table

SIZE = Size(train=4, explore=20, label=20)


@pytest.mark.slow
def test_a_job_costs_few_requests(s3: Server, tmp_path: Path) -> None:
    """All of a stage's: also its plan, its reduce, and who reads its outputs later."""
    with proxy(s3) as line:
        _, requests = run_on_s3(tmp_path / "run", StubPrograms(tmp_path), line, f"wire/{tmp_path.name}", SIZE, 1)
    shown = table(requests, SIZE, 1)
    assert per_job(requests, "explore", SIZE.explore) <= 20, shown
    assert per_job(requests, "label", SIZE.label) <= 12, shown
    downloads = [request for request in requests if request.part.startswith("job") and request.kind in ("GET", "HEAD")]
    assert not downloads, shown  # whatever a job reads or leaves passed through this machine
    assert requests["train", "product", "GET"] == 0, shown
