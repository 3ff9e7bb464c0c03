"""A bad network for a whole campaign: slow, cut, reset, silent, refused at random, before the store and before Argo."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import servers
from tests.fault.conftest import RETRIES
from tests.fault.scene import Scene, Seen
from tests.fault.test_outages import TOKEN, argo, double, same
from tests.fault.watched import daemon
from tests.figures import Figures
from tests.servers import Server
from tests.servers.proxy import Toxic, proxy


@pytest.mark.slow
def test_a_bad_network_before_the_store(tmp_path: Path, s3: Server, undisturbed: Seen, figure: Figures) -> None:
    with proxy(s3, Toxic, dice=random.Random(1)) as bad:
        scene = Scene(tmp_path, bad.prefix(f"network/{tmp_path.name}"), RETRIES)
        with daemon(scene) as watched:
            watched.end()
        bad.healed.set()
        same(scene, undisturbed)
        assert set(scene.look().executions.values()) == {1}
        assert len(bad.met) >= 5, bad.met
    figure("outages: faults of the network before S3", sum(bad.met.values()), exact=False)


@pytest.mark.slow
def test_a_bad_network_before_argo_and_its_store(
    tmp_path: Path, s3: Server, undisturbed: Seen, figure: Figures
) -> None:
    """The daemon's requests; pods have their own way to the store, but for the claim, which goes the bad one."""
    port, folder = servers.free_port(), tmp_path / "scene" / "world" / "argo"
    name = f"network/{tmp_path.name}"
    with (
        double(folder, s3.prefix(name), port) as cluster,
        proxy(s3, Toxic, dice=random.Random(3)) as store,
        proxy(cluster, Toxic, dice=random.Random(4), share=0.3, pause=1.0) as server,
    ):
        scene = Scene(tmp_path / "scene", store.prefix(name), RETRIES, argo(server.endpoint, store, timeout=0.5))
        try:
            with daemon(scene, ARGO_TOKEN=TOKEN) as watched:
                watched.end()
            store.healed.set()
            same(scene, undisturbed)
        finally:
            scene.kill_workflows()
        assert len(server.met) >= 4, server.met
    figure("outages: faults of the network before Argo", sum(server.met.values()), exact=False)
