"""A wall clock that is set forward and back while a campaign runs: nothing is decided by it, nothing waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.conftest import RETRIES
from tests.fault.scene import Scene, Seen
from tests.fault.test_outages import same
from tests.fault.watched import daemon
from tests.servers import Server


@pytest.mark.slow
def test_a_campaign_by_a_clock_that_jumps(tmp_path: Path, s3: Server, undisturbed: Seen) -> None:
    """Every process has another wrong clock: the daemon, the workflows' interpreters, the operators."""
    scene = Scene(tmp_path, s3.prefix(f"clock/{tmp_path.name}"), RETRIES)
    with daemon(scene, CLOCK_SEED="1") as watched:
        times = [event["time"] for event in iter(watched.events()) if event["event"] != "stopped"]
        assert watched.process.wait() == 0, watched.text
    assert times != sorted(times), "the clock was set back"
    same(scene, undisturbed)
    assert set(scene.look().executions.values()) == {1}
