"""What the tests of real processes share: a fork server, and what an undisturbed run comes to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fault.forkserver import ForkServer
from tests.fault.scene import Scene, Seen

RETRIES = 1000  # a campaign of which a hundred workflows were killed has not failed


@pytest.fixture(scope="session")
def forkserver() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def undisturbed(forkserver: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A campaign on file:// from `run` to its end: every other one must come to the same state and the same bytes."""
    scene = Scene(tmp_path_factory.mktemp("undisturbed"), retries=RETRIES)
    code, output = forkserver.run("run", "run.yaml", cwd=scene.root, env=scene.environment())
    assert code == 0, output
    seen = scene.look()
    assert set(seen.executions.values()) == {1}
    return seen
