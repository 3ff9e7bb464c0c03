"""A daemon in a process of its own, whose log is read line by line: a test acts on what it says."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.fault.scene import Scene


class Daemon:
    """Ends by itself when the run has ended."""

    def __init__(self, scene: Scene, interval: float = 0.2, **env: str) -> None:
        options = ("--interval", str(interval), "--log-format", "json")
        self.process = scene.start("daemon", *options, "run.yaml", **env)
        self.text = ""

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its log, as they come."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.text += line
            assert line.startswith("{"), self.text  # a traceback, say
            yield json.loads(line)

    def until(self, **fields: str) -> dict[str, Any]:
        """Read on to a line with these fields."""
        for event in self.events():
            if fields.items() <= event.items():
                return event
        raise AssertionError(f"the daemon ended before {fields}:\n{self.text}")

    def end(self) -> None:
        """Read on to its end, which must be a good one."""
        self.until(event="stopped")
        assert self.process.wait() == 0, self.text
        assert "Traceback" not in self.text


def begin(scene: Scene, **env: str) -> None:
    """Repeat `init` until it says that the run has begun: where the store is troubled it says that, and no more."""
    while True:
        process = scene.start("init", "run.yaml", **env)
        output = process.communicate()[0]
        if process.returncode == 0:
            return
        assert process.returncode == 1 and "error: cannot" in output and "Traceback" not in output, output


@contextmanager
def daemon(scene: Scene, interval: float = 0.2, **env: str) -> Iterator[Daemon]:
    begin(scene, **env)
    found = Daemon(scene, interval, **env)
    try:
        yield found
    finally:
        found.process.send_signal(signal.SIGKILL)
        found.process.communicate()
